//! Tokens in, tokens out. The scheduler batches sequences continuously over a paged KV cache and samples.
//! Knows no text and no HTTP: stop strings, templates and grammars stand behind [`Constraint`] or outside.
//!
//! One thread of its own per [`Engine`]; requests go in by [`Engine::submit`], events come out by a bounded channel. A
//! request's tokens depend on the model, the prompt, the sampling and the seed, and on nothing else.
#![forbid(unsafe_code)]

mod adapters;
mod budget;
mod engine;
mod fair;
mod generation;
mod pages;
mod pin;
mod prefix_store;
mod reply;
pub mod request;
mod sampling;
mod scheduler;
mod sequence;
mod shared;
mod speculation;
mod stats;
mod trace;

/// Version of the arithmetic: a request's tokens are the same under the same one, instruction set and cache format. Counted up with
/// every change that may change a token.
pub const NUMERICS: u32 = 1;

pub use adapters::{AdapterError, AdapterHandle};
pub use engine::{Engine, EngineError};
pub use pin::{Pin, PinError};
pub use reply::{CpuTime, Reply};
pub use request::{
    Choice, Constraint, ConstraintError, EngineOptions, Event, FinishReason, Request, Sampling, ScoreRequest, Scores,
    Stream, SubmitError, Tenant, TokenLogprob, TokenMask, TopLogprobs, Usage,
};
pub use stats::Stats;
pub use trace::StepTrace;
