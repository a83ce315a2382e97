//! What `echo` gives back of a prompt: its text, and with `logprobs` how likely the model finds each of its tokens. Programs
//! that measure models read choices and perplexities off it.

use falaj_engine::{CpuTime, ScoreRequest};
use falaj_protocol::completions::{CompletionRequest, LegacyLogprobs, Prompt};
use falaj_text::Tokenizer;
use futures_util::{StreamExt, TryStreamExt};

use super::{characters_begun, text};
use crate::app::App;
use crate::auth::Caller;
use crate::body::Parsed;
use crate::error::ApiError;
use crate::generate::Job;

/// Of one prompt, the same for all its choices.
pub(super) struct Echo {
    pub(super) text: String,
    pub(super) logprobs: Option<LegacyLogprobs>,
}

/// The text of each prompt.
pub(super) async fn texts(
    app: &App,
    caller: &Caller,
    request: &Parsed<CompletionRequest>,
) -> Result<Vec<Echo>, ApiError> {
    let (served, _) = app.enter(caller, &request.model, request).await?;
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(tokens) => served.text.tokenizer.decode(tokens),
    };
    Ok(request.prompts.iter().map(|prompt| Echo { text: text(prompt), logprobs: None }).collect())
}

/// Adds the log-probabilities of the prompts' tokens.
pub(super) async fn score(app: &App, job: &mut Job, echoes: &mut [Echo]) -> Result<(), ApiError> {
    let top = job.logprobs.unwrap_or(0);
    let tokens: usize = job.prompts.iter().map(Vec::len).sum();
    let values = tokens.saturating_mul(1 + usize::from(top)).saturating_mul(job.n as usize);
    if values > MOST_VALUES {
        let reason = format!(
            "{values} log-probabilities exceed {MOST_VALUES} in one answer; send fewer prompts, or ask for fewer"
        );
        return Err(ApiError::Unsupported { param: "logprobs", reason });
    }
    // A few at a time: one request with two thousand prompts must not fill the queue by itself.
    let each: Vec<_> =
        job.prompts.iter().zip(&*echoes).map(|(tokens, echo)| one(&*job, tokens, &echo.text, top)).collect();
    let scored = futures_util::stream::iter(each).buffered(AT_ONCE).try_collect::<Vec<_>>();
    let timeout_ms = app.settings.request_timeout_ms;
    let scored = tokio::time::timeout_at(app.deadline(job.arrived), scored).await;
    let scored = scored.unwrap_or(Err(ApiError::TookTooLong { timeout_ms }))?;
    let mut spent_ns = 0;
    for (echo, (list, cpu)) in echoes.iter_mut().zip(scored) {
        echo.logprobs = Some(list);
        spent_ns += cpu.ns();
    }
    job.spent_ns += spent_ns;
    Ok(())
}

async fn one(job: &Job, tokens: &[u32], echoed: &str, top: u8) -> Result<(LegacyLogprobs, CpuTime), ApiError> {
    let (caller, adapter) = (&job.passage.caller, job.served.adapter.clone());
    let (tenant, cache_salt) = (caller.tenant, caller.cache_salt);
    let request = ScoreRequest { tokens: tokens.to_vec(), first: 1, top, tenant, cache_salt, adapter };
    let pending = job.served.engine.score(request)?;
    let cpu = pending.cpu_time();
    let reply = pending.await.map_err(|_| ApiError::Stopping)?;
    let scores = reply.map_err(|reason| ApiError::Engine { reason })?;
    let tokenizer = &job.served.text.tokenizer;
    let mut list = LegacyLogprobs::default();
    let (mut at, mut before) = (0, before_text(tokenizer, tokens, echoed));
    for (place, &token) in tokens.iter().enumerate() {
        let bytes = tokenizer.token_bytes(token);
        let scored = place.checked_sub(1).and_then(|number| {
            let named = |(token, logprob): &(u32, f32)| (text(tokenizer.token_bytes(*token)), *logprob);
            Some((*scores.logprobs.get(number)?, scores.top(number).iter().map(named).collect()))
        });
        list.push(text(bytes), at, scored);
        // Control tokens are no characters of the text, nor is the space that some vocabularies begin with.
        let begun = if tokenizer.is_special(token) { 0 } else { characters_begun(bytes) };
        let hidden = begun.min(before);
        before -= hidden;
        at += begun - hidden;
    }
    Ok((list, cpu))
}

/// Characters of the tokens that stand before the text: none, or a space that encoding put there.
fn before_text(tokenizer: &Tokenizer, tokens: &[u32], echoed: &str) -> usize {
    let plain = tokens.iter().filter(|token| !tokenizer.is_special(**token));
    let all: usize = plain.map(|token| characters_begun(tokenizer.token_bytes(*token))).sum();
    all.saturating_sub(echoed.chars().count()).min(1)
}

const AT_ONCE: usize = 8;
/// Some 40 MB of JSON.
const MOST_VALUES: usize = 1 << 20;
