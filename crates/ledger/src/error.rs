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
    #[error("there is no entry {index}: the tree has {size}")]
    BeyondTree { index: u64, size: u64 },
}

impl LedgerError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }
}
