//! Everything that can go wrong here. A clone is cheap, because one failed write answers every request that waited for it.

use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: Arc<std::io::Error> },
    #[error("the signed note is malformed: {reason}")]
    BadNote { reason: &'static str },
    #[error("the signature of `{name}` does not verify")]
    BadSignature { name: String },
    #[error("no trusted key has signed this note")]
    NotSigned,
    #[error("the checkpoint is malformed: {reason}")]
    BadCheckpoint { reason: &'static str },
    #[error("the proof does not hold: {reason}")]
    BadProof { reason: &'static str },
    #[error("`{name}` cannot name a key or a log; use a name without spaces, plus signs and control characters")]
    BadName { name: String },
    #[error("`{text}` is no verifier key: {reason}")]
    BadVerifierKey { text: String, reason: &'static str },
    #[error("`{}` holds no usable Ed25519 key: {reason}", path.display())]
    BadKeyFile { path: PathBuf, reason: &'static str },
    #[error("`{}` can be read by others (mode {mode:o}); run chmod 600 on it", path.display())]
    OpenKeyFile { path: PathBuf, mode: u32 },
    #[error("the {what} cannot be read: {reason}")]
    BadRecord { what: &'static str, reason: &'static str },
    #[error("the system gives no random bytes")]
    Random,
    #[error("the signing key failed: {reason}")]
    Signer { reason: String },
    #[error("an entry of {bytes} bytes does not fit; the limit is {limit}")]
    EntryTooLarge { bytes: usize, limit: usize },
    #[error("`{path}` is missing")]
    MissingTile { path: String },
    #[error("`{path}` is damaged: {reason}")]
    CorruptTile { path: String, reason: &'static str },
    #[error("{found} of {wanted} witnesses have cosigned the checkpoint")]
    NoQuorum { found: usize, wanted: usize },
    #[error("there is no entry {index}: the tree has {size}")]
    BeyondTree { index: u64, size: u64 },
    #[error("the ledger in `{}` is in use by {}; stop that one first: a ledger has one writer", path.display(), holder(*pid))]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("too much waits to be written to the ledger; try again later")]
    Busy,
    #[error("an earlier write to the ledger failed; build on its last entry again")]
    Stale,
    #[error("the ledger has stopped; its log says why")]
    Stopped,
    #[error("`{}` is damaged at byte {offset}, before its end; restore it from a copy", path.display())]
    CorruptSegment { path: PathBuf, offset: u64 },
    #[error("`{}` ends at entry {entries}, but the checkpoint has {checkpoint}; restore it from a copy", path.display())]
    TruncatedLog { path: PathBuf, entries: u64, checkpoint: u64 },
    #[error("`{}` does not match this ledger: {reason}; restore the folder from one copy, or use its own key", path.display())]
    CheckpointMismatch { path: PathBuf, reason: &'static str },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl LedgerError {
    /// Is what stands on the disk not what it should be? Nothing was changed then.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::CorruptSegment { .. }
                | Self::TruncatedLog { .. }
                | Self::MissingTile { .. }
                | Self::CorruptTile { .. }
                | Self::CheckpointMismatch { .. }
                | Self::BadRecord { .. }
        )
    }

    /// Is this a disk without space? The next write works again once there is some.
    pub fn is_full_disk(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }
}
