//! The manifest of a model: which files it is made of, their digests, and what they are. JSON with a fixed field order, so
//! that equal models make equal manifests but for name and date.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::shown;
use crate::files::{is_plain_name, read_limited};
use crate::found::Known;
use crate::hashing::{Tally, hash_file};
use crate::summary::Summary;
use crate::verified::{ModelFiles, Verified};
use crate::{ArtifactError, Digest, Hasher, Layout, Progress};

/// What somebody vouches for. The digests bind the files; all else is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form, [`Manifest::VERSION`].
    pub version: u32,
    pub name: String,
    /// Seconds since 1970, UTC.
    pub created: u64,
    /// `gguf`, `hugging-face`, `mistral` or `adapter`.
    pub format: String,
    /// As the model calls it: `llama`, `MistralForCausalLM`.
    pub architecture: String,
    /// Number of values in all tensors.
    pub parameters: u64,
    /// The same per element type, such as `Q8_0`.
    pub dtypes: BTreeMap<String, u64>,
    /// Where it came from, in the importer's words.
    pub source: Option<String>,
    pub license: Option<String>,
    /// What an adapter is added to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// Sorted by path, each once.
    pub files: Vec<FileEntry>,
}

/// The model that an adapter was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// In the catalog, or the built-in model's.
    pub name: String,
    /// Of its contents, when the adapter came.
    pub digest: Digest,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// A plain name in the model's directory.
    pub path: String,
    pub size_bytes: u64,
    pub sha256: Digest,
}

impl Manifest {
    pub const VERSION: u32 = 1;

    /// Describes and hashes the model at `path` where it lies, a GGUF file or a directory.
    ///
    /// # Errors
    /// Those of [`Layout::detect`], of the files' headers and of reading.
    pub fn of(path: &Path, name: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Manifest, ArtifactError> {
        Manifest::of_layout(path, name, &mut Known::default(), progress).map(|(manifest, _)| manifest)
    }

    /// Leaves in `known` what was hashed, and does not hash what it knows.
    pub(crate) fn of_layout(
        path: &Path,
        name: &str,
        known: &mut Known,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(Manifest, Layout), ArtifactError> {
        let layout = Layout::detect(path)?;
        let mut files = Vec::new();
        let parts: Vec<_> = parts(&layout, path)?.into_iter().map(|part| (known.find(&part.path), part)).collect();
        let fresh = parts.iter().filter(|(found, _)| found.is_none());
        let mut tally = Tally::new(fresh.map(|(_, part)| part.size_bytes).sum(), progress);
        for (found, part) in parts {
            let hashed = match found {
                Some(hashed) => hashed,
                None => hash_file(&part.path, &part.name, &mut tally)?,
            };
            known.remember(&part.path, &hashed);
            files.push(FileEntry { path: part.name, size_bytes: hashed.size_bytes, sha256: hashed.digest });
        }
        Ok((Manifest::new(name, &layout, Summary::of(&layout)?, files), layout))
    }

    pub(crate) fn new(name: &str, layout: &Layout, summary: Summary, mut files: Vec<FileEntry>) -> Manifest {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Manifest {
            version: Manifest::VERSION,
            name: name.to_owned(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            format: layout.name().to_owned(),
            architecture: summary.architecture,
            parameters: summary.parameters,
            dtypes: summary.dtypes,
            source: None,
            license: summary.license,
            base: None,
            files,
        }
    }

    /// Reads and checks the manifest at `path`.
    ///
    /// # Errors
    /// [`ArtifactError::BadManifest`], and those of reading.
    pub fn read(path: &Path) -> Result<Manifest, ArtifactError> {
        let bytes = read_limited(path, MANIFEST_LIMIT_BYTES)?;
        Manifest::parse(&bytes)
            .map_err(|message| ArtifactError::BadManifest { path: path.to_path_buf(), message: shown(&message) })
    }

    /// Parses a manifest and checks its file names; the error says what is wrong.
    fn parse(json: &[u8]) -> Result<Manifest, String> {
        let manifest: Manifest = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if manifest.version != Manifest::VERSION {
            return Err(format!("its version is {}, this program knows {}", manifest.version, Manifest::VERSION));
        }
        if let Some(bad) = manifest.files.iter().find(|file| !is_plain_name(&file.path)) {
            return Err(format!("`{}` is no plain file name", bad.path));
        }
        // Ascending also means that no path occurs twice.
        if !manifest.files.is_sorted_by(|a, b| a.path < b.path) {
            return Err("its files are not in ascending order".to_owned());
        }
        Ok(manifest)
    }

    /// The manifest as it is stored: indented JSON and a line feed.
    pub fn to_json(&self) -> String {
        // Serialising strings and numbers into memory has no way to fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Identifies the model's contents, whatever it is called: the SHA-256 of what `sha256sum` prints for its files in the
    /// order of their names, so that anybody can recompute it.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        for file in &self.files {
            hasher.update(format!("{}  {}\n", file.sha256, file.path).as_bytes());
        }
        hasher.finish()
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size_bytes))
    }

    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }
}

