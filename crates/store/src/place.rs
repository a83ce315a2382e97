//! Where a site's rows and blobs are, as a word in its folder: who opens it with another place in mind would otherwise begin an empty one
//! beside it, and nobody would see that there are two.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::StoreError;

/// On disk, where nobody said anything else.
const DISK: &str = "disk";

fn path(dir: &Path, what: &str) -> PathBuf {
    dir.join(format!("{what}.place"))
}

/// Whether `what` (`rows`, `blobs`) is at `wanted`. A folder that never had any may have them anywhere, and remembers it.
pub(crate) fn agree(dir: &Path, what: &'static str, wanted: &str) -> Result<(), StoreError> {
    let found = match written(dir, what)? {
        None => has_any(dir, what).then(|| DISK.to_owned()),
        found => found,
    };
    match found {
        Some(found) if found != wanted => {
            let path = path(dir, what);
            let reason = match found.as_str() {
                DISK => format!("this site has them in `{}`; move them with `falaj admin migrate`", dir.display()),
                _ => format!(
                    "this site has them in {found}, not in {wanted}: set that, or see `{}` when they were moved by hand",
                    path.display()
                ),
            };
            Err(StoreError::Refused { what, reason })
        }
        Some(_) => Ok(()),
        // Without a file they are on the disk.
        None if wanted == DISK => Ok(()),
        None => settle(dir, what, wanted),
    }
}

/// Whether `what` is on the disk, or nowhere yet.
pub(crate) fn is_disk(dir: &Path, what: &'static str) -> Result<bool, StoreError> {
    Ok(written(dir, what)?.is_none_or(|found| found == DISK))
}

fn written(dir: &Path, what: &str) -> Result<Option<String>, StoreError> {
    let path = path(dir, what);
    match fs::read_to_string(&path) {
        Ok(found) => Ok(Some(found.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// From now on `what` is at `place`.
pub(crate) fn settle(dir: &Path, what: &'static str, place: &str) -> Result<(), StoreError> {
    let path = path(dir, what);
    let fresh = dir.join(format!("{what}.place.new"));
    fs::write(&fresh, format!("{place}\n")).map_err(StoreError::io("write", &fresh))?;
    fs::rename(&fresh, &path).map_err(StoreError::io("write", path))
}

fn has_any(dir: &Path, what: &str) -> bool {
    match what {
        "blobs" => fs::read_dir(dir.join("blobs")).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().len() == 2 && has_entries(&entry.path())))
        }),
        _ => dir.join("state.db").exists(),
    }
}

fn has_entries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_places_are_never_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        agree(dir, "blobs", "disk").unwrap();
        fs::create_dir_all(dir.join("blobs/parts")).unwrap();
        agree(dir, "blobs", "s3://b").unwrap();
        let error = agree(dir, "blobs", "disk").unwrap_err().to_string();
        assert!(error.contains("s3://b"), "{error}");
        assert!(agree(dir, "blobs", "s3://c").is_err());
        settle(dir, "blobs", "s3://c").unwrap();
        agree(dir, "blobs", "s3://c").unwrap();
        // What is on the disk already is not left behind.
        fs::write(dir.join("state.db"), "").unwrap();
        let error = agree(dir, "rows", "postgres").unwrap_err().to_string();
        assert!(error.contains("migrate"), "{error}");
        agree(dir, "rows", "disk").unwrap();
    }
}
