//! A crowd straight on the engine: so many clients at once, each with a prompt of its own (after a common beginning, if any) and so
//! many tokens to generate. Prints tokens per second in all, the median time to the first token, and the longest gap.
//! `cargo run --release -p falaj-engine --example crowd -- MODEL.gguf [CLIENTS [PROMPT [OUT [SHARED [ROUNDS [TEMPERATURE]]]]]]`

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use falaj_artifact::{Digest, ModelFiles, Verified};
use falaj_engine::{Engine, EngineOptions, Event, Request, Sampling, Tenant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: crowd MODEL.gguf [CLIENTS [PROMPT [OUT [SHARED [ROUNDS [TEMPERATURE]]]]]]")?;
    let numbers = args.map(|text| text.parse()).collect::<Result<Vec<usize>, _>>()?;
    let number = |place: usize, default| numbers.get(place).copied().unwrap_or(default);
    let (clients, prompt, out) = (number(0, 32), number(1, 128), number(2, 48));
    let (shared, rounds) = (number(3, 0), number(4, 1));
    let temperature = number(5, 0) as f32;

    let bytes: &'static [u8] = std::fs::read(&path)?.leak();
    let files = Verified::<ModelFiles>::embedded(bytes, Digest::of(bytes))?;
    let model = Arc::new(falaj_model::load(&files, falaj_model::LoadOptions::default())?);
    let options = EngineOptions { max_sequences: clients.max(1), queue_requests: clients.max(1), ..Default::default() };
    let engine = Engine::start(model, options)?;
    for round in 0..rounds {
        let seed = (round * clients) as u32;
        crowd(&engine, seed, clients, prompt, out, shared, temperature);
    }
    Ok(())
}

fn crowd(engine: &Engine, seed: u32, clients: usize, prompt: usize, out: usize, shared: usize, temperature: f32) {
    let vocab = engine.model().vocab_size() as u32;
    let token =
        |salt: u32, place: usize| (salt.wrapping_mul(40_503) ^ (place as u32).wrapping_mul(2_654_435_761)) % vocab;
    let begun = Instant::now();
    let (mut firsts, mut gaps, mut generated) = (Vec::new(), Vec::new(), 0);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients as u32)
            .map(|client| {
                scope.spawn(move || {
                    let common = (0..shared).map(|place| token(u32::MAX - seed, place));
                    let own = (0..prompt).map(|place| token(seed + client + 1, place));
                    read(engine, common.chain(own).collect(), out, temperature)
                })
            })
            .collect();
        for (first, gap, tokens) in clients.into_iter().filter_map(|client| client.join().ok()) {
            firsts.push(first);
            gaps.push(gap);
            generated += tokens;
        }
    });
    let took = begun.elapsed().as_secs_f64();
    firsts.sort_unstable();
    gaps.sort_unstable();
    let median = |times: &[Duration]| times.get(times.len() / 2).copied().unwrap_or_default();
    println!(
        "{} clients, {shared}+{prompt} in, {out} out: {:.1} tokens/s, first token {:?} (last {:?}), longest gap {:?}",
        firsts.len(),
        generated as f64 / took,
        median(&firsts),
        firsts.last().copied().unwrap_or_default(),
        gaps.last().copied().unwrap_or_default(),
    );
    let trace = engine.trace();
    let sum = |time: fn(&falaj_engine::StepTrace) -> Duration| trace.iter().map(time).sum::<Duration>();
    println!(
        "  last {} steps: choose {:?}, forward {:?}, sample {:?}, locked {:?}",
        trace.len(),
        sum(|step| step.choose),
        sum(|step| step.forward),
        sum(|step| step.sample),
        sum(|step| step.locked)
    );
    // Each step: prompt rows + decode rows, ms of the forward pass.
    for steps in trace.chunks(12) {
        let one = |step: &falaj_engine::StepTrace| {
            format!("{}+{}:{:.0}", step.prompt_rows, step.decode_rows, step.forward.as_secs_f64() * 1e3)
        };
        println!("    {}", steps.iter().map(one).collect::<Vec<_>>().join("  "));
    }
}

/// Time to the first token, the longest time between two, and how many came.
fn read(engine: &Engine, prompt: Vec<u32>, out: usize, temperature: f32) -> (Duration, Duration, usize) {
    let begun = Instant::now();
    let request = Request {
        sampling: Sampling { temperature, top_p: 0.95, seed: prompt.len() as u64, ..Sampling::default() },
        prompt,
        max_tokens: out as u32,
        stop_tokens: Vec::new(),
        min_tokens: 0,
        constraint: None,
        tenant: Tenant::default(),
        cache_salt: 0,
        adapter: None,
        logprobs: None,
    };
    let (mut first, mut gap, mut tokens) = (None, Duration::ZERO, 0);
    let Ok(mut stream) = engine.submit(request) else { return (Duration::ZERO, gap, 0) };
    let mut last = begun;
    while let Some(Event::Token { .. }) = stream.events.blocking_recv() {
        let now = Instant::now();
        match first {
            None => first = Some(now - begun),
            Some(_) => gap = gap.max(now - last),
        }
        (last, tokens) = (now, tokens + 1);
    }
    (first.unwrap_or_default(), gap, tokens)
}
