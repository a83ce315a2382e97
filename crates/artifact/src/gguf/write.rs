//! Writes GGUF version 3 as a stream: metadata and tensors are announced, the header is written, then each tensor's bytes
//! follow in that order. Entries keep the order in which they were given, so equal input makes equal files.

use std::io::Write;

use super::value::code;
use super::{Array, FORMAT, Value};
use crate::dtype::size_of;
use crate::error::shown;
use crate::safetensors::check_name;
use crate::{ArtifactError, Dtype};

/// The header of a file to be written.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Announced>,
    alignment: usize,
}

#[derive(Clone, Debug)]
struct Announced {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
}

impl GgufWriter {
    /// A file for `architecture` (`general.architecture`, such as `llama`).
    pub fn new(architecture: &str) -> GgufWriter {
        GgufWriter {
            metadata: vec![("general.architecture".to_owned(), architecture.into())],
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    /// Sets a metadata value; a key given twice keeps its place and takes the later value. `general.alignment` as a `u32`
    /// power of two from 8 takes effect.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> GgufWriter {
        let value = value.into();
        if let ("general.alignment", Value::U32(alignment)) = (key, &value)
            && alignment.is_power_of_two()
            && *alignment >= 8
        {
            self.alignment = *alignment as usize;
        }
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    /// Announces a tensor; `shape` is row-major and is written in ggml's reversed order.
    ///
    /// # Errors
    /// A type that ggml lacks or whose size is unknown here, a bad or repeated name, more than four dimensions, rows that are
    /// no whole blocks.
    pub fn tensor(mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<GgufWriter, ArtifactError> {
        check_name("tensor name", name)?;
        if self.tensors.iter().any(|tensor| tensor.name == name) {
            return Err(ArtifactError::Duplicate { what: "tensor name", name: shown(name) });
        }
        if shape.len() > 4 {
            return Err(ArtifactError::TooManyDimensions { tensor: shown(name), rank: shape.len() as u64, most: 4 });
        }
        let unwritable = || ArtifactError::UnwritableDtype { dtype, format: FORMAT };
        dtype.ggml_code().ok_or_else(unwritable)?;
        let bytes = size_of(name, dtype, shape)?.ok_or_else(unwritable)?;
        self.tensors.push(Announced { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes });
        Ok(self)
    }

    /// Writes the header; the tensors follow through the stream.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin<W: Write>(self, mut out: W) -> Result<GgufStream<W>, ArtifactError> {
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(3_u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            put_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|dimension| header.extend((*dimension as u64).to_le_bytes()));
            header.extend(tensor.dtype.ggml_code().unwrap_or(u32::MAX).to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += tensor.bytes.next_multiple_of(self.alignment) as u64;
        }
        header.resize(header.len().next_multiple_of(self.alignment), 0);
        out.write_all(&header).map_err(write_error)?;
        Ok(GgufStream { out, tensors: self.tensors, alignment: self.alignment, written: 0 })
    }

    /// Writes a whole file: `data` yields each tensor's bytes in the order of the announcements.
    ///
    /// # Errors
    /// As [`GgufWriter::begin`], [`GgufStream::write`] and [`GgufStream::finish`].
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
pub struct GgufStream<W> {
    out: W,
    tensors: Vec<Announced>,
    alignment: usize,
    written: usize,
}

impl<W: Write> GgufStream<W> {
    /// Writes the next announced tensor and its padding.
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
        self.out.write_all(bytes).map_err(write_error)?;
        let padding = bytes.len().next_multiple_of(self.alignment) - bytes.len();
        self.out.write_all(&vec![0; padding]).map_err(write_error)?;
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
        self.out.flush().map_err(write_error)?;
        Ok(self.out)
    }
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend(string.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    fn put<const N: usize>(out: &mut Vec<u8>, type_code: u32, bytes: [u8; N]) {
        out.extend(type_code.to_le_bytes());
        out.extend(bytes);
    }
    match value {
        Value::U8(value) => put(out, code::U8, value.to_le_bytes()),
        Value::I8(value) => put(out, code::I8, value.to_le_bytes()),
        Value::U16(value) => put(out, code::U16, value.to_le_bytes()),
        Value::I16(value) => put(out, code::I16, value.to_le_bytes()),
        Value::U32(value) => put(out, code::U32, value.to_le_bytes()),
        Value::I32(value) => put(out, code::I32, value.to_le_bytes()),
        Value::U64(value) => put(out, code::U64, value.to_le_bytes()),
        Value::I64(value) => put(out, code::I64, value.to_le_bytes()),
        Value::F32(value) => put(out, code::F32, value.to_le_bytes()),
        Value::F64(value) => put(out, code::F64, value.to_le_bytes()),
        Value::Bool(value) => put(out, code::BOOL, [u8::from(*value)]),
        Value::String(value) => {
            out.extend(code::STRING.to_le_bytes());
            put_string(out, value);
        }
        Value::Array(array) => {
            out.extend(code::ARRAY.to_le_bytes());
            put_array(out, array);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn put<T: Copy, const N: usize>(out: &mut Vec<u8>, type_code: u32, values: &[T], bytes: impl Fn(T) -> [u8; N]) {
        out.extend(type_code.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| out.extend(bytes(*value)));
    }
    match array {
        Array::U8(values) => put(out, code::U8, values, u8::to_le_bytes),
        Array::I8(values) => put(out, code::I8, values, i8::to_le_bytes),
        Array::U16(values) => put(out, code::U16, values, u16::to_le_bytes),
        Array::I16(values) => put(out, code::I16, values, i16::to_le_bytes),
        Array::U32(values) => put(out, code::U32, values, u32::to_le_bytes),
        Array::I32(values) => put(out, code::I32, values, i32::to_le_bytes),
        Array::U64(values) => put(out, code::U64, values, u64::to_le_bytes),
        Array::I64(values) => put(out, code::I64, values, i64::to_le_bytes),
        Array::F32(values) => put(out, code::F32, values, f32::to_le_bytes),
        Array::F64(values) => put(out, code::F64, values, f64::to_le_bytes),
        Array::Bool(values) => put(out, code::BOOL, values, |value| [u8::from(value)]),
        Array::Strings(strings) => {
            out.extend(code::STRING.to_le_bytes());
            out.extend((strings.len() as u64).to_le_bytes());
            strings.iter().for_each(|string| put_string(out, string));
        }
    }
}

fn write_error(source: std::io::Error) -> ArtifactError {
    ArtifactError::Write { format: FORMAT, source }
}
