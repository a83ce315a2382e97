//! Tokens in, tokens out. The scheduler batches sequences continuously over a paged KV cache and samples.
//! Knows no text and no HTTP: stop strings, templates and grammars stand behind [`Constraint`] or outside.
//!
//! One thread of its own per [`Engine`]; requests go in by [`Engine::submit`], events come out by a bounded channel. A
//! request's tokens depend on the model, the prompt, the sampling and the seed, and on nothing else.
#![forbid(unsafe_code)]

mod adapters;
mod budget;
mod engine;
mod generation;
mod pages;
mod pin;
mod prefix_store;
pub mod request;
mod sampling;
mod scheduler;
mod sequence;
mod shared;
mod speculation;
mod stats;
mod trace;

pub use adapters::{AdapterError, AdapterHandle};
pub use engine::{Engine, EngineError};
pub use pin::{Pin, PinError};
pub use request::{
    Choice, Constraint, ConstraintError, EngineOptions, Event, FinishReason, Request, Sampling, ScoreRequest, Scores,
    Stream, SubmitError, TokenLogprob, TokenMask, TopLogprobs, Usage,
};
pub use stats::Stats;
pub use trace::StepTrace;
