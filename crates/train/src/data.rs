//! What a job learns from: files of other people's lines, checked, rendered to tokens and packed into batches. A bad line is
//! reported by its number and never ends the program. From file to batch: `lines.rs` cuts, `row.rs` understands, `encode.rs`
//! renders, `store.rs` keeps, `pack.rs` and `batches.rs` lay out; `check.rs` only looks.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod batches;
mod check;
mod encode;
mod lines;
mod order;
mod pack;
mod prepare;
mod reading;
mod reason;
mod row;
mod steps;
mod store;
mod vocabulary;

pub use batches::{Batches, Laid, Shape};
pub use check::{Checked, TokenCounts, check};
pub use encode::{Encoder, Example, Unit};
pub use lines::{Lines, MOST_LINE_BYTES, Raw};
pub use prepare::{Counts, DataFacts, FileRecord, Prepared};
pub use reading::{FileFacts, Reading};
pub use reason::{BadLine, Reason};
pub use row::{Format, Row};
pub use steps::Drawn;
pub use store::{Kind, Record, Store};
pub use vocabulary::{Share, Vocabulary, VocabularyPlan, vocabulary};
