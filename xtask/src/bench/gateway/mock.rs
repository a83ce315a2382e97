//! The engine that every gateway passes requests on to: answers in a constant, or as a stream of 16 tokens after 20 ms. One thread,
//! no JSON library: it must cost little beside what is measured.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, sleep};

/// Says its address, and answers for ever.
pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                // A gateway that leaves ends its connection and nothing else.
                let _ = serve(stream).await;
            });
        }
    })
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    let chat = whole(CHAT);
    let mut read = Vec::with_capacity(64 << 10);
    loop {
        let Some((head, end)) = request(&mut stream, &mut read).await? else { return Ok(()) };
        let body = read.get(head..end).unwrap_or_default();
        if read.starts_with(b"POST") && holds(body, b"\"stream\":true") {
            events(&mut stream).await?;
        } else if read.starts_with(b"POST") {
            stream.write_all(chat.as_bytes()).await?;
        } else if holds(read.get(..head).unwrap_or_default(), b"/models ") {
            stream.write_all(whole(MODELS).as_bytes()).await?;
        } else {
            stream.write_all(whole("{}").as_bytes()).await?;
        }
        read.drain(..end);
    }
}

/// Where the head of the next request ends, and where its body does.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Result<Option<(usize, usize)>> {
    loop {
        if let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) {
            let end = head + length(read.get(..head).unwrap_or_default());
            if read.len() >= end {
                return Ok(Some((head, end)));
            }
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

/// Gateways send lengths, none of them chunks.
fn length(head: &[u8]) -> usize {
    let lines = head.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

async fn events(stream: &mut TcpStream) -> Result<()> {
    sleep(Duration::from_millis(20)).await;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    for number in 0..16 {
        let delta = format!(r#"{{"index":0,"delta":{{"content":"w{number} "}},"finish_reason":null}}"#);
        event(stream, &chunk(&delta, "")).await?;
        sleep(Duration::from_millis(2)).await;
    }
    event(stream, &chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, "")).await?;
    event(stream, &chunk("", r#","usage":{"prompt_tokens":12,"completion_tokens":16,"total_tokens":28}"#)).await?;
    event(stream, "[DONE]").await?;
    Ok(stream.write_all(b"0\r\n\r\n").await?)
}

fn chunk(choice: &str, more: &str) -> String {
    format!(r#"{{"id":"c","object":"chat.completion.chunk","created":1,"model":"mock","choices":[{choice}]{more}}}"#)
}

async fn event(stream: &mut TcpStream, data: &str) -> Result<()> {
    let data = format!("data: {data}\n\n");
    Ok(stream.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).await?)
}

fn whole(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

const CHAT: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":1,"total_tokens":13}}"#;
const MODELS: &str = r#"{"object":"list","data":[{"id":"mock","object":"model","created":1,"owned_by":"mock"}]}"#;
