//! What only a real connection shows: the first byte, clients that leave, slow heads, shutdown.

use std::sync::atomic::Ordering;

use falaj_engine::{Engine, EngineOptions};
use falaj_server::{Settings, serve};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fixture::{Api, KEY, chat, engine};

struct Site {
    address: std::net::SocketAddr,
    engine: Engine,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

async fn site(settings: Settings) -> Site {
    let engine = engine(EngineOptions { threads: 1, ..EngineOptions::default() });
    let app = Api::new(settings, engine.clone()).app;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(serve(listener, app, async {
        let _ = stopped.await;
    }));
    Site { address, engine, stop, served }
}

impl Site {
    async fn post(&self, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("a written request");
        stream
    }
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&all).contains(text) {
        let count = stream.read(&mut buffer).await.expect("a readable connection");
        assert_ne!(count, 0, "closed before {text:?}: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn long() -> String {
    chat(json!({"stream": true, "max_tokens": 480, "logit_bias": {"2": -100}, "n": 8, "temperature": 1})).to_string()
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let site = site(Settings::default()).await;
    let mut stream = site.post(&long()).await;
    read_until(&mut stream, "\"role\":\"assistant\"").await;
    drop(stream);
    // Every sequence ends as cancelled and gives its pages back; the engine goes on for others.
    while site.engine.stats().cancelled.load(Ordering::Relaxed) == 0
        || site.engine.stats().pages_used.load(Ordering::Relaxed) > 0
    {
        tokio::task::yield_now().await;
    }
    let mut stream = site.post(&chat(json!({})).to_string()).await;
    read_until(&mut stream, "\"finish_reason\":\"length\"").await;
}

#[tokio::test]
async fn leaving_before_a_whole_answer_cancels_too() {
    let site = site(Settings::default()).await;
    let body = chat(json!({"max_tokens": 480, "logit_bias": {"2": -100}, "n": 32, "temperature": 1}));
    let stream = site.post(&body.to_string()).await;
    while site.engine.stats().running.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while site.engine.stats().pages_used.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
    assert!(site.engine.stats().cancelled.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn shutdown_lets_streams_finish() {
    let site = site(Settings::default()).await;
    let mut stream = site.post(&long()).await;
    let mut text = read_until(&mut stream, "\"role\":\"assistant\"").await;
    site.stop.send(()).expect("the server runs");
    stream.read_to_string(&mut text).await.expect("the rest");
    assert!(text.contains("data: [DONE]"), "the stream was cut");
    site.served.await.expect("no panic").expect("no error");
    assert!(TcpStream::connect(site.address).await.is_err());
}

#[tokio::test]
async fn a_head_that_never_ends_is_dropped() {
    let site = site(Settings { header_timeout_ms: 20, ..Settings::default() }).await;
    let mut stream = TcpStream::connect(site.address).await.expect("a connection");
    stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: ").await.expect("written");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("an orderly end");
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
}

#[tokio::test]
async fn a_body_that_never_ends_is_408() {
    let site = site(Settings { body_timeout_ms: 20, ..Settings::default() }).await;
    let mut stream = TcpStream::connect(site.address).await.expect("a connection");
    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: 100\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.expect("written");
    let text = read_until(&mut stream, "did not arrive").await;
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
}

#[tokio::test]
async fn a_scraper_on_this_machine_needs_no_key_unless_it_speaks_for_another() {
    let site = site(Settings::default()).await;
    for (extra, status) in [("", "200 OK"), ("x-forwarded-for: 10.1.2.3\r\n", "401 Unauthorized")] {
        let mut stream = TcpStream::connect(site.address).await.expect("a connection");
        let head = format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{extra}\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let text = read_until(&mut stream, "\r\n\r\n").await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
    }
}
