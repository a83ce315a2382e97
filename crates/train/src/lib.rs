//! One training job: data, loss, backward, optimiser, checkpoints, evaluation, export. Hand-written gradients for the decoder
//! that `model` serves, over the training kernels.
//!
//! Knows no HTTP, no policy and no queue: whoever supervises a job starts it as a process of its own and reads its events.
//! Start at [`Trainer`].
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod error;
mod micro_batch;

pub use error::TrainError;
pub use micro_batch::MicroBatch;
