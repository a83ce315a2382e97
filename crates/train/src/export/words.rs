//! Tokenizer and chat template of a base, in the files or the metadata of the export's form.

use std::borrow::Cow;
use std::fs;

use falaj_artifact::gguf::{Gguf, Value};
use falaj_artifact::{Layout, ModelFiles, Verified};
use falaj_text::{gguf_metadata, hugging_face_files};

use super::ExportFormat;
use crate::TrainError;

/// Whether `base`'s tokenizer of `vocab_size` tokens can be written beside weights of this form: to be known before hours of work.
pub(crate) fn check(base: &Verified<ModelFiles>, format: ExportFormat, vocab_size: usize) -> Result<(), TrainError> {
    match format {
        ExportFormat::Peft => Ok(()),
        ExportFormat::Safetensors => files(base).map(|_| ()),
        _ => metadata(base, vocab_size).map(|_| ()),
    }
}

/// For a GGUF of a model of `vocab_size` tokens.
pub(super) fn metadata(base: &Verified<ModelFiles>, vocab_size: usize) -> Result<Vec<(String, Value)>, TrainError> {
    let Some(bytes) = gguf(base)? else {
        return Ok(gguf_metadata(&files(base)?, vocab_size)?);
    };
    let kept = |key: &str| key.starts_with("tokenizer.") || key == "general.license";
    Ok(Gguf::parse(&bytes)?.metadata.into_iter().filter(|(key, _)| kept(key)).collect())
}

/// For a folder.
pub(super) fn files(base: &Verified<ModelFiles>) -> Result<Vec<(&'static str, Vec<u8>)>, TrainError> {
    if let Some(bytes) = gguf(base)? {
        return Ok(hugging_face_files(&Gguf::parse(&bytes)?)?);
    }
    let read = |name: &&'static str| {
        let path = base.side_file(name)?;
        Some(fs::read(&path).map(|bytes| (*name, bytes)).map_err(TrainError::io("read", &path)))
    };
    SIDE_FILES.iter().filter_map(read).collect()
}

/// The base's bytes, where it is a GGUF.
fn gguf(base: &Verified<ModelFiles>) -> Result<Option<Cow<'static, [u8]>>, TrainError> {
    match (base.embedded(), base.layout()) {
        (Some(bytes), _) => Ok(Some(Cow::Borrowed(bytes))),
        (None, Some(Layout::Gguf(path))) => Ok(Some(Cow::Owned(fs::read(path).map_err(TrainError::io("read", path))?))),
        _ => Ok(None),
    }
}

/// All that a tokenizer or a chat format is read from, and what others read.
const SIDE_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer.model.v1",
    "tokenizer.model.v2",
    "tokenizer.model.v3",
    "tokenizer.model.v7",
    "tokenizer.model.v7m1",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];
