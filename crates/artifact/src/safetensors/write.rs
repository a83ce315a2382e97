//! Writes safetensors files as a stream: the header is announced first, then each tensor's bytes follow in that order, so a
//! model of any size is exported with the memory of one tensor.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::{FORMAT, check_name};
use crate::dtype::size_of;
use crate::error::shown;
use crate::{ArtifactError, Dtype};

/// The header of a file to be written.
#[derive(Clone, Debug, Default)]
pub struct SafetensorsWriter {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Announced>,
}

#[derive(Clone, Debug)]
struct Announced {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
}

impl SafetensorsWriter {
    pub fn new() -> SafetensorsWriter {
        SafetensorsWriter::default()
    }

    /// Adds an entry to `__metadata__`.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: &str) -> SafetensorsWriter {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Announces a tensor; `shape` is row-major.
    ///
    /// # Errors
    /// A type that safetensors lacks (the quantised ones), a name that is taken or not printable, an impossible shape.
    pub fn tensor(mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<SafetensorsWriter, ArtifactError> {
        check_name("tensor name", name)?;
        if dtype.safetensors_name().is_none() {
            return Err(ArtifactError::UnwritableDtype { dtype, format: FORMAT });
        }
        let bytes = size_of(name, dtype, shape)?.ok_or(ArtifactError::UnwritableDtype { dtype, format: FORMAT })?;
        self.tensors.push(Announced { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes });
        Ok(self)
    }

    /// Writes the header; the tensors follow through the stream.
    ///
    /// # Errors
    /// Names that occur twice, and those of `out`.
    pub fn begin<W: Write>(self, mut out: W) -> Result<SafetensorsStream<W>, ArtifactError> {
        #[derive(Serialize)]
        struct Entry<'a> {
            dtype: &'a str,
            shape: &'a [usize],
            data_offsets: (usize, usize),
        }

        let mut header = serde_json::Map::new();
        let json = |error: serde_json::Error| ArtifactError::Write { format: FORMAT, source: error.into() };
        if !self.metadata.is_empty() {
            header.insert("__metadata__".to_owned(), serde_json::to_value(&self.metadata).map_err(json)?);
        }
        let mut at = 0_usize;
        for tensor in &self.tensors {
            let end = at.checked_add(tensor.bytes).ok_or_else(|| ArtifactError::ShapeOverflow {
                tensor: shown(&tensor.name),
                shape: tensor.shape.iter().map(|dimension| *dimension as u64).collect(),
            })?;
            let entry = Entry {
                dtype: tensor.dtype.safetensors_name().unwrap_or_default(),
                shape: &tensor.shape,
                data_offsets: (at, end),
            };
            if header.insert(tensor.name.clone(), serde_json::to_value(entry).map_err(json)?).is_some() {
                return Err(ArtifactError::Duplicate { what: "tensor name", name: shown(&tensor.name) });
            }
            at = end;
        }
        let mut text = serde_json::to_vec(&header).map_err(json)?;
        // Spaces after the JSON are part of the format; they let the data begin aligned for any element type.
        text.resize(text.len().next_multiple_of(8), b' ');
        let put = |source| ArtifactError::Write { format: FORMAT, source };
        out.write_all(&(text.len() as u64).to_le_bytes()).map_err(put)?;
        out.write_all(&text).map_err(put)?;
        Ok(SafetensorsStream { out, tensors: self.tensors, written: 0 })
    }

    /// Writes a whole file: `data` yields each tensor's bytes in the order of the announcements.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::begin`], [`SafetensorsStream::write`] and [`SafetensorsStream::finish`].
    pub fn write<W: Write, B: AsRef<[u8]>>(
        self,
        out: W,
        data: impl IntoIterator<Item = B>,
    ) -> Result<W, ArtifactError> {
        let mut stream = self.begin(out)?;
        for bytes in data {
            stream.write(bytes.as_ref())?;
        }
        stream.finish()
    }
}

/// A file whose header is written and whose tensors are on their way.
#[derive(Debug)]
pub struct SafetensorsStream<W> {
    out: W,
    tensors: Vec<Announced>,
    written: usize,
}

impl<W: Write> SafetensorsStream<W> {
    /// Writes the next announced tensor.
    ///
    /// # Errors
    /// Another length than announced, one tensor too many, and those of the output.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        let (expected, found) = (self.tensors.len(), self.written + 1);
        let tensor = self.tensors.get(self.written).ok_or(ArtifactError::WriterCount { expected, found })?;
        if tensor.bytes != bytes.len() {
            return Err(ArtifactError::SizeMismatch {
                tensor: shown(&tensor.name),
                expected_bytes: tensor.bytes as u64,
                found_bytes: bytes.len() as u64,
            });
        }
        self.out.write_all(bytes).map_err(|source| ArtifactError::Write { format: FORMAT, source })?;
        self.written = found;
        Ok(())
    }

    /// Flushes and gives the output back.
    ///
    /// # Errors
    /// Announced tensors that never came, and those of the output.
    pub fn finish(mut self) -> Result<W, ArtifactError> {
        let (expected, found) = (self.tensors.len(), self.written);
        if expected != found {
            return Err(ArtifactError::WriterCount { expected, found });
        }
        self.out.flush().map_err(|source| ArtifactError::Write { format: FORMAT, source })?;
        Ok(self.out)
    }
}
