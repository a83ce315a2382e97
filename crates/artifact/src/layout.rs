//! Which files make up a model: a GGUF, a Hugging Face directory or a Mistral one; or an adapter, as PEFT has it. Looks at names (and at a shard index), not
//! at tensors; `model` reads those.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::shown;
use crate::sharded::ShardedIndex;
use crate::{AdapterConfig, ArtifactError};

/// The files of a model on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One self-contained file.
    Gguf(PathBuf),
    /// `config.json` beside `model.safetensors`, or beside shards and their index. `weights` is sorted by name.
    HuggingFace { dir: PathBuf, weights: Vec<PathBuf>, config: PathBuf },
    /// `params.json` beside `consolidated.safetensors` or its shards. `weights` is sorted by name.
    Mistral { dir: PathBuf, weights: Vec<PathBuf>, params: PathBuf },
    /// `adapter_config.json` beside `adapter_model.safetensors`: what is added to a base, and no model without it.
    Adapter { dir: PathBuf, weights: PathBuf, config: PathBuf },
}

impl Layout {
    /// Finds the model at `path`, a GGUF file or a directory. A directory that holds both layouts (Mistral's repositories do)
    /// is read as Hugging Face's.
    ///
    /// # Errors
    /// No model, several, an incomplete one, or one in a form that is not read (pickles, split GGUF).
    pub fn detect(path: &Path) -> Result<Layout, ArtifactError> {
        let about = fs::metadata(path).map_err(ArtifactError::io("open", path))?;
        if about.is_file() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(".gguf") {
                refuse_split(name)?;
                return Ok(Layout::Gguf(path.to_path_buf()));
            }
            if is_pickle(name) {
                return Err(ArtifactError::Pickle { file: shown(name) });
            }
            return Err(ArtifactError::NoModel { path: path.to_path_buf() });
        }
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(path).map_err(ArtifactError::io("list", path))? {
            let entry = entry.map_err(ArtifactError::io("list", path))?;
            // A name that is no text is none of those looked for.
            if let Some(name) = entry.file_name().to_str() {
                names.insert(name.to_owned());
            }
        }
        Layout::among(path, &names)
    }

    /// Finds the model among the files `names` of `dir`, and looks at no others.
    pub(crate) fn among(dir: &Path, names: &BTreeSet<String>) -> Result<Layout, ArtifactError> {
        let hugging_face = hugging_face(dir, names);
        if let Ok(Some(layout)) = hugging_face {
            return Ok(layout);
        }
        if let Some(layout) = mistral(dir, names)? {
            return Ok(layout);
        }
        if hugging_face.is_ok()
            && let Some(layout) = adapter(dir, names)?
        {
            return Ok(layout);
        }
        let ggufs: Vec<&String> =
            names.iter().filter(|name| name.ends_with(".gguf") && !name.starts_with("mmproj")).collect();
        match ggufs.as_slice() {
            [] => {}
            [only] => {
                refuse_split(only)?;
                return Ok(Layout::Gguf(dir.join(only)));
            }
            [first, ..] => {
                refuse_split(first)?;
                let files = ggufs.iter().take(12).map(|name| shown(name)).collect();
                return Err(ArtifactError::SeveralModels { dir: dir.to_path_buf(), files });
            }
        }
        hugging_face?;
        if let Some(pickle) = names.iter().find(|name| is_pickle(name)) {
            return Err(ArtifactError::Pickle { file: shown(pickle) });
        }
        let lacks = |file: &str| Err(ArtifactError::MissingFile { dir: dir.to_path_buf(), file: file.to_owned() });
        match (names.contains("config.json"), names.contains("params.json")) {
            (true, _) => lacks("model.safetensors"),
            (false, true) => lacks("consolidated.safetensors"),
            (false, false) if names.contains("model.safetensors") => lacks("config.json"),
            (false, false) if names.contains("consolidated.safetensors") => lacks("params.json"),
            (false, false) => Err(ArtifactError::NoModel { path: dir.to_path_buf() }),
        }
    }

    /// The directory that holds the model's files.
    pub fn dir(&self) -> &Path {
        match self {
            Layout::Gguf(path) => path.parent().unwrap_or(Path::new("")),
            Layout::HuggingFace { dir, .. } | Layout::Mistral { dir, .. } | Layout::Adapter { dir, .. } => dir,
        }
    }

    /// The files that hold tensors.
    pub fn weights(&self) -> &[PathBuf] {
        match self {
            Layout::Gguf(path) | Layout::Adapter { weights: path, .. } => std::slice::from_ref(path),
            Layout::HuggingFace { weights, .. } | Layout::Mistral { weights, .. } => weights,
        }
    }

    /// The file of hyper-parameters; a GGUF holds its own.
    pub fn config(&self) -> Option<&Path> {
        match self {
            Layout::Gguf(_) => None,
            Layout::HuggingFace { config, .. } | Layout::Adapter { config, .. } => Some(config),
            Layout::Mistral { params, .. } => Some(params),
        }
    }

    /// How manifests call it.
    pub fn name(&self) -> &'static str {
        match self {
            Layout::Gguf(_) => "gguf",
            Layout::HuggingFace { .. } => "hugging-face",
            Layout::Mistral { .. } => "mistral",
            Layout::Adapter { .. } => "adapter",
        }
    }
}

