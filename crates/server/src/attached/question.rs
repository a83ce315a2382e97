//! What is read of a request that is passed on, and the one thing that is changed in it: a stream is asked to tell its usage, so that
//! it can be accounted for. Everything else stays as the caller wrote it.

use std::borrow::Cow;
use std::ops::Range;

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

#[derive(Debug)]
pub(super) struct Question {
    /// Most tokens of one choice, where the caller bounds them.
    pub most_tokens: Option<u64>,
    pub choices: u64,
    /// Bytes to put in the place of others: the wish for usage, which the caller did not have.
    change: Option<(Range<usize>, String)>,
}

/// Only borrowed parts: a megabyte of messages is passed over, not built. What is of the wrong type is the engine's to refuse.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow)]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    n: Option<&'a RawValue>,
}

impl Question {
    /// The place of its model and the question, if it names one that has a place.
    pub(super) fn read<P>(body: &[u8], place: impl FnOnce(&str) -> Option<P>) -> Option<(P, Self)> {
        let head: Head<'_> = serde_json::from_slice(body).ok()?;
        let place = place(&head.model)?;
        let number = |value: Option<&RawValue>| value.and_then(|value| value.get().parse::<u64>().ok());
        let most_tokens = number(head.max_completion_tokens).or_else(|| number(head.max_tokens));
        let streams = head.stream.is_some_and(|stream| stream.get() == "true");
        let change = if streams { wish(body, head.stream_options) } else { None };
        Some((place, Self { most_tokens, choices: number(head.n).unwrap_or(1).max(1), change }))
    }

    /// The caller did not ask how many tokens it took, so that it must not be told.
    pub(super) fn hides_usage(&self) -> bool {
        self.change.is_some()
    }

    /// As the engine is asked.
    pub(super) fn body(&self, body: &Bytes) -> Bytes {
        let Some((range, new)) = &self.change else { return body.clone() };
        let (before, after) = (body.get(..range.start), body.get(range.end..));
        [before.unwrap_or_default(), new.as_bytes(), after.unwrap_or_default()].concat().into()
    }
}

/// What to change so that usage is told; `None`: it is asked for already.
fn wish(body: &[u8], options: Option<&RawValue>) -> Option<(Range<usize>, String)> {
    // An absent one and `null` look the same here; the second stays where it is, before ours, which wins with every reader.
    let Some(options) = options else {
        let end = body.iter().rposition(|byte| *byte == b'}')?;
        return Some((end..end, r#","stream_options":{"include_usage":true}"#.to_owned()));
    };
    let text = options.get();
    let mut options: Map<String, Value> = serde_json::from_str(text).ok()?;
    if options.get("include_usage") == Some(&Value::Bool(true)) {
        return None;
    }
    options.insert("include_usage".to_owned(), Value::Bool(true));
    // It was borrowed from the body.
    let start = (text.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    Some((start..start + text.len(), Value::Object(options).to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(body: &str) -> (Question, Value) {
        let (model, question) = Question::read(body.as_bytes(), |model| Some(model.to_owned())).expect("a model");
        assert_eq!(model, "mé");
        let sent = question.body(&Bytes::copy_from_slice(body.as_bytes()));
        (question, serde_json::from_slice(&sent).expect("still JSON"))
    }

    #[test]
    fn only_streams_that_do_not_ask_for_usage_are_changed() {
        let body = r#"{"model":"m\u00e9","max_tokens":7,"n":2,"stream":false}"#;
        let (question, sent) = asked(body);
        assert_eq!((question.most_tokens, question.choices, question.hides_usage()), (Some(7), 2, false));
        assert_eq!(sent.to_string(), json!({"model": "mé", "max_tokens": 7, "n": 2, "stream": false}).to_string());
        let (question, sent) = asked(r#"{"stream":true,"model":"mé","x":{"stream_options":1}} "#);
        assert!(question.hides_usage());
        assert_eq!(sent["stream_options"], json!({"include_usage": true}));
        assert_eq!(sent["x"], json!({"stream_options": 1}));
        let (question, _) = asked(r#"{"stream":true,"model":"mé","stream_options": {"include_usage" : true}}"#);
        assert!(!question.hides_usage());
        let other = r#"{"stream":true,"model":"mé","stream_options": {"include_usage":false, "more":[1]},"z":0}"#;
        let (question, sent) = asked(other);
        assert!(question.hides_usage());
        assert_eq!(sent["stream_options"], json!({"include_usage": true, "more": [1]}));
        assert_eq!(sent["z"], 0);
    }

    #[test]
    fn what_names_no_model_is_no_question() {
        for body in ["", "[]", "{}", r#"{"model":7}"#, r#"{"model":"a""#, "\u{feff}{}"] {
            assert!(Question::read(body.as_bytes(), |_| Some(())).is_none(), "{body}");
        }
        assert!(Question::read(br#"{"model":"a"}"#, |_| None::<()>).is_none());
    }
}
