//! What a model can do, measured: suites of questions, scores, and how sure the scores are. The engine answers, nothing here
//! computes with weights; baselines that need no model stand beside every model. Start at `suite.rs`, then `score.rs`; `run.rs`
//! asks, `report.rs` adds up.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod ask;
mod baseline;
pub mod interval;
mod report;
mod run;
mod schema;
mod score;
mod suite;
mod text;

pub use ask::Settings;
pub use baseline::Unigram;
pub use report::{Compared, Measured, Report, Results, compare, measure};
pub use run::{Subject, Surroundings, baseline, run};
pub use score::{Kind, Measure, Outcome};
pub use suite::{BadLine, Context, ExpectedCall, Row, Suite, Task, grounded_prompt};

/// Why an evaluation cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("the suite has {got} {what}; a suite has at most {most}, split it")]
    SuiteTooLarge { what: &'static str, got: usize, most: usize },
    #[error("line {line}: the header cannot be used: {reason}")]
    Header { line: usize, reason: String },
    #[error("the engine stopped; start it again, and the rows that are done are kept")]
    EngineStopped,
}
