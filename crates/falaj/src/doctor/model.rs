//! `falaj doctor MODEL`: what a token costs this model, what this machine's limits allow for that, and what was reached in
//! a short run through the real engine.

use super::cost::Cost;
use super::limits::Limits;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::machine;
use crate::output;
use crate::serving::{self, Place, Size};
use crate::words::Word;
use falaj_engine::{Engine, Event, Request, Sampling, Tenant};
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

pub fn examine(context: &Context, name: &str) -> Outcome {
    let config = &context.config;
    let place = Place::find(config, name)?;
    let (isa, threads) = (config.engine.isa, config.engine.options.threads);
    if !context.json {
        output::note(&Word::ModelLoading.with(&[&place.id()]));
    }
    let before = Limits::measure(isa, threads);
    let resident_before = machine::resident_bytes();
    let started = Instant::now();
    let served = serving::load(config, &place)?;
    let load_s = started.elapsed().as_secs_f64();
    let reached = Reached::measure(&served.engine)?;
    let resident_bytes = machine::resident_bytes().saturating_sub(resident_before);
    let limits = before.best(Limits::measure(isa, threads));

    let engine = &served.engine;
    let size = Size::of(engine);
    let cost = Cost::of(engine.model(), Size::position_bytes(engine) as f64);
    let draft = config.engine.drafts.get(&place.id()).filter(|_| engine.draft().is_some());
    let step_tokens = engine.options().step_tokens as f64;
    let decode_limit = cost.decode_limit(&limits, reached.decode_context);
    let prompt_limit = cost.prompt_limit(&limits, reached.prompt_tokens as f64, step_tokens);
    if context.json {
        let formats = cost.formats.iter().map(
            |(format, sum)| json!({ "format": format, "bytes_per_token": sum.bytes, "operations_per_token": sum.ops }),
        );
        output::pretty_json(&json!({
            "model": place.id(),
            "isa": isa.to_string(),
            "threads": threads,
            "formats": formats.collect::<Vec<_>>(),
            "bytes_per_token": cost.bytes(),
            "operations_per_token": cost.ops(),
            "cache_bytes_per_position": cost.position_bytes,
            "attention_operations_per_position": cost.position_ops,
            "machine": limits.json(),
            "decode": {
                "context_tokens": reached.decode_context,
                "limit_tokens_per_s": decode_limit,
                "tokens_per_s": reached.decode_per_s,
                "share": reached.decode_per_s / decode_limit,
            },
            "prompt": {
                "tokens": reached.prompt_tokens,
                "limit_tokens_per_s": prompt_limit,
                "tokens_per_s": reached.prompt_per_s,
                "share": reached.prompt_per_s / prompt_limit,
            },
            "speculation": {
                "on": engine.options().speculation,
                "draft_model": draft,
                "draft_bytes": size.draft_bytes,
                "tokens_per_s": reached.guessing_per_s,
                "guesses": reached.guesses,
                "right_guesses": reached.right_guesses,
            },
            "load_s": load_s,
            "resident_bytes": resident_bytes,
            "weight_bytes": size.weight_bytes,
            "cache_bytes": size.cache_bytes,
            "debug_build": cfg!(debug_assertions),
        }));
        return Ok(());
    }

    let mut rows = vec![vec![String::new(), Word::DoctorBytes.text().to_owned(), Word::DoctorOps.text().to_owned()]];
    let pair = |label: String, bytes: f64, ops: f64| vec![label, output::bytes(bytes as u64), operations(ops)];
    rows.extend(cost.formats.iter().map(|(format, sum)| pair(format.clone(), sum.bytes, sum.ops)));
    let per_thousand = [1000.0 * cost.position_bytes, 1000.0 * cost.position_ops];
    rows.push(pair(Word::DoctorContext.text().to_owned(), per_thousand[0], per_thousand[1]));
    output::line(Word::DoctorPerToken.text());
    output::table(&rows);

    output::line("");
    output::line(Word::DoctorMachine.text());
    let mut rows = vec![vec![
        Word::DoctorBandwidth.text().to_owned(),
        format!("{:.1} GB/s", limits.read_bytes_per_s / 1e9),
        String::new(),
    ]];
    rows.extend([("int8", limits.int8), ("bf16", limits.bf16), ("f32", limits.f32)].map(|(kind, peak)| {
        vec![kind.to_owned(), format!("{:.0} GOPS", peak.ops_per_s / 1e9), peak.instruction.to_owned()]
    }));
    output::table(&rows);

    output::line("");
    let line = |label: Word, limit: f64, reached: f64| {
        let limit_text = Word::DoctorAtMost.with(&[&format!("{limit:.1}")]);
        let share = Word::DoctorShare.with(&[&format!("{:.0}", 100.0 * reached / limit)]);
        vec![label.text().to_owned(), format!("{reached:.1}"), limit_text, share]
    };
    output::line(Word::DoctorReached.text());
    output::table(&[
        line(Word::DoctorDecode, decode_limit, reached.decode_per_s),
        line(Word::DoctorPrompt, prompt_limit, reached.prompt_per_s),
    ]);
    output::line("");
    let parts = [size.weight_bytes, size.cache_bytes].map(output::bytes);
    let speculation = match (engine.options().speculation, draft) {
        (false, _) => Word::DoctorSpeculationOff.text().to_owned(),
        (true, draft) => {
            let by = draft.map_or_else(
                || Word::DoctorNoDraft.text().to_owned(),
                |draft| Word::DoctorDraft.with(&[draft, &output::bytes(size.draft_bytes)]),
            );
            let (right, all) = (reached.right_guesses.to_string(), reached.guesses.to_string());
            format!("{by}; {}", Word::DoctorGuesses.with(&[&format!("{:.1}", reached.guessing_per_s), &right, &all]))
        }
    };
    output::table(&[
        vec![Word::DoctorSpeculation.text().to_owned(), speculation],
        vec![Word::DoctorLoad.text().to_owned(), format!("{load_s:.2} s")],
        vec![
            Word::DoctorResident.text().to_owned(),
            Word::DoctorResidentOf.with(&[&output::bytes(resident_bytes), &parts[0], &parts[1]]),
        ],
    ]);
    if cfg!(debug_assertions) {
        output::note(Word::DoctorDebugBuild.text());
    }
    Ok(())
}

