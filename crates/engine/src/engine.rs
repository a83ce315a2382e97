//! The handle: starts the engine thread, checks and queues requests, stops. The thread itself is in `scheduler.rs`; what the
//! two share is in `shared.rs`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use falaj_artifact::Digest;
use falaj_kernels::Pool;
use falaj_model::{Batch, Config, KvCache, Model, ModelError, PAGE_TOKENS, Want, Workspace};
use tokio::sync::mpsc;

use crate::adapters::AdapterHandle;
use crate::generation::Generation;
use crate::prefix_store::PrefixStore;
use crate::reply::{CpuTime, Reply};
use crate::request::{
    Choice, EngineOptions, MOST_LOGPROBS, Request, ScoreRequest, Scores, Stream, SubmitError, Tenant,
};
use crate::sampling::Seen;
use crate::scheduler::Scheduler;
use crate::sequence::{Pooling, Scoring, Sequence, Work};
use crate::shared::{EndOfThread, Shared, Stop};
use crate::speculation::{Draft, MOST_PROPOSED};
use crate::stats::Stats;
use crate::trace::StepTrace;

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
    #[error("the prefix cache cannot be kept in `{}`: {source}; choose another directory", dir.display())]
    PrefixDir { dir: PathBuf, source: std::io::Error },
    #[error("the draft model has {draft} tokens and the model {model}; a draft model needs the same tokenizer")]
    DraftVocabulary { draft: usize, model: usize },
    #[error("the system gives no thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl Engine {
    /// Makes cache and buffers for `model` and starts the engine thread.
    ///
    /// # Errors
    /// Options that make no engine, and sizes that this machine cannot hold.
    pub fn start(model: Arc<Model>, options: EngineOptions) -> Result<Self, EngineError> {
        Self::start_with_draft(model, None, options)
    }

    /// The same, with a smaller model of the same tokenizer that proposes tokens to `model` (where `options.speculation`).
    ///
    /// # Errors
    /// As [`Engine::start`]; a draft model of another vocabulary.
    pub fn start_with_draft(
        model: Arc<Model>,
        draft: Option<Arc<Model>>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
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
        let mut cache = KvCache::new(model.config(), options.kv_format, pages)?;
        let pool = Arc::new(Pool::new(options.threads));
        let outputs = options.max_sequences + if options.speculation { MOST_PROPOSED + 1 } else { 1 };
        let mut workspace = Workspace::new(&model, Arc::clone(&pool), max_rows.max(outputs), outputs)?;
        let draft_model = draft.filter(|_| options.speculation);
        let draft = match draft_model.clone() {
            None => None,
            Some(draft) if draft.vocab_size() != model.vocab_size() => {
                return Err(EngineError::DraftVocabulary { draft: draft.vocab_size(), model: model.vocab_size() });
            }
            Some(draft) => {
                Some(Draft::new(draft, pool, options.max_sequences, context_tokens, DRAFT_CACHE_LIMIT_BYTES)?)
            }
        };
        let context_pages = context_tokens.div_ceil(PAGE_TOKENS);
        let store = open_store(&model, &options, &shared, &mut workspace, &mut cache)?;
        let scheduler = Scheduler::new(
            Arc::clone(&model),
            Arc::clone(&shared),
            workspace,
            cache,
            context_pages,
            store,
            draft,
            &options,
        );
        let ended = EndOfThread(Arc::clone(&shared));
        let run = move || {
            let _ended = ended;
            scheduler.run();
        };
        std::thread::Builder::new().name("falaj-engine".into()).spawn(run).map_err(EngineError::Thread)?;
        Ok(Self { handle: Arc::new(Handle { shared, model, draft: draft_model, options, context_tokens }) })
    }

    /// Queues a generation; its events come through the stream.
    ///
    /// # Errors
    /// A full queue, a stopped engine, or a prompt that this model cannot take.
    pub fn submit(&self, request: Request) -> Result<Stream, SubmitError> {
        let mut streams = self.submit_choices(request, Vec::new())?;
        // A request without further choices has one stream.
        streams.pop().ok_or(SubmitError::Stopped)
    }

    /// Queues several generations of one prompt, which is computed once: the request's own and one per entry of `more`. Each
    /// says what it would say alone with its seed. One stream each, in order; all or none are accepted.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_choices(&self, request: Request, more: Vec<Choice>) -> Result<Vec<Stream>, SubmitError> {
        self.queue(request, more, false).map(|(_, streams)| streams)
    }

    /// Queues a sequence; returns its number and a stream per choice.
    pub(crate) fn queue(
        &self,
        request: Request,
        more: Vec<Choice>,
        pin: bool,
    ) -> Result<(u64, Vec<Stream>), SubmitError> {
        let prompt_tokens = request.prompt.len();
        // A prompt that fills the context leaves no place for the first token's key.
        let room = self.check_prompt(&request.prompt, usize::from(request.max_tokens > 0))?;
        let (adapter, salt) = self.adapter(request.adapter.as_ref(), request.cache_salt)?;
        let max_tokens = (request.max_tokens as usize).min(room);
        let seen = Seen::new(&request.sampling, &request.prompt, max_tokens);
        let mut streams = Vec::with_capacity(1 + more.len());
        let mut generation = |choice: Choice| {
            let (sender, events) = mpsc::channel(EVENTS);
            let cached = Arc::new(AtomicU32::new(0));
            let cpu = CpuTime::default();
            streams.push(Stream { events, cached: Arc::clone(&cached), cpu: cpu.clone() });
            let mut sampling = request.sampling.clone();
            sampling.seed = choice.seed;
            Generation {
                sampling,
                max_tokens,
                min_tokens: request.min_tokens as usize,
                stop_tokens: request.stop_tokens.clone(),
                constraint: choice.constraint,
                logprobs: request.logprobs.map(|count| count.min(MOST_LOGPROBS)),
                seen: seen.clone_with_room(max_tokens),
                generated: 0,
                cached_tokens: cached,
                cpu,
                events: sender,
                siblings: Vec::new(),
                proposed: Vec::with_capacity(MOST_PROPOSED),
                origin: None,
                wanted: 0,
                drawn: Vec::with_capacity(MOST_PROPOSED + 1),
                verified: 0,
                ending: None,
            }
        };
        let mut first = Box::new(generation(Choice { seed: request.sampling.seed, constraint: request.constraint }));
        first.siblings = more.into_iter().map(&mut generation).collect();
        let mut tokens = request.prompt;
        tokens.reserve_exact(max_tokens);
        let requests = streams.len();
        let tenant = request.tenant;
        let id = self.handle.shared.enqueue(tenant, requests, |id| {
            let mut sequence = Sequence::new(id, tokens, salt, Work::Generate(first)).with(tenant, adapter);
            sequence.pin = pin;
            sequence
        })?;
        Stats::add(&self.handle.shared.stats.prompt_tokens, prompt_tokens);
        Ok((id, streams))
    }

    /// Queues the embedding of `tokens`: the mean over positions of the normed last hidden state, (D), not normalised to
    /// length 1. The error in the reply says what failed. `salt` separates tenants, as in [`Request::cache_salt`];
    /// `tenant` and `adapter` are as in [`Request`].
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn embed(
        &self,
        tokens: Vec<u32>,
        salt: u64,
        tenant: Tenant,
        adapter: Option<&AdapterHandle>,
    ) -> Result<Reply<Vec<f32>>, SubmitError> {
        let prompt_tokens = tokens.len();
        self.check_prompt(&tokens, 0)?;
        let (adapter, salt) = self.adapter(adapter, salt)?;
        let (sender, reply, cpu) = Reply::new();
        let pooling = Pooling { sum: Vec::new(), pooled: 0, cpu, reply: Some(sender) };
        let sequence = |id| Sequence::new(id, tokens, salt, Work::Embed(pooling)).with(tenant, adapter);
        self.handle.shared.enqueue(tenant, 1, sequence)?;
        Stats::add(&self.handle.shared.stats.prompt_tokens, prompt_tokens);
        Ok(reply)
    }

    /// Queues the log-probabilities of a text's tokens, as generating them one by one would report them. Context before
    /// [`ScoreRequest::first`] may come from the prefix cache. The error in the reply says what failed; dropping the receiver
    /// cancels.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn score(&self, request: ScoreRequest) -> Result<Reply<Scores>, SubmitError> {
        let ScoreRequest { mut tokens, first, top, tenant, cache_salt, adapter } = request;
        self.check_prompt(&tokens, 0)?;
        let (adapter, salt) = self.adapter(adapter.as_ref(), cache_salt)?;
        let prompt_tokens = tokens.len();
        let (sender, reply, cpu) = Reply::new();
        let last = match tokens.pop() {
            Some(last) if first.max(1) < prompt_tokens => last,
            _ => {
                let _ = sender.send(Ok(Scores::default()));
                return Ok(reply);
            }
        };
        let scoring = Scoring {
            last,
            next: first.max(1) - 1,
            top: top.min(MOST_LOGPROBS),
            scores: Scores::default(),
            failure: None,
            cpu,
            reply: Some(sender),
        };
        let sequence = |id| Sequence::new(id, tokens, salt, Work::Score(scoring)).with(tenant, adapter);
        self.handle.shared.enqueue(tenant, 1, sequence)?;
        Stats::add(&self.handle.shared.stats.prompt_tokens, prompt_tokens);
        Ok(reply)
    }

    /// Pages that pins may hold: one sequence of the whole context, with a page copied when written, always finds its own.
    pub(crate) fn reserve_pinned(&self, pages: usize) -> Result<(), usize> {
        let context_pages = self.handle.context_tokens.div_ceil(PAGE_TOKENS) + 1;
        let total = Stats::get(&self.stats().pages_total) as usize;
        self.handle.shared.reserve_pinned(pages, total.saturating_sub(context_pages))
    }

    pub(crate) fn end_pin(&self, id: Option<u64>, pages: usize) {
        self.handle.shared.unpin(id, pages);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    pub fn stats(&self) -> &Stats {
        &self.handle.shared.stats
    }

    /// The last steps, oldest first: what they did and how long it took.
    pub fn trace(&self) -> Vec<StepTrace> {
        self.handle.shared.trace.recent()
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.handle.model
    }

    /// The model that proposes tokens to it, if there is one.
    pub fn draft(&self) -> Option<&Arc<Model>> {
        self.handle.draft.as_ref()
    }

    /// Bytes of keys and values that a draft model of this configuration gets in an engine of these options, and most rows
    /// of its steps. They are always F16: proposals are only guesses.
    pub fn draft_needs(draft: &Config, options: &EngineOptions, context_tokens: usize) -> (usize, usize) {
        let pages = Draft::pages(draft, options.max_sequences, context_tokens, DRAFT_CACHE_LIMIT_BYTES);
        (pages.saturating_mul(Draft::page_bytes(draft)), Draft::rows(options.max_sequences))
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
        shared.wait_for_end();
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
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine(context of {} tokens)", self.handle.context_tokens)
    }
}

