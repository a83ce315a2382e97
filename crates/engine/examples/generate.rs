//! Runs a GGUF file without a server: loads, generates greedily from token ids, prints the pieces and the speed.
//! `cargo run --release -p falaj-engine --example generate -- MODEL.gguf [TOKENS [PROMPT_ID …]]`

use std::sync::Arc;
use std::time::Instant;

use falaj_artifact::gguf::Gguf;
use falaj_artifact::{Digest, ModelFiles, Verified};
use falaj_engine::{Engine, EngineOptions, Event, Request, Sampling};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: generate MODEL.gguf [TOKENS [PROMPT_ID …]]")?;
    let max_tokens = args.next().map_or(Ok(64), |text| text.parse())?;
    let mut prompt = args.map(|text| text.parse()).collect::<Result<Vec<u32>, _>>()?;
    if prompt.is_empty() {
        prompt.push(1);
    }

    let started = Instant::now();
    let bytes: &'static [u8] = std::fs::read(&path)?.leak();
    let pieces: Vec<String> = match Gguf::parse(bytes)?.strings("tokenizer.ggml.tokens") {
        Ok(pieces) => pieces.iter().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    };
    let files = Verified::<ModelFiles>::embedded(bytes, Digest::of(bytes))?;
    let model = Arc::new(falaj_model::load(&files, falaj_model::LoadOptions::default())?);
    eprintln!("{:#?}\n{} parameters, {:?} to load", model.config(), model.parameter_count(), started.elapsed());

    let engine = Engine::start(model, EngineOptions::default())?;
    let prompt_tokens = prompt.len();
    let started = Instant::now();
    let mut stream = engine.submit(Request {
        prompt,
        max_tokens,
        sampling: Sampling::default(),
        stop_tokens: Vec::new(),
        min_tokens: 0,
        constraint: None,
        cache_salt: 0,
        logprobs: None,
    })?;
    let mut first = None;
    while let Some(event) = stream.events.blocking_recv() {
        match event {
            Event::Token { token, .. } => {
                first.get_or_insert_with(|| started.elapsed());
                print!("{} ", pieces.get(token as usize).map_or_else(|| token.to_string(), Clone::clone));
            }
            Event::Done { reason, usage } => {
                let (first, all) = (first.unwrap_or_default().as_secs_f64(), started.elapsed().as_secs_f64());
                let decoded = f64::from(usage.completion_tokens.saturating_sub(1));
                println!();
                eprintln!(
                    "{reason:?}; {:.1} prompt tokens/s, {:.1} tokens/s",
                    prompt_tokens as f64 / first,
                    decoded / (all - first)
                );
            }
            Event::Failed(message) => return Err(message.into()),
        }
    }
    Ok(())
}
