//! One loaded model, measured on demand: `cargo xtask bench engine` starts it once, writes a command per line and reads a
//! JSON line back, so that measurements of two programs can alternate without loading again. Greedy, no prefix cache.
//! `cargo run --release -p falaj-engine --example measure -- MODEL.gguf [--threads N] [--isa NAME] [--context N] [--kv NAME]`
//! then: `prompt TOKENS`, `decode TOKENS`, `batch SEQUENCES PROMPT TOKENS`, `context POSITION TOKENS`, `memory`,
//! `perplexity FILE WINDOW [FIRST]`, where the file lists token ids with commas. `measure probe` prints what the machine can do.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use falaj_artifact::Verified;
use falaj_engine::{Engine, EngineOptions, Event, Request, Sampling, Tenant};
use falaj_kernels::{Isa, KvFormat, Pool, probe};
use falaj_model::{Batch, KvCache, LoadOptions, Model, PAGE_TOKENS, Want, Workspace};

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.model == "probe" {
        return limits(&options);
    }
    let started = Instant::now();
    let (files, _) = Verified::as_found(Path::new(&options.model), "measured", &mut |_| {})?;
    let model = Arc::new(falaj_model::load(&files, LoadOptions { isa: options.isa, ..LoadOptions::default() })?);
    let engine = Engine::start(
        Arc::clone(&model),
        EngineOptions {
            threads: options.threads,
            context_tokens: options.context_tokens,
            prefix_cache: false,
            cache_bytes: options.cache_mib << 20,
            step_tokens: options.step_tokens.unwrap_or(EngineOptions::default().step_tokens),
            // Random weights repeat themselves, and decoding would be measured as it never is.
            speculation: false,
            kv_format: options.kv,
            ..EngineOptions::default()
        },
    )?;
    reply(&format!(
        r#"{{"ready":true,"load_s":{:.4},"isa":"{}","threads":{},"weight_bytes":{},"parameters":{}}}"#,
        started.elapsed().as_secs_f64(),
        model.ops().isa(),
        options.threads,
        model.weight_bytes(),
        model.parameter_count()
    ))?;
    let mut salt = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| -> Result<usize, Box<dyn Error>> {
            Ok(words.get(at).ok_or_else(|| format!("`{line}` lacks a number"))?.parse()?)
        };
        salt += 1;
        match words.first().copied() {
            Some("prompt") => {
                let times = generate(&engine, 1, number(1)?, 1, salt)?;
                rate(number(1)?, times.first_token_s)?;
            }
            Some("decode") => {
                let times = generate(&engine, 1, 1, number(1)? + 1, salt)?;
                rate(times.decoded, times.decode_s)?;
            }
            Some("batch") => {
                let times = generate(&engine, number(1)?, number(2)?, number(3)? + 1, salt)?;
                rate(times.decoded, times.decode_s)?;
            }
            Some("context") => {
                let seconds = at_position(&model, &options, number(1)?, number(2)?)?;
                rate(number(2)?, seconds)?;
            }
            Some("perplexity") => {
                let list = std::fs::read_to_string(words.get(1).ok_or("perplexity of which file?")?)?;
                let tokens = list.split(',').map(|id| id.trim().parse()).collect::<Result<Vec<u32>, _>>()?;
                let (perplexity, error, count) = perplexity(&model, &options, &tokens, number(2)?, number(3).ok())?;
                reply(&format!(r#"{{"perplexity":{perplexity:.6},"error":{error:.6},"tokens":{count}}}"#))?;
            }
            Some("memory") => reply(&format!(r#"{{"resident_bytes":{}}}"#, resident_bytes()?))?,
            _ => return Err(format!("`{line}` is no command").into()),
        }
    }
    Ok(())
}

struct Options {
    model: String,
    threads: usize,
    isa: Option<Isa>,
    context_tokens: usize,
    cache_mib: usize,
    step_tokens: Option<usize>,
    kv: KvFormat,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let threads = EngineOptions::default().threads;
        let (kv, model) = (EngineOptions::default().kv_format, String::new());
        let mut options = Self { model, threads, isa: None, context_tokens: 8192, cache_mib: 0, step_tokens: None, kv };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("`{arg}` needs a value"));
            match arg.as_str() {
                "--threads" => options.threads = value()?.parse()?,
                "--isa" => {
                    let name = value()?;
                    options.isa = Some(Isa::parse(&name).ok_or_else(|| format!("no instruction set `{name}`"))?);
                }
                "--context" => options.context_tokens = value()?.parse()?,
                "--cache-mib" => options.cache_mib = value()?.parse()?,
                "--kv" => {
                    let name = value()?.to_uppercase();
                    let formats = [KvFormat::F32, KvFormat::F16, KvFormat::BF16, KvFormat::I8];
                    let found = formats.into_iter().find(|format| format!("{format:?}") == name);
                    options.kv = found.ok_or_else(|| format!("no format `{name}` of the cache"))?;
                }
                "--step" => options.step_tokens = Some(value()?.parse()?),
                _ => options.model = arg,
            }
        }
        if options.model.is_empty() {
            return Err(
                "usage: measure MODEL.gguf [--threads N] [--isa NAME] [--context N] [--cache-mib N] [--kv NAME]".into(),
            );
        }
        Ok(options)
    }
}

