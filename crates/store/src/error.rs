//! Everything that can go wrong here, with the next step.

use std::path::PathBuf;

use falaj_protocol::jobs::JobStatus;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the state database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("`{}` was written by a newer Falaj (schema {found}, this one knows {known}); run that version", path.display())]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error("there is no {what} `{id}`")]
    Unknown { what: &'static str, id: String },
    #[error("the job `{id}` is {status}, so it cannot become {wanted}", status = status.name(), wanted = wanted.name())]
    WrongStatus { id: String, status: JobStatus, wanted: JobStatus },
    #[error("more than {limit_bytes} bytes; send less")]
    TooLarge { limit_bytes: u64 },
    #[error("a row of `{table}` is damaged: {reason}; restore the database from a copy")]
    Damaged { table: &'static str, reason: String },
    #[error("the system gives no random bytes: {reason}")]
    Random { reason: String },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
