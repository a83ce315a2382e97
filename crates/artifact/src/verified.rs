//! [`Verified`]: the proof, as a type, that digests were checked. `model::load` takes nothing else, so weights that nobody
//! vouched for do not compile into an answer.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::{ArtifactError, Digest, Layout};

/// A `T` whose bytes matched the digests of a manifest (or of the source code, for the built-in model) when they were last
/// read, since when the file system has seen no change: `catalog.rs` has the terms. Only this crate can make one.
///
/// What it does not promise: that the file is still the same when it is read. A process that writes into a mapped file while
/// it is served changes what is served; keep the catalog writable for its owner only.
#[derive(Clone, Debug)]
pub struct Verified<T> {
    inner: T,
    digest: Digest,
}

impl<T> Verified<T> {
    pub(crate) fn vouched(inner: T, digest: Digest) -> Verified<T> {
        Verified { inner, digest }
    }

    /// Identifies the contents: [`crate::Manifest::digest`] for files, the file's own digest for embedded bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

/// A model's files: on disk, or compiled into the executable.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    Disk {
        layout: Layout,
        /// Names of all files that were checked, tokenizer and templates among them; all lie in `layout.dir()`.
        names: BTreeSet<String>,
    },
    /// A whole GGUF. Not aligned to anything.
    Embedded { gguf: &'static [u8] },
}

impl ModelFiles {
    /// Where the weights are, when they are on disk.
    pub fn layout(&self) -> Option<&Layout> {
        match self {
            ModelFiles::Disk { layout, .. } => Some(layout),
            ModelFiles::Embedded { .. } => None,
        }
    }

    /// The GGUF's bytes, when it is compiled in.
    pub fn embedded(&self) -> Option<&'static [u8]> {
        match self {
            ModelFiles::Disk { .. } => None,
            ModelFiles::Embedded { gguf } => Some(gguf),
        }
    }

    /// The path of a file beside the weights (`tokenizer.json`, `chat_template.jinja`), if it was checked with them.
    pub fn side_file(&self, name: &str) -> Option<PathBuf> {
        match self {
            ModelFiles::Disk { layout, names } => names.contains(name).then(|| layout.dir().join(name)),
            ModelFiles::Embedded { .. } => None,
        }
    }

    /// The names of all checked files; empty for an embedded model.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            ModelFiles::Disk { names, .. } => Some(names),
            ModelFiles::Embedded { .. } => None,
        };
        names.into_iter().flatten().map(String::as_str)
    }
}

impl Verified<ModelFiles> {
    /// The built-in model: `bytes` are in the executable, `expected` in its source.
    ///
    /// # Errors
    /// [`ArtifactError::DigestMismatch`].
    pub fn embedded(bytes: &'static [u8], expected: Digest) -> Result<Verified<ModelFiles>, ArtifactError> {
        let found = Digest::of(bytes);
        if found != expected {
            return Err(ArtifactError::DigestMismatch { file: "the built-in model".to_owned(), expected, found });
        }
        Ok(Verified::vouched(ModelFiles::Embedded { gguf: bytes }, expected))
    }

    /// Files of `dir` that were found to have the digests of a manifest. The layout is looked for among these alone, so that
    /// a file somebody added later is never picked up.
    pub(crate) fn files(
        dir: &Path,
        names: BTreeSet<String>,
        digest: Digest,
    ) -> Result<Verified<ModelFiles>, ArtifactError> {
        let layout = Layout::among(dir, &names)?;
        Ok(Verified::vouched(ModelFiles::Disk { layout, names }, digest))
    }
}
