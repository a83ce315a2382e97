//! What is read of an engine's answer: how many tokens it took, and why it was refused.

use std::future::poll_fn;

use axum::body::Bytes;
use axum::http::header;
use serde::Deserialize;
use serde_json::Value;

use super::Way;
use super::pool::Answer;
use crate::error::ApiError;
use crate::governance::Outcome;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub prompt: u64,
    pub cached: u64,
    pub completion: u64,
}

/// As engines write it; any of it may be missing or null.
#[derive(Deserialize)]
pub(super) struct Written {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Usage {
    /// Where the engine says nothing.
    pub(super) fn estimate(prompt: u64, completion: u64) -> Self {
        Self { prompt, cached: 0, completion }
    }

    pub(super) fn outcome(&self) -> Outcome {
        Outcome { prompt_tokens: self.prompt, completion_tokens: self.completion, ..Outcome::default() }
    }
}

impl From<Written> for Usage {
    fn from(written: Written) -> Self {
        let cached = written.prompt_tokens_details.and_then(|details| details.cached_tokens);
        Self {
            prompt: written.prompt_tokens.unwrap_or(0),
            cached: cached.unwrap_or(0),
            completion: written.completion_tokens.unwrap_or(0),
        }
    }
}

/// Tokens of so many bytes, roughly: four each.
pub(super) fn estimated(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

/// What a whole answer says that it took.
pub(super) fn usage(answer: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Whole {
        usage: Option<Written>,
    }
    serde_json::from_slice::<Whole>(answer).ok()?.usage.map(Usage::from)
}

/// Tokens of the texts in an answer that does not count them.
pub(super) fn text_tokens(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let choices = answer.get("choices").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |choice: &Value| {
        let text = choice.pointer("/message/content").or_else(|| choice.get("text")).and_then(Value::as_str);
        text.map_or(0, |text| estimated(text.len()))
    };
    choices.iter().map(text).sum()
}

/// All of the body.
///
/// # Errors
/// An engine that breaks off, takes too long, or answers more than `most_bytes`.
pub(super) async fn read(mut answer: Answer, most_bytes: usize, way: &Way) -> Result<Bytes, ApiError> {
    let reading = async {
        let mut first = Bytes::new();
        let mut more: Option<Vec<u8>> = None;
        while let Some(data) = poll_fn(|context| answer.poll_data(context)).await {
            let data = data.map_err(|error| way.broken(&error))?;
            if first.is_empty() {
                first = data;
                continue;
            }
            let all = more.get_or_insert_with(|| first.to_vec());
            all.extend_from_slice(&data);
            if all.len() > most_bytes {
                let reason = format!("its answer is longer than {most_bytes} bytes");
                return Err(ApiError::EngineBroke { engine: way.engine.name().to_owned(), reason });
            }
        }
        Ok(more.map_or(first, Bytes::from))
    };
    tokio::time::timeout_at(way.deadline, reading).await.unwrap_or_else(|_| Err(way.too_long()))
}

/// What the engine said instead of an answer.
pub(super) async fn refusal(answer: Answer, way: &Way) -> ApiError {
    let (status, engine) = (answer.head.status.as_u16(), way.engine.name().to_owned());
    let retry_after = answer.head.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
    let retry_after_s = retry_after.and_then(|after| after.parse().ok());
    let message = match read(answer, REFUSAL_BYTES, way).await {
        Ok(body) => message(&body),
        Err(error) => error.to_string(),
    };
    ApiError::EngineRefused { engine, status, message, retry_after_s }
}

/// The message of an error in whichever dialect; else the start of the text.
fn message(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = value.pointer("/error/message").or_else(|| value.get("message")).or_else(|| value.get("detail"));
    let said = match said.or_else(|| value.get("error")) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    said.chars().filter(|c| !c.is_control()).take(2000).collect()
}

const REFUSAL_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_wherever_it_stands() {
        let whole = br#"{"choices":[{"usage":1}],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,
            "prompt_tokens_details":{"cached_tokens":8}}}"#;
        assert_eq!(usage(whole), Some(Usage { prompt: 12, cached: 8, completion: 3 }));
        let embedding = br#"{"usage":{"prompt_tokens":5,"total_tokens":5,"prompt_tokens_details":null}}"#;
        assert_eq!(usage(embedding), Some(Usage { prompt: 5, cached: 0, completion: 0 }));
        assert_eq!(usage(br#"{"usage":null}"#), None);
        assert_eq!(usage(b"hello"), None);
        assert_eq!(text_tokens(br#"{"choices":[{"message":{"content":"eight by"}},{"text":"four"}]}"#), 3);
    }

    #[test]
    fn messages_are_found_in_every_dialect() {
        for body in
            [r#"{"error":{"message":"no"}}"#, r#"{"object":"error","message":"no"}"#, r#"{"detail":"no"}"#, "no\n"]
        {
            assert_eq!(message(body.as_bytes()), "no", "{body}");
        }
    }
}
