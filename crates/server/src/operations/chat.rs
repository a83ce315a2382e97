//! Chat completions, for Mistral's and OpenAI's clients. The shapes of the reply are also fill-in-the-middle's.

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use falaj_protocol::Dialect;
use falaj_protocol::chat::{
    Call, ChatChoice, ChatChunk, ChatCompletion, ChatMessage, ChatRequest, ChunkChoice, ChunkDelta, Logprobs, Message,
    TokenLogprob, TopLogprob,
};
use falaj_protocol::usage::Usage;

use crate::app::App;
use crate::attached::{Call as Asked, Errand};
use crate::auth::Caller;
use crate::body::Raw;
use crate::convert;
use crate::edge::RequestId;
use crate::error::ApiError;
use crate::generate::{Collected, Counts, Finish, Generation, Job, Logprob, Piece, Whole};
use crate::ids;
use crate::sse::{self, Frames, Script};

pub(crate) async fn complete(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    Extension(request_id): Extension<RequestId>,
    body: Raw,
) -> Result<Response, ApiError> {
    if let Some(errand) = Errand::of(&app, &body) {
        return errand.run(app, caller, dialect, request_id, Asked::Chat, body).await;
    }
    let request = body.parse(ChatRequest::parse)?;
    let reply = Reply {
        prefix: prefix(&request.messages),
        logprobs: request.logprobs.is_some(),
        include_usage: request.options.include_usage,
        ..Reply::new(dialect, &request.model, request_id.0)
    };
    let stream = request.options.stream;
    let job = convert::chat(&app, &caller, request).await?;
    reply.answer(&app, job, stream).await
}

/// What goes into every reply to one request.
pub(super) struct Reply {
    pub dialect: Dialect,
    pub id: String,
    pub request_id: String,
    pub model: String,
    pub created: u64,
    pub include_usage: bool,
    pub logprobs: bool,
    /// The text that the answer goes on from. Mistral's API gives it back at the start of the answer.
    pub prefix: String,
}

impl Reply {
    pub(super) fn new(dialect: Dialect, model: &str, request_id: String) -> Self {
        Self {
            dialect,
            id: ids::unique("chatcmpl-"),
            request_id,
            model: model.to_owned(),
            created: ids::now_s(),
            include_usage: false,
            logprobs: false,
            prefix: String::new(),
        }
    }

    pub(super) async fn answer(self, app: &App, job: Job, stream: bool) -> Result<Response, ApiError> {
        let generation = Generation::start(app, job).await?;
        if stream {
            let script = ChatScript { choices: generation.choices(), calls: Vec::new(), reply: self };
            return Ok(sse::response(generation, script, app.settings.keep_alive_ms));
        }
        let Collected { wholes, counts, receipt } = generation.collect().await?;
        Ok(sse::with_receipt(Json(self.whole(wholes, counts)).into_response(), receipt))
    }

    fn whole(self, wholes: Vec<Whole>, counts: Counts) -> ChatCompletion {
        let choices = (0..).zip(wholes).map(|(index, whole)| self.choice(index, whole)).collect();
        ChatCompletion {
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            choices,
            usage: usage(counts),
        }
    }

    fn choice(&self, index: u32, whole: Whole) -> ChatChoice {
        let text = format!("{}{}", self.prefix, whole.text);
        let indexed = self.dialect == Dialect::Mistral;
        let calls = (0..).zip(whole.calls);
        let tool_calls: Vec<Call> = calls
            .map(|(index, call)| Call::whole(indexed.then_some(index), call.id, call.name, call.arguments))
            .collect();
        let silent = text.is_empty() && !tool_calls.is_empty() && self.dialect == Dialect::OpenAi;
        let reasoning_content = (!whole.thinking.is_empty()).then_some(whole.thinking);
        let message = ChatMessage {
            role: "assistant",
            content: (!silent).then_some(text),
            refusal: None,
            reasoning_content,
            tool_calls,
        };
        let logprobs = self.logprobs.then(|| logprobs(whole.logprobs));
        ChatChoice { index, message, logprobs, finish_reason: finish_reason(&whole.finish, self.dialect) }
    }
}

fn prefix(messages: &[Message]) -> String {
    match messages.last() {
        Some(Message::Assistant { content, prefix: true, .. }) => content.clone(),
        _ => String::new(),
    }
}

pub(super) fn usage(counts: Counts) -> Usage {
    Usage::new(counts.prompt, counts.cached, counts.generated)
}

pub(super) fn finish_reason(finish: &Finish, dialect: Dialect) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopString(_) => "stop",
        Finish::Context if dialect == Dialect::Mistral => "model_length",
        Finish::Length | Finish::Context => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

