//! Error envelopes, one per dialect. Which error becomes which status is `server`'s business.

use serde::Serialize;

use crate::check::Problem;

/// FastAPI's 422: what `HTTPValidationError` of the Mistral clients parses. The flat error beside it is for OpenAI's
/// client, which shows `message` and nothing else.
#[derive(Debug, Serialize)]
pub struct ValidationErrors<'a> {
    pub detail: &'a [Problem],
    #[serde(flatten)]
    pub error: MistralError<'a>,
}

/// Mistral's flat error. OpenAI's client reads it as well: it falls back to the body when `error` is missing.
#[derive(Debug, Serialize)]
pub struct MistralError<'a> {
    pub object: &'static str,
    pub message: &'a str,
    pub r#type: &'a str,
    pub param: Option<&'a str>,
    pub code: Option<&'a str>,
    pub request_id: &'a str,
}

#[derive(Debug, Serialize)]
pub struct OpenAiError<'a> {
    pub error: OpenAiErrorBody<'a>,
}

#[derive(Debug, Serialize)]
pub struct OpenAiErrorBody<'a> {
    pub message: &'a str,
    pub r#type: &'a str,
    pub param: Option<&'a str>,
    pub code: Option<&'a str>,
}

#[derive(Debug, Serialize)]
pub struct AnthropicError<'a> {
    pub r#type: &'static str,
    pub error: AnthropicErrorBody<'a>,
    pub request_id: &'a str,
}

#[derive(Debug, Serialize)]
pub struct AnthropicErrorBody<'a> {
    pub r#type: &'a str,
    pub message: &'a str,
}
