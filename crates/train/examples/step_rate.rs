//! Tokens per second of training steps of an 11 M decoder, batch 16 × 256: the model of the PyTorch baseline that `cargo xtask bench
//! train` runs beside it. `step_rate [STEPS] [THREADS] [--recompute]` prints each step, then the median, the best, and the memory.

use std::time::Instant;

use falaj_kernels::RopeLayout;
use falaj_model::{Config, Rope, RopeScaling};
use falaj_train::{Arena, MicroBatch, Optimization, Schedule, Settings, Start, Trainer};

const ROWS: usize = 16;
const LENGTH: usize = 256;

fn main() -> Result<(), falaj_train::TrainError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    let (steps, threads) = (number(0, 8), number(1, 2));
    let config = Config {
        vocab_size: 8192,
        hidden_size: 320,
        layers: 8,
        heads: 8,
        kv_heads: 4,
        head_dim: 40,
        ffn_size: 768,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, layout: RopeLayout::Halves, scaling: RopeScaling::None },
        sliding_window: None,
        tied_head: true,
        experts: None,
        context_tokens: LENGTH,
    };
    let settings = Settings {
        threads,
        max_tokens: ROWS * LENGTH,
        seed: 0,
        recompute: arguments.iter().any(|argument| argument == "--recompute"),
        optimization: Optimization { schedule: Schedule::Constant, ..Optimization::default() },
    };
    let mut trainer = Trainer::new(Start::Full(Arena::random(&config, 0)?), settings)?;
    for (what, bytes) in &trainer.memory().parts {
        println!("{what:12} {:7.1} MB", *bytes as f64 / 1e6);
    }
    let (tokens, warmup) = (ROWS * LENGTH, 2);
    let mut seconds = Vec::new();
    for step in 0..steps + warmup {
        let mut state = step as u64 + 1;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % config.vocab_size as u32
        };
        let batch =
            MicroBatch::plain((0..tokens).map(|_| random()).collect(), (0..tokens).map(|_| random()).collect(), LENGTH);
        let start = Instant::now();
        let report = trainer.step(&[batch])?;
        let took = start.elapsed().as_secs_f64();
        println!("step {step}: loss {:.4}, norm {:.3}, {:.0} ms", report.loss, report.grad_norm, took * 1e3);
        if step >= warmup {
            seconds.push(took);
        }
    }
    seconds.sort_by(f64::total_cmp);
    let (median, best) = (seconds[seconds.len() / 2], seconds[0]);
    let rate = |seconds: f64| tokens as f64 / seconds;
    println!("median {:.0} tokens/s, best {:.0} tokens/s, {threads} threads", rate(median), rate(best));
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("peak {line}"));
    }
    Ok(())
}