impl Verified<ModelFiles> {
    /// Hashes the files in `dir` and compares them with `manifest`. [`crate::Catalog::load`] does the same and remembers.
    ///
    /// # Errors
    /// The first file that is missing or differs.
    pub fn check(
        dir: &Path,
        manifest: &Manifest,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Verified<ModelFiles>, ArtifactError> {
        if let Some(bad) = manifest.files.iter().find(|file| !is_plain_name(&file.path)) {
            return Err(ArtifactError::BadName { what: "file name", name: shown(&bad.path) });
        }
        let mut tally = Tally::new(manifest.size_bytes(), progress);
        for file in &manifest.files {
            check_file(dir, file, &mut tally)?;
        }
        Verified::files(dir, manifest.names(), manifest.digest())
    }
}

/// Hashes one file and compares. Returns the stamp under which the digest may be remembered, if it may.
pub(crate) fn check_file(
    dir: &Path,
    file: &FileEntry,
    tally: &mut Tally<'_>,
) -> Result<Option<crate::hashing::Stamp>, ArtifactError> {
    let path = dir.join(&file.path);
    // A length that differs needs no hashing to be wrong.
    let about = std::fs::metadata(&path).map_err(ArtifactError::io("open", &path))?;
    let length = |found_bytes| ArtifactError::LengthMismatch {
        file: shown(&file.path),
        expected_bytes: file.size_bytes,
        found_bytes,
    };
    if about.len() != file.size_bytes {
        return Err(length(about.len()));
    }
    let hashed = hash_file(&path, &file.path, tally)?;
    if hashed.size_bytes != file.size_bytes {
        return Err(length(hashed.size_bytes));
    }
    if hashed.digest != file.sha256 {
        let (expected, found) = (file.sha256, hashed.digest);
        return Err(ArtifactError::DigestMismatch { file: shown(&file.path), expected, found });
    }
    Ok(hashed.stamp)
}

/// A file that belongs to a model, before it is in a manifest.
pub(crate) struct Part {
    pub name: String,
    pub path: PathBuf,
    pub size_bytes: u64,
}

/// The files of the model that was found at `from`: weights and configuration, and from a directory the well-known files
/// beside them. Sorted by name.
pub(crate) fn parts(layout: &Layout, from: &Path) -> Result<Vec<Part>, ArtifactError> {
    let mut paths: BTreeSet<PathBuf> = layout.weights().iter().cloned().collect();
    paths.extend(layout.config().map(Path::to_path_buf));
    if from.is_dir() {
        let listing = std::fs::read_dir(from).map_err(ArtifactError::io("list", from))?;
        for entry in listing {
            let entry = entry.map_err(ArtifactError::io("list", from))?;
            let known = entry.file_name().to_str().is_some_and(|name| {
                SIDE_FILES.contains(&name) || name.starts_with("tokenizer.model.v") || index_of(layout) == Some(name)
            });
            if known {
                paths.insert(entry.path());
            }
        }
    }
    let mut parts = Vec::new();
    for path in paths {
        // Hub caches are trees of symbolic links: what counts is the file behind.
        let target = path.canonicalize().map_err(ArtifactError::io("open", &path))?;
        let about = std::fs::metadata(&target).map_err(ArtifactError::io("open", &path))?;
        if !about.is_file() {
            return Err(ArtifactError::NotAFile { path });
        }
        let written = path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain_name(name));
        let name = match (written, layout) {
            (Some(name), _) => name,
            (None, Layout::Gguf(_)) => "model.gguf",
            (None, _) => return Err(ArtifactError::NotAFile { path }),
        };
        parts.push(Part { name: name.to_owned(), path: target, size_bytes: about.len() });
    }
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(parts)
}

/// The shard index, which counts only beside the weights that it indexes.
fn index_of(layout: &Layout) -> Option<&'static str> {
    match layout {
        Layout::Gguf(_) | Layout::Adapter { .. } => None,
        Layout::HuggingFace { .. } => Some("model.safetensors.index.json"),
        Layout::Mistral { .. } => Some("consolidated.safetensors.index.json"),
    }
}

/// What a model's directory may hold beside its weights that somebody reads: tokenizers, templates, terms, words.
const SIDE_FILES: [&str; 21] = [
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "README.md",
    "SYSTEM_PROMPT.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "license.txt",
    "merges.txt",
    "params.json",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "training.json",
    "vocab.json",
    "vocab.txt",
];
const MANIFEST_LIMIT_BYTES: u64 = 16 << 20;
