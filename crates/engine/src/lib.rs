//! Tokens in, tokens out. The scheduler batches sequences continuously over a paged KV cache and samples.
//! Knows no text and no HTTP: stop strings, templates and grammars stand behind [`Constraint`] or outside.
//!
//! One thread of its own per [`Engine`]; requests go in by [`Engine::submit`], events come out by a bounded channel. A
//! request's tokens depend on the model, the prompt, the sampling and the seed, and on nothing else.
#![forbid(unsafe_code)]

mod engine;
mod pages;
pub mod request;
mod sampling;
mod scheduler;
mod sequence;
mod stats;

pub use engine::{Engine, EngineError};
pub use request::{
    Constraint, ConstraintError, EngineOptions, Event, FinishReason, Request, Sampling, Stream, SubmitError,
    TokenLogprob, TokenMask, Usage,
};
pub use stats::Stats;
