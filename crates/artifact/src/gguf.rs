//! The GGUF format, versions 2 and 3, little-endian: metadata, tensor index and [`GgufWriter`]. Source: ggml's docs/gguf.md.
//!
//! Nothing is allocated for a number that the file merely claims: every count is first compared with the bytes that are left.
//! Values of tensors are not read here.

mod read;
mod value;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::shown;
use crate::{ArtifactError, TensorEntry};

pub use value::{Array, FromValue, StringArray, Value};
pub use write::{GgufStream, GgufWriter};

/// What a GGUF file says and where its tensors lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    /// Shapes are row-major: ggml's dimensions, which put the contiguous one first, in reverse.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Where the tensor data begins; a multiple of the file's alignment.
    pub data_offset: usize,
}

impl Gguf {
    /// Indexes a whole file.
    ///
    /// # Errors
    /// Whatever is wrong with it: see the variants of [`ArtifactError`].
    pub fn parse(file: &[u8]) -> Result<Gguf, ArtifactError> {
        read::parse(file, file.len() as u64)
    }

    /// Indexes a file of `file_bytes` of which `prefix` is the beginning. [`ArtifactError::Truncated`] means that either the
    /// file or the prefix ends too early.
    ///
    /// # Errors
    /// As [`Gguf::parse`].
    pub fn parse_prefix(prefix: &[u8], file_bytes: u64) -> Result<Gguf, ArtifactError> {
        read::parse(prefix, file_bytes)
    }

    /// Indexes the file at `path`, reading no further than its header.
    ///
    /// # Errors
    /// As [`Gguf::parse`], and those of reading.
    pub fn open(path: &Path) -> Result<Gguf, ArtifactError> {
        let mut file = File::open(path).map_err(ArtifactError::io("open", path))?;
        let file_bytes = file.metadata().map_err(ArtifactError::io("read", path))?.len();
        let mut prefix = Vec::new();
        let mut want = FIRST_READ_BYTES;
        loop {
            // A header's end is known only when it is reached, so read more until it parses; doubling keeps that linear.
            let more = want - prefix.len() as u64;
            (&mut file).take(more).read_to_end(&mut prefix).map_err(ArtifactError::io("read", path))?;
            match read::parse(&prefix, file_bytes) {
                Err(ArtifactError::Truncated { .. })
                    if prefix.len() as u64 == want && want < file_bytes && want < read::HEADER_LIMIT_BYTES =>
                {
                    want *= 2;
                }
                result => return result,
            }
        }
    }

    /// The value of `key`, converted; `None` when the file has no such key. Integers convert where they fit.
    ///
    /// # Errors
    /// [`ArtifactError::MetadataType`] when it is of another type.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, ArtifactError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        T::from_value(value).map(Some).ok_or_else(|| ArtifactError::MetadataType {
            key: shown(key),
            expected: T::EXPECTED,
            found: value.kind(),
        })
    }

    /// The value of `key`, which must be there.
    ///
    /// # Errors
    /// As [`Gguf::get`], and [`ArtifactError::MetadataMissing`].
    pub fn need<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, ArtifactError> {
        self.get(key)?.ok_or_else(|| ArtifactError::MetadataMissing { key: shown(key) })
    }

    /// Any integer that fits 32 bits.
    ///
    /// # Errors
    /// As [`Gguf::need`]; so for all the getters below.
    pub fn u32(&self, key: &str) -> Result<u32, ArtifactError> {
        self.need(key)
    }

    /// Any integer that is not negative.
    pub fn u64(&self, key: &str) -> Result<u64, ArtifactError> {
        self.need(key)
    }

    /// A float; one of 64 bits is rounded.
    pub fn f32(&self, key: &str) -> Result<f32, ArtifactError> {
        self.need(key)
    }

    pub fn bool(&self, key: &str) -> Result<bool, ArtifactError> {
        self.need(key)
    }

    pub fn str(&self, key: &str) -> Result<&str, ArtifactError> {
        self.need(key)
    }

    pub fn strings(&self, key: &str) -> Result<&StringArray, ArtifactError> {
        self.need(key)
    }

    pub fn f32s(&self, key: &str) -> Result<&[f32], ArtifactError> {
        self.need(key)
    }

    /// An array of any integers that fit; borrowed when the file has just these.
    pub fn i32s(&self, key: &str) -> Result<Cow<'_, [i32]>, ArtifactError> {
        self.need(key)
    }

    /// An array of any integers that fit; borrowed when the file has just these.
    pub fn u32s(&self, key: &str) -> Result<Cow<'_, [u32]>, ArtifactError> {
        self.need(key)
    }

    /// The entry of `name`.
    ///
    /// # Errors
    /// [`ArtifactError::TensorMissing`].
    pub fn tensor(&self, name: &str) -> Result<&TensorEntry, ArtifactError> {
        self.tensors.get(name).ok_or_else(|| ArtifactError::TensorMissing { tensor: shown(name) })
    }
}

pub(crate) const FORMAT: &str = "GGUF";
/// Enough for the header of a model with a vocabulary of 32 k; larger ones take a few rounds.
const FIRST_READ_BYTES: u64 = 1 << 20;
