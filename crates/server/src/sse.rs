//! Server-sent events: pulls a generation and writes frames as a script of the dialect says. The body is pulled, so
//! that a client that leaves drops the generation, and a slow one slows only itself.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::FutureExt;
use serde::Serialize;

use crate::error::ApiError;
use crate::generate::{Counts, Generation, Piece};

/// Writes one dialect's stream. Every method appends whole frames.
pub(crate) trait Script: Send + 'static {
    /// Sent at once, before the first token.
    fn open(&mut self, out: &mut Frames);
    /// `counts` are those of all choices; they are final when `last` is set.
    fn piece(&mut self, choice: u32, piece: Piece, counts: Counts, last: bool, out: &mut Frames);
    fn close(&mut self, counts: Counts, out: &mut Frames);
    fn fail(&mut self, error: &ApiError, out: &mut Frames);
    /// Something harmless, so that proxies and clients know that the stream lives.
    fn idle(&mut self, out: &mut Frames) {
        out.0.push_str(": waiting\n\n");
    }
}

/// Frames waiting to be sent.
#[derive(Debug, Default)]
pub(crate) struct Frames(String);

impl Frames {
    pub(crate) fn data(&mut self, value: &impl Serialize) {
        // Wire types are plain data; JSON text has no bare newline, so that one `data:` line is enough.
        let json = serde_json::to_string(value).unwrap_or_default();
        self.raw(&json);
    }

    pub(crate) fn raw(&mut self, data: &str) {
        self.0.extend(["data: ", data, "\n\n"]);
    }

    /// What clients pass over.
    fn comment(&mut self, text: &str) {
        self.0.extend([": ", text, "\n\n"]);
    }

    pub(crate) fn named(&mut self, event: &str, value: &impl Serialize) {
        self.0.extend(["event: ", event, "\n"]);
        self.data(value);
    }

    pub(crate) fn named_raw(&mut self, event: &str, data: &str) {
        self.0.extend(["event: ", event, "\n"]);
        self.raw(data);
    }
}

pub(crate) fn response(generation: Generation, script: impl Script, keep_alive_ms: u64) -> Response {
    let show = Show { generation, script, stage: Stage::Opening, keep_alive: Duration::from_millis(keep_alive_ms) };
    let frames = futures_util::stream::unfold(show, |mut show| async move {
        let frames = show.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frames.0)), show))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx holds streams back unless told.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The header of whole answers, and the word that begins a stream's last comment.
const RECEIPT: &str = "falaj-receipt";

/// A receipt as a stream carries it.
pub(crate) fn receipt_comment(receipt: &str) -> String {
    format!(": {RECEIPT} {receipt}\n\n")
}

/// A whole answer with its receipt.
pub(crate) fn with_receipt(mut response: Response, receipt: Option<String>) -> Response {
    if let Some(value) = receipt.and_then(|receipt| HeaderValue::from_str(&receipt).ok()) {
        response.headers_mut().insert(RECEIPT, value);
    }
    response
}

struct Show<S> {
    generation: Generation,
    script: S,
    stage: Stage,
    keep_alive: Duration,
}

#[derive(PartialEq)]
enum Stage {
    Opening,
    Running,
    Over,
}

impl<S: Script> Show<S> {
    async fn next(&mut self) -> Option<Frames> {
        let mut out = Frames::default();
        match self.stage {
            Stage::Over => return None,
            Stage::Opening => {
                self.stage = Stage::Running;
                self.script.open(&mut out);
                if !out.0.is_empty() {
                    return Some(out);
                }
            }
            Stage::Running => {}
        }
        while out.0.is_empty() && self.stage != Stage::Over {
            match tokio::time::timeout(self.keep_alive, self.generation.next()).await {
                Ok(next) => self.write(next, &mut out).await,
                Err(_) => self.script.idle(&mut out),
            }
        }
        // What is already there goes out in the same write.
        while self.stage != Stage::Over {
            let Some(next) = self.generation.next().now_or_never() else { break };
            self.write(next, &mut out).await;
        }
        Some(out)
    }

    async fn write(&mut self, next: Option<Result<(u32, Piece), ApiError>>, out: &mut Frames) {
        match next {
            Some(Ok((choice, piece))) => {
                let (counts, last) = (self.generation.counts(), self.generation.is_over());
                self.script.piece(choice, piece, counts, last, out);
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "a stream failed");
                self.stage = Stage::Over;
                self.receipt(out).await;
                self.script.fail(&error, out);
            }
            None => {
                self.stage = Stage::Over;
                // Before the end that clients stop reading at.
                self.receipt(out).await;
                self.script.close(self.generation.counts(), out);
            }
        }
    }

    async fn receipt(&mut self, out: &mut Frames) {
        if let Some(signed) = self.generation.receipt()
            && let Some(receipt) = signed.ready().await
        {
            out.comment(&format!("{RECEIPT} {receipt}"));
        }
    }
}
