//! One training job: data, loss, backward, optimiser, checkpoints, evaluation, export. Hand-written gradients for the decoder
//! that `model` serves, over the training kernels.
//!
//! Knows no HTTP, no policy and no queue: whoever supervises a job starts it as a process of its own and reads its events.
//! Start at [`Trainer`].
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arena;
mod budget;
mod checkpoint;
pub mod data;
mod decoder;
mod disk;
mod distillation;
mod error;
mod export;
mod job;
mod lora;
mod machine;
mod micro_batch;
mod optimizer;
mod preference;
mod probe;
mod random;
pub mod recipe;
mod record;
pub mod run;
mod samples;
mod schedule;
mod tape;
mod trainer;
mod weights;

pub use arena::Arena;
pub use budget::Memory;
pub use checkpoint::{Checkpoints, State};
pub use decoder::Reading;
pub use distillation::{Distillation, Teacher};
pub use error::TrainError;
pub use export::{Export, ExportFormat, convert};
pub use job::{Finished, Job};
pub use lora::{Lora, Target};
pub use micro_batch::MicroBatch;
pub use optimizer::{Optimization, Rule};
pub use preference::Preference;
pub use probe::{flops_per_token, probe};
pub use recipe::Recipe;
pub use record::Record;
pub use samples::Samples;
pub use schedule::Schedule;
pub use trainer::{Evaluation, Settings, Start, StepReport, Trainer};