struct Handle {
    shared: Arc<Shared>,
    model: Arc<Model>,
    draft: Option<Arc<Model>>,
    options: EngineOptions,
    context_tokens: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop(Stop::Drain);
    }
}

/// The store of this way of computing, where one is wanted. A model without a digest (a synthetic one) has none: its pages
/// could be taken for another's.
fn open_store(
    model: &Model,
    options: &EngineOptions,
    shared: &Arc<Shared>,
    workspace: &mut Workspace,
    cache: &mut KvCache,
) -> Result<Option<PrefixStore>, EngineError> {
    let (Some(dir), Some(digest), true) = (&options.prefix_dir, model.digest(), options.prefix_cache) else {
        return Ok(None);
    };
    let page_bytes = KvCache::page_bytes(model.config(), options.kv_format);
    // What this build and this machine make of one page: another order of sums, or another layout, is another store, whether
    // or not somebody thought of raising a number.
    let mut probe = Batch::default();
    probe.sequence(&[0]);
    for position in 0..PAGE_TOKENS.min(workspace.max_rows()) as u32 {
        probe.push(position.wrapping_mul(7919) % model.vocab_size() as u32, position, Want::Nothing);
    }
    model.forward(workspace, cache, &probe)?;
    let mut page = vec![0; page_bytes];
    cache.read_page(0, &mut page);
    let identity = format!(
        "model {digest}\nnumerics {} {}\ncache {:?} {page_bytes}\nrope {:?}",
        Digest::of(&page),
        model.ops().isa(),
        options.kv_format,
        model.config().rope,
    );
    PrefixStore::open(dir, Digest::of(identity.as_bytes()), page_bytes, options.prefix_disk_bytes, Arc::clone(shared))
        .map(Some)
        .map_err(|source| EngineError::PrefixDir { dir: dir.clone(), source })
}

/// How many pages the cache gets.
fn cache_pages(model: &Model, options: &EngineOptions, context_tokens: usize) -> Result<usize, EngineError> {
    let page_bytes = KvCache::page_bytes(model.config(), options.kv_format);
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
/// Where nobody said how much the cache may take: the context is lowered rather than a laptop filled.
const DEFAULT_CACHE_LIMIT_BYTES: usize = 4 << 30;
/// A draft model is small; sequences beyond this go without it.
const DRAFT_CACHE_LIMIT_BYTES: usize = 256 << 20;

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
                tenant: Tenant::default(),
                cache_salt: 0,
                adapter: None,
                logprobs: None,
            };
            let mut events = engine.submit(request).unwrap().events;
            std::iter::from_fn(|| events.blocking_recv()).collect::<Vec<_>>()
        };
        let before = submit();
        engine.handle.shared.fault.store(true, std::sync::atomic::Ordering::SeqCst);
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
