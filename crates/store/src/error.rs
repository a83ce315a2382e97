//! Everything that can go wrong here, with the next step.

use std::path::PathBuf;

use falaj_protocol::jobs::JobStatus;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the state database failed: {0}")]
    Database(sqlx::Error),
    #[error("the state database cannot be reached ({0}); see that its server runs, then try again")]
    Unreachable(sqlx::Error),
    /// S3 is away, or does not let us in. No secret is in it.
    #[error("the blobs at `{place}` cannot be reached: {reason}")]
    BlobsAway { place: String, reason: String },
    #[error("`{}` was written by a newer Falaj (schema {found}, this one knows {known}); run that version", path.display())]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error("there is no {what} `{id}`")]
    Unknown { what: &'static str, id: String },
    #[error("the job `{id}` is {status}, so it cannot become {wanted}", status = status.name(), wanted = wanted.name())]
    WrongStatus { id: String, status: JobStatus, wanted: JobStatus },
    #[error("this {what} cannot be kept: {reason}")]
    Refused { what: &'static str, reason: String },
    #[error("more than {limit_bytes} bytes; send less")]
    TooLarge { limit_bytes: u64 },
    #[error("a row of `{table}` is damaged: {reason}; restore the database from a copy")]
    Damaged { table: &'static str, reason: String },
    #[error("too much usage waits for the disk already; try again in a second")]
    Busy,
    #[error("the usage was not written: {reason}")]
    NotWritten { reason: std::sync::Arc<str> },
    #[error("the request `{id}` is open already")]
    AlreadyOpen { id: String },
    #[error("the writer of the usage has ended; see the log for why, and start again")]
    Stopped,
    #[error("`{}` belongs to another running Falaj; stop that one", path.display())]
    InUse { path: PathBuf },
    #[error("`{}` is damaged ({reason}); restore it from a copy, or move it away: receipts stay in the ledger", path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("cannot use `{}`: {reason}", path.display())]
    Usage { path: PathBuf, reason: String },
    #[error("the system gives no random bytes: {reason}")]
    Random { reason: String },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let unreachable = match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
            // PostgreSQL's classes 08 (connection) and 57P (shut down, crashed, starting), and too many connections.
            sqlx::Error::Database(error) => {
                error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code == "53300")
            }
            _ => false,
        };
        if unreachable { Self::Unreachable(error) } else { Self::Database(error) }
    }
}

impl StoreError {
    /// Is this a disk without space? It works again once there is some.
    pub fn is_full_disk(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            // SQLITE_FULL, and PostgreSQL's disk_full.
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code == "13" || code == "53100")
            }
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
