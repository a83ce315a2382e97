//! Small helpers on the file system's edge: names that may be joined to a directory, and reads that stop at a limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

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
