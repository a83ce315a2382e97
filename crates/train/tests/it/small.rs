//! Small decoders and batches for these tests.

use falaj_kernels::RopeLayout;
use falaj_model::{Config, Rope, RopeScaling};
use falaj_train::{Arena, MicroBatch, Optimization, Settings, Start, Trainer};

/// Two layers, two heads over one key and value head, sizes that are no multiples of a vector.
pub fn config() -> Config {
    Config {
        vocab_size: 37,
        hidden_size: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 10,
        ffn_size: 40,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, layout: RopeLayout::Halves, scaling: RopeScaling::None },
        sliding_window: None,
        tied_head: true,
        experts: None,
        context_tokens: 64,
    }
}

pub fn settings(max_tokens: usize) -> Settings {
    Settings { threads: 2, max_tokens, seed: 5, recompute: false, optimization: Optimization::default() }
}

/// Random weights that are far enough from zero for every gradient to matter.
pub fn arena(config: &Config) -> Arena {
    let mut arena = Arena::random(config, 3).unwrap();
    let slots: Vec<_> = arena.slots().collect();
    for slot in slots {
        for (i, value) in arena.get_mut(slot).iter_mut().enumerate() {
            *value = if *value == 1.0 {
                1.0 + 0.2 * ((i * 7 % 11) as f32 / 11.0 - 0.5)
            } else {
                value.signum() * value.abs().max(0.02)
            };
        }
    }
    arena
}

pub fn trainer(config: &Config, settings: Settings) -> Trainer {
    Trainer::new(Start::Full(arena(config)), settings).unwrap()
}

/// Documents of these lengths, end to end, padded to `total`; the first token of each is not learnt from a prompt's weight 0.
pub fn batch(config: &Config, lengths: &[usize], total: usize, salt: usize) -> MicroBatch {
    let mut batch = MicroBatch::default();
    let mut push = |start: usize, i: usize, token: usize, target: usize, weight: f32| {
        batch.tokens.push(token as u32);
        batch.targets.push(target as u32);
        batch.weights.push(weight);
        batch.starts.push(start as u32);
        batch.positions.push(i as u32);
    };
    let token = |document: usize, i: usize| (document * 31 + i * i * 7 + i * 3 + salt * 13) % config.vocab_size;
    let mut at = 0;
    for (document, length) in lengths.iter().enumerate() {
        for i in 0..*length {
            let weight = if i == 0 { 0.0 } else { 1.0 + (i % 3) as f32 * 0.5 };
            push(at, i, token(document, i), token(document, i + 1), weight);
        }
        at += length;
    }
    for i in 0..total - at {
        push(at, i, 0, 0, 0.0);
    }
    batch
}
