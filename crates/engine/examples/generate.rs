//! Runs a GGUF file without a server: loads, generates greedily from token ids, prints the pieces of the first run, and of
//! all runs the load time, the median prompt and decode rates and the memory.
//! `cargo run --release -p falaj-engine --example generate -- MODEL.gguf [TOKENS [RUNS [PROMPT_ID …]]]`; one prompt id
//! is repeated to 512 where it stands alone and RUNS is above 1.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use falaj_artifact::Verified;
use falaj_artifact::gguf::Gguf;
use falaj_engine::{Engine, EngineOptions, Event, Request, Sampling, Tenant};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: generate MODEL.gguf [TOKENS [RUNS [PROMPT_ID …]]]")?;
    let max_tokens = args.next().map_or(Ok(64), |text| text.parse())?;
    let runs = args.next().map_or(Ok(1), |text| text.parse::<u64>())?;
    let mut prompt = args.map(|text| text.parse()).collect::<Result<Vec<u32>, _>>()?;
    if prompt.is_empty() {
        prompt.push(1);
    }
    if let (&[only], true) = (prompt.as_slice(), runs > 1) {
        prompt = vec![only; 512];
    }

    let pieces: Vec<String> = match Gguf::open(Path::new(&path))?.strings("tokenizer.ggml.tokens") {
        Ok(pieces) => pieces.iter().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    };
    let started = Instant::now();
    let (files, _) = Verified::as_found(Path::new(&path), "generated", &mut |_| {})?;
    let hashed = started.elapsed();
    let model = Arc::new(falaj_model::load(&files, falaj_model::LoadOptions::default())?);
    let loaded = started.elapsed() - hashed;
    let engine = Engine::start(Arc::clone(&model), EngineOptions { prefix_cache: false, ..EngineOptions::default() })?;

    let mut rates = Vec::new();
    for run in 0..runs {
        let (tokens, prompt_rate, decode_rate) = generate(&engine, &prompt, max_tokens, run)?;
        if run == 0 {
            let shown = |token: &u32| pieces.get(*token as usize).map_or_else(|| token.to_string(), Clone::clone);
            println!("{}", tokens.iter().map(shown).collect::<Vec<_>>().join(" "));
        }
        rates.push((prompt_rate, decode_rate));
    }
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut rates: Vec<f64> = rates.iter().map(of).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
    };
    eprintln!(
        "{} parameters in {} MB; {:.3} s to hash, {:.3} s to load; {} MB resident",
        model.parameter_count(),
        model.weight_bytes() / 1_000_000,
        hashed.as_secs_f64(),
        loaded.as_secs_f64(),
        resident_kb().unwrap_or(0) / 1000
    );
    eprintln!(
        "median of {runs}: {:.1} prompt tokens/s over {} tokens, {:.1} tokens/s after that",
        median(|rates| rates.0),
        prompt.len(),
        median(|rates| rates.1)
    );
    Ok(())
}

/// The tokens, prompt tokens per second until the first of them, and tokens per second after it.
fn generate(engine: &Engine, prompt: &[u32], max_tokens: u32, run: u64) -> Result<(Vec<u32>, f64, f64), Failure> {
    let started = Instant::now();
    let mut stream = engine.submit(Request {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling: Sampling::default(),
        stop_tokens: Vec::new(),
        min_tokens: 0,
        constraint: None,
        tenant: Tenant::default(),
        cache_salt: run,
        adapter: None,
        logprobs: None,
    })?;
    let (mut tokens, mut first) = (Vec::new(), 0.0);
    while let Some(event) = stream.events.blocking_recv() {
        match event {
            Event::Token { token, .. } => {
                if tokens.is_empty() {
                    first = started.elapsed().as_secs_f64();
                }
                tokens.push(token);
            }
            Event::Done { .. } => break,
            Event::Failed(message) => return Err(message.into()),
        }
    }
    let rest = started.elapsed().as_secs_f64() - first;
    let decoded = tokens.len().saturating_sub(1) as f64;
    Ok((tokens, prompt.len() as f64 / first, decoded / rest))
}

fn resident_kb() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
