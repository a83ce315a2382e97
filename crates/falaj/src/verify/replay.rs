//! Answers a receipt's request again, with the same model, prompt, sampling and seed, through the very server that answered it, and
//! compares the answers. What a request's tokens depend on is in the receipt and the request, so they are the same or somebody erred.

use super::Found;
use crate::args::Verify;
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::serving::{self, Place};
use crate::words::Word;
use axum::body::Body;
use axum::http::Request;
use falaj_ledger::{Hash, Receipt};
use falaj_server::{App, Key, Registry, Settings};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::path::Path;
use tower::ServiceExt;

/// What one choice said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    text: String,
    /// Names and arguments.
    calls: Vec<(String, String)>,
}

pub(super) fn replay(
    context: &Context,
    options: &Verify,
    model: &str,
    receipt: &Receipt,
    found: &mut Found,
) -> Outcome {
    let (Some(request), Some(response)) = (&options.request, &options.response) else { return Ok(()) };
    let (request, answered) = (text(request)?, said(&text(response)?));
    let served = serving::load(&context.config, &Place::find(&context.config, model)?)?;
    let claims = &receipt.claims;
    if Hash(served.identity.model) != claims.model || served.identity.adapter.map(Hash) != claims.adapter {
        found.failures.push(Word::ReplayModel.with(&[model]));
        return Ok(());
    }
    if *served.identity.numerics != *claims.numerics {
        output::note(&Word::ReplayNumerics.with(&[&claims.numerics, &served.identity.numerics]));
    }
    let mut body: Value = serde_json::from_str(&request).or_fail(|| "--request".to_owned())?;
    body["model"] = served.facts.id.clone().into();
    // Both dialects' names, each where the request had it or the dialect knows it.
    let seed = if options.path.starts_with("/openai/") || body.get("seed").is_some() { "seed" } else { "random_seed" };
    if !options.path.ends_with("/messages") {
        body[seed] = claims.seed.into();
    }
    body["stream"] = false.into();
    if let Some(body) = body.as_object_mut() {
        body.remove("stream_options");
    }
    let again = answer(served, &options.path, &body)?;
    let usage = &again["usage"];
    let count = |names: [&str; 2]| names.iter().find_map(|name| usage[*name].as_u64()).unwrap_or_default();
    let prompt = count(["prompt_tokens", "input_tokens"]);
    let completion = count(["completion_tokens", "output_tokens"]);
    if (prompt, completion) != (claims.prompt_tokens, claims.completion_tokens) {
        let counts = [claims.prompt_tokens, claims.completion_tokens, prompt, completion].map(|n| n.to_string());
        found.failures.push(Word::ReplayCounts.with(&counts.each_ref().map(String::as_str)));
    }
    let again = said(&again.to_string());
    match difference(&answered, &again) {
        None => output::note(&Word::ReplaySame.with(&[model, &completion.to_string()])),
        Some((choice, at, was, is)) => {
            let [at, choice] = [at, choice].map(|n| n.to_string());
            found.failures.push(Word::ReplayOther.with(&[
                model,
                &at,
                &choice,
                &format!("{is:?}"),
                &format!("{was:?}"),
            ]));
        }
    }
    Ok(())
}

/// The answer of a server in this process that serves this one model.
fn answer(served: falaj_server::Served, path: &str, body: &Value) -> Outcome<Value> {
    const KEY: &str = "replay";
    let registry = Registry::new();
    registry.insert(served);
    let settings = Settings { keys: vec![Key::from_secret(KEY, KEY)], ..Settings::default() };
    let app = App::new(settings, registry)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let request = Request::post(path).header("authorization", format!("Bearer {KEY}"));
        let request = request.header("content-type", "application/json").body(Body::from(body.to_string()))?;
        let response = app.router().oneshot(request).await?;
        let good = response.status().is_success();
        let bytes = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        if !good {
            return Err(Failure::new(Word::ReplayRefused.with(&[&text])));
        }
        Ok(serde_json::from_slice(&bytes)?)
    })
}

