//! A stream on its way from an engine to a client. The client's reading pulls it: a slow client slows only its own stream, one that
//! leaves drops it, and with it the connection to the engine. However it ends, it is settled by what was sent.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::Usage;
use super::events::Events;
use super::pool::Answer;
use super::{ESTIMATED, USAGE, Way};
use crate::error::ApiError;
use crate::governance::{Admitted, Signed};
use crate::sse;

pub(super) struct Relay {
    way: Way,
    answer: Answer,
    events: Events,
    /// `None` once its receipt is written.
    admitted: Option<Admitted>,
    prompt_tokens: u64,
    keep_alive: Duration,
    heard: Instant,
    alarm: Pin<Box<Sleep>>,
    stage: Stage,
    held: Option<Held>,
}

/// What goes out once the receipt in it is written; without it if that fails.
struct Held {
    out: Vec<u8>,
    comment: Range<usize>,
    signed: Signed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing has come yet.
    Waiting,
    Running,
    /// The engine's last word has gone on; it may still be closing.
    Ending,
    Over,
    Failed,
}

impl Relay {
    pub(super) fn new(way: Way, answer: Answer, admitted: Admitted, hides_usage: bool, prompt_tokens: u64) -> Self {
        let keep_alive = Duration::from_millis(way.app.settings.keep_alive_ms);
        let heard = Instant::now();
        let alarm = Box::pin(sleep_until(way.deadline.min(heard + keep_alive)));
        let (events, admitted) = (Events::new(hides_usage), Some(admitted));
        Self {
            way,
            answer,
            events,
            admitted,
            prompt_tokens,
            keep_alive,
            heard,
            alarm,
            stage: Stage::Waiting,
            held: None,
        }
    }

    pub(super) fn response(self) -> Response {
        let mut response = Response::new(Body::new(self));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    fn take(&mut self, data: Bytes) -> Bytes {
        self.heard = Instant::now();
        if self.stage == Stage::Waiting {
            self.stage = Stage::Running;
            self.way.app.metrics.time_to_first_token.observe(self.way.started.elapsed());
        }
        let passed = self.events.take(data);
        self.pass(passed)
    }

    /// Takes note of what goes out, and puts the receipt before the end.
    fn pass(&mut self, events: Bytes) -> Bytes {
        if let Some(admitted) = &mut self.admitted {
            admitted.output(&events);
        }
        if !self.events.done || self.stage == Stage::Ending {
            return events;
        }
        self.stage = Stage::Ending;
        let mut out = events.to_vec();
        self.settle(&mut out);
        out.extend_from_slice(b"data: [DONE]\n\n");
        out.into()
    }

    fn usage(&self) -> (Usage, bool) {
        match self.events.usage {
            Some(usage) => (usage, false),
            None => (Usage::estimate(self.prompt_tokens, self.events.chunks), true),
        }
    }

    /// Once: the receipt, as comments that clients pass over.
    fn settle(&mut self, out: &mut Vec<u8>) {
        let Some(admitted) = self.admitted.take() else { return };
        let (usage, estimated) = self.usage();
        self.way.count(&usage);
        if estimated {
            out.extend_from_slice(format!(": {USAGE} {ESTIMATED}\n\n").as_bytes());
        }
        if let Some(signed) = admitted.finish(usage.outcome()) {
            let begin = out.len();
            out.extend_from_slice(sse::receipt_comment(signed.text()).as_bytes());
            self.held = Some(Held { out: Vec::new(), comment: begin..out.len(), signed });
        }
    }

    fn close(&mut self) -> Bytes {
        let rest = self.events.rest();
        let mut out = self.pass(rest).to_vec();
        self.settle(&mut out);
        self.stage = Stage::Over;
        out.into()
    }

    fn fail(&mut self, error: &ApiError) -> Bytes {
        self.way.engine.failed.add(1);
        tracing::warn!(%error, "a stream failed");
        let mut out = Vec::new();
        self.settle(&mut out);
        let envelope = error.envelope(self.way.dialect, &self.way.request_id);
        out.extend_from_slice(format!("data: {envelope}\n\n").as_bytes());
        self.stage = Stage::Failed;
        out.into()
    }

    /// What to send when the alarm rings; nothing where it rang for what has passed.
    fn ring(&mut self) -> Bytes {
        let now = Instant::now();
        let mut out = Bytes::new();
        if now >= self.way.deadline {
            let error = self.way.too_long();
            return self.fail(&error);
        }
        if now.duration_since(self.heard) >= self.keep_alive {
            self.heard = now;
            out = Bytes::from_static(b": waiting\n\n");
        }
        self.alarm.as_mut().reset(self.way.deadline.min(self.heard + self.keep_alive));
        out
    }
}

impl HttpBody for Relay {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            if let Some(held) = &mut this.held {
                let written = ready!(held.signed.poll(context));
                if !written {
                    held.out.drain(held.comment.clone());
                }
                let out = std::mem::take(&mut held.out);
                this.held = None;
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
            if matches!(this.stage, Stage::Over | Stage::Failed) {
                return Poll::Ready(None);
            }
            let out = match this.answer.poll_data(context) {
                Poll::Ready(Some(Ok(data))) => this.take(data),
                // What breaks after the last word has broken nothing.
                Poll::Ready(Some(Err(error))) if this.stage != Stage::Ending => {
                    let error = this.way.broken(&error);
                    this.fail(&error)
                }
                Poll::Ready(_) => this.close(),
                Poll::Pending => match this.alarm.as_mut().poll(context) {
                    Poll::Ready(()) => this.ring(),
                    Poll::Pending => return Poll::Pending,
                },
            };
            if let Some(held) = &mut this.held {
                held.out = out.into();
            } else if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let metrics = &self.way.app.metrics;
        match self.stage {
            Stage::Failed => metrics.stream_errors.add(1),
            Stage::Waiting | Stage::Running => metrics.cancelled.add(1),
            Stage::Ending | Stage::Over => {}
        }
        self.settle(&mut Vec::new());
    }
}
