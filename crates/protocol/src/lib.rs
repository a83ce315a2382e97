//! Wire types of the three API dialects that clients bring: Mistral's and OpenAI's (one superset), and Anthropic's.
//!
//! Requests are read by [`check`], so that a wrong field is reported with its place, as pydantic does; replies are
//! plain serde structs. A module per operation: [`chat`], [`completions`] (legacy and fill-in-the-middle),
//! [`embeddings`], [`models`], [`files`], [`jobs`] (fine-tuning), [`messages`] (Anthropic), [`tokenize`] (vLLM's), [`errors`] (the envelopes).
//! No HTTP here, no tokens and no model: `server` converts these types once, at its edge.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod chat;
pub mod check;
pub mod completions;
pub mod embeddings;
pub mod errors;
pub mod files;
pub mod jobs;
pub mod messages;
pub mod models;
pub mod sampling;
pub mod tokenize;
pub mod usage;

pub use check::{Loc, Problem};

/// Whose rules shape a reply. Chosen by the path of the request, never by its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/v1`: the superset that both official clients accept, Mistral's shape where the two differ.
    Mistral,
    /// `/openai/v1`: OpenAI's own.
    OpenAi,
    /// `/v1/messages`: Anthropic's own.
    Anthropic,
}
