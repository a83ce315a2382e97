//! The handle: starts the engine thread, checks and queues requests, stops. The thread itself is in `scheduler.rs`; the two
//! share one short queue under a lock that is never held while a step runs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use falaj_kernels::{KvFormat, Pool};
use falaj_model::{Batch, KvCache, Model, ModelError, PAGE_TOKENS, Workspace};
use tokio::sync::{mpsc, oneshot};

use crate::pages::Pages;
use crate::request::{EngineOptions, Request, Stream, SubmitError, TokenMask};
use crate::sampling::{Sampler, Seen};
use crate::scheduler::Scheduler;
use crate::sequence::{Generation, Pooling, Sequence, Work};
use crate::stats::Stats;

/// A running model. Clones are handles of the same one; when the last is dropped it finishes what it has and ends.
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("`{option}` is 0; it must be at least 1")]
    Zero { option: &'static str },
    #[error("a cache of {cache_bytes} bytes holds no page of {page_bytes}; give it at least that")]
    CacheTooSmall { cache_bytes: usize, page_bytes: usize },
    #[error("the system gives no thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl Engine {
    /// Makes cache and buffers for `model` and starts the engine thread.
    ///
    /// # Errors
    /// Options that make no engine, and sizes that this machine cannot hold.
    pub fn start(model: Arc<Model>, options: EngineOptions) -> Result<Self, EngineError> {
        for (option, value) in [
            ("threads", options.threads),
            ("max_sequences", options.max_sequences),
            ("queue_requests", options.queue_requests),
            ("step_tokens", options.step_tokens),
        ] {
            if value == 0 {
                return Err(EngineError::Zero { option });
            }
        }
        let wanted = match options.context_tokens {
            0 => model.context_tokens(),
            lowered => lowered.min(model.context_tokens()),
        };
        let pages = cache_pages(&model, &options, wanted)?;
        let context_tokens = wanted.min(pages * PAGE_TOKENS);
        let shared = Arc::new(Shared::new(&options));
        Stats::set(&shared.stats.pages_total, pages);
        // However small a step is meant to be, every sequence can decode in it and a prompt still moves.
        let max_rows = options.step_tokens.max(options.max_sequences + 1);
        // The cache and the buffers are made here, so that a machine too small for them says so to the caller.
        let cache = KvCache::new(model.config(), KvFormat::F16, pages)?;
        let workspace = Workspace::new(&model, Pool::new(options.threads), max_rows, options.max_sequences + 1)?;
        let scheduler = Scheduler {
            sampler: Sampler::new(model.vocab_size(), *model.ops()),
            mask: TokenMask::new(model.vocab_size()),
            shared: Arc::clone(&shared),
            workspace,
            cache,
            pages: Pages::new(pages, options.prefix_cache),
            max_sequences: options.max_sequences,
            waiting: VecDeque::new(),
            running: Vec::with_capacity(options.max_sequences),
            batch: Batch::with_capacity(max_rows, pages),
            last_finish: None,
            coming: Vec::with_capacity(options.max_sequences),
            model: Arc::clone(&model),
        };
        let ended = EndOfThread(Arc::clone(&shared));
        let run = move || {
            let _ended = ended;
            scheduler.run();
        };
        std::thread::Builder::new().name("falaj-engine".into()).spawn(run).map_err(EngineError::Thread)?;
        Ok(Self { handle: Arc::new(Handle { shared, model, options, context_tokens }) })
    }

    /// Queues a generation; its events come through the stream.
    ///
    /// # Errors
    /// A full queue, a stopped engine, or a prompt that this model cannot take.
    pub fn submit(&self, request: Request) -> Result<Stream, SubmitError> {
        let prompt_tokens = request.prompt.len();
        // A prompt that fills the context leaves no place for the first token's key.
        let room = self.check_prompt(&request.prompt, usize::from(request.max_tokens > 0))?;
        let (sender, events) = mpsc::channel(EVENTS);
        let cached = Arc::new(AtomicU32::new(0));
        let max_tokens = (request.max_tokens as usize).min(room);
        let generation = Generation {
            seen: Seen::new(&request.sampling, &request.prompt),
            sampling: request.sampling,
            max_tokens,
            min_tokens: request.min_tokens as usize,
            stop_tokens: request.stop_tokens,
            constraint: request.constraint,
            logprobs: request.logprobs.map(|count| count.min(MOST_LOGPROBS)),
            generated: 0,
            cached_tokens: Arc::clone(&cached),
            events: sender,
        };
        let mut tokens = request.prompt;
        tokens.reserve_exact(max_tokens);
        self.enqueue(|id| Sequence::new(id, tokens, request.cache_salt, Work::Generate(Box::new(generation))))?;
        Stats::add(&self.handle.shared.stats.prompt_tokens, prompt_tokens);
        Ok(Stream { events, cached })
    }

    /// Queues the embedding of `tokens`: the mean over positions of the normed last hidden state, (D), not normalised to
    /// length 1. The error in the reply says what failed. `salt` separates tenants, as in [`Request::cache_salt`].
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn embed(
        &self,
        tokens: Vec<u32>,
        salt: u64,
    ) -> Result<oneshot::Receiver<Result<Vec<f32>, String>>, SubmitError> {
        let prompt_tokens = tokens.len();
        self.check_prompt(&tokens, 0)?;
        let (sender, reply) = oneshot::channel();
        let pooling = Pooling { sum: Vec::new(), pooled: 0, reply: Some(sender) };
        self.enqueue(|id| Sequence::new(id, tokens, salt, Work::Embed(pooling)))?;
        Stats::add(&self.handle.shared.stats.prompt_tokens, prompt_tokens);
        Ok(reply)
    }

    pub fn stats(&self) -> &Stats {
        &self.handle.shared.stats
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.handle.model
    }

    /// Most tokens of a prompt and its answer together.
    pub fn context_tokens(&self) -> usize {
        self.handle.context_tokens
    }

    pub fn options(&self) -> &EngineOptions {
        &self.handle.options
    }

    /// Takes no more requests, and returns when the engine thread has ended: at once, failing what is under way, or
    /// (`drain`) when everything accepted has ended. A second call without `drain` cuts a drain short. Blocks its thread.
    pub fn shutdown(&self, drain: bool) {
        let shared = &self.handle.shared;
        shared.stop(if drain { Stop::Drain } else { Stop::Now });
        let mut inbox = shared.lock();
        while !inbox.ended {
            inbox = shared.has_ended.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns how many tokens may follow `prompt`, at least `at_least`.
    fn check_prompt(&self, prompt: &[u32], at_least: usize) -> Result<usize, SubmitError> {
        if prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        let vocab_size = self.handle.model.vocab_size() as u32;
        if let Some(&token) = prompt.iter().find(|token| **token >= vocab_size) {
            return Err(SubmitError::TokenOutOfRange { token, vocab_size });
        }
        let context_tokens = self.handle.context_tokens;
        match context_tokens.checked_sub(prompt.len()) {
            Some(room) if room >= at_least => Ok(room),
            _ => Err(SubmitError::PromptTooLong { prompt_tokens: prompt.len(), context_tokens }),
        }
    }

    fn enqueue(&self, sequence: impl FnOnce(u64) -> Sequence) -> Result<(), SubmitError> {
        let Handle { shared, options, .. } = &*self.handle;
        let mut inbox = shared.lock();
        if inbox.stop != Stop::No || inbox.ended {
            return Err(SubmitError::Stopped);
        }
        let free = options.max_sequences.saturating_sub(Stats::get(&shared.stats.running) as usize);
        if inbox.arrived.len() + inbox.taken >= options.queue_requests + free {
            Stats::add(&shared.stats.refused, 1);
            let interval_ms = Stats::get(&shared.stats.finish_interval_us) / 1000;
            return Err(SubmitError::QueueFull {
                capacity: options.queue_requests,
                retry_after_ms: interval_ms.clamp(SHORTEST_RETRY_MS, LONGEST_RETRY_MS),
            });
        }
        inbox.next_id += 1;
        let sequence = sequence(inbox.next_id);
        inbox.arrived.push_back(sequence);
        Stats::set(&shared.stats.waiting, inbox.arrived.len() + inbox.taken);
        drop(inbox);
        shared.changed.notify_one();
        Ok(())
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine(context of {} tokens)", self.handle.context_tokens)
    }
}

struct Handle {
    shared: Arc<Shared>,
    model: Arc<Model>,
    options: EngineOptions,
    context_tokens: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop(Stop::Drain);
    }
}

/// What the handles and the engine thread have in common.
pub(crate) struct Shared {
    pub(crate) stats: Stats,
    inbox: Mutex<Inbox>,
    changed: Condvar,
    has_ended: Condvar,
    #[cfg(test)]
    pub(crate) fault: std::sync::atomic::AtomicBool,
}

struct Inbox {
    arrived: VecDeque<Sequence>,
    /// Requests that the engine thread took and has not admitted.
    taken: usize,
    next_id: u64,
    stop: Stop,
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    No,
    Drain,
    Now,
}

impl Shared {
    pub(crate) fn new(options: &EngineOptions) -> Self {
        let arrived = VecDeque::with_capacity(options.queue_requests + options.max_sequences);
        Self {
            stats: Stats::default(),
            inbox: Mutex::new(Inbox { arrived, taken: 0, next_id: 0, stop: Stop::No, ended: false }),
            changed: Condvar::new(),
            has_ended: Condvar::new(),
            #[cfg(test)]
            fault: Default::default(),
        }
    }

    /// Moves what arrived behind `waiting`. Sleeps first while there is nothing to do (`idle`) and nothing came.
    pub(crate) fn collect(&self, waiting: &mut VecDeque<Sequence>, idle: bool) -> Stop {
        let mut inbox = self.lock();
        while idle && inbox.arrived.is_empty() && inbox.stop == Stop::No {
            inbox = self.changed.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.append(&mut inbox.arrived);
        inbox.taken = waiting.len();
        inbox.stop
    }

    /// Sleeps until something arrives, at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let inbox = self.lock();
        if inbox.arrived.is_empty() && inbox.stop != Stop::Now {
            drop(self.changed.wait_timeout(inbox, timeout));
        }
    }

    pub(crate) fn set_waiting(&self, taken: usize) {
        let mut inbox = self.lock();
        inbox.taken = taken;
        Stats::set(&self.stats.waiting, inbox.arrived.len() + taken);
    }

    fn stop(&self, stop: Stop) {
        let mut inbox = self.lock();
        inbox.stop = inbox.stop.max(stop);
        drop(inbox);
        self.changed.notify_one();
    }

    /// No state behind this lock can be half-written, so a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn injected_fault(&self) {
        assert!(!self.fault.swap(false, Ordering::SeqCst), "an injected fault");
    }
}

