//! Legacy text completions (`/completions`) and Mistral's fill-in-the-middle (`/fim/completions`). The latter answers
//! in chat's shape, see [`crate::chat`].

use serde::Serialize;
use serde_json::{Map, Value};

use crate::check::{Checker, Problem, parse};
use crate::embeddings::not_empty;
use crate::sampling::Options;
use crate::usage::Usage;

/// Text to encode, or tokens to take as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    pub model: String,
    /// At least one.
    pub prompts: Vec<Prompt>,
    pub suffix: Option<String>,
    pub echo: bool,
    /// How many alternatives per token; 0 reports the token itself only. With `echo` also of the prompt's.
    pub logprobs: Option<u8>,
    pub options: Options,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FimRequest {
    pub model: String,
    pub prompt: String,
    pub suffix: String,
    pub options: Options,
}

pub const MOST_PROMPTS: usize = 2048;

impl CompletionRequest {
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            let model = c.required(&mut fields, "model", Checker::string);
            let prompts = c.required(&mut fields, "prompt", prompts);
            let mut options = Options::read(c, &mut fields);
            // OpenAI's default for this operation alone.
            options.max_tokens.get_or_insert(16);
            let best_of = c.optional(&mut fields, "best_of", |c, v| c.u32(v, 1));
            if best_of.is_some_and(|best_of| best_of != options.n) {
                c.field_problem("best_of", "value_error", "`best_of` other than `n` is not supported; leave it out");
            }
            let logprobs = c.optional(&mut fields, "logprobs", |c, v| c.integer(v, 0, 20));
            let echo = c.optional(&mut fields, "echo", Checker::boolean).unwrap_or(false);
            let suffix = c.optional(&mut fields, "suffix", Checker::string);
            Some(Self {
                model: model?,
                prompts: prompts?,
                suffix: suffix.filter(|suffix| !suffix.is_empty()),
                echo,
                logprobs: logprobs.and_then(|count| u8::try_from(count).ok()),
                options,
            })
        })
    }
}

impl FimRequest {
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            let model = c.required(&mut fields, "model", Checker::string);
            let prompt = c.required(&mut fields, "prompt", Checker::string);
            let suffix = c.optional(&mut fields, "suffix", Checker::string);
            let options = Options::read(c, &mut fields);
            Some(Self { model: model?, prompt: prompt?, suffix: suffix.unwrap_or_default(), options })
        })
    }
}

/// A string, strings, token ids, or lists of token ids.
pub(crate) fn prompts(c: &mut Checker, value: Value) -> Option<Vec<Prompt>> {
    if !not_empty(c, &value) {
        return None;
    }
    match &value {
        Value::String(_) => Some(vec![Prompt::Text(c.string(value)?)]),
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            Some(vec![Prompt::Tokens(c.list(value, |c, v| c.u32(v, 0))?)])
        }
        Value::Array(items) if items.len() > MOST_PROMPTS => {
            let msg = format!("List should have at most {MOST_PROMPTS} items, not {}", items.len());
            c.wrong("too_long", msg, &value)
        }
        Value::Array(_) => c.list(value, |c, v| match &v {
            Value::Array(_) if !not_empty(c, &v) => None,
            Value::Array(_) => Some(Prompt::Tokens(c.list(v, |c, v| c.u32(v, 0))?)),
            _ => Some(Prompt::Text(c.string(v)?)),
        }),
        other => c.wrong("string_type", "Input should be a string, a list of strings or a list of token ids", other),
    }
}

#[derive(Debug, Serialize)]
pub struct Completion {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub choices: Vec<CompletionChoice>,
    /// Outer `None`: not written at all; inner `None`: `null`, as OpenAI's streams have it before the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Debug, Serialize)]
pub struct CompletionChoice {
    pub index: u32,
    pub text: String,
    pub logprobs: Option<LegacyLogprobs>,
    pub finish_reason: Option<&'static str>,
}

/// Parallel lists, one entry per token.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LegacyLogprobs {
    pub tokens: Vec<String>,
    /// None for a prompt's first token, which nothing comes before. Doubles, as in `top_logprobs`: clients compare the two.
    pub token_logprobs: Vec<Option<f64>>,
    /// The most likely ones, and always the token itself.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Characters from the start of the text.
    pub text_offset: Vec<usize>,
}

impl LegacyLogprobs {
    /// `top`: most likely first, without the token itself where it is not among them. Of tokens that are written alike (parts
    /// of characters are) the most likely stands for all.
    pub fn push(&mut self, token: String, offset: usize, scored: Option<(f32, Vec<(String, f32)>)>) {
        self.text_offset.push(offset);
        self.token_logprobs.push(scored.as_ref().map(|(logprob, _)| f64::from(*logprob)));
        self.top_logprobs.push(scored.map(|(logprob, top)| {
            let mut map = Map::new();
            for (alternative, logprob) in top.into_iter().chain([(token.clone(), logprob)]) {
                map.entry(alternative).or_insert_with(|| f64::from(logprob).into());
            }
            map
        }));
        self.tokens.push(token);
    }

    pub fn append(&mut self, mut more: Self) {
        self.tokens.append(&mut more.tokens);
        self.token_logprobs.append(&mut more.token_logprobs);
        self.top_logprobs.append(&mut more.top_logprobs);
        self.text_offset.append(&mut more.text_offset);
    }
}
