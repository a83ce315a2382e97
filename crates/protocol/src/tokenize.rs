//! Text to tokens and back, as vLLM's server has it: programs that measure models cut choices from contexts by it, and need no
//! tokenizer of their own.

use serde::Serialize;

use crate::check::{Checker, Problem, parse};

#[derive(Clone, Debug, PartialEq)]
pub struct TokenizeRequest {
    /// None: the only one in memory.
    pub model: Option<String>,
    pub prompt: String,
    /// Whether the model's beginning of text comes first, where it has one.
    pub add_special_tokens: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DetokenizeRequest {
    /// None: the only one in memory.
    pub model: Option<String>,
    pub tokens: Vec<u32>,
}

#[derive(Debug, Serialize)]
pub struct Tokenized {
    pub count: usize,
    /// The model's context.
    pub max_model_len: usize,
    pub tokens: Vec<u32>,
}

#[derive(Debug, Serialize)]
pub struct Detokenized {
    pub prompt: String,
}

#[derive(Debug, Serialize)]
pub struct TokenizerInfo {
    pub tokenizer_class: &'static str,
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
}

impl TokenizeRequest {
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            let prompt = c.required(&mut fields, "prompt", Checker::string);
            let model = c.optional(&mut fields, "model", Checker::string);
            let add_special_tokens = c.optional(&mut fields, "add_special_tokens", Checker::boolean).unwrap_or(true);
            Some(Self { model, prompt: prompt?, add_special_tokens })
        })
    }
}

impl DetokenizeRequest {
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            let tokens = c.required(&mut fields, "tokens", |c, v| c.list(v, |c, v| c.u32(v, 0)));
            let model = c.optional(&mut fields, "model", Checker::string);
            Some(Self { model, tokens: tokens? })
        })
    }
}
