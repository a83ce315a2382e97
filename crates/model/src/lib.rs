//! Decoders: what they are ([`Config`]), what they hold ([`Params`]), how they compute (`decoder.rs`) and how verified files
//! become one ([`load()`]). Llama, Mistral and Mixtral, one definition for all.
//!
//! Knows no text, no requests and no scheduling: `engine` decides which rows run, `text` what tokens mean. There is no
//! function here that loads weights which nobody verified.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod adapter;
mod batch;
mod cache;
mod config;
mod decoder;
mod elementary;
mod error;
pub mod export;
mod load;
mod naming;
mod optimize;
mod params;
mod perplexity;
mod rope;
mod sparse;
pub mod synthetic;
mod tensors;
mod workspace;

pub use adapter::Adapter;
pub use batch::{Batch, Want};
pub use cache::{KvCache, PAGE_TOKENS};
pub use config::{Config, Experts, Rope, RopeScaling};
pub use decoder::Model;
pub use error::ModelError;
pub use load::{LoadOptions, load, parameters};
pub use naming::{Naming, Slot};
pub use optimize::optimize;
pub use params::{FeedForward, Layer, Params, Swiglu};
pub use perplexity::{Perplexity, perplexity};
pub use rope::Frequencies;
pub use synthetic::synthetic;
pub use workspace::Workspace;
