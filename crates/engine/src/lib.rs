//! Tokens in, tokens out. The scheduler batches sequences continuously over a paged KV cache and samples.
//! Knows no text and no HTTP: stop strings, templates and grammars stand behind [`Constraint`] or outside.
#![forbid(unsafe_code)]

pub mod request;

pub use request::{
    Constraint, ConstraintError, EngineOptions, Event, FinishReason, Sampling, Stream, SubmitError, Request, TokenLogprob, TokenMask, Usage,
};
