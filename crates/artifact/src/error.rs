//! What can be wrong with a model file, a manifest or the catalog. Names from hostile files are escaped and cut before they
//! enter an error, so that a message is always one printable line.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Digest, Dtype};

/// Every failure of this crate. The message names the cause and the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write the {format} file: {source}")]
    Write { format: &'static str, source: io::Error },

    // A file's bytes.
    #[error(
        "not a {format} file: it begins with {found:02x?}; check that the download finished and that the name fits the contents"
    )]
    NotThisFormat { format: &'static str, found: Vec<u8> },
    #[error("GGUF version {version} is not read here, only 2 and 3; convert the model again with a current tool")]
    GgufVersion { version: u32 },
    #[error("this GGUF file is big-endian; convert it to little-endian (gguf_convert_endian.py)")]
    BigEndian,
    #[error(
        "the {format} file ends early: {what} at byte {offset} needs {need_bytes} bytes, the file has {have_bytes}; fetch it again"
    )]
    Truncated { format: &'static str, what: &'static str, offset: u64, need_bytes: u64, have_bytes: u64 },
    #[error(
        "the {format} header claims {claimed} {what}, but only {most} can fit; the file is damaged or hostile, fetch it again"
    )]
    TooMany { format: &'static str, what: &'static str, claimed: u64, most: u64 },
    #[error("the {format} header is larger than {limit_bytes} bytes; no real model needs that, fetch the file again")]
    HeaderTooLarge { format: &'static str, limit_bytes: u64 },
    #[error("{what} is not valid JSON: {message}; fetch the file again")]
    Json { what: &'static str, message: String },
    #[error("{what} is not UTF-8 text, at byte {offset}; the file is damaged, fetch it again")]
    NotUtf8 { what: &'static str, offset: u64 },
    #[error("the {what} `{name}` is empty, too long or holds control characters; the file is damaged or hostile")]
    BadName { what: &'static str, name: String },
    #[error("the {what} `{name}` occurs twice; the file is damaged or hostile")]
    Duplicate { what: &'static str, name: String },
    #[error("the GGUF metadata `{key}` has the unknown value type {code}; convert the model again with a current tool")]
    UnknownValueType { key: String, code: u32 },
    #[error("the GGUF metadata `{key}` is an array of arrays, which no model uses and nothing here reads")]
    NestedArray { key: String },
    #[error("the GGUF metadata `{key}` holds a truth value that is neither 0 nor 1; the file is damaged")]
    BadBool { key: String },
    #[error("GGUF alignment {alignment} is not a power of two from 8 to 1048576; the file is damaged")]
    BadAlignment { alignment: u64 },
    #[error("tensor `{tensor}` has {rank} dimensions, at most {most} are read")]
    TooManyDimensions { tensor: String, rank: u64, most: u64 },
    #[error(
        "the shape {shape:?} of tensor `{tensor}` multiplies beyond what a machine can address; the file is hostile"
    )]
    ShapeOverflow { tensor: String, shape: Vec<u64> },
    #[error(
        "the rows of tensor `{tensor}` have {columns} values, which {dtype} cannot hold: it works in blocks of {block}"
    )]
    PartialBlock { tensor: String, dtype: Dtype, columns: u64, block: u64 },
    #[error(
        "tensor `{tensor}` takes {found_bytes} bytes, but its shape and type need {expected_bytes}; the file is damaged"
    )]
    SizeMismatch { tensor: String, expected_bytes: u64, found_bytes: u64 },
    #[error(
        "tensor `{tensor}` lies at bytes {begin}..{end} of a file of {file_bytes}; the file is cut or hostile, fetch it again"
    )]
    OutsideFile { tensor: String, begin: u64, end: u64, file_bytes: u64 },
    #[error(
        "tensor `{tensor}` begins at {offset}, which is no multiple of the alignment {alignment}; the file is damaged"
    )]
    Misaligned { tensor: String, offset: u64, alignment: u64 },
    #[error("tensors `{first}` and `{second}` share bytes; the file is damaged or hostile")]
    Overlap { first: String, second: String },
    #[error(
        "bytes {begin}..{end} of the safetensors data belong to no tensor, which the format forbids; the file is damaged"
    )]
    Hole { begin: u64, end: u64 },

    // What a file says, when somebody asks.
    #[error("the GGUF metadata has no `{key}`; the model is of another kind or was converted by an old tool")]
    MetadataMissing { key: String },
    #[error("the GGUF metadata `{key}` is {found}, not {expected}; convert the model again with a current tool")]
    MetadataType { key: String, expected: &'static str, found: &'static str },
    #[error("there is no tensor `{tensor}`; the model is of another kind or incomplete")]
    TensorMissing { tensor: String },
    #[error(
        "tensor `{tensor}` is stored as {dtype}, which is not read here; use F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K"
    )]
    UnsupportedDtype { tensor: String, dtype: Dtype },
    #[error("{dtype} cannot be written into a {format} file")]
    UnwritableDtype { dtype: Dtype, format: &'static str },
    #[error("the writer got tensor number {found} where {expected} were announced")]
    WriterCount { expected: usize, found: usize },

    // Several files.
    #[error("the shard name `{name}` is no plain safetensors file name; the index is hostile or damaged")]
    BadShardName { name: String },
    #[error("the index puts tensor `{tensor}` into `{shard}`, which does not hold it; fetch the model again")]
    NotInShard { tensor: String, shard: String },
    #[error("`{shard}` holds tensor `{tensor}`, which the index puts elsewhere; fetch the model again")]
    StrayTensor { tensor: String, shard: String },
    #[error("`{}` lacks `{file}`; fetch the model again", dir.display())]
    MissingFile { dir: PathBuf, file: String },
    #[error(
        "`{}` holds no model: expected a .gguf file, config.json with model.safetensors, or params.json with consolidated.safetensors",
        path.display()
    )]
    NoModel { path: PathBuf },
    #[error("`{}` holds several models ({}); name one of the files", dir.display(), files.join(", "))]
    SeveralModels { dir: PathBuf, files: Vec<String> },
    #[error("`{file}` is one part of a split GGUF; join the parts first (llama-gguf-split --merge)")]
    SplitGguf { file: String },
    #[error("`{file}` is a pickle, which can run code when it is read; convert it to safetensors")]
    Pickle { file: String },
    #[error("`{}` has {found_bytes} bytes, at most {limit_bytes} are read", path.display())]
    FileTooLarge { path: PathBuf, found_bytes: u64, limit_bytes: u64 },

    // Adapters.
    #[error(
        "the adapter uses {feature}, which is not computed here; train it as plain LoRA, or merge it into its base"
    )]
    UnsupportedAdapter { feature: String },
    #[error("`{name}` is an adapter; name the model that it was made for, which must be here")]
    AdapterWithoutBase { name: String },
    #[error("`{name}` is a whole model, no adapter; take it in without a base")]
    NotAnAdapter { name: String },

    // Manifests and the catalog.
    #[error("`{text}` is no SHA-256 digest: 64 hexadecimal digits were expected")]
    BadDigest { text: String },
    #[error(
        "`{name}` is no model name: use letters, digits, `.`, `_`, `-` and at most one `/`, each part beginning with a letter or digit"
    )]
    BadModelName { name: String },
    #[error("there is no model `{name}`; `falaj model list` shows those there are")]
    UnknownModel { name: String },
    #[error("there is already a model `{name}`; remove it first or choose another name")]
    ModelExists { name: String },
    #[error("the manifest `{}` is not usable: {message}; remove the model and import it again", path.display())]
    BadManifest { path: PathBuf, message: String },
    #[error("`{}` is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error(
        "`{file}` is not what was vouched for: its SHA-256 is {found}, not {expected}; remove the model and import it again"
    )]
    DigestMismatch { file: String, expected: Digest, found: Digest },
    #[error(
        "`{file}` is not what was vouched for: it has {found_bytes} bytes, not {expected_bytes}; remove the model and import it again"
    )]
    LengthMismatch { file: String, expected_bytes: u64, found_bytes: u64 },
    #[error("`{file}` changed while it was read; let nothing write to it and try again")]
    ChangedWhileRead { file: String },
}

impl ArtifactError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArtifactError {
        move |source| ArtifactError::Io { action, path: path.to_path_buf(), source }
    }
}

/// A foreign name made fit for a message: escaped, at most about 80 characters.
pub(crate) fn shown(name: &str) -> String {
    let mut out: String = name.chars().take(LONGEST_SHOWN).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST_SHOWN).is_some() {
        out.push('…');
    }
    out
}

const LONGEST_SHOWN: usize = 80;