/// Tells the handles that the thread is gone, also when it panics. Dropping what arrived closes those streams.
struct EndOfThread(Arc<Shared>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        let mut inbox = self.0.lock();
        inbox.ended = true;
        inbox.stop = Stop::Now;
        inbox.arrived.clear();
        for gauge in [&self.0.stats.waiting, &self.0.stats.running, &self.0.stats.pages_used] {
            gauge.store(0, Ordering::Relaxed);
        }
        self.0.has_ended.notify_all();
    }
}

/// How many pages the cache gets.
fn cache_pages(model: &Model, options: &EngineOptions, context_tokens: usize) -> Result<usize, EngineError> {
    let page_bytes = KvCache::page_bytes(model.config(), KvFormat::F16);
    let context_pages = context_tokens.div_ceil(PAGE_TOKENS);
    let cache_bytes = match options.cache_bytes {
        0 => {
            let pages = context_pages.max(options.max_sequences.saturating_mul(context_pages.div_ceil(4)));
            pages.saturating_mul(page_bytes).min(DEFAULT_CACHE_LIMIT_BYTES)
        }
        bytes => bytes,
    };
    // More pages than all sequences can fill would only be prefix cache; that is fine, it was asked for.
    match (cache_bytes / page_bytes).min(u32::MAX as usize) {
        0 => Err(EngineError::CacheTooSmall { cache_bytes, page_bytes }),
        pages => Ok(pages),
    }
}

