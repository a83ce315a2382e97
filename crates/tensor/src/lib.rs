//! Weights over the kernels: a matrix in a file format with a shared owner of its bytes, and the shape checks that
//! stand between a file's claims and a kernel's asserts. Not a tensor library: activations are plain `f32` slices.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod bytes;
mod weight;

pub use bytes::SharedBytes;
pub use weight::Weight;
