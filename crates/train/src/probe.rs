//! How fast this machine trains, found by training for a moment: steps of a small decoder with the shapes of the one asked about.
//! For estimates of time; nothing here changes a result.

use std::time::{Duration, Instant};

use falaj_model::Config;

use crate::{Arena, MicroBatch, Optimization, Schedule, Settings, Start, TrainError, Trainer};

/// Operations of a training step for one token with `context` tokens before it. Forward takes two per weight, backward two for the
/// gradients of activations and, where the weights are trained, two for theirs. Source: Kaplan et al. 2020, § 2.1.
pub fn flops_per_token(config: &Config, context: f64, frozen: bool) -> f64 {
    let heads = (2 * config.heads + 2 * config.kv_heads) * config.head_dim * config.hidden_size;
    let ffn = 3 * config.hidden_size * config.ffn_size * config.experts.map_or(1, |experts| experts.used);
    let weights = config.layers * (heads + ffn) + config.vocab_size * config.hidden_size;
    let attention = 2.0 * (config.layers * config.heads * config.head_dim) as f64 * context;
    let per_weight = if frozen { 4.0 } else { 6.0 };
    per_weight * weights as f64 + 3.0 * attention
}

/// Operations per second, in the sense of [`flops_per_token`], that whole training steps reach with `threads` threads. Takes about a
/// second and at most some 200 MB: larger models are probed by a few layers of a width that is at most theirs.
///
/// # Errors
/// A model that cannot be trained.
pub fn probe(config: &Config, threads: usize) -> Result<f64, TrainError> {
    let small = Config {
        layers: config.layers.min(2),
        heads: config.heads.min(8),
        kv_heads: config.kv_heads.min(config.heads.min(8)),
        hidden_size: config.hidden_size.min(1024),
        ffn_size: config.ffn_size.min(2048),
        vocab_size: config.vocab_size.min(8192),
        experts: None,
        ..config.clone()
    };
    // Heads of the same groups: a divisor.
    let small =
        Config { kv_heads: if small.heads.is_multiple_of(small.kv_heads) { small.kv_heads } else { 1 }, ..small };
    let tokens = 512.min(small.context_tokens / 2 * 2).max(2);
    let optimization = Optimization { schedule: Schedule::Constant, ..Optimization::default() };
    let settings = Settings { threads, max_tokens: tokens, seed: 0, recompute: false, optimization };
    let mut trainer = Trainer::new(Start::Full(Arena::random(&small, 0)?), settings)?;
    let text: Vec<u32> = (0..=tokens).map(|at| (at * 7919 % small.vocab_size) as u32).collect();
    let (inputs, targets) = (text.iter().take(tokens), text.iter().skip(1));
    let batch = [MicroBatch::plain(inputs.copied().collect(), targets.copied().collect(), tokens)];
    // The first one touches memory that nobody had.
    trainer.step(&batch)?;
    let began = Instant::now();
    let mut steps = 0;
    while steps < 2 || began.elapsed() < LONG_ENOUGH {
        trainer.step(&batch)?;
        steps += 1;
    }
    let rate = f64::from(steps) * tokens as f64 / began.elapsed().as_secs_f64();
    Ok(rate * flops_per_token(&small, tokens as f64 / 2.0, false))
}

const LONG_ENOUGH: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_model::synthetic::tiny_config;

    #[test]
    fn operations_grow_with_what_is_trained_and_a_probe_ends() {
        let config = tiny_config(64, 128);
        let [frozen, trained] = [true, false].map(|frozen| flops_per_token(&config, 64.0, frozen));
        assert!(frozen < trained && trained < 1.5 * frozen, "{frozen} {trained}");
        assert!(probe(&config, 1).unwrap() > 0.0);
    }
}
