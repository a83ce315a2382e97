//! One choice: engine events in, pieces out. Holds the decoder and the stop strings' finder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use falaj_engine::{Constraint, ConstraintError, CpuTime, Event, FinishReason, Stream, TokenMask};
use falaj_text::{Detokenizer, Matcher, OutputParser, StopFinder, TextError, Tokenizer};

use super::{Decode, Job};
use crate::error::ApiError;
use crate::ids;

/// What an answer is made of, in order; `End` is the last.
#[derive(Debug)]
pub(crate) enum Piece {
    Text {
        text: String,
        logprobs: Vec<Logprob>,
    },
    /// Reasoning before the answer.
    Thinking(String),
    CallStart {
        index: u32,
        id: String,
        name: String,
    },
    CallArguments {
        index: u32,
        fragment: String,
    },
    End(Finish),
}

/// Why an answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    #[default]
    Stop,
    /// This stop string was reached.
    StopString(String),
    /// The `max_tokens` of the request.
    Length,
    /// The end of the model's context.
    Context,
    ToolCalls,
}

/// A token and its log-probability, with the most likely alternatives.
#[derive(Clone, Debug)]
pub(crate) struct Logprob {
    pub bytes: Vec<u8>,
    pub logprob: f32,
    pub top: Vec<(Vec<u8>, f32)>,
}

pub(super) struct Lane {
    /// `None` once this choice has ended; dropping it cancels.
    stream: Option<Stream>,
    decoder: Decoder,
    finder: StopFinder,
    stops: Vec<String>,
    tokenizer: Arc<Tokenizer>,
    /// Log-probabilities of tokens whose text has not left yet.
    logprobs: Vec<Logprob>,
    calls: u32,
    context_is_limit: bool,
    last_token: Option<Instant>,
    /// Set by the grammar that bound this choice when it could not go on.
    grammar_failed: Option<Arc<AtomicBool>>,
    pub(super) choices_per_prompt: usize,
    /// What the engine spends on it; goes on counting for a while when the stream is gone.
    cpu: CpuTime,
    pub(super) cached_tokens: u64,
    pub(super) generated_tokens: u64,
}

enum Decoder {
    Plain(Detokenizer),
    Chat(Box<OutputParser>),
}

impl Lane {
    pub(super) fn new(
        job: &Job,
        stream: Stream,
        context_is_limit: bool,
        grammar_failed: Option<Arc<AtomicBool>>,
    ) -> Self {
        let text = &job.served.text;
        let tokenizer = &text.tokenizer;
        let decoder = match (job.decode, &text.chat) {
            (Decode::Chat { tools, continuing: true }, Some(chat)) => {
                Decoder::Chat(Box::new(OutputParser::continuing(chat, tokenizer, tools)))
            }
            (Decode::Chat { tools, .. }, Some(chat)) => {
                Decoder::Chat(Box::new(OutputParser::new(chat, tokenizer, tools)))
            }
            // A completion goes on from its prompt: a space at its start is part of it.
            _ => Decoder::Plain(Detokenizer::continuing(Arc::clone(tokenizer))),
        };
        let cpu = stream.cpu_time();
        Self {
            stream: Some(stream),
            decoder,
            finder: StopFinder::new(job.stop.clone()),
            stops: job.stop.clone(),
            tokenizer: Arc::clone(tokenizer),
            logprobs: Vec::new(),
            calls: 0,
            context_is_limit,
            last_token: None,
            grammar_failed,
            choices_per_prompt: job.n as usize,
            cpu,
            cached_tokens: 0,
            generated_tokens: 0,
        }
    }

    /// CPU time that went into this choice until now.
    pub(super) fn cpu_ns(&self) -> u64 {
        self.cpu.ns()
    }

    pub(super) fn is_done(&self) -> bool {
        self.stream.is_none()
    }

