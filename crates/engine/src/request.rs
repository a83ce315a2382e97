//! What goes into the engine and what comes out: requests, events, errors. Everything here is plain data, so that
//! `server` and tests can build it without knowing the scheduler.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use falaj_kernels::KvFormat;
use tokio::sync::mpsc;

use crate::adapters::AdapterHandle;
use crate::reply::CpuTime;

/// One generation. For several of one prompt: [`crate::Engine::submit_choices`].
pub struct Request {
    /// Prompt tokens, special tokens included. At least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; the engine lowers it to what the context leaves. 0 only counts and warms the cache.
    pub max_tokens: u32,
    pub sampling: Sampling,
    /// Tokens that end the sequence (EOS and friends). They are not emitted as `Event::Token`.
    pub stop_tokens: Vec<u32>,
    /// Tokens before this many generated ones mask `stop_tokens` out.
    pub min_tokens: u32,
    /// Restricts the next token; asked before each one.
    pub constraint: Option<Box<dyn Constraint>>,
    pub tenant: Tenant,
    /// Separates prefix-cache entries of tenants: equal prompts with different salts share nothing.
    pub cache_salt: u64,
    /// Answers with this adapter over the model; `None`: the model alone.
    pub adapter: Option<AdapterHandle>,
    /// `Some(k)`: report the chosen token's log-probability and the `k` most likely (k <= 20).
    pub logprobs: Option<u8>,
}

/// Who asks, for the fair sharing of the engine: `fair.rs`. Knows no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub id: u64,
    /// Its share beside others of its band that wait as well, in proportion to theirs. 0 counts as 1.
    pub weight: u32,
    /// Higher ones come first; of 17 requests that begin, one is of a lower band that waits.
    pub band: u8,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { id: 0, weight: 100, band: 0 }
    }
}

/// What a further continuation of a prompt has of its own.
pub struct Choice {
    pub seed: u64,
    pub constraint: Option<Box<dyn Constraint>>,
}

/// How likely a text is: see [`crate::Engine::score`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoreRequest {
    /// Special tokens included.
    pub tokens: Vec<u32>,
    /// The first token whose log-probability is wanted; those before it are context. 0 counts as 1: nothing comes before the
    /// first token that could make it likely.
    pub first: usize,
    /// How many of the most likely tokens to report at each place (at most 20).
    pub top: u8,
    pub tenant: Tenant,
    /// As [`Request::cache_salt`].
    pub cache_salt: u64,
    /// As [`Request::adapter`].
    pub adapter: Option<AdapterHandle>,
}

/// Natural-log probabilities of a text's tokens from [`ScoreRequest::first`] on, each given all before it, as the model has
/// them: no temperature, no penalty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    pub logprobs: Vec<f32>,
    tops: Vec<(u32, f32)>,
    /// Where in `tops` each token's end.
    ends: Vec<usize>,
}

impl Scores {
    pub(crate) fn push(&mut self, score: &TokenLogprob) {
        self.logprobs.push(score.logprob);
        self.tops.extend_from_slice(&score.top);
        self.ends.push(self.tops.len());
    }

    /// The most likely tokens in the place of the `number`-th scored one, most likely first.
    pub fn top(&self, number: usize) -> &[(u32, f32)] {
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(number).and_then(|end| self.tops.get(start..*end)).unwrap_or_default()
    }
}

/// How the next token is drawn. Greedy when `temperature == 0`. Order: penalties and bias, constraint, temperature,
/// top-k, top-p, min-p. The random number for output position i depends on `(seed, i)` only.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    pub temperature: f32,
    pub top_k: Option<u32>,
    pub top_p: f32,
    pub min_p: f32,
    /// Subtracted once from tokens already generated.
    pub presence_penalty: f32,
    /// Subtracted per occurrence among generated tokens.
    pub frequency_penalty: f32,
    /// Divides positive, multiplies negative logits of tokens in prompt or output. 1 is off. Source: CTRL, Keskar 2019.
    pub repetition_penalty: f32,
    /// Added to logits: (token, bias).
    pub logit_bias: Vec<(u32, f32)>,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// One generated token, in order; then exactly one `Done` or `Failed`.
#[derive(Clone, Debug)]
pub enum Event {
    Token { token: u32, logprob: Option<TokenLogprob> },
    Done { reason: FinishReason, usage: Usage },
    Failed(String),
}

/// Natural-log probabilities after penalties and before temperature truncation (top-k, top-p, min-p).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    pub logprob: f32,
    /// Most likely first.
    pub top: TopLogprobs,
}

/// Up to 20 tokens with their log-probabilities, in place: a decoded token allocates nothing.
#[derive(Clone, Copy, Default)]
pub struct TopLogprobs {
    len: u8,
    tokens: [(u32, f32); MOST_LOGPROBS as usize],
}

/// As the protocols allow.
pub(crate) const MOST_LOGPROBS: u8 = 20;

impl Deref for TopLogprobs {
    type Target = [(u32, f32)];

