//! What adapters cost: decodes a batch with the base alone and with an adapter of its own for each sequence, in turns, and
//! prints the medians and their ratio as a JSON line. Greedy, no prefix cache, random adapters of all modules.
//! `cargo run --release -p falaj-engine --example adapters -- MODEL.gguf [--rank 16] [--sequences 8] [--tokens 48] [--rounds 5]
//! [--threads N] [--isa NAME]`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use falaj_artifact::Verified;
use falaj_engine::{AdapterHandle, Engine, EngineOptions, Event, Request, Sampling, Tenant};
use falaj_kernels::Isa;
use falaj_model::LoadOptions;
use falaj_model::synthetic::AdapterSample;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let (files, _) = Verified::as_found(Path::new(&options.model), "measured", &mut |_| {})?;
    let model = Arc::new(falaj_model::load(&files, LoadOptions { isa: options.isa, ..LoadOptions::default() })?);
    let engine = Engine::start(
        Arc::clone(&model),
        EngineOptions {
            threads: options.threads,
            max_sequences: options.sequences,
            // The cache is as large as this context: room for all at once.
            context_tokens: (options.sequences * (PROMPT_TOKENS + options.tokens + 17)).max(64),
            prefix_cache: false,
            speculation: false,
            ..EngineOptions::default()
        },
    )?;
    let mut adapters = Vec::new();
    for seed in 0..options.sequences as u64 {
        let adapter = AdapterSample::new(model.config(), options.rank, seed).load(&model)?;
        adapters.push(engine.load_adapter(adapter)?);
    }
    let adapter_bytes: usize = adapters.iter().map(AdapterHandle::size_bytes).sum();
    let (mut base, mut adapted) = (Vec::new(), Vec::new());
    for round in 0..=options.rounds {
        let alone = decode(&engine, &options, &[])?;
        let mixed = decode(&engine, &options, &adapters)?;
        // The first round brings everything into memory.
        if round > 0 {
            base.push(alone);
            adapted.push(mixed);
        }
    }
    let (base, adapted) = (median(&mut base), median(&mut adapted));
    println!(
        r#"{{"isa":"{}","threads":{},"sequences":{},"rank":{},"base_bytes":{},"adapter_bytes":{adapter_bytes},"base_step_ms":{:.3},"adapters_step_ms":{:.3},"cost":{:.4}}}"#,
        model.ops().isa(),
        options.threads,
        options.sequences,
        options.rank,
        model.weight_bytes(),
        base * 1e3,
        adapted * 1e3,
        adapted / base - 1.0
    );
    Ok(())
}

/// Median seconds of a step in which all sequences decode.
fn decode(engine: &Engine, options: &Options, adapters: &[AdapterHandle]) -> Result<f64, Box<dyn Error>> {
    let mut streams = Vec::new();
    for number in 0..options.sequences {
        streams.push(engine.submit(Request {
            prompt: (0..PROMPT_TOKENS as u32).map(|i| (i * 7 + number as u32) % 97 + 3).collect(),
            max_tokens: options.tokens as u32,
            sampling: Sampling::default(),
            stop_tokens: Vec::new(),
            min_tokens: 0,
            constraint: None,
            tenant: Tenant::default(),
            cache_salt: 0,
            adapter: adapters.get(number).cloned(),
            logprobs: None,
        })?);
    }
    // In turn: the engine waits for a reader who is far behind, and the others would go on without it.
    while !streams.is_empty() {
        let mut failure = None;
        streams.retain_mut(|stream| match stream.events.blocking_recv() {
            Some(Event::Token { .. }) => true,
            Some(Event::Failed(reason)) => {
                failure = Some(reason);
                false
            }
            Some(Event::Done { .. }) | None => false,
        });
        if let Some(reason) = failure {
            return Err(reason.into());
        }
    }
    let steps = engine.trace();
    let recent = steps.iter().rev().take(options.tokens);
    let full = recent.filter(|step| step.prompt_rows == 0 && step.decode_rows as usize == options.sequences);
    let mut seconds: Vec<f64> = full.map(|step| (step.choose + step.forward + step.sample).as_secs_f64()).collect();
    if seconds.is_empty() {
        return Err("no step had all sequences".into());
    }
    Ok(median(&mut seconds))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

const PROMPT_TOKENS: usize = 16;

struct Options {
    model: String,
    rank: usize,
    sequences: usize,
    tokens: usize,
    rounds: usize,
    threads: usize,
    isa: Option<Isa>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            model: String::new(),
            rank: 16,
            sequences: 8,
            tokens: 48,
            rounds: 5,
            threads: EngineOptions::default().threads,
            isa: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("`{word}` lacks a value"));
            match word.as_str() {
                "--rank" => options.rank = value()?.parse()?,
                "--sequences" => options.sequences = value()?.parse()?,
                "--tokens" => options.tokens = value()?.parse()?,
                "--rounds" => options.rounds = value()?.parse()?,
                "--threads" => options.threads = value()?.parse()?,
                "--isa" => options.isa = Some(Isa::parse(&value()?).ok_or("no such instruction set")?),
                _ => options.model = word,
            }
        }
        if options.model.is_empty() { Err("which model?".into()) } else { Ok(options) }
    }
}
