//! What a model takes in memory: guessed from its configuration before it is loaded, counted from its parts afterwards.

use falaj_engine::{Engine, EngineOptions};
use falaj_model::{Config, KvCache, PAGE_TOKENS};
use std::sync::atomic::Ordering;

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub weight_bytes: u64,
    /// Keys and values. The system gives it as it is first used, but it is promised.
    pub cache_bytes: u64,
    /// Buffers of a step, the vocabulary and the grammars.
    pub other_bytes: u64,
}

impl Size {
    /// `file_bytes`: of the weights, which stay in the format in which they come.
    pub fn estimate(config: &Config, options: &EngineOptions, file_bytes: u64) -> Self {
        let cache_bytes = cache_bytes(config, options);
        Self { weight_bytes: file_bytes, cache_bytes, other_bytes: other_bytes(config, options) }
    }

    pub fn of(engine: &Engine) -> Self {
        let config = engine.model().config();
        let pages = engine.stats().pages_total.load(Ordering::Relaxed);
        Self {
            weight_bytes: engine.model().weight_bytes() as u64,
            cache_bytes: pages.saturating_mul(KvCache::page_bytes(config, engine.options().kv_format) as u64),
            other_bytes: other_bytes(config, engine.options()),
        }
    }

    /// Keys and values of one position in all layers.
    pub fn position_bytes(engine: &Engine) -> usize {
        KvCache::page_bytes(engine.model().config(), engine.options().kv_format) / PAGE_TOKENS
    }

    pub fn total_bytes(self) -> u64 {
        self.weight_bytes.saturating_add(self.cache_bytes).saturating_add(self.other_bytes)
    }
}

/// As the engine decides it where nobody did: a quarter of the context for each sequence, at least one whole context.
fn cache_bytes(config: &Config, options: &EngineOptions) -> u64 {
    if options.cache_bytes > 0 {
        return options.cache_bytes as u64;
    }
    let context_tokens = match options.context_tokens {
        0 => config.context_tokens,
        lowered => lowered.min(config.context_tokens),
    };
    let context_pages = context_tokens.div_ceil(PAGE_TOKENS);
    let pages = context_pages.max(options.max_sequences.saturating_mul(context_pages.div_ceil(4)));
    let bytes = pages.saturating_mul(KvCache::page_bytes(config, options.kv_format));
    (bytes as u64).min(MOST_CACHE_BYTES)
}

fn other_bytes(config: &Config, options: &EngineOptions) -> u64 {
    let rows = options.step_tokens.max(options.max_sequences + 1);
    // Residual, norm and branch; query, key, value and what attention gives; gate and up; the quantised copy.
    let per_row = 4 * config.hidden_size + 2 * (config.heads + config.kv_heads) * config.head_dim + 3 * config.ffn_size;
    let logits = (options.max_sequences + 1) * config.vocab_size;
    let buffers = 4 * (rows.saturating_mul(per_row).saturating_add(logits));
    (buffers as u64).saturating_add(config.vocab_size as u64 * VOCABULARY_BYTES_PER_TOKEN)
}

/// The engine's own limit where nobody said how much.
const MOST_CACHE_BYTES: u64 = 4 << 30;
/// An estimate: the tokenizer's tables, their copy for grammars, and its trie.
const VOCABULARY_BYTES_PER_TOKEN: u64 = 600;

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_model::synthetic::{synthetic, tiny_config};
    use std::sync::Arc;

    /// The engine decides; the guess must agree with it, or the bound would not hold.
    #[test]
    fn the_guess_is_what_the_engine_takes() {
        for (cache_bytes, context_tokens, max_sequences) in [(0, 0, 32), (0, 100, 2), (1 << 20, 0, 4)] {
            let options =
                EngineOptions { threads: 1, cache_bytes, context_tokens, max_sequences, ..EngineOptions::default() };
            let model = Arc::new(synthetic(&tiny_config(300, 512), 1).unwrap());
            let guess = Size::estimate(model.config(), &options, model.weight_bytes() as u64);
            let engine = Engine::start(model, options).unwrap();
            assert_eq!(Size::of(&engine), guess);
        }
    }
}