    fn deref(&self) -> &[(u32, f32)] {
        &self.tokens[..usize::from(self.len)]
    }
}

impl FromIterator<(u32, f32)> for TopLogprobs {
    /// Takes the first 20.
    fn from_iter<I: IntoIterator<Item = (u32, f32)>>(items: I) -> Self {
        let mut top = Self::default();
        for (place, item) in top.tokens.iter_mut().zip(items) {
            *place = item;
            top.len += 1;
        }
        top
    }
}

impl PartialEq for TopLogprobs {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for TopLogprobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token, or a constraint that allows nothing more.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// Part of the prompt that came from the prefix cache.
    pub cached_tokens: u32,
    /// Emitted tokens (the stop token not counted).
    pub completion_tokens: u32,
}

/// The receiving end. Dropping it cancels the request and frees its pages.
pub struct Stream {
    pub events: mpsc::Receiver<Event>,
    pub(crate) cached: Arc<AtomicU32>,
    pub(crate) cpu: CpuTime,
}

impl Stream {
    /// Prompt tokens that came from the prefix cache so far; final once the first token is out. For receivers that
    /// leave before `Done` tells it, at a stop string.
    pub fn cached_tokens(&self) -> u32 {
        self.cached.load(Ordering::Relaxed)
    }

    /// To be read at any time, also when the stream is gone.
    pub fn cpu_time(&self) -> CpuTime {
        self.cpu.clone()
    }
}

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error("the queue of {capacity} requests is full; retry after {retry_after_ms} ms")]
    QueueFull { capacity: usize, retry_after_ms: u64 },
    #[error("the prompt has {prompt_tokens} tokens; this model's context holds {context_tokens}; shorten the prompt")]
    PromptTooLong { prompt_tokens: usize, context_tokens: usize },
    #[error("the prompt is empty; send at least one token")]
    EmptyPrompt,
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange { token: u32, vocab_size: u32 },
    #[error("the adapter was unloaded; ask for it again")]
    NoAdapter,
    #[error("the engine is shutting down; send the request to another site or try later")]
    Stopped,
}

/// A grammar, seen from the engine: which tokens may come next.
pub trait Constraint: Send {
    /// Sets in `mask` the tokens allowed next (it comes in all clear). Stop tokens are allowed where the grammar may end.
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError>;
    /// The token that was drawn. Called once per token, stop tokens included.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;
}

#[derive(Debug, thiserror::Error)]
#[error("constrained decoding failed: {reason}")]
pub struct ConstraintError {
    pub reason: String,
}

/// A bit per token of the vocabulary.
#[derive(Clone, Debug)]
pub struct TokenMask {
    pub words: Vec<u32>,
}

impl TokenMask {
    pub fn new(vocab_size: usize) -> Self {
        Self { words: vec![0; vocab_size.div_ceil(32)] }
    }

    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    pub fn insert(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word |= 1 << (token % 32);
        }
    }

    pub fn contains(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }
}

/// Bounds of one engine. Defaults suit a laptop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Worker threads of the pool, the engine thread included.
    pub threads: usize,
    /// Memory for the KV cache. 0: enough for `max_sequences` of a quarter context, at least one full context.
    pub cache_bytes: usize,
    /// Sequences decoded together.
    pub max_sequences: usize,
    /// Requests of one tenant waiting beyond those; the next is refused. All together: four times as many, of which a tenant takes no
    /// more than it leaves.
    pub queue_requests: usize,
    /// Rows of one step: decode rows plus prompt chunks.
    pub step_tokens: usize,
    /// Prompts take no more of a step than keeps it within this, as measured: about the longest gap between two tokens of an
    /// answer. 0: no bound.
    pub step_ms: usize,
    /// The same where more wait for their first token than for the next: in proportion to how many more, up to this. Less than
    /// `step_ms`: as that.
    pub crowd_step_ms: usize,
    /// Lower the model's context to this. 0: the model's own.
    pub context_tokens: usize,
    pub prefix_cache: bool,
    /// Propose next tokens, from the text itself or a draft model, and check them together: where measured to pay. It never
    /// changes a token.
    pub speculation: bool,
    /// Keeps pages of the prefix cache in this directory across restarts. `None`: in memory only. It holds what prompts
    /// said, as keys and values; give it the protection that prompts have.
    pub prefix_dir: Option<PathBuf>,
    /// Most bytes there; the least recently used go first.
    pub prefix_disk_bytes: u64,
    /// How keys and values are kept.
    pub kv_format: KvFormat,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: falaj_kernels::Pool::available_threads(),
            cache_bytes: 0,
            max_sequences: 32,
            queue_requests: 128,
            step_tokens: 512,
            step_ms: 200,
            crowd_step_ms: 400,
            context_tokens: 0,
            prefix_cache: true,
            speculation: true,
            prefix_dir: None,
            prefix_disk_bytes: 4 << 30,
            kv_format: KvFormat::F16,
        }
    }
}