fn operations(count: f64) -> String {
    if count >= 1e9 { format!("{:.2} G", count / 1e9) } else { format!("{:.1} M", count / 1e6) }
}

/// What a short run gave.
#[derive(Debug)]
struct Reached {
    prompt_tokens: usize,
    prompt_per_s: f64,
    /// Positions that a token looked back at, on average.
    decode_context: f64,
    decode_per_s: f64,
    /// Of an answer without chance, in which there is something to guess.
    guessing_per_s: f64,
    guesses: u64,
    right_guesses: u64,
}

impl Reached {
    /// The better of two short runs each.
    fn measure(engine: &Engine) -> Outcome<Self> {
        let prompt_tokens = PROMPT_TOKENS.min(engine.context_tokens().saturating_sub(1)).max(1);
        let few = FEW_TOKENS.min(prompt_tokens);
        let decoded = DECODE_TOKENS.min(engine.context_tokens().saturating_sub(few)).max(2);
        // One to wake threads and touch pages, then those that count.
        run(engine, few, 2, 0, 1.0)?;
        let (mut prompt_s, mut token_s) = (f64::INFINITY, f64::INFINITY);
        for round in 1..=2 {
            prompt_s = prompt_s.min(run(engine, prompt_tokens, 1, round, 1.0)?.0);
            token_s = token_s.min(run(engine, few, decoded, round, 1.0)?.1);
        }
        let counts = || [&engine.stats().proposed_rows, &engine.stats().accepted_rows].map(|count| count.load(Relaxed));
        let before = counts();
        let guessing_s = run(engine, few, decoded, 3, 0.0)?.1;
        let after = counts();
        Ok(Self {
            prompt_tokens,
            prompt_per_s: prompt_tokens as f64 / prompt_s,
            decode_context: few as f64 + decoded as f64 / 2.0,
            decode_per_s: 1.0 / token_s,
            guessing_per_s: 1.0 / guessing_s,
            guesses: after[0] - before[0],
            right_guesses: after[1] - before[1],
        })
    }
}

/// Seconds to the first token, and per token afterwards. A slow model gets less than `tokens`.
fn run(engine: &Engine, prompt_tokens: usize, tokens: usize, round: u64, temperature: f32) -> Outcome<(f64, f64)> {
    let vocab_size = engine.model().vocab_size();
    // Of no language: nothing to guess ahead, and every expert has its turn.
    let prompt = (0..prompt_tokens).map(|i| (i.wrapping_mul(7919).wrapping_add(13) % vocab_size) as u32).collect();
    let started = Instant::now();
    let mut stream = engine
        .submit(Request {
            prompt,
            max_tokens: tokens as u32,
            sampling: Sampling { temperature, seed: round, ..Sampling::default() },
            stop_tokens: Vec::new(),
            min_tokens: 0,
            constraint: None,
            // Each round works anew instead of finding the last one's prompt.
            tenant: Tenant::default(),
            cache_salt: u64::MAX - round,
            adapter: None,
            logprobs: None,
        })
        .map_err(|error| Failure::new(error.to_string()))?;
    let (mut first, mut last, mut count) = (None, started, 0usize);
    while let Some(event) = stream.events.blocking_recv() {
        match event {
            Event::Token { .. } => {
                last = Instant::now();
                first.get_or_insert(last);
                count += 1;
                if count > 2 && started.elapsed() > LONGEST_RUN {
                    break;
                }
            }
            Event::Done { .. } => break,
            Event::Failed(reason) => return Err(Failure::new(reason)),
        }
    }
    let first = first.ok_or_else(|| Failure::new(Word::AnswerCutOff.text()))?;
    let per_token_s = last.duration_since(first).as_secs_f64() / count.saturating_sub(1).max(1) as f64;
    Ok((first.duration_since(started).as_secs_f64(), per_token_s.max(1e-9)))
}

const PROMPT_TOKENS: usize = 512;
const FEW_TOKENS: usize = 16;
const DECODE_TOKENS: usize = 64;
const LONGEST_RUN: Duration = Duration::from_secs(5);
