//! Many clients on one server at the same moment: each sends a prompt of token ids and reads its stream. One client for
//! both sides, so that what it costs falls on both.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::models::{FIRST_WORD, VOCABULARY};
use crate::http;

/// Whom to ask, and how that server wants to be asked.
#[derive(Clone, Debug)]
pub enum Target {
    Ours { address: String, key: String, model: String },
    Peer { address: String },
}

/// What clients send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub clients: usize,
    /// Prompt tokens that all clients have in common, before their own.
    pub shared: usize,
    pub own: usize,
    pub tokens: usize,
    /// Distinct rounds have distinct prompts, so that no cache knows them.
    pub round: u64,
    /// Clients leave after this time.
    pub patience: Duration,
}

/// What clients got.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Generated tokens per second of all clients, from the first request to the last token.
    pub tokens_per_s: f64,
    /// Median time to the first token.
    pub first_token_s: f64,
    /// Some client left before its end: the rate is at most this, the time at least this.
    pub cut: bool,
}

pub fn drive(target: &Target, load: &Load) -> Result<Served> {
    let started = Instant::now();
    let answers: Vec<Result<Answer>> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..load.clients).map(|client| scope.spawn(move || ask(target, load, client, started))).collect();
        clients.into_iter().map(|client| client.join().unwrap_or_else(|_| bail!("a client died"))).collect()
    });
    let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
    let cut = answers.iter().any(|answer| answer.tokens.is_none());
    let seconds = started.elapsed().as_secs_f64();
    if !cut && answers.iter().any(|answer| answer.tokens != Some(load.tokens)) {
        bail!("a client did not get the {} tokens it asked for", load.tokens);
    }
    // Cut: as if everything had come at the last moment.
    let mut first: Vec<f64> = answers.iter().map(|answer| answer.first_s.unwrap_or(seconds)).collect();
    first.sort_by(f64::total_cmp);
    Ok(Served {
        tokens_per_s: (load.clients * load.tokens) as f64 / seconds,
        first_token_s: first[first.len() / 2],
        cut,
    })
}

struct Answer {
    first_s: Option<f64>,
    /// As the server counted them; `None` if the client left.
    tokens: Option<usize>,
}

fn ask(target: &Target, load: &Load, client: usize, started: Instant) -> Result<Answer> {
    let prompt = prompt(load, client);
    let mut answer = Answer { first_s: None, tokens: None };
    let sent = match target {
        Target::Ours { address, key, model } => {
            let body = json!({
                "model": model, "prompt": prompt, "max_tokens": load.tokens, "min_tokens": load.tokens,
                "temperature": 0, "stream": true, "stream_options": { "include_usage": true },
            });
            http::send_patiently(address, "POST", "/v1/completions", key, &body.to_string(), load.patience)
        }
        Target::Peer { address } => {
            let body = json!({
                "prompt": prompt, "n_predict": load.tokens, "ignore_eos": true, "temperature": 0, "stream": true,
                "cache_prompt": true,
            });
            http::send_patiently(address, "POST", "/completion", "", &body.to_string(), load.patience)
        }
    };
    let mut stream = match sent {
        Ok(stream) => stream,
        Err(_) if started.elapsed() >= load.patience => return Ok(answer),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    loop {
        let piece = match stream.piece() {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(_) if started.elapsed() >= load.patience => return Ok(answer),
            Err(error) => return Err(error),
        };
        if stream.status != 200 {
            bail!("status {}: {}", stream.status, String::from_utf8_lossy(&piece));
        }
        text.push_str(&String::from_utf8_lossy(&piece));
        while let Some((line, rest)) = text.split_once('\n') {
            if let Some(event) = line.strip_prefix("data:").and_then(|data| serde_json::from_str(data).ok()) {
                if has_token(&event) {
                    answer.first_s.get_or_insert_with(|| started.elapsed().as_secs_f64());
                }
                answer.tokens = counted(&event).or(answer.tokens);
            }
            text = rest.to_owned();
        }
        if started.elapsed() >= load.patience {
            return Ok(Answer { tokens: None, ..answer });
        }
    }
    answer.tokens.with_context(|| "a stream ended without a count of tokens".to_owned())?;
    Ok(answer)
}

/// Whether an event carries generated text, even if it is empty on the wire.
fn has_token(event: &Value) -> bool {
    let text = event.pointer("/choices/0/text").or_else(|| event.get("content"));
    text.is_some() && event.get("stop") != Some(&Value::Bool(true))
}

/// The server's own count, at the end of a stream.
fn counted(event: &Value) -> Option<usize> {
    let count = event.pointer("/usage/completion_tokens").or_else(|| event.get("tokens_predicted"));
    let count = count.and_then(Value::as_u64)? as usize;
    let peer_goes_on = event.get("stop") == Some(&Value::Bool(false));
    (!peer_goes_on).then_some(count)
}

/// Words of the vocabulary, drawn from the round, and after the shared ones from the client too.
fn prompt(load: &Load, client: usize) -> Vec<u32> {
    let words = VOCABULARY - u64::from(FIRST_WORD);
    let draw = |seed: u64, at: usize| {
        let mut z =
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(at as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
        FIRST_WORD + ((z ^ (z >> 29)) % words) as u32
    };
    let shared = (0..load.shared).map(|at| draw(2 * load.round + 1, at));
    let own = (0..load.own).map(|at| draw((load.round << 20 | client as u64) * 2, at));
    shared.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_share_only_what_they_should() {
        let load = Load { clients: 2, shared: 8, own: 8, tokens: 1, round: 3, patience: Duration::MAX };
        let (one, two) = (prompt(&load, 0), prompt(&load, 1));
        assert_eq!(one[..8], two[..8]);
        assert!(one[8..].iter().zip(&two[8..]).all(|(a, b)| a != b));
        assert_ne!(prompt(&Load { round: 4, ..load }, 0)[..8], one[..8]);
        assert!(one.iter().all(|token| (FIRST_WORD..32_000).contains(token)));
    }

    #[test]
    fn both_kinds_of_stream_are_counted() {
        let event = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let ours = event(r#"{"choices":[{"text":"a"}],"usage":null}"#);
        assert!(has_token(&ours) && counted(&ours).is_none());
        assert_eq!(counted(&event(r#"{"choices":[],"usage":{"completion_tokens":48}}"#)), Some(48));
        let peer = event(r#"{"content":"a","stop":false,"tokens_predicted":2}"#);
        assert!(has_token(&peer) && counted(&peer).is_none());
        let last = event(r#"{"content":"","stop":true,"tokens_predicted":48}"#);
        assert!(!has_token(&last));
        assert_eq!(counted(&last), Some(48));
    }
}
