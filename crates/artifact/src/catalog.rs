//! The models on this machine: one directory each under `DATA/models`, with a manifest. Imports appear whole or not at all.
//!
//! **What [`Catalog::load`] re-reads** (and `found.rs`, of models outside the catalog). Hashing 4 GB takes seconds, so a digest that was checked once is remembered in
//! `.verified.json` together with the file's length, times and inode, and holds until one of them changes. This finds every
//! accident and every write through the file system. It does not find damage below it (a rotting disk), nor an attacker who can
//! write both the model and that file, or set the system's clock; the first is what [`Catalog::verify`] is for, the second
//! could as well rewrite the manifest, which only a signature would show.

mod import;
mod stamps;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::shown;
use crate::files::stage_path;
use crate::hashing::Tally;
use crate::manifest::{Manifest, check_file};
use crate::verified::{ModelFiles, Verified};
use crate::{ArtifactError, Progress};

pub use import::Import;
use stamps::Stamps;

/// A directory of models.
#[derive(Clone, Debug)]
pub struct Catalog {
    dir: PathBuf,
}

/// Somebody's words in the characters that names of models, files in headers and folders share: whatever is no ASCII letter, digit,
/// `.`, `_` or `-` becomes `instead`.
pub fn plain_name(text: &str, instead: char) -> String {
    text.chars().map(|c| if is_plain(c) { c } else { instead }).collect()
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// What [`Catalog::list`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sorted by name.
    pub models: Vec<Manifest>,
    /// Directories whose manifest is missing or not usable.
    pub broken: Vec<ArtifactError>,
}

/// What [`Catalog::verify`] found.
#[derive(Debug, Default)]
pub struct Report {
    pub files: usize,
    pub size_bytes: u64,
    /// One for each file that is missing, unreadable or not what the manifest says.
    pub faults: Vec<ArtifactError>,
}

impl Catalog {
    /// Opens the catalog in `dir`, which is made if needed. Removes what interrupted imports and removals left behind.
    ///
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(dir: &Path) -> Result<Catalog, ArtifactError> {
        fs::create_dir_all(dir).map_err(ArtifactError::io("create", dir))?;
        import::sweep(dir)?;
        Ok(Catalog { dir: dir.to_path_buf() })
    }

    /// Takes the model at `from` (a GGUF file or a directory) into the catalog as `name`, by hard links where possible.
    ///
    /// # Errors
    /// A bad or taken name, no model there, a damaged header, and those of the file system. Nothing is left behind.
    pub fn import(
        &self,
        from: &Path,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Manifest, ArtifactError> {
        self.import_with(&Import::new(from, name), progress)
    }

    /// As [`Catalog::import`], with what else is known of the model.
    ///
    /// # Errors
    /// As [`Catalog::import`], and [`ArtifactError::DigestMismatch`] for a file that is not the expected one.
    pub fn import_with(
        &self,
        import: &Import,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Manifest, ArtifactError> {
        import::run(self, import, progress)
    }

    /// All models.
    ///
    /// # Errors
    /// When the directory cannot be listed; a broken model is part of the listing.
    pub fn list(&self) -> Result<Listing, ArtifactError> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.dir).map_err(ArtifactError::io("list", &self.dir))? {
            let entry = entry.map_err(ArtifactError::io("list", &self.dir))?;
            let Some(name) = name_of(&entry.file_name()) else { continue };
            match self.find(&name) {
                Ok(manifest) => listing.models.push(manifest),
                Err(fault) => listing.broken.push(fault),
            }
        }
        listing.models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    /// The manifest of `name`.
    ///
    /// # Errors
    /// [`ArtifactError::UnknownModel`], or a manifest that is not usable.
    pub fn find(&self, name: &str) -> Result<Manifest, ArtifactError> {
        let dir = self.path(name)?;
        if !dir.is_dir() {
            return Err(ArtifactError::UnknownModel { name: shown(name) });
        }
        let path = dir.join(MANIFEST);
        let manifest = Manifest::read(&path)?;
        if manifest.name != name {
            let message = format!("it is the manifest of `{}`", shown(&manifest.name));
            return Err(ArtifactError::BadManifest { path, message });
        }
        Ok(manifest)
    }

    /// The directory of the model `name`, whether or not it is there.
    ///
    /// # Errors
    /// [`ArtifactError::BadModelName`].
    pub fn path(&self, name: &str) -> Result<PathBuf, ArtifactError> {
        Ok(self.dir.join(directory_of(name)?))
    }

    /// The files of `name`, after their digests were checked; see the module's words on what is remembered.
    ///
    /// # Errors
    /// As [`Catalog::find`], and the first file that is missing or differs.
    pub fn load(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Verified<ModelFiles>, ArtifactError> {
        let manifest = self.find(name)?;
        let dir = self.path(name)?;
        let mut stamps = Stamps::read(&dir);
        let fresh: Vec<_> = manifest.files.iter().filter(|file| !stamps.vouch_for(&dir, file)).collect();
        let mut tally = Tally::new(fresh.iter().map(|file| file.size_bytes).sum(), progress);
        for file in &fresh {
            let stamp = check_file(&dir, file, &mut tally)?;
            stamps.remember(file, stamp);
        }
        if !fresh.is_empty() {
            stamps.write(&dir);
        }
        Verified::files(&dir, manifest.names(), manifest.digest())
    }

    /// Reads every file of `name` again, whatever is remembered, and says which are bad.
    ///
    /// # Errors
    /// As [`Catalog::find`]; bad files are in the report.
    pub fn verify(&self, name: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, ArtifactError> {
        let manifest = self.find(name)?;
        let dir = self.path(name)?;
        let mut report = Report { files: manifest.files.len(), size_bytes: manifest.size_bytes(), faults: Vec::new() };
        let mut stamps = Stamps::default();
        let mut tally = Tally::new(report.size_bytes, progress);
        for file in &manifest.files {
            match check_file(&dir, file, &mut tally) {
                Ok(stamp) => stamps.remember(file, stamp),
                Err(fault) => report.faults.push(fault),
            }
        }
        stamps.write(&dir);
        Ok(report)
    }

    /// Removes the model `name`. A model that is being served stays readable until it is closed.
    ///
    /// # Errors
    /// [`ArtifactError::UnknownModel`], and those of the file system.
    pub fn remove(&self, name: &str) -> Result<(), ArtifactError> {
        let path = self.path(name)?;
        if !path.is_dir() {
            return Err(ArtifactError::UnknownModel { name: shown(name) });
        }
        // The name goes first, in one step: an interrupted removal leaves no half model, only something to sweep.
        let doomed = stage_path(&self.dir, import::REMOVAL);
        fs::rename(&path, &doomed).map_err(ArtifactError::io("remove", &path))?;
        fs::remove_dir_all(&doomed).map_err(ArtifactError::io("remove", &path))
    }
}

/// The directory of a model. `/` becomes `+`, which no name holds, so that different names never share one.
fn directory_of(name: &str) -> Result<String, ArtifactError> {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.len() <= 96
            && !part.ends_with('.')
            && part.chars().all(is_plain)
    };
    if name.split('/').count() > 2 || !name.split('/').all(part) {
        return Err(ArtifactError::BadModelName { name: shown(name) });
    }
    Ok(name.replace('/', "+"))
}

/// The model of a directory, if it is one: not an unfinished import, not somebody's file.
fn name_of(directory: &OsStr) -> Option<String> {
    let name = directory.to_str()?.replacen('+', "/", 1);
    directory_of(&name).is_ok_and(|back| directory == OsStr::new(&back)).then_some(name)
}

const MANIFEST: &str = "manifest.json";