/// What the machine can do at most, per second.
fn limits(options: &Options) -> Result<(), Box<dyn Error>> {
    let (pool, isa) = (Pool::new(options.threads), options.isa.unwrap_or_else(Isa::best));
    let (int8, f32, bf16) = (probe::peak_int8(&pool, isa), probe::peak_f32(&pool, isa), probe::peak_bf16(&pool, isa));
    reply(&format!(
        r#"{{"threads":{},"isa":"{isa}","read_bytes_per_s":{:.4e},"int8_per_s":{:.4e},"int8":"{}","f32_per_s":{:.4e},"f32":"{}","bf16_per_s":{:.4e},"bf16":"{}"}}"#,
        pool.threads(),
        probe::read_bandwidth(&pool),
        int8.ops_per_s,
        int8.instruction,
        f32.ops_per_s,
        f32.instruction,
        bf16.ops_per_s,
        bf16.instruction,
    ))
}

struct Times {
    /// From the first submission to the last sequence's first token.
    first_token_s: f64,
    /// Tokens that came while all sequences decoded, and the time that took.
    decoded: usize,
    decode_s: f64,
}

/// Runs `sequences` prompts together and watches their tokens come. Decoding is timed from the moment when every sequence
/// has its first token to the moment when the first one ends.
fn generate(
    engine: &Engine,
    sequences: usize,
    prompt: usize,
    tokens: usize,
    salt: u64,
) -> Result<Times, Box<dyn Error>> {
    let vocab = engine.model().vocab_size() as u64;
    let started = Instant::now();
    let mut streams = Vec::new();
    for sequence in 0..sequences as u64 {
        let mut random = Random(salt << 32 | sequence);
        // Ordinary pieces: the first few hundred are special tokens and bytes in every vocabulary used here.
        let prompt = (0..prompt).map(|_| (300 + random.below(vocab.saturating_sub(300).max(1))) % vocab);
        streams.push(engine.submit(Request {
            prompt: prompt.map(|token| token as u32).collect(),
            max_tokens: tokens as u32,
            sampling: Sampling::default(),
            stop_tokens: Vec::new(),
            min_tokens: 0,
            constraint: None,
            tenant: Tenant::default(),
            cache_salt: salt,
            adapter: None,
            logprobs: None,
        })?);
    }
    // Blocking receivers in turn would see late tokens late; one thread per stream sees each when it comes.
    let arrivals: Vec<Result<Vec<f64>, String>> = std::thread::scope(|scope| {
        let watchers: Vec<_> = streams
            .into_iter()
            .map(|mut stream| {
                scope.spawn(move || {
                    let mut times = Vec::with_capacity(tokens);
                    while let Some(event) = stream.events.blocking_recv() {
                        match event {
                            Event::Token { .. } => times.push(started.elapsed().as_secs_f64()),
                            Event::Done { .. } => return Ok(times),
                            Event::Failed(message) => return Err(message),
                        }
                    }
                    Err("the stream broke off".to_owned())
                })
            })
            .collect();
        watchers.into_iter().map(|watcher| watcher.join().unwrap_or_else(|_| Err("a watcher died".into()))).collect()
    });
    let arrivals = arrivals.into_iter().collect::<Result<Vec<_>, _>>()?;
    if arrivals.iter().any(Vec::is_empty) {
        return Err("a sequence made no token".into());
    }
    let first = arrivals.iter().map(|times| times[0]).fold(0.0, f64::max);
    let end = arrivals.iter().map(|times| times[times.len() - 1]).fold(f64::INFINITY, f64::min);
    let decoded = arrivals.iter().flatten().filter(|&&at| at > first && at <= end).count();
    Ok(Times { first_token_s: first, decoded, decode_s: end - first })
}

