//! What one model needs to read and write text, put together from its files.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use falaj_artifact::gguf::Gguf;
use serde_json::Value;

use crate::{ChatFormat, InstructVersion, TextError, Tokenizer};

/// A model's tokenizer, and its chat format where it has one.
#[derive(Debug, Clone)]
pub struct ModelText {
    pub tokenizer: Arc<Tokenizer>,
    pub chat: Option<ChatFormat>,
}

impl ModelText {
    /// From a GGUF's metadata: the vocabulary, and `tokenizer.chat_template`.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextError> {
        let tokenizer = Arc::new(Tokenizer::from_gguf(gguf)?);
        let template = gguf
            .get::<&str>("tokenizer.chat_template")
            .map_err(|error| TextError::File { format: "GGUF", reason: error.to_string() })?;
        let chat = template.map(|template| ChatFormat::jinja(template, &tokenizer)).transpose()?;
        Ok(Self { tokenizer, chat })
    }

    /// From a model's folder: `tekken.json`, `tokenizer.json` or `tokenizer.model` (also `tokenizer.model.v3` and the
    /// like), with `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json` beside it. Only files in
    /// `names` are read: whoever checked digests passes the names that were checked, so that a file added later is not used.
    pub fn from_dir(dir: &Path, names: &BTreeSet<String>) -> Result<Self, TextError> {
        Self::from_folder(&Folder::Disk { dir, names })
    }

    pub(crate) fn from_folder(dir: &Folder) -> Result<Self, TextError> {
        let config = read_json(dir, "tokenizer_config.json")?;
        let mut version = None;
        let mut tokenizer = if let Some(bytes) = dir.read("tekken.json")? {
            let tokenizer = Tokenizer::from_tekken(&bytes)?;
            version = tokenizer.instruct_version()?;
            tokenizer
        } else if let Some(bytes) = dir.read("tokenizer.json")? {
            Tokenizer::from_tokenizer_json(&bytes)?
        } else {
            let (bytes, found) = read_sentencepiece(dir)?;
            version = found;
            Tokenizer::from_sentencepiece(&bytes)?
        };
        apply_config(&mut tokenizer, config.as_ref(), read_json(dir, "generation_config.json")?.as_ref());
        let tokenizer = Arc::new(tokenizer);
        let template = match dir.read("chat_template.jinja")? {
            Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            None => config.as_ref().and_then(template_of),
        };
        let chat = match (template, version) {
            // Mistral's own format is the exact one; templates beside it are others' approximations.
            (_, Some(version)) => Some(ChatFormat::mistral(version, &tokenizer)?),
            (Some(template), None) => Some(ChatFormat::jinja(&template, &tokenizer)?),
            // Mistral's own layout without a version in a file's name.
            (None, None) if dir.has("params.json") => {
                Some(ChatFormat::mistral(version_of_vocabulary(&tokenizer), &tokenizer)?)
            }
            (None, None) => None,
        };
        Ok(Self { tokenizer, chat })
    }
}

/// The oldest instruct version whose control tokens the vocabulary has all of.
fn version_of_vocabulary(tokenizer: &Tokenizer) -> InstructVersion {
    let has = |name| tokenizer.special_id(name).is_some();
    match () {
        () if has("[SYSTEM_PROMPT]") => InstructVersion::V7,
        () if has("[PREFIX]") => InstructVersion::V3,
        () if has("[INST]") => InstructVersion::V2,
        () => InstructVersion::V1,
    }
}

fn apply_config(tokenizer: &mut Tokenizer, config: Option<&Value>, generation: Option<&Value>) {
    let named = |tokenizer: &Tokenizer, key: &str| {
        let value = config?.get(key)?;
        let name = value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?;
        tokenizer.named_token(name)
    };
    if let Some(bos) = named(tokenizer, "bos_token") {
        tokenizer.set_bos(bos);
    }
    let mut ends: Vec<u32> = named(tokenizer, "eos_token").into_iter().collect();
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match generation.and_then(|generation| generation.get("eos_token_id")) {
        Some(Value::Array(list)) => ends.extend(list.iter().filter_map(id)),
        Some(value) => ends.extend(id(value)),
        None => {}
    }
    ends.extend(tokenizer.eos_tokens());
    let mut seen = std::collections::HashSet::new();
    ends.retain(|token| seen.insert(*token));
    tokenizer.set_eos(&ends);
}

/// A template, or the one named `default` of a list.
pub(crate) fn template_of(config: &Value) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(template) => Some(template.clone()),
        Value::Array(list) => {
            let named = |name: &str| list.iter().find(|item| item.get("name").and_then(Value::as_str) == Some(name));
            named("tool_use").or_else(|| named("default"))?.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// `tokenizer.model`, or the newest `tokenizer.model.vN`, whose name tells the instruct version.
pub(crate) fn read_sentencepiece(dir: &Folder) -> Result<(Vec<u8>, Option<InstructVersion>), TextError> {
    for version in ["v7m1", "v7", "v3", "v2", "v1"] {
        for name in [format!("tokenizer.model.{version}"), format!("mistral_instruct_tokenizer.model.{version}")] {
            if let Some(bytes) = dir.read(&name)? {
                return Ok((bytes, Some(version.parse()?)));
            }
        }
    }
    match dir.read("tokenizer.model")? {
        Some(bytes) => Ok((bytes, None)),
        None => Err(TextError::File {
            format: "model's",
            reason: "there is no tokenizer.json, tekken.json or tokenizer.model in its folder".to_owned(),
        }),
    }
}

/// Files by name: those of a folder that count, or some that were just made.
pub(crate) enum Folder<'a> {
    Disk { dir: &'a Path, names: &'a BTreeSet<String> },
    Memory(&'a [(&'static str, Vec<u8>)]),
}

impl Folder<'_> {
    pub fn has(&self, name: &str) -> bool {
        match self {
            Folder::Disk { names, .. } => names.contains(name),
            Folder::Memory(files) => files.iter().any(|(known, _)| *known == name),
        }
    }

    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, TextError> {
        let path = match self {
            Folder::Memory(files) => {
                return Ok(files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.clone()));
            }
            Folder::Disk { names, .. } if !names.contains(name) => return Ok(None),
            Folder::Disk { dir, .. } => dir.join(name),
        };
        let fail = |error: std::io::Error| TextError::File { format: "model's", reason: format!("`{name}`: {error}") };
        match std::fs::metadata(&path) {
            Err(error) => Err(fail(error)),
            Ok(file) if file.len() > MAX_FILE_BYTES => Err(TextError::TooLarge {
                what: "a tokenizer file",
                got: usize::try_from(file.len()).unwrap_or(usize::MAX),
                max: MAX_FILE_BYTES as usize,
            }),
            Ok(_) => std::fs::read(&path).map(Some).map_err(fail),
        }
    }
}

pub(crate) fn read_json(dir: &Folder, name: &str) -> Result<Option<Value>, TextError> {
    let Some(bytes) = dir.read(name)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| TextError::File { format: "model's", reason: format!("`{name}`: {error}") })
}

/// Several times the largest tokenizer file in use.
const MAX_FILE_BYTES: u64 = 128 << 20;