    /// `None` when this choice has ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Option<Poll<Option<Event>>> {
        self.stream.as_mut().map(|stream| stream.events.poll_recv(context))
    }

    /// Time since this choice's last token.
    pub(super) fn gap(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.last_token.replace(now).map(|last| now.duration_since(last))
    }

    pub(super) fn take(&mut self, event: Option<Event>) -> Result<Vec<Piece>, ApiError> {
        let mut out = Vec::new();
        match event {
            Some(Event::Token { token, logprob }) => {
                self.generated_tokens += 1;
                if let Some(logprob) = logprob {
                    let bytes = |token| self.tokenizer.token_bytes(token).to_vec();
                    let top = logprob.top.iter().map(|(token, logprob)| (bytes(*token), *logprob)).collect();
                    self.logprobs.push(Logprob { bytes: bytes(token), logprob: logprob.logprob, top });
                }
                self.decode(token, &mut out);
            }
            Some(Event::Done { reason, usage }) => {
                self.cached_tokens = u64::from(usage.cached_tokens);
                self.finish(reason, &mut out);
            }
            Some(Event::Failed(reason)) => {
                self.stream = None;
                return Err(failure(reason, self.grammar_failed.as_deref()));
            }
            // The engine went away without a word: it is shutting down.
            None => {
                self.stream = None;
                return Err(ApiError::Stopping);
            }
        }
        Ok(out)
    }

    fn decode(&mut self, token: u32, out: &mut Vec<Piece>) {
        match &mut self.decoder {
            Decoder::Plain(detokenizer) => {
                let text = detokenizer.push(token);
                self.text(&text, out);
            }
            Decoder::Chat(parser) => {
                for piece in parser.push(token) {
                    self.parsed(piece, out);
                }
            }
        }
    }

    fn parsed(&mut self, piece: falaj_text::Piece, out: &mut Vec<Piece>) {
        // The token that brought a stop string may bring more; none of it belongs to the answer.
        if self.is_done() {
            return;
        }
        match piece {
            falaj_text::Piece::Text(text) => self.text(&text, out),
            falaj_text::Piece::Thinking(text) => out.push(Piece::Thinking(text)),
            falaj_text::Piece::ToolCallStart { name, id, .. } => {
                let id = id.map_or_else(ids::tool_call, |id| ids::nine(&id));
                out.push(Piece::CallStart { index: self.calls, id, name });
                self.calls += 1;
            }
            falaj_text::Piece::ToolCallArguments { fragment, .. } => {
                out.push(Piece::CallArguments { index: self.calls.saturating_sub(1), fragment });
            }
        }
    }

    fn text(&mut self, text: &str, out: &mut Vec<Piece>) {
        if self.is_done() {
            return;
        }
        let step = self.finder.push(text);
        if !step.emit.is_empty() {
            out.push(Piece::Text { text: step.emit, logprobs: std::mem::take(&mut self.logprobs) });
        }
        if let Some(which) = step.stopped {
            self.cached_tokens = self.stream.take().map_or(0, |stream| u64::from(stream.cached_tokens()));
            out.push(Piece::End(Finish::StopString(self.stops.get(which).cloned().unwrap_or_default())));
        }
    }

    fn finish(&mut self, reason: FinishReason, out: &mut Vec<Piece>) {
        match &mut self.decoder {
            Decoder::Plain(detokenizer) => {
                let text = detokenizer.finish();
                self.text(&text, out);
            }
            Decoder::Chat(parser) => {
                for piece in parser.finish() {
                    self.parsed(piece, out);
                }
            }
        }
        if self.is_done() {
            return;
        }
        let rest = self.finder.finish();
        let logprobs = std::mem::take(&mut self.logprobs);
        if !rest.is_empty() || !logprobs.is_empty() {
            out.push(Piece::Text { text: rest, logprobs });
        }
        self.stream = None;
        out.push(Piece::End(match reason {
            FinishReason::Length if self.context_is_limit => Finish::Context,
            FinishReason::Length => Finish::Length,
            FinishReason::Stop if self.calls > 0 => Finish::ToolCalls,
            FinishReason::Stop => Finish::Stop,
        }));
    }
}

/// The engine's view of a matcher, and what tells its choice that the grammar, not the engine, failed.
pub(super) fn constraint(matcher: Matcher) -> (Box<dyn Constraint>, Arc<AtomicBool>) {
    let failed = Arc::new(AtomicBool::new(false));
    (Box::new(Grammatical { matcher, failed: Arc::clone(&failed) }), failed)
}

struct Grammatical {
    matcher: Matcher,
    failed: Arc<AtomicBool>,
}

/// Whoever sent a grammar that cannot be followed can send a simpler one; nothing is wrong here.
fn failure(reason: String, grammar_failed: Option<&AtomicBool>) -> ApiError {
    match grammar_failed.is_some_and(|failed| failed.load(Ordering::Acquire)) {
        true => ApiError::GrammarFailed { reason },
        false => ApiError::Engine { reason },
    }
}

fn told<T>(failed: &AtomicBool, outcome: Result<T, TextError>) -> Result<T, ConstraintError> {
    outcome.map_err(|error| {
        failed.store(true, Ordering::Release);
        ConstraintError { reason: error.to_string() }
    })
}

impl Constraint for Grammatical {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        told(&self.failed, self.matcher.allowed(&mut mask.words))
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        told(&self.failed, self.matcher.accept(token))
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    /// No grammar that compiles is known to fail in the middle of an answer; if one does, the request is to blame.
    #[test]
    fn a_grammar_that_fails_is_the_requests_fault_and_anything_else_is_ours() {
        let failed = AtomicBool::new(false);
        let status = |grammar: Option<&AtomicBool>| failure("x".to_owned(), grammar).into_response().status().as_u16();
        assert!(told(&failed, Ok(())).is_ok());
        assert_eq!((status(None), status(Some(&failed))), (500, 500));
        let error =
            told::<()>(&failed, Err(TextError::Constraint { reason: "too many items".to_owned() })).unwrap_err();
        assert!(error.to_string().contains("too many items"));
        assert_eq!((status(None), status(Some(&failed))), (500, 400));
    }
}