/// Seconds for `tokens` decode steps at `position`, over pages that hold zeros: attention reads and computes as much as
/// over a real context, and nobody waits for a prompt of 32,768 tokens.
fn at_position(model: &Arc<Model>, options: &Options, position: usize, tokens: usize) -> Result<f64, Box<dyn Error>> {
    let pages: Vec<u32> = (0..(position + tokens).div_ceil(PAGE_TOKENS) as u32 + 1).collect();
    let mut cache = KvCache::new(model.config(), options.kv, pages.len())?;
    let mut workspace = Workspace::new(model, Pool::new(options.threads), 1, 1)?;
    let mut batch = Batch::with_capacity(1, pages.len());
    let mut started = Instant::now();
    for step in 0..=tokens {
        batch.clear();
        batch.sequence(&pages);
        batch.push(300, (position + step.saturating_sub(1)) as u32, Want::Logits);
        model.forward(&mut workspace, &mut cache, &batch)?;
        if step == 0 {
            started = Instant::now();
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Perplexity of `tokens` in windows of `window`, of which the second half is predicted; `first`, if there is one, takes the
/// place of each window's first token, and what does not fill a window is left out. llama-perplexity does the same. Returns its
/// standard error, over tokens, and how many counted, too.
fn perplexity(
    model: &Arc<Model>,
    options: &Options,
    tokens: &[u32],
    window: usize,
    first: Option<usize>,
) -> Result<(f64, f64, usize), Box<dyn Error>> {
    let pages: Vec<u32> = (0..window.div_ceil(PAGE_TOKENS) as u32).collect();
    let mut cache = KvCache::new(model.config(), options.kv, pages.len())?;
    let mut workspace = Workspace::new(model, Pool::new(options.threads), window, window)?;
    let mut batch = Batch::with_capacity(window, pages.len());
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0);
    for chunk in tokens.chunks_exact(window) {
        batch.clear();
        batch.sequence(&pages);
        for (position, &token) in chunk.iter().enumerate() {
            let want = if position >= window / 2 { Want::Logits } else { Want::Nothing };
            let token = first.filter(|_| position == 0).map_or(token, |first| first as u32);
            batch.push(token, position as u32, want);
        }
        model.forward(&mut workspace, &mut cache, &batch)?;
        for position in window / 2..window - 1 {
            let logits = workspace.logits(position).ok_or("a row without logits")?;
            let most = logits.iter().fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
            let all: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
            let loss = all.ln() - f64::from(logits[chunk[position + 1] as usize] - most);
            sum += loss;
            squares += loss * loss;
            count += 1;
        }
    }
    let mean = sum / f64::from(count);
    let error = ((squares / f64::from(count) - mean * mean) / f64::from(count - 1)).sqrt();
    Ok((mean.exp(), mean.exp() * error, count as usize))
}

fn rate(tokens: usize, seconds: f64) -> Result<(), Box<dyn Error>> {
    reply(&format!(r#"{{"tokens":{tokens},"seconds":{seconds:.6},"rate":{:.3}}}"#, tokens as f64 / seconds))
}

fn reply(line: &str) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn resident_bytes() -> Result<usize, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<usize>()? * 1024)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}
