//! Model files, before anybody believes them: indexes of safetensors and GGUF, digests, manifests, the catalog on disk, and
//! [`Verified`], the only form in which the engine takes weights.
//!
//! This crate maps no memory, reads no tensor values and knows no architecture: it says which bytes are which tensor, and
//! that they are the bytes that somebody vouched for. `model` opens and interprets them.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod gguf;
pub mod safetensors;
pub mod sharded;

mod adapter;
mod catalog;
mod digest;
mod dtype;
mod error;
mod files;
mod found;
mod hashing;
mod layout;
mod manifest;
mod summary;
mod verified;

pub use adapter::AdapterConfig;
pub use catalog::{Catalog, Import, Listing, Report, plain_name};
pub use digest::{Digest, Hasher};
pub use dtype::{Dtype, TensorEntry};
pub use error::ArtifactError;
pub use layout::Layout;
pub use manifest::{Base, FileEntry, Manifest};
pub use verified::{ModelFiles, Verified};

/// Progress of long work over files, in bytes of all files together.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file being worked on, as the manifest names it.
    pub file: &'a str,
    pub done_bytes: u64,
    pub total_bytes: u64,
}
