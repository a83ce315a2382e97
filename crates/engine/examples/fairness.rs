//! A greedy tenant and a quiet one on one engine: the greedy one always has so many requests under way, the quiet one asks one
//! after another. Prints what the quiet one sees alone, in one queue with the greedy one (as one tenant), and as a tenant of its
//! own; and how many tokens came in all. What the figures mean: docs/fairness.md.
//! `cargo run --release -p falaj-engine --example fairness -- MODEL.gguf [GREEDY [PROMPT [OUT [SECONDS]]]]`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use falaj_artifact::{Digest, ModelFiles, Verified};
use falaj_engine::{Engine, EngineOptions, Event, Request, Sampling, Tenant};

const PLACES: usize = 16;
/// Of the quiet tenant's requests.
const PROMPT: usize = 64;
const OUT: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: fairness MODEL.gguf [GREEDY [PROMPT [OUT [SECONDS]]]]")?;
    let numbers = args.map(|text| text.parse()).collect::<Result<Vec<usize>, _>>()?;
    let number = |place: usize, default| numbers.get(place).copied().unwrap_or(default);
    let (greedy, prompt, out, seconds) = (number(0, 100), number(1, 256), number(2, 128), number(3, 10));

    let bytes: &'static [u8] = std::fs::read(&path)?.leak();
    let files = Verified::<ModelFiles>::embedded(bytes, Digest::of(bytes))?;
    let model = Arc::new(falaj_model::load(&files, falaj_model::LoadOptions::default())?);
    let own = Tenant { id: 1, ..Tenant::default() };
    for (name, greedy, tenant) in
        [("alone", 0, own), ("in one queue", greedy, Tenant::default()), ("as a tenant of its own", greedy, own)]
    {
        let options = EngineOptions { max_sequences: PLACES, queue_requests: greedy.max(1), ..Default::default() };
        let engine = Engine::start(Arc::clone(&model), options)?;
        load(&engine, name, greedy, tenant, (prompt, out), Duration::from_secs(seconds as u64));
        engine.shutdown(false);
    }
    Ok(())
}

fn load(engine: &Engine, name: &str, greedy: usize, quiet: Tenant, sizes: (usize, usize), time: Duration) {
    let (stop, tokens) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut firsts, mut wholes) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    thread::scope(|scope| {
        for client in 0..greedy {
            let (stop, tokens) = (&stop, &tokens);
            scope.spawn(move || {
                let mut seed = client;
                while !stop.load(Ordering::Relaxed) {
                    read(engine, Tenant::default(), seed, sizes, stop, tokens);
                    seed += greedy;
                }
            });
        }
        // The queue is full before anything is measured.
        thread::sleep(time / 10);
        let mut seed = 1 << 20;
        while begun.elapsed() < time {
            let (first, whole) = read(engine, quiet, seed, (PROMPT, OUT), &AtomicBool::new(false), &tokens);
            firsts.push(first);
            wholes.push(whole);
            seed += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let took = begun.elapsed().as_secs_f64();
    let (first, slowest) = median_and_most(&mut firsts);
    let (whole, _) = median_and_most(&mut wholes);
    println!(
        "{name}: {} requests, first token {first:.1?} (median; at most {slowest:.1?}), {:.0} tokens/s while it is answered",
        firsts.len(),
        OUT as f64 / whole.as_secs_f64(),
    );
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let stats = engine.stats();
    println!(
        "  all: {:.0} tokens/s, {:.2} rows for each, {} gave way",
        tokens.load(Ordering::Relaxed) as f64 / took,
        count(&stats.batch_rows) as f64 / count(&stats.generated_tokens) as f64,
        count(&stats.preemptions),
    );
}

fn median_and_most(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |place: usize| times.get(place).copied().unwrap_or_default();
    (at(times.len() / 2), at(times.len().saturating_sub(1)))
}

/// Time to the first token and to the last.
fn read(
    engine: &Engine,
    tenant: Tenant,
    seed: usize,
    (prompt, out): (usize, usize),
    stop: &AtomicBool,
    tokens: &AtomicUsize,
) -> (Duration, Duration) {
    let vocab = engine.model().vocab_size();
    let begun = Instant::now();
    let request = Request {
        prompt: (0..prompt).map(|place| ((seed * 40_503) ^ (place * 2_654_435_761)) as u32 % vocab as u32).collect(),
        max_tokens: out as u32,
        sampling: Sampling { temperature: 1.0, seed: seed as u64, ..Sampling::default() },
        stop_tokens: Vec::new(),
        min_tokens: 0,
        constraint: None,
        tenant,
        cache_salt: seed as u64,
        adapter: None,
        logprobs: None,
    };
    let Ok(mut stream) = engine.submit(request) else {
        thread::sleep(Duration::from_millis(1));
        return Default::default();
    };
    let mut first = None;
    while let Some(Event::Token { .. }) = stream.events.blocking_recv() {
        first.get_or_insert_with(|| begun.elapsed());
        tokens.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    (first.unwrap_or_default(), begun.elapsed())
}
