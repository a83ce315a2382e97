//! `POST /v1/embeddings`.

use serde::Serialize;
use serde_json::Value;

use crate::check::{Checker, Problem, parse};
use crate::completions::{Prompt, prompts};
use crate::usage::Usage;

#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingRequest {
    pub model: String,
    pub input: Vec<Prompt>,
    pub encoding: Encoding,
    /// `dimensions` (OpenAI) or `output_dimension` (Mistral).
    pub dimensions: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Float,
    /// Little-endian f32, base64. What OpenAI's Python client asks for unless told otherwise.
    Base64,
}

impl EmbeddingRequest {
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            let model = c.required(&mut fields, "model", Checker::string);
            // Mistral's first clients said `inputs`.
            let name = if !fields.has("input") && fields.has("inputs") { "inputs" } else { "input" };
            let input = c.required(&mut fields, name, prompts);
            let encoding = c.optional(&mut fields, "encoding_format", |c, v| {
                c.word(v, &[("float", Encoding::Float), ("base64", Encoding::Base64)])
            });
            let dimensions = c.optional(&mut fields, "dimensions", |c, v| c.u32(v, 1));
            let output_dimension = c.optional(&mut fields, "output_dimension", |c, v| c.u32(v, 1));
            c.optional(&mut fields, "output_dtype", |c, v| c.word(v, &[("float", ())]));
            Some(Self {
                model: model?,
                input: input?,
                encoding: encoding.unwrap_or(Encoding::Float),
                dimensions: dimensions.or(output_dimension),
            })
        })
    }
}

#[derive(Debug, Serialize)]
pub struct EmbeddingResponse {
    pub id: String,
    pub object: &'static str,
    pub data: Vec<Embedding>,
    pub model: String,
    pub usage: Usage,
}

#[derive(Debug, Serialize)]
pub struct Embedding {
    pub object: &'static str,
    pub embedding: Vector,
    pub index: usize,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

impl Embedding {
    pub fn new(index: usize, embedding: Vector) -> Self {
        Self { object: "embedding", embedding, index }
    }
}

/// Kept beside the parser: an empty list is a request for nothing.
pub(crate) fn not_empty(c: &mut Checker, value: &Value) -> bool {
    let empty = value.as_array().is_some_and(Vec::is_empty);
    if empty {
        c.problem("too_short", "List should have at least 1 item after validation, not 0", None);
    }
    !empty
}
