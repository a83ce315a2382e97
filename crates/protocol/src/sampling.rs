//! The options that every generating operation shares: sampling, length, stops, streaming. Read once here so that
//! chat, completions and fill-in-the-middle agree on names, ranges and defaults.

use serde_json::Value;

use crate::check::{Checker, Fields, Loc};

/// Options as sent; absent ones are the model's or the operation's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub repetition_penalty: Option<f32>,
    /// (token, bias in -100..=100)
    pub logit_bias: Vec<(u32, f32)>,
    /// `seed` or Mistral's `random_seed`.
    pub seed: Option<u64>,
    /// `max_completion_tokens`, or `max_tokens`.
    pub max_tokens: Option<u32>,
    pub min_tokens: u32,
    pub stop: Vec<String>,
    /// Choices per prompt, 1..=[`MOST_CHOICES`].
    pub n: u32,
    pub stream: bool,
    /// `stream_options.include_usage`.
    pub include_usage: bool,
}

pub const MOST_CHOICES: u32 = 128;
pub const MOST_STOPS: usize = 64;
pub const MOST_STOP_BYTES: usize = 4096;
/// Each costs a little at every step of every sequence.
pub const MOST_BIASES: usize = 4096;

impl Options {
    /// Takes the shared fields out of a request. Mistral's stricter bounds (temperature up to 1.5) are not enforced:
    /// the surface is a superset.
    pub fn read(c: &mut Checker, fields: &mut Fields) -> Self {
        let seed = c.optional(fields, "random_seed", |c, v| c.integer(v, 0, i64::MAX));
        let openai_seed = c.optional(fields, "seed", |c, v| c.integer(v, i64::MIN, i64::MAX));
        let max_completion = c.optional(fields, "max_completion_tokens", |c, v| c.u32(v, 0));
        let max_tokens = c.optional(fields, "max_tokens", |c, v| c.u32(v, 0));
        Self {
            temperature: c.optional(fields, "temperature", |c, v| c.number(v, 0.0, 2.0)),
            top_p: c.optional(fields, "top_p", top_p),
            // -1 and 0 turn it off in vLLM's dialect, from which this extension comes.
            top_k: c
                .optional(fields, "top_k", |c, v| c.integer(v, -1, i64::from(u32::MAX)))
                .and_then(|k| u32::try_from(k).ok())
                .filter(|k| *k > 0),
            min_p: c.optional(fields, "min_p", |c, v| c.number(v, 0.0, 1.0)),
            presence_penalty: c.optional(fields, "presence_penalty", |c, v| c.number(v, -2.0, 2.0)),
            frequency_penalty: c.optional(fields, "frequency_penalty", |c, v| c.number(v, -2.0, 2.0)),
            repetition_penalty: c.optional(fields, "repetition_penalty", |c, v| c.number(v, 0.01, 10.0)),
            logit_bias: c.optional(fields, "logit_bias", logit_bias).unwrap_or_default(),
            seed: seed.or(openai_seed).map(i64::cast_unsigned),
            max_tokens: max_completion.or(max_tokens),
            min_tokens: c.optional(fields, "min_tokens", |c, v| c.u32(v, 0)).unwrap_or(0),
            stop: c.optional(fields, "stop", stops).unwrap_or_default(),
            n: c.optional(fields, "n", |c, v| c.integer(v, 1, i64::from(MOST_CHOICES)))
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(1),
            stream: c.optional(fields, "stream", Checker::boolean).unwrap_or(false),
            include_usage: c.optional(fields, "stream_options", include_usage).unwrap_or(false),
        }
    }
}

/// A string or a list of strings, none empty.
pub fn stops(c: &mut Checker, value: Value) -> Option<Vec<String>> {
    let list = match value {
        Value::String(text) => vec![text],
        Value::Array(_) => c.list(value, Checker::string)?,
        other => return c.wrong("string_type", "Input should be a valid string or a list of strings", &other),
    };
    if list.len() > MOST_STOPS {
        c.problem("too_long", format!("List should have at most {MOST_STOPS} items, not {}", list.len()), None);
        return None;
    }
    if list.iter().any(|stop| stop.len() > MOST_STOP_BYTES) {
        c.problem("string_too_long", format!("a stop string should have at most {MOST_STOP_BYTES} bytes"), None);
        return None;
    }
    if list.iter().any(String::is_empty) {
        c.problem("string_too_short", "a stop string should have at least 1 character", None);
        return None;
    }
    Some(list)
}

pub fn top_p(c: &mut Checker, value: Value) -> Option<f32> {
    if value.as_f64() == Some(0.0) {
        return c.wrong("greater_than", "Input should be greater than 0", &value);
    }
    c.number(value, 0.0, 1.0)
}

fn include_usage(c: &mut Checker, value: Value) -> Option<bool> {
    let mut fields = c.fields(value)?;
    c.optional(&mut fields, "include_usage", Checker::boolean)
}

fn logit_bias(c: &mut Checker, value: Value) -> Option<Vec<(u32, f32)>> {
    let Value::Object(map) = value else {
        return c.wrong("dict_type", "Input should be a valid dictionary", &value);
    };
    if map.len() > MOST_BIASES {
        c.problem("too_long", format!("Dictionary should have at most {MOST_BIASES} items, not {}", map.len()), None);
        return None;
    }
    let mut biases = Vec::with_capacity(map.len());
    for (name, value) in map {
        let bias = c.at(Loc::Field(name.clone()), |c| {
            let Ok(token) = name.parse::<u32>() else {
                return c.wrong("int_parsing", "the key should be a token id", &Value::String(name));
            };
            Some((token, c.number(value, -100.0, 100.0)?))
        });
        biases.push(bias?);
    }
    Some(biases)
}
