//! The load generator: so many connections, each with one request at a time for so many seconds; prints what came as one line of
//! JSON. One thread, like the load generators that people use.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub fn run(args: &[String]) -> Result<()> {
    let [address, key, connections, seconds, kind] = args else {
        bail!("ADDRESS KEY CONNECTIONS SECONDS whole|stream")
    };
    let (connections, seconds): (usize, u64) = (connections.parse()?, seconds.parse()?);
    let stream = kind == "stream";
    let body = json!({
        "model": "mock",
        "messages": [{"role": "user", "content": "Say hello to the load test, please."}],
        "max_tokens": 16,
        "stream": stream,
    })
    .to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let seen = Rc::new(RefCell::new(Seen::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    for _ in 0..connections {
        let (address, request, seen) = (address.clone(), request.clone(), Rc::clone(&seen));
        local.spawn_local(async move {
            while Instant::now() < end {
                if let Err(error) = client(&address, request.as_bytes(), end, &seen).await {
                    let mut seen = seen.borrow_mut();
                    if seen.errors == 0 {
                        eprintln!("{error:#}");
                    }
                    seen.errors += 1;
                    // What refuses at once must not be asked a million times.
                    if seen.errors > 100 {
                        return;
                    }
                }
            }
        });
    }
    runtime.block_on(local);
    let elapsed_s = started.elapsed().as_secs_f64();
    let mut seen = seen.take();
    let requests = seen.whole_us.len();
    let (first, whole) = (Percentiles::of(&mut seen.first_us), Percentiles::of(&mut seen.whole_us));
    println!(
        "{}",
        json!({
            "rate": requests as f64 / elapsed_s, "requests": requests, "errors": seen.errors,
            "first_p50_ms": first.p50_ms, "first_p99_ms": first.p99_ms, "p50_ms": whole.p50_ms, "p99_ms": whole.p99_ms,
        })
    );
    Ok(())
}

#[derive(Default)]
struct Seen {
    /// To the first byte of an answer's body.
    first_us: Vec<u32>,
    whole_us: Vec<u32>,
    errors: u64,
}

struct Percentiles {
    p50_ms: f64,
    p99_ms: f64,
}

impl Percentiles {
    fn of(times_us: &mut [u32]) -> Self {
        times_us.sort_unstable();
        let at = |share: f64| {
            let index = ((times_us.len() as f64 * share) as usize).min(times_us.len().saturating_sub(1));
            times_us.get(index).map_or(0.0, |us| f64::from(*us) / 1e3)
        };
        Self { p50_ms: at(0.5), p99_ms: at(0.99) }
    }
}

/// Asks on one connection until the time is over.
async fn client(address: &str, request: &[u8], end: Instant, seen: &RefCell<Seen>) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(64 << 10);
    while Instant::now() < end {
        let asked = Instant::now();
        stream.write_all(request).await?;
        read.clear();
        let mut first = None;
        let mut answer: Option<Answer> = None;
        loop {
            if stream.read_buf(&mut read).await? == 0 {
                bail!("the connection was closed");
            }
            if answer.is_none() {
                answer = Answer::of(&read)?;
            }
            let Some(answer) = &answer else { continue };
            if first.is_none() && read.len() > answer.head {
                first = Some(asked.elapsed());
            }
            if answer.is_whole(&read) {
                break;
            }
        }
        let us = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut seen = seen.borrow_mut();
        seen.whole_us.push(us(asked.elapsed()));
        seen.first_us.extend(first.map(us));
    }
    Ok(())
}

struct Answer {
    head: usize,
    /// `None`: in chunks.
    length: Option<usize>,
}

impl Answer {
    /// `None` until its head is there.
    fn of(read: &[u8]) -> Result<Option<Self>> {
        let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
        let text = std::str::from_utf8(read.get(..head).unwrap_or_default()).context("a head that is no text")?;
        if !text.starts_with("HTTP/1.1 200 ") {
            bail!("{}", text.lines().next().unwrap_or_default());
        }
        let field = text.lines().filter_map(|line| line.split_once(':'));
        let length = field.clone().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|(_, value)| value.trim().parse().ok());
        Ok(Some(Self { head, length }))
    }

    fn is_whole(&self, read: &[u8]) -> bool {
        match self.length {
            Some(length) => read.len() >= self.head + length,
            None => read.ends_with(b"\r\n0\r\n\r\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_where_they_say() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let answer = Answer::of(whole).expect("a head").expect("all of it");
        assert!(answer.is_whole(whole) && !answer.is_whole(&whole[..whole.len() - 1]));
        let chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        let answer = Answer::of(chunks).expect("a head").expect("all of it");
        assert!(answer.is_whole(chunks) && !answer.is_whole(&chunks[..chunks.len() - 2]));
        assert!(Answer::of(b"HTTP/1.1 503 No\r\n\r\n").is_err());
    }

    #[test]
    fn percentiles_are_of_sorted_times() {
        let mut times: Vec<u32> = (1..=1000).rev().collect();
        let Percentiles { p50_ms, p99_ms } = Percentiles::of(&mut times);
        assert_eq!((p50_ms, p99_ms), (0.501, 0.991));
    }
}
