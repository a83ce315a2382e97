//! What can go wrong in a training job. Each message names the cause and the next step; the last good checkpoint outlives all.

use std::path::PathBuf;

use falaj_artifact::ArtifactError;
use falaj_model::ModelError;

use crate::data::{Format, Reason};

/// Why a job cannot begin, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Text(#[from] falaj_text::TextError),
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "the disk is full: cannot write `{}`; free some space and resume, the last checkpoint is intact",
        path.display()
    )]
    DiskFull { path: PathBuf },

    // What was asked for.
    #[error("`{setting}` is {value}, but {rule}")]
    Setting { setting: &'static str, value: String, rule: &'static str },
    #[error("{feature} cannot be trained yet; choose another base model or method")]
    Unsupported { feature: &'static str },
    #[error(
        "the job would take {bytes} bytes, more than the limit of {limit_bytes}; lower the batch, the length or the rank"
    )]
    TooLarge { bytes: u64, limit_bytes: u64 },

    // The data.
    #[error("a batch has {problem}; this is a mistake of whoever made the batch")]
    Batch { problem: &'static str },
    #[error("token {token} is outside the vocabulary of {vocab_size}; tokenizer and model do not belong together")]
    TokenOutOfRange { token: u32, vocab_size: usize },
    #[error("there is nothing to learn from in step {step}: every token has weight 0")]
    NothingToLearn { step: u64 },

    #[error(
        "`{}` line {line}: {reason}{}; `falaj data check` tells them all",
        path.display(),
        if *others > 0 { format!(" ({others} more lines cannot be learnt from)") } else { String::new() }
    )]
    BadData { path: PathBuf, line: u64, reason: Reason, others: u64 },
    #[error("`{}` line {line} is longer than {length} tokens; raise `batch.length`, or set `data.too_long`", path.display())]
    LongRow { path: PathBuf, line: u64, length: usize },
    #[error("`{}` has SHA-256 {found}, but the recipe names {expected}; bring that file back, or name this one", path.display())]
    DataChanged { path: PathBuf, expected: String, found: String },
    #[error("`{}` holds {found}; the method needs {needed}", path.display())]
    WrongData { path: PathBuf, found: Format, needed: &'static str },
    #[error(
        "`{}` has checkpoints that were trained on other data: {what}; put that back to go on, or give this job a folder of its own",
        folder.display()
    )]
    OtherData { folder: PathBuf, what: String },
    #[error("no row of the data can be learnt from; `falaj data check` tells why")]
    NoData,
    #[error(transparent)]
    Vocabulary { source: falaj_text::TextError },
    #[error("the prepared data `{}` is damaged; delete its folder to prepare it again", path.display())]
    DataDamaged { path: PathBuf },

    // The run.
    #[error(
        "the {what} of step {step} is not a finite number; resume from the last checkpoint with a lower learning rate or stronger clipping"
    )]
    NotFinite { what: &'static str, step: u64 },
    #[error(
        "the base model changed since the job began: {expected} then, {found} now; bring the old one back or start a new job"
    )]
    BaseChanged { expected: String, found: String },
    #[error("the checkpoint `{}` is damaged: {problem}; delete its folder to resume from the one before", path.display())]
    Checkpoint { path: PathBuf, problem: String },
    #[error("the job was cancelled at step {step}; resume goes on from the last checkpoint")]
    Cancelled { step: u64 },
    #[error(
        "after the export of `{}` the logits differ by {found} from the trained model's, more than {most}; nothing was published",
        path.display()
    )]
    RoundTrip { path: PathBuf, found: f32, most: f32 },
    #[error("the adapter has no module that matches `{name}` of the base model; it was made for another one")]
    NoSuchModule { name: String },
}

impl TrainError {
    /// Of an operation on `path`; a full disk gets a message of its own.
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => TrainError::DiskFull { path },
            _ => TrainError::Io { action, path, source },
        }
    }
}
