//! Small helpers on the file system's edge: names that may be joined to a directory, reads that stop at a limit, and files that
//! appear whole.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::ArtifactError;

/// Whether `name` names a file in the directory it is joined to, on every system: no separator, no drive, no parent, nothing
/// hidden, nothing that a terminal would act on.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.ends_with(['.', ' '])
        && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|'))
}

/// Reads a file that must not be larger than `limit_bytes`, whatever its length field or a growing file says.
pub(crate) fn read_limited(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, ArtifactError> {
    let file = File::open(path).map_err(ArtifactError::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(ArtifactError::io("read", path))?;
    if bytes.len() as u64 > limit_bytes {
        let found_bytes = bytes.len() as u64;
        return Err(ArtifactError::FileTooLarge { path: path.to_path_buf(), found_bytes, limit_bytes });
    }
    Ok(bytes)
}

/// A path in `dir` that nobody has: names begin with a dot, which no model's does.
pub(crate) fn stage_path(dir: &Path, prefix: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    dir.join(format!("{prefix}{}-{now_ns}-{count}", std::process::id()))
}

/// Writes a file that is complete or absent after a crash of the machine.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let mut file = File::create_new(path).map_err(ArtifactError::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(ArtifactError::io("write", path))
}

/// Writes `path` anew, as far as that goes: for what saves time and is not missed, as on read-only storage.
pub(crate) fn replace(path: &Path, bytes: &[u8]) {
    let Some(dir) = path.parent() else { return };
    let fresh = stage_path(dir, ".stamps-");
    if put(&fresh, bytes).is_err() || fs::rename(&fresh, path).is_err() {
        let _ = fs::remove_file(&fresh);
    }
}
