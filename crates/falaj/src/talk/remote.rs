//! An answer from a server: `POST /v1/chat/completions` with `stream`, read on a thread of its own, since the client is a
//! blocking one. When the asker has left, the next piece finds that out and the connection closes.

use super::{Ending, Heard, Line};
use crate::args::Sampling;
use crate::failure::{Failure, Outcome};
use crate::words::Word;
use serde::Deserialize;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use ureq::{Agent, Body, http};

#[derive(Clone)]
pub struct Server {
    agent: Agent,
    /// Without a slash at its end, and without `/v1`.
    url: Arc<str>,
    key: Option<Arc<str>>,
}

impl Server {
    pub fn new(url: &str, key: Option<&str>) -> Outcome<Self> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Failure::usage(format!("`{url}`")).next("`--url http://127.0.0.1:8080`"));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("falaj/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(10)))
            .build()
            .new_agent();
        let url = url.trim_end_matches('/').trim_end_matches("/v1");
        Ok(Self { agent, url: url.into(), key: key.map(Into::into) })
    }

    /// Names of the models it serves.
    pub fn models(&self) -> Outcome<Vec<String>> {
        Ok(self.cards()?.into_iter().map(|model| model.id).collect())
    }

    pub fn cards(&self) -> Outcome<Vec<Card>> {
        let request = self.authorised(self.agent.get(format!("{}/v1/models", self.url)));
        let mut response = request.call().map_err(|error| self.gone(&error))?;
        self.expect_success(&mut response)?;
        let list: ModelList = serde_json::from_reader(response.body_mut().as_reader())?;
        Ok(list.data)
    }

    pub fn ask(&self, model: &str, lines: &[Line], sampling: &Sampling) -> Outcome<mpsc::Receiver<Heard>> {
        let body = json!({
            "model": model,
            "messages": lines,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "random_seed": sampling.seed,
            "stream": true,
        });
        let request = self.agent.post(format!("{}/v1/chat/completions", self.url));
        let request = self.authorised(request).header("content-type", "application/json");
        let mut response = request.send(body.to_string()).map_err(|error| self.gone(&error))?;
        self.expect_success(&mut response)?;
        let (heard, receiver) = mpsc::channel(64);
        std::thread::spawn(move || read_events(response.into_body(), &heard));
        Ok(receiver)
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn expect_success(&self, response: &mut http::Response<Body>) -> Outcome {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let text = response.body_mut().with_config().limit(64 << 10).read_to_string().unwrap_or_default();
        let failure = Failure::new(Word::ChatRefused.with(&[status.as_str(), &message_of(&text)]));
        Err(if status.as_u16() == 401 { failure.next(Word::ChatRefusedNext.text()) } else { failure })
    }

    fn gone(&self, error: &ureq::Error) -> Failure {
        let cause = Word::ChatServerGone.with(&[&self.url, &error.to_string()]);
        Failure::new(cause).next(Word::ChatServerGoneNext.text())
    }
}

/// Reads `data:` lines until `[DONE]`. Sends fail when the asker has left; then there is nobody to tell.
fn read_events(body: Body, heard: &mpsc::Sender<Heard>) {
    let mut ending = Ending::default();
    for line in BufReader::new(body.into_reader()).lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                let _ = heard.blocking_send(Heard::Failed(error.to_string()));
                return;
            }
        };
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            let _ = heard.blocking_send(Heard::Done(ending));
            return;
        }
        let Ok(chunk) = serde_json::from_str::<Chunk>(data) else {
            let _ = heard.blocking_send(Heard::Failed(message_of(data)));
            return;
        };
        if let Some(usage) = chunk.usage {
            ending.prompt_tokens = usage.prompt_tokens;
            ending.completion_tokens = usage.completion_tokens;
        }
        for choice in chunk.choices {
            if let Some(reason) = choice.finish_reason {
                ending.reason = reason;
            }
            let text = choice.delta.content.as_str().unwrap_or_default();
            if !text.is_empty() && heard.blocking_send(Heard::Text(text.to_owned())).is_err() {
                return;
            }
        }
    }
    let _ = heard.blocking_send(Heard::Failed(Word::AnswerCutOff.text().to_owned()));
}

/// The message of an error body, whichever dialect; else the start of the body.
fn message_of(text: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let message = value.pointer("/error/message").or_else(|| value.get("message")).or_else(|| value.get("detail"));
    match message {
        Some(serde_json::Value::String(message)) => message.clone(),
        Some(other) => other.to_string(),
        None => text.chars().take(200).collect(),
    }
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<Card>,
}

/// What is read of a model's card. Other servers than ours do not say where a model is.
#[derive(Deserialize)]
pub struct Card {
    pub id: String,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub memory_bytes: u64,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    /// Text; other servers also send lists of parts, which are passed over.
    #[serde(default)]
    content: serde_json::Value,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}
