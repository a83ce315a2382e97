//! How these tests start engines and read streams.

use std::sync::{Arc, LazyLock};

use falaj_engine::{Engine, EngineOptions, Event, FinishReason, Request, Sampling, Stats, Stream, Tenant, Usage};
use falaj_model::synthetic::tiny_config;
use falaj_model::{Config, Experts, Model, synthetic};

pub const VOCAB: usize = 97;

pub static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| Arc::new(synthetic(&tiny_config(VOCAB, 512), 1).unwrap()));

/// With everything that could make a row depend on others: experts and a window.
pub static MIXTURE: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let experts = Some(Experts { count: 4, used: 2 });
    let config = Config { experts, sliding_window: Some(24), ..tiny_config(VOCAB, 512) };
    Arc::new(synthetic(&config, 2).unwrap())
});

pub fn options() -> EngineOptions {
    EngineOptions { threads: 1, max_sequences: 8, step_tokens: 64, ..EngineOptions::default() }
}

pub fn start(model: &Arc<Model>, options: EngineOptions) -> Engine {
    Engine::start(Arc::clone(model), options).unwrap()
}

/// A prompt of `len` tokens that depends on `seed`.
pub fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (seed.wrapping_mul(31) + i * i * 7 + i * 3) % VOCAB as u32).collect()
}

pub fn request(prompt: Vec<u32>, max_tokens: u32) -> Request {
    Request {
        prompt,
        max_tokens,
        sampling: Sampling::default(),
        stop_tokens: Vec::new(),
        min_tokens: 0,
        constraint: None,
        tenant: Tenant::default(),
        cache_salt: 0,
        adapter: None,
        logprobs: None,
    }
}

/// A log-probability and the most likely tokens with theirs, as bits.
pub type Bits = (u32, Vec<(u32, u32)>);

/// All that a stream said. Log-probabilities as bits: equal means equal.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub tokens: Vec<u32>,
    pub logprobs: Vec<Bits>,
    pub end: Result<(FinishReason, Usage), String>,
}

impl Outcome {
    pub fn usage(&self) -> Usage {
        self.end.clone().unwrap().1
    }

    /// What must not depend on circumstances; how much of the prompt was cached does.
    pub fn answer(&self) -> (Vec<u32>, Vec<Bits>, FinishReason) {
        (self.tokens.clone(), self.logprobs.clone(), self.end.clone().unwrap().0)
    }
}

pub fn read(mut stream: Stream) -> Outcome {
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    loop {
        match stream.events.blocking_recv() {
            Some(Event::Token { token, logprob }) => {
                tokens.push(token);
                if let Some(logprob) = logprob {
                    let top = logprob.top.iter().map(|(token, value)| (*token, value.to_bits())).collect();
                    logprobs.push((logprob.logprob.to_bits(), top));
                }
            }
            Some(Event::Done { reason, usage }) => {
                assert!(stream.events.blocking_recv().is_none(), "nothing follows the end");
                return Outcome { tokens, logprobs, end: Ok((reason, usage)) };
            }
            Some(Event::Failed(message)) => return Outcome { tokens, logprobs, end: Err(message) },
            None => return Outcome { tokens, logprobs, end: Err("the stream closed".into()) },
        }
    }
}

pub fn run(engine: &Engine, request: Request) -> Outcome {
    read(engine.submit(request).unwrap())
}

pub fn count(engine: &Engine, counter: impl Fn(&Stats) -> &std::sync::atomic::AtomicU64) -> u64 {
    counter(engine.stats()).load(std::sync::atomic::Ordering::SeqCst)
}

/// Ends the engine and shows that nothing was kept.
pub fn end(engine: &Engine) {
    engine.shutdown(true);
    assert_eq!(count(engine, |stats| &stats.running), 0);
    assert_eq!(count(engine, |stats| &stats.waiting), 0);
    assert_eq!(count(engine, |stats| &stats.pages_used), 0);
}