fn logprobs(tokens: Vec<Logprob>) -> Logprobs {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let token = |logprob: Logprob| TokenLogprob {
        token: text(&logprob.bytes),
        logprob: logprob.logprob,
        top_logprobs: logprob
            .top
            .into_iter()
            .map(|(bytes, logprob)| TopLogprob { token: text(&bytes), logprob, bytes })
            .collect(),
        bytes: logprob.bytes,
    };
    Logprobs { content: tokens.into_iter().map(token).collect(), refusal: None }
}

/// Writes chunks. OpenAI streams a call's arguments as they come; Mistral's clients need each call whole, because
/// their types require a name in every piece.
struct ChatScript {
    reply: Reply,
    choices: u32,
    /// Mistral: calls not yet sent, with their choice.
    calls: Vec<(u32, Call)>,
}

impl ChatScript {
    fn chunk(&self, choice: ChunkChoice, usage: Option<Usage>, out: &mut Frames) {
        let usage = match self.reply.dialect {
            // `usage: null` in every chunk but the last, when asked for.
            Dialect::OpenAi => self.reply.include_usage.then_some(None),
            _ => usage.map(Some),
        };
        self.write(vec![choice], usage, out);
    }

    fn write(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>, out: &mut Frames) {
        let reply = &self.reply;
        out.data(&ChatChunk {
            id: &reply.id,
            object: "chat.completion.chunk",
            created: reply.created,
            model: &reply.model,
            choices,
            usage,
        });
    }

    fn delta(&self, index: u32, delta: ChunkDelta, out: &mut Frames) {
        self.chunk(ChunkChoice { index, delta, logprobs: None, finish_reason: None }, None, out);
    }

    fn send_calls(&mut self, choice: u32, out: &mut Frames) {
        let (ready, rest) = std::mem::take(&mut self.calls).into_iter().partition(|(owner, _)| *owner == choice);
        self.calls = rest;
        let ready: Vec<(u32, Call)> = ready;
        for (_, call) in ready {
            self.delta(choice, ChunkDelta { tool_calls: vec![call], ..ChunkDelta::default() }, out);
        }
    }
}

impl Script for ChatScript {
    fn open(&mut self, out: &mut Frames) {
        for index in 0..self.choices {
            let content = Some(self.reply.prefix.clone());
            self.delta(index, ChunkDelta { role: Some("assistant"), content, ..ChunkDelta::default() }, out);
        }
    }

    fn piece(&mut self, choice: u32, piece: Piece, counts: Counts, last: bool, out: &mut Frames) {
        let mistral = self.reply.dialect == Dialect::Mistral;
        match piece {
            Piece::Text { text, logprobs: tokens } => {
                let logprobs = self.reply.logprobs.then(|| logprobs(tokens));
                let delta = ChunkDelta { content: Some(text), ..ChunkDelta::default() };
                self.chunk(ChunkChoice { index: choice, delta, logprobs, finish_reason: None }, None, out);
            }
            Piece::Thinking(text) => {
                self.delta(choice, ChunkDelta { reasoning_content: Some(text), ..ChunkDelta::default() }, out);
            }
            Piece::CallStart { index, id, name } => {
                let call = Call::whole(Some(index), id, name, String::new());
                if mistral {
                    self.send_calls(choice, out);
                    self.calls.push((choice, call));
                } else {
                    self.delta(choice, ChunkDelta { tool_calls: vec![call], ..ChunkDelta::default() }, out);
                }
            }
            Piece::CallArguments { index, fragment } if !mistral => {
                let call = Call::fragment(index, fragment);
                self.delta(choice, ChunkDelta { tool_calls: vec![call], ..ChunkDelta::default() }, out);
            }
            Piece::CallArguments { fragment, .. } => {
                if let Some((_, call)) = self.calls.iter_mut().rev().find(|(owner, _)| *owner == choice) {
                    call.function.arguments.push_str(&fragment);
                }
            }
            Piece::End(finish) => {
                self.send_calls(choice, out);
                let delta = ChunkDelta { content: mistral.then(String::new), ..ChunkDelta::default() };
                let finish_reason = Some(finish_reason(&finish, self.reply.dialect));
                let usage = last.then(|| usage(counts));
                self.chunk(ChunkChoice { index: choice, delta, logprobs: None, finish_reason }, usage, out);
            }
        }
    }

    fn close(&mut self, counts: Counts, out: &mut Frames) {
        if self.reply.dialect == Dialect::OpenAi && self.reply.include_usage {
            self.write(Vec::new(), Some(Some(usage(counts))), out);
        }
        out.raw("[DONE]");
    }

    fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        out.raw(&error.envelope(self.reply.dialect, &self.reply.request_id));
    }
}
