//! Taking a model into the catalog. All work happens in a staging directory beside the models, under a lock that the system
//! drops with the process; the last step is one rename. So a crash leaves a stale stage, which the next start sweeps away.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::{Catalog, MANIFEST, Stamps};
use crate::error::shown;
use crate::files::{put, stage_path};
use crate::hashing::{Stamp, Tally, hash_file};
use crate::manifest::{Base, FileEntry, Manifest, Part, parts};
use crate::summary::Summary;
use crate::{ArtifactError, Digest, Hasher, Layout, Progress};

/// What to import, and what is known about it.
#[derive(Clone, Debug)]
pub struct Import {
    /// A GGUF file or a model's directory.
    pub from: PathBuf,
    /// The name in the catalog.
    pub name: String,
    /// Where it came from, for the manifest.
    pub source: Option<String>,
    /// Overrides what the files say.
    pub license: Option<String>,
    /// What an adapter is added to; an adapter must have one, and nothing else may.
    pub base: Option<Base>,
    /// Digests that files must have, by file name; a hub publishes them.
    pub expected: BTreeMap<String, Digest>,
    /// Copy even where a hard link would do: the catalog then shares no bytes with the source.
    pub copy: bool,
}

impl Import {
    pub fn new(from: impl Into<PathBuf>, name: impl Into<String>) -> Import {
        Import {
            from: from.into(),
            name: name.into(),
            source: None,
            license: None,
            base: None,
            expected: BTreeMap::new(),
            copy: false,
        }
    }
}

pub(super) fn run(
    catalog: &Catalog,
    import: &Import,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Manifest, ArtifactError> {
    let target = catalog.path(&import.name)?;
    let taken = || ArtifactError::ModelExists { name: shown(&import.name) };
    if target.exists() {
        return Err(taken());
    }
    let layout = Layout::detect(&import.from)?;
    let name = || shown(&import.name);
    match (&layout, &import.base) {
        (Layout::Adapter { .. }, None) => return Err(ArtifactError::AdapterWithoutBase { name: name() }),
        (Layout::Adapter { .. }, Some(_)) | (_, None) => {}
        (_, Some(_)) => return Err(ArtifactError::NotAnAdapter { name: name() }),
    }
    // Headers are read before gigabytes move.
    let summary = Summary::of(&layout)?;
    let parts = parts(&layout, &import.from)?;

    let stage = Stage::new(&catalog.dir)?;
    let mut tally = Tally::new(parts.iter().map(|part| part.size_bytes).sum(), progress);
    let (mut files, mut stamps) = (Vec::new(), Stamps::default());
    for part in &parts {
        let (file, stamp) = take(part, &stage.dir, import.copy, &mut tally)?;
        match import.expected.get(&file.path) {
            Some(expected) if *expected != file.sha256 => {
                let (expected, found) = (*expected, file.sha256);
                return Err(ArtifactError::DigestMismatch { file: shown(&file.path), expected, found });
            }
            _ => {}
        }
        stamps.remember(&file, stamp);
        files.push(file);
    }
    let mut manifest = Manifest::new(&import.name, &layout, summary, files);
    manifest.source.clone_from(&import.source);
    manifest.base.clone_from(&import.base);
    manifest.license = import.license.clone().or(manifest.license);
    put(&stage.dir.join(MANIFEST), manifest.to_json().as_bytes())?;
    stamps.write(&stage.dir);
    sync_dir(&stage.dir);
    fs::rename(&stage.dir, &target).map_err(|source| {
        // Somebody else's import of the same name won.
        if target.exists() { taken() } else { ArtifactError::Io { action: "create", path: target.clone(), source } }
    })?;
    sync_dir(&catalog.dir);
    Ok(manifest)
}

/// Brings one file into the stage and hashes what is there then.
fn take(
    part: &Part,
    stage: &Path,
    copy: bool,
    tally: &mut Tally<'_>,
) -> Result<(FileEntry, Option<Stamp>), ArtifactError> {
    let to = stage.join(&part.name);
    // Links fail across file systems and on those that have none; then it is a copy.
    let linked = !copy && fs::hard_link(&part.path, &to).is_ok();
    let (size_bytes, sha256, stamp) = if linked {
        let hashed = hash_file(&to, &part.name, tally)?;
        (hashed.size_bytes, hashed.digest, hashed.stamp)
    } else {
        let (size_bytes, digest) = copy_hashing(part, &to, tally)?;
        (size_bytes, digest, None)
    };
    Ok((FileEntry { path: part.name.clone(), size_bytes, sha256 }, stamp))
}

fn copy_hashing(part: &Part, to: &Path, tally: &mut Tally<'_>) -> Result<(u64, Digest), ArtifactError> {
    let mut from = File::open(&part.path).map_err(ArtifactError::io("open", &part.path))?;
    let mut out = File::create_new(to).map_err(ArtifactError::io("create", to))?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0_u8; COPY_BYTES];
    let mut size_bytes = 0_u64;
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ArtifactError::Io { action: "read", path: part.path.clone(), source }),
        };
        let piece = buffer.get(..got).unwrap_or_default();
        hasher.update(piece);
        out.write_all(piece).map_err(ArtifactError::io("write", to))?;
        size_bytes += got as u64;
        tally.add(&part.name, got as u64);
    }
    out.sync_all().map_err(ArtifactError::io("write", to))?;
    Ok((size_bytes, hasher.finish()))
}

/// A directory that vanishes unless it is renamed, and the lock that says it is in use.
struct Stage {
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Stage {
    fn new(catalog: &Path) -> Result<Stage, ArtifactError> {
        let (dir, lock_path, lock) = loop {
            let dir = stage_path(catalog, IMPORT);
            let lock_path = dir.with_extension(LOCK);
            // The lock comes first: a stage without one is stale to whoever sweeps.
            let lock = File::create_new(&lock_path).map_err(ArtifactError::io("create", &lock_path))?;
            lock.lock().map_err(ArtifactError::io("lock", &lock_path))?;
            // A sweep between these two lines took the file for stale; under another name it will not again.
            if lock_path.exists() {
                break (dir, lock_path, lock);
            }
        };
        let stage = Stage { dir, lock_path, _lock: lock };
        fs::create_dir(&stage.dir).map_err(ArtifactError::io("create", &stage.dir))?;
        Ok(stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove; otherwise the next sweep does what fails here.
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes what dead processes left. An import that is under way holds its lock and is let alone.
pub(super) fn sweep(catalog: &Path) -> Result<(), ArtifactError> {
    for entry in fs::read_dir(catalog).map_err(ArtifactError::io("list", catalog))? {
        let path = entry.map_err(ArtifactError::io("list", catalog))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // What cannot be removed now is tried again at the next start; it is in nobody's way.
        if name.starts_with(REMOVAL) {
            let _ = fs::remove_dir_all(&path);
        } else if name.starts_with(IMPORT) {
            let lock_path = path.with_extension(LOCK);
            let lock = File::open(&lock_path);
            let busy = lock.as_ref().is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
            if !busy {
                let _ = fs::remove_dir_all(path.with_extension(""));
                let _ = fs::remove_file(&lock_path);
            }
        }
    }
    Ok(())
}

/// Makes names durable. Some systems cannot sync a directory; there the file system's own order must do.
fn sync_dir(dir: &Path) {
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
}

const IMPORT: &str = ".import-";
pub(super) const REMOVAL: &str = ".remove-";
const LOCK: &str = "lock";
const COPY_BYTES: usize = 1 << 20;
