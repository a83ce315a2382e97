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
    /// All of the draft model, its own cache included.
    pub draft_bytes: u64,
}

impl Size {
    /// `file_bytes`: of the weights, which stay in the format in which they come.
    /// `draft`: a draft model, and the same of it.
    pub fn estimate(config: &Config, draft: Option<(&Config, u64)>, options: &EngineOptions, file_bytes: u64) -> Self {
        let cache_bytes = cache_bytes(config, options);
        let pages = cache_bytes as usize / KvCache::page_bytes(config, options.kv_format).max(1);
        let context_tokens = context_tokens(config, options).min(pages.saturating_mul(PAGE_TOKENS));
        Self {
            weight_bytes: file_bytes,
            cache_bytes,
            other_bytes: other_bytes(config, options),
            draft_bytes: draft.map_or(0, |(draft, bytes)| draft_bytes(draft, options, context_tokens, bytes)),
        }
    }

    pub fn of(engine: &Engine) -> Self {
        let config = engine.model().config();
        let pages = engine.stats().pages_total.load(Ordering::Relaxed);
        Self {
            weight_bytes: engine.model().weight_bytes() as u64,
            cache_bytes: pages.saturating_mul(KvCache::page_bytes(config, engine.options().kv_format) as u64),
            other_bytes: other_bytes(config, engine.options()),
            draft_bytes: engine.draft().map_or(0, |draft| {
                draft_bytes(draft.config(), engine.options(), engine.context_tokens(), draft.weight_bytes() as u64)
            }),
        }
    }

    /// Keys and values of one position in all layers.
    pub fn position_bytes(engine: &Engine) -> usize {
        KvCache::page_bytes(engine.model().config(), engine.options().kv_format) / PAGE_TOKENS
    }

    pub fn total_bytes(self) -> u64 {
        [self.cache_bytes, self.other_bytes, self.draft_bytes].into_iter().fold(self.weight_bytes, u64::saturating_add)
    }
}

/// As the engine decides it where nobody did: a quarter of the context for each sequence, at least one whole context.
fn cache_bytes(config: &Config, options: &EngineOptions) -> u64 {
    if options.cache_bytes > 0 {
        return options.cache_bytes as u64;
    }
    let context_pages = context_tokens(config, options).div_ceil(PAGE_TOKENS);
    let pages = context_pages.max(options.max_sequences.saturating_mul(context_pages.div_ceil(4)));
    let bytes = pages.saturating_mul(KvCache::page_bytes(config, options.kv_format));
    (bytes as u64).min(MOST_CACHE_BYTES)
}

fn context_tokens(config: &Config, options: &EngineOptions) -> usize {
    match options.context_tokens {
        0 => config.context_tokens,
        lowered => lowered.min(config.context_tokens),
    }
}

/// It needs no vocabulary of its own.
fn draft_bytes(draft: &Config, options: &EngineOptions, context_tokens: usize, weight_bytes: u64) -> u64 {
    let (cache_bytes, rows) = Engine::draft_needs(draft, options, context_tokens);
    let buffers = buffer_bytes(draft, rows, options.max_sequences);
    weight_bytes.saturating_add(cache_bytes as u64).saturating_add(buffers)
}

/// At most, since a step as large as they allow may never come. `falaj_model::Workspace` and `falaj_kernels::Activations` have
/// the buffers, of which none is in memory before it is used.
fn other_bytes(config: &Config, options: &EngineOptions) -> u64 {
    let rows = options.step_tokens.max(options.max_sequences + 1);
    let vocabulary = config.vocab_size as u64 * VOCABULARY_BYTES_PER_TOKEN;
    buffer_bytes(config, rows, options.max_sequences + MOST_PROPOSED + 1).saturating_add(vocabulary)
}

