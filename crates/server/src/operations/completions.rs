//! Legacy text completions: several prompts, `echo`, `suffix`, and log-probabilities as parallel lists.

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use falaj_protocol::Dialect;
use falaj_protocol::completions::{Completion, CompletionChoice, CompletionRequest, LegacyLogprobs, Prompt};
use falaj_protocol::usage::Usage;
use serde_json::{Map, Value};

use crate::app::App;
use crate::auth::Caller;
use crate::body::{Parsed, Raw};
use crate::convert;
use crate::edge::RequestId;
use crate::error::ApiError;
use crate::generate::{Counts, Generation, Logprob, Piece};
use crate::ids;
use crate::operations::chat::{finish_reason, usage};
use crate::sse::{self, Frames, Script};

pub(crate) async fn complete(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    Extension(request_id): Extension<RequestId>,
    body: Raw,
) -> Result<Response, ApiError> {
    let request = body.parse(CompletionRequest::parse)?;
    let stream = request.options.stream;
    let mut reply = Reply {
        dialect,
        id: ids::unique("cmpl-"),
        request_id: request_id.0,
        model: request.model.clone(),
        created: ids::now_s(),
        include_usage: request.options.include_usage,
        logprobs: request.logprobs.is_some(),
        echoes: Vec::new(),
        written: Vec::new(),
    };
    if request.echo {
        reply.echoes = echoes(&app, &request).await?;
    }
    let job = convert::completion(&app, &caller, request).await?;
    let generation = Generation::start(&app, job)?;
    reply.written = vec![0; generation.choices() as usize];
    if stream {
        return Ok(sse::response(generation, reply, app.settings.keep_alive_ms));
    }
    let (wholes, counts) = generation.collect().await?;
    let choices = (0..).zip(wholes).map(|(index, whole)| {
        let text = format!("{}{}", reply.echo(index), whole.text);
        let logprobs = reply.logprobs.then(|| reply.list(index, whole.logprobs));
        let finish_reason = Some(finish_reason(&whole.finish, dialect));
        CompletionChoice { index, text, logprobs, finish_reason }
    });
    let choices = choices.collect();
    Ok(Json(reply.body(choices, Some(Some(usage(counts))))).into_response())
}

/// The text of each prompt's choices, for `echo`.
async fn echoes(app: &App, request: &Parsed<CompletionRequest>) -> Result<Vec<String>, ApiError> {
    let served = app.registry.find(&request.model, app.deadline(request.arrived)).await?;
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(tokens) => served.text.tokenizer.decode(tokens),
    };
    Ok(request
        .prompts
        .iter()
        .flat_map(|prompt| std::iter::repeat_n(text(prompt), request.options.n as usize))
        .collect())
}

struct Reply {
    dialect: Dialect,
    id: String,
    request_id: String,
    model: String,
    created: u64,
    include_usage: bool,
    logprobs: bool,
    /// Per choice; empty without `echo`.
    echoes: Vec<String>,
    /// Characters of each choice's text so far, for `text_offset`.
    written: Vec<usize>,
}

impl Reply {
    fn echo(&self, choice: u32) -> &str {
        self.echoes.get(choice as usize).map_or("", String::as_str)
    }

    fn body(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }

    fn list(&mut self, choice: u32, tokens: Vec<Logprob>) -> LegacyLogprobs {
        let echoed = self.echo(choice).chars().count();
        let mut list = LegacyLogprobs::default();
        let Some(written) = self.written.get_mut(choice as usize) else { return list };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for token in tokens {
            let top = token.top.iter().map(|(bytes, logprob)| (text(bytes), Value::from(*logprob)));
            list.top_logprobs.push(top.collect::<Map<_, _>>());
            list.token_logprobs.push(token.logprob);
            list.text_offset.push(echoed + *written);
            let token = text(&token.bytes);
            *written += token.chars().count();
            list.tokens.push(token);
        }
        list
    }

    fn chunk(&self, choice: CompletionChoice, usage: Option<Usage>, out: &mut Frames) {
        let usage = match self.dialect {
            Dialect::OpenAi => self.include_usage.then_some(None),
            _ => usage.map(Some),
        };
        out.data(&self.body(vec![choice], usage));
    }
}

impl Script for Reply {
    fn open(&mut self, out: &mut Frames) {
        for (index, echo) in (0..).zip(&self.echoes) {
            self.chunk(CompletionChoice { index, text: echo.clone(), logprobs: None, finish_reason: None }, None, out);
        }
    }

    fn piece(&mut self, choice: u32, piece: Piece, counts: Counts, last: bool, out: &mut Frames) {
        let (text, logprobs, end) = match piece {
            Piece::Text { text, logprobs } => (text, self.logprobs.then(|| self.list(choice, logprobs)), None),
            Piece::End(finish) => (String::new(), None, Some(finish)),
            // These belong to chat; plain decoding makes none.
            Piece::Thinking(_) | Piece::CallStart { .. } | Piece::CallArguments { .. } => return,
        };
        let finish_reason = end.map(|finish| finish_reason(&finish, self.dialect));
        let usage = (last && finish_reason.is_some()).then(|| usage(counts));
        self.chunk(CompletionChoice { index: choice, text, logprobs, finish_reason }, usage, out);
    }

    fn close(&mut self, counts: Counts, out: &mut Frames) {
        if self.dialect == Dialect::OpenAi && self.include_usage {
            out.data(&self.body(Vec::new(), Some(Some(usage(counts)))));
        }
        out.raw("[DONE]");
    }

    fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        out.raw(&error.envelope(self.dialect, &self.request_id));
    }
}
