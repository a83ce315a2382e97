//! Models outside the catalog, for which nobody vouches but whoever names the path: their digests say afterwards what answered.
//!
//! With a memory, files that were hashed before are not read again while length, times and inode are what they were then, on
//! the terms of `catalog.rs`: no accident and no write through the file system goes unseen, but damage below it does, and an
//! attacker who can write the memory (keep it where only its owner can) may make a model answer under another's digest, though
//! not make other bytes answer than those that lie at the path.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{read_limited, replace};
use crate::hashing::{Hashed, Stamp};
use crate::verified::{ModelFiles, Verified};
use crate::{ArtifactError, Digest, Manifest, Progress};

impl Verified<ModelFiles> {
    /// The model at `path` as it lies there, and the manifest that was made of it in the same reading: who names the path
    /// vouches for it, and the digest says afterwards what it was. For models outside the catalog.
    ///
    /// # Errors
    /// As [`Manifest::of`].
    pub fn as_found(
        path: &Path,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(Verified<ModelFiles>, Manifest), ArtifactError> {
        found(path, name, &mut Known::default(), progress)
    }

    /// The same, reading only files that the file `memory` has no digest of, or that were touched since; what was read is
    /// there the next time. A memory that is missing, damaged or cannot be written costs time and nothing else.
    ///
    /// # Errors
    /// As [`Manifest::of`].
    pub fn as_found_before(
        path: &Path,
        name: &str,
        memory: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(Verified<ModelFiles>, Manifest), ArtifactError> {
        let mut known = Known::read(memory);
        let found = found(path, name, &mut known, progress)?;
        known.write(memory);
        Ok(found)
    }
}

fn found(
    path: &Path,
    name: &str,
    known: &mut Known,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Verified<ModelFiles>, Manifest), ArtifactError> {
    let (manifest, layout) = Manifest::of_layout(path, name, known, progress)?;
    let files = ModelFiles::Disk { layout, names: manifest.names() };
    Ok((Verified::vouched(files, manifest.digest()), manifest))
}

/// Digests by path (without symbolic links), and the stamp that each holds for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    files: BTreeMap<String, (Digest, Stamp)>,
    #[serde(skip)]
    changed: bool,
}

impl Known {
    fn read(memory: &Path) -> Known {
        let bytes = read_limited(memory, LIMIT_BYTES).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// What is known of `file`, if that was not touched since.
    pub fn find(&self, file: &Path) -> Option<Hashed> {
        let (digest, stamp) = *self.files.get(file.to_str()?)?;
        let about = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        let untouched = Stamp::of(&about) == stamp;
        untouched.then_some(Hashed { digest, size_bytes: stamp.size_bytes(), stamp: Some(stamp) })
    }

    /// A path that is no text is not remembered, nor is a file too fresh to tell a later change.
    pub fn remember(&mut self, file: &Path, hashed: &Hashed) {
        let (Some(path), Some(stamp)) = (file.to_str(), hashed.stamp) else { return };
        let entry = (hashed.digest, stamp);
        self.changed |= self.files.insert(path.to_owned(), entry) != Some(entry);
    }

    /// Without the files that are gone or were touched, so that it does not grow for ever.
    fn write(mut self, memory: &Path) {
        if !self.changed {
            return;
        }
        let stands = |path: &String, stamp: &Stamp| fs::metadata(path).is_ok_and(|about| Stamp::of(&about) == *stamp);
        self.files.retain(|path, (_, stamp)| stands(path, stamp));
        if let Ok(json) = serde_json::to_vec(&self) {
            replace(memory, &json);
        }
    }
}

const LIMIT_BYTES: u64 = 16 << 20;