/// Of steps of so many rows, of which so many give logits.
fn buffer_bytes(config: &Config, rows: usize, outputs: usize) -> u64 {
    let &Config { hidden_size: d, ffn_size: f, head_dim: e, heads, kv_heads, vocab_size, .. } = config;
    let (experts, used) = config.experts.map_or((0, 1), |experts| (experts.count, experts.used));
    // Residual and norm; query and what attention gives, key and value; angles; gate times up. And up alone, where adapters
    // change it.
    let up = if experts > 0 { 0 } else { f };
    let floats = 2 * d + 2 * (heads + kv_heads) * e + e + used * f + up;
    // Where there are experts: routes, and the rows sorted by them.
    let mixture = if experts > 0 { experts + used * d } else { 0 };
    // What products read: 12 bytes a value for BF16 weights (bits and floats, twice), 3 for quantised ones, and the norm's floats.
    let read = 12 * used * d.max(f).max(heads * e) + 4 * d;
    let logits = 4 * outputs * vocab_size;
    rows.saturating_mul(4 * (floats + mixture) + read).saturating_add(logits) as u64
}

/// The engine's own limit where nobody said how much.
const MOST_CACHE_BYTES: u64 = 4 << 30;
/// The tokenizer's tables, their copy for grammars, and its trie: 834 measured of a byte-level vocabulary with merges, 561 of a
/// tekken, 449 of a SentencePiece one.
const VOCABULARY_BYTES_PER_TOKEN: u64 = 850;
/// Tokens that speculation may want logits of in one step; the engine's own bound.
const MOST_PROPOSED: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_artifact::{Digest, ModelFiles, Verified};
    use falaj_engine::{Request, Sampling, Tenant};
    use falaj_kernels::Format;
    use falaj_model::LoadOptions;
    use falaj_model::synthetic::{Checkpoint, synthetic, tiny_config};
    use std::sync::Arc;

    /// The engine decides; the guess must agree with it, or the bound would not hold.
    #[test]
    fn the_guess_is_what_the_engine_takes() {
        for (cache_bytes, context_tokens, max_sequences) in [(0, 0, 32), (0, 100, 2), (1 << 20, 0, 4)] {
            let options =
                EngineOptions { threads: 1, cache_bytes, context_tokens, max_sequences, ..EngineOptions::default() };
            let model = Arc::new(synthetic(&tiny_config(300, 512), 1).unwrap());
            let guess = Size::estimate(model.config(), None, &options, model.weight_bytes() as u64);
            let engine = Engine::start(Arc::clone(&model), options.clone()).unwrap();
            assert_eq!(Size::of(&engine), guess);

            let draft = Arc::new(synthetic(&tiny_config(300, 256), 2).unwrap());
            let about = Some((draft.config(), draft.weight_bytes() as u64));
            let both = Size::estimate(model.config(), about, &options, model.weight_bytes() as u64);
            assert!(both.draft_bytes > draft.weight_bytes() as u64);
            assert_eq!(Size { draft_bytes: 0, ..both }, guess);
            let engine = Engine::start_with_draft(model, Some(draft), options).unwrap();
            assert_eq!(Size::of(&engine), both);
        }
    }

    /// The largest step there can be takes what was said, and not much less. Memory of the whole process: the test runner gives
    /// each test its own.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_step_takes_no_more_than_was_said() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        for (format, least) in [(Format::BF16, 0.6), (Format::Q8_0, 0.2)] {
            // The last layer computes few rows.
            let config = Config { layers: 2, hidden_size: 1024, ffn_size: 4096, ..tiny_config(300, 1024) };
            let gguf = Checkpoint::new(config, 1).unwrap().gguf(|_| format).unwrap().leak();
            let files = Verified::<ModelFiles>::embedded(gguf, Digest::of(gguf)).unwrap();
            let model = Arc::new(falaj_model::load(&files, LoadOptions::default()).unwrap());
            let options = EngineOptions { threads: 2, max_sequences: 2, step_tokens: 1023, ..EngineOptions::default() };
            let engine = Engine::start(model, options).unwrap();
            let before = resident();
            let request = Request {
                prompt: (0..1023).map(|i| i % 300).collect(),
                max_tokens: 1,
                sampling: Sampling::default(),
                stop_tokens: Vec::new(),
                min_tokens: 0,
                constraint: None,
                tenant: Tenant::default(),
                cache_salt: 0,
                adapter: None,
                logprobs: None,
            };
            let mut events = engine.submit(request).unwrap().events;
            while events.blocking_recv().is_some() {}
            let (took, size) = (resident() - before, Size::of(&engine));
            let said = size.other_bytes + size.cache_bytes;
            assert!(took <= said, "{format}: {took} of {said} bytes");
            assert!(took as f64 >= least * size.other_bytes as f64, "{format}: {took} of {said} bytes");
        }
    }
}
