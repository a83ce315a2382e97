//! Legacy text completions: several prompts, `echo` (in `completions/echo.rs`), `suffix`, and log-probabilities as parallel lists.

mod echo;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use falaj_protocol::Dialect;
use falaj_protocol::completions::{Completion, CompletionChoice, CompletionRequest, LegacyLogprobs};
use falaj_protocol::usage::Usage;

use crate::app::App;
use crate::attached::{Call, Errand};
use crate::auth::Caller;
use crate::body::Raw;
use crate::convert;
use crate::edge::RequestId;
use crate::error::ApiError;
use crate::generate::{Collected, Counts, Generation, Logprob, Piece};
use crate::ids;
use crate::operations::chat::{finish_reason, usage};
use crate::sse::{self, Frames, Script};
use echo::Echo;

pub(crate) async fn complete(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    Extension(request_id): Extension<RequestId>,
    body: Raw,
) -> Result<Response, ApiError> {
    if let Some(errand) = Errand::of(&app, &body) {
        return errand.run(app, caller, dialect, request_id, Call::Completion, body).await;
    }
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
        choices_per_prompt: request.options.n.max(1) as usize,
        written: Vec::new(),
    };
    if request.echo {
        reply.echoes = echo::texts(&app, &caller, &request).await?;
    }
    let mut job = convert::completion(&app, &caller, request).await?;
    if reply.logprobs && !reply.echoes.is_empty() {
        // Who asks for one token only reads what comes before it, and counts on that one: also where it would be the end.
        job.ends = job.max_tokens != Some(1);
        echo::score(&app, &mut job, &mut reply.echoes).await?;
    }
    let generation = Generation::start(&app, job).await?;
    reply.written = vec![0; generation.choices() as usize];
    if stream {
        return Ok(sse::response(generation, reply, app.settings.keep_alive_ms));
    }
    let Collected { wholes, counts, receipt } = generation.collect().await?;
    let choices = (0..).zip(wholes).map(|(index, whole)| {
        let text = format!("{}{}", reply.echo(index).map_or("", |echo| echo.text.as_str()), whole.text);
        let logprobs = reply.logprobs.then(|| {
            let mut list = reply.echo(index).and_then(|echo| echo.logprobs.clone()).unwrap_or_default();
            list.append(reply.list(index, whole.logprobs));
            list
        });
        let finish_reason = Some(finish_reason(&whole.finish, dialect));
        CompletionChoice { index, text, logprobs, finish_reason }
    });
    let choices = choices.collect();
    let response = Json(reply.body(choices, Some(Some(reply.usage(counts))))).into_response();
    Ok(sse::with_receipt(response, receipt))
}

struct Reply {
    dialect: Dialect,
    id: String,
    request_id: String,
    model: String,
    created: u64,
    include_usage: bool,
    logprobs: bool,
    /// Per prompt; empty without `echo`.
    echoes: Vec<Echo>,
    choices_per_prompt: usize,
    /// Characters of each choice's text so far, for `text_offset`.
    written: Vec<usize>,
}

impl Reply {
    fn echo(&self, choice: u32) -> Option<&Echo> {
        self.echoes.get(choice as usize / self.choices_per_prompt)
    }

    /// What an echo's log-probabilities had to compute did not come from the cache, though the answer found it there.
    fn usage(&self, counts: Counts) -> Usage {
        let scored = self.echoes.iter().any(|echo| echo.logprobs.is_some());
        usage(if scored { Counts { cached: 0, ..counts } } else { counts })
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
        let echoed = self.echo(choice).map_or(0, |echo| echo.text.chars().count());
        let mut list = LegacyLogprobs::default();
        let Some(written) = self.written.get_mut(choice as usize) else { return list };
        for token in tokens {
            let top = token.top.iter().map(|(bytes, logprob)| (text(bytes), *logprob)).collect();
            list.push(text(&token.bytes), echoed + *written, Some((token.logprob, top)));
            *written += characters_begun(&token.bytes);
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Characters whose first byte is among these: a token may hold a part of one only.
fn characters_begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

impl Script for Reply {
    fn open(&mut self, out: &mut Frames) {
        let echoes = self.echoes.iter().flat_map(|echo| std::iter::repeat_n(echo, self.choices_per_prompt));
        for (index, echo) in (0..).zip(echoes) {
            let (text, logprobs) = (echo.text.clone(), echo.logprobs.clone());
            self.chunk(CompletionChoice { index, text, logprobs, finish_reason: None }, None, out);
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
        let usage = (last && finish_reason.is_some()).then(|| self.usage(counts));
        self.chunk(CompletionChoice { index: choice, text, logprobs, finish_reason }, usage, out);
    }

    fn close(&mut self, counts: Counts, out: &mut Frames) {
        if self.dialect == Dialect::OpenAi && self.include_usage {
            out.data(&self.body(Vec::new(), Some(Some(self.usage(counts)))));
        }
        out.raw("[DONE]");
    }

    fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        out.raw(&error.envelope(self.dialect, &self.request_id));
    }
}
