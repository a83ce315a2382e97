//! The file beside a manifest that remembers which files were checked, and how they looked then. It saves time and decides
//! nothing else: without it, or with a damaged one, everything is hashed again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::files::{read_limited, replace};
use crate::hashing::Stamp;
use crate::manifest::FileEntry;

/// Digests that were found, by file name, and the stamp that each holds for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stamps(BTreeMap<String, (Digest, Stamp)>);

impl Stamps {
    pub fn read(dir: &Path) -> Stamps {
        let bytes = read_limited(&dir.join(FILE), LIMIT_BYTES).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Whether `file` was found to have its digest and has not been touched since.
    pub fn vouch_for(&self, dir: &Path, file: &FileEntry) -> bool {
        let Some((digest, stamp)) = self.0.get(&file.path) else { return false };
        let Ok(about) = fs::metadata(dir.join(&file.path)) else { return false };
        *digest == file.sha256 && about.is_file() && about.len() == file.size_bytes && Stamp::of(&about) == *stamp
    }

    pub fn remember(&mut self, file: &FileEntry, stamp: Option<Stamp>) {
        match stamp {
            Some(stamp) => drop(self.0.insert(file.path.clone(), (file.sha256, stamp))),
            None => drop(self.0.remove(&file.path)),
        }
    }

    /// Best effort: a catalog on read-only storage works, only slower.
    pub fn write(&self, dir: &Path) {
        let Ok(json) = serde_json::to_vec(self) else { return };
        replace(&dir.join(FILE), &json);
    }
}

const FILE: &str = ".verified.json";
const LIMIT_BYTES: u64 = 16 << 20;