fn hugging_face(dir: &Path, names: &BTreeSet<String>) -> Result<Option<Layout>, ArtifactError> {
    if !names.contains("config.json") {
        return Ok(None);
    }
    let weights = if names.contains(HF_INDEX) {
        sharded(dir, HF_INDEX, names)?
    } else if names.contains("model.safetensors") {
        vec![dir.join("model.safetensors")]
    } else if names.iter().any(|name| name.starts_with("model-") && name.ends_with(".safetensors")) {
        return Err(ArtifactError::MissingFile { dir: dir.to_path_buf(), file: HF_INDEX.to_owned() });
    } else {
        return Ok(None);
    };
    Ok(Some(Layout::HuggingFace { dir: dir.to_path_buf(), weights, config: dir.join("config.json") }))
}

fn mistral(dir: &Path, names: &BTreeSet<String>) -> Result<Option<Layout>, ArtifactError> {
    if !names.contains("params.json") {
        return Ok(None);
    }
    let weights = if names.contains(MISTRAL_INDEX) {
        sharded(dir, MISTRAL_INDEX, names)?
    } else if names.contains("consolidated.safetensors") {
        vec![dir.join("consolidated.safetensors")]
    } else {
        let shard = |name: &&String| name.starts_with("consolidated-") && name.ends_with(".safetensors");
        names.iter().filter(shard).map(|name| dir.join(name)).collect()
    };
    let layout = Layout::Mistral { dir: dir.to_path_buf(), weights, params: dir.join("params.json") };
    Ok((!layout.weights().is_empty()).then_some(layout))
}

fn adapter(dir: &Path, names: &BTreeSet<String>) -> Result<Option<Layout>, ArtifactError> {
    if !names.contains(AdapterConfig::FILE) {
        return Ok(None);
    }
    if names.contains(AdapterConfig::WEIGHTS) {
        let (weights, config) = (dir.join(AdapterConfig::WEIGHTS), dir.join(AdapterConfig::FILE));
        return Ok(Some(Layout::Adapter { dir: dir.to_path_buf(), weights, config }));
    }
    if names.contains(ADAPTER_PICKLE) {
        return Err(ArtifactError::Pickle { file: ADAPTER_PICKLE.to_owned() });
    }
    Err(ArtifactError::MissingFile { dir: dir.to_path_buf(), file: AdapterConfig::WEIGHTS.to_owned() })
}

/// The shards that an index names, all of which must be there.
fn sharded(dir: &Path, index: &str, names: &BTreeSet<String>) -> Result<Vec<PathBuf>, ArtifactError> {
    let index = ShardedIndex::open(&dir.join(index))?;
    match index.shards().iter().find(|shard| !names.contains(*shard)) {
        Some(missing) => Err(ArtifactError::MissingFile { dir: dir.to_path_buf(), file: shown(missing) }),
        None => Ok(index.shards().iter().map(|shard| dir.join(shard)).collect()),
    }
}

/// `name-00001-of-00003.gguf` holds a third of a model.
fn refuse_split(name: &str) -> Result<(), ArtifactError> {
    let parts = name.strip_suffix(".gguf").and_then(|stem| stem.rsplit_once("-of-"));
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    match parts {
        Some((_, total)) if digits(total) && total != "00001" => Err(ArtifactError::SplitGguf { file: shown(name) }),
        _ => Ok(()),
    }
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt"].iter().any(|suffix| name.ends_with(suffix))
        && ["pytorch_model", "consolidated", "model"].iter().any(|stem| name.starts_with(stem))
}

const ADAPTER_PICKLE: &str = "adapter_model.bin";
const HF_INDEX: &str = "model.safetensors.index.json";
const MISTRAL_INDEX: &str = "consolidated.safetensors.index.json";