/// Events that a reader may be behind before its sequence pauses.
const EVENTS: usize = 64;
/// As the protocols allow.
const MOST_LOGPROBS: u8 = 20;
const SHORTEST_RETRY_MS: u64 = 100;
const LONGEST_RETRY_MS: u64 = 60_000;
/// Where nobody said how much the cache may take: the context is lowered rather than a laptop filled.
const DEFAULT_CACHE_LIMIT_BYTES: usize = 4 << 30;

#[cfg(test)]
mod tests {
    use falaj_model::synthetic::tiny_config;

    use super::*;
    use crate::request::{Event, Sampling};

    /// A fault in the forward pass ends its requests with a reason; the engine, its threads and its pages live on.
    #[test]
    fn a_panic_in_the_forward_pass_fails_its_requests_only() {
        let model = Arc::new(falaj_model::synthetic(&tiny_config(50, 256), 0).unwrap());
        let options = EngineOptions { threads: 2, max_sequences: 2, ..EngineOptions::default() };
        let engine = Engine::start(model, options).unwrap();
        let submit = || {
            let request = Request {
                prompt: (0..40).collect(),
                max_tokens: 3,
                sampling: Sampling::default(),
                stop_tokens: Vec::new(),
                min_tokens: 0,
                constraint: None,
                cache_salt: 0,
                logprobs: None,
            };
            let mut events = engine.submit(request).unwrap().events;
            std::iter::from_fn(|| events.blocking_recv()).collect::<Vec<_>>()
        };
        let before = submit();
        engine.handle.shared.fault.store(true, Ordering::SeqCst);
        let failed = submit();
        let [Event::Failed(message)] = failed.as_slice() else { panic!("{failed:?}") };
        assert_eq!(message, "the forward pass failed: an injected fault; this is a bug, please report it");
        // Nothing that may be half written is offered again.
        let after = submit();
        let tokens = |events: &[Event]| -> Vec<u32> {
            events
                .iter()
                .filter_map(|event| if let Event::Token { token, .. } = event { Some(*token) } else { None })
                .collect()
        };
        assert_eq!((tokens(&before).len(), tokens(&after)), (3, tokens(&before)));
        let Some(Event::Done { usage, .. }) = after.last() else { panic!("{after:?}") };
        assert_eq!(usage.cached_tokens, 0);
        engine.shutdown(true);
        assert_eq!(Stats::get(&engine.stats().pages_used), 0);
    }
}