/// What an answer of any dialect says, whole or as a stream.
fn said(text: &str) -> Vec<Said> {
    let whole: Vec<Value> = match serde_json::from_str(text) {
        Ok(whole) => vec![whole],
        Err(_) => {
            let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
            data.filter_map(|line| serde_json::from_str(line.trim()).ok()).collect()
        }
    };
    let mut all: Vec<Said> = Vec::new();
    for piece in &whole {
        for choice in piece["choices"].as_array().into_iter().flatten() {
            let at = choice["index"].as_u64().unwrap_or(0).min(MOST_CHOICES) as usize;
            while all.len() <= at {
                all.push(Said::default());
            }
            let Some(said) = all.get_mut(at) else { continue };
            let message = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
            said.text.push_str(message["content"].as_str().or_else(|| choice["text"].as_str()).unwrap_or_default());
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                let function = &call["function"];
                let arguments = function["arguments"].as_str().unwrap_or_default();
                match function["name"].as_str() {
                    Some(name) => said.calls.push((name.to_owned(), arguments.to_owned())),
                    None => {
                        if let Some((_, all)) = said.calls.last_mut() {
                            all.push_str(arguments);
                        }
                    }
                }
            }
        }
        // Anthropic's.
        let blocks =
            piece["content"].as_array().into_iter().flatten().chain([&piece["content_block"], &piece["delta"]]);
        for block in blocks.filter(|block| block.is_object() && !piece["choices"].is_array()) {
            if all.is_empty() {
                all.push(Said::default());
            }
            let Some(said) = all.first_mut() else { continue };
            said.text.push_str(block["text"].as_str().unwrap_or_default());
            if let Some(name) = block["name"].as_str() {
                let input = if block["input"].as_object().is_none_or(serde_json::Map::is_empty) {
                    json!("")
                } else {
                    block["input"].clone()
                };
                said.calls.push((name.to_owned(), input.as_str().map_or_else(|| input.to_string(), str::to_owned)));
            }
            if let (Some(more), Some((_, all))) = (block["partial_json"].as_str(), said.calls.last_mut()) {
                all.push_str(more);
            }
        }
    }
    all
}

/// A file from somewhere must not make us hold a million choices.
const MOST_CHOICES: u64 = 1024;

/// The first choice that differs, the character of its text from which it does, and what follows there in each.
fn difference(was: &[Said], is: &[Said]) -> Option<(usize, usize, String, String)> {
    let empty = Said::default();
    for choice in 0..was.len().max(is.len()) {
        let (was, is) = (was.get(choice).unwrap_or(&empty), is.get(choice).unwrap_or(&empty));
        if was == is {
            continue;
        }
        let all = |said: &Said| {
            let calls: String = said.calls.iter().map(|(name, arguments)| format!("\n{name}({arguments})")).collect();
            format!("{}{calls}", said.text)
        };
        let (was, is) = (all(was), all(is));
        let at = was.chars().zip(is.chars()).take_while(|(was, is)| was == is).count();
        let rest = |text: &str| text.chars().skip(at).take(20).collect::<String>();
        return Some((choice, at, rest(&was), rest(&is)));
    }
    None
}

fn text(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).or_fail(|| format!("`{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_says_what_the_whole_answer_says() {
        let whole = r#"{"choices":[{"index":0,"message":{"content":"Hello","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}"#;
        let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n: waiting\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"{}\"}}]}}]}\n\ndata: [DONE]\n\n";
        assert_eq!(said(whole), said(stream));
        assert_eq!(difference(&said(whole), &said(stream)), None);
        let other = whole.replace("Hello", "Help!");
        assert_eq!(difference(&said(whole), &said(&other)), Some((0, 3, "lo\nf({})".into(), "p!\nf({})".into())));
        let anthropic = r#"{"type":"message","content":[{"type":"text","text":"Hello"},{"type":"tool_use","name":"f","input":{"a":1}}]}"#;
        assert_eq!(said(anthropic)[0].calls, [("f".to_owned(), "{\"a\":1}".to_owned())]);
    }
}
