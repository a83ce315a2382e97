//! Element types as files name them, their sizes, and the entry that an index keeps per tensor. Nothing here decodes values:
//! `kernels` does.

use std::fmt;
use std::ops::Range;

use crate::ArtifactError;
use crate::error::shown;

/// How a tensor's values are stored. Quantised types work in blocks along a row; a block's layout is ggml's, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(non_camel_case_types, reason = "the field writes Q4_K, and so do all files and tools")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    Q8_0,
    Q4_0,
    Q4_K,
    Q5_K,
    Q6_K,
    /// A type that nothing here reads: ggml's code, or the first four letters of the safetensors name, big-endian. It is an
    /// error only for who wants to use the tensor.
    Other(u32),
}

impl Dtype {
    /// Values per block and bytes per block; `None` for [`Dtype::Other`]. Source: ggml-common.h, `block_q8_0` and following.
    pub const fn block(self) -> Option<(usize, usize)> {
        Some(match self {
            Dtype::F64 | Dtype::I64 | Dtype::U64 => (1, 8),
            Dtype::F32 | Dtype::I32 | Dtype::U32 => (1, 4),
            Dtype::F16 | Dtype::BF16 | Dtype::I16 | Dtype::U16 => (1, 2),
            Dtype::I8 | Dtype::U8 | Dtype::Bool => (1, 1),
            Dtype::Q8_0 => (32, 34),
            Dtype::Q4_0 => (32, 18),
            Dtype::Q4_K => (256, 144),
            Dtype::Q5_K => (256, 176),
            Dtype::Q6_K => (256, 210),
            Dtype::Other(_) => return None,
        })
    }

    /// The type with ggml's code `code` (`enum ggml_type`).
    pub const fn from_ggml(code: u32) -> Dtype {
        match code {
            0 => Dtype::F32,
            1 => Dtype::F16,
            2 => Dtype::Q4_0,
            8 => Dtype::Q8_0,
            12 => Dtype::Q4_K,
            13 => Dtype::Q5_K,
            14 => Dtype::Q6_K,
            24 => Dtype::I8,
            25 => Dtype::I16,
            26 => Dtype::I32,
            27 => Dtype::I64,
            28 => Dtype::F64,
            30 => Dtype::BF16,
            other => Dtype::Other(other),
        }
    }

    /// ggml's code, where ggml has this type.
    pub const fn ggml_code(self) -> Option<u32> {
        Some(match self {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Q4_0 => 2,
            Dtype::Q8_0 => 8,
            Dtype::Q4_K => 12,
            Dtype::Q5_K => 13,
            Dtype::Q6_K => 14,
            Dtype::I8 => 24,
            Dtype::I16 => 25,
            Dtype::I32 => 26,
            Dtype::I64 => 27,
            Dtype::F64 => 28,
            Dtype::BF16 => 30,
            Dtype::U64 | Dtype::U32 | Dtype::U16 | Dtype::U8 | Dtype::Bool | Dtype::Other(_) => return None,
        })
    }

    /// The type that safetensors calls `name`.
    pub fn from_safetensors(name: &str) -> Dtype {
        SAFETENSORS_NAMES.iter().find(|(known, _)| *known == name).map_or_else(
            || {
                let mut letters = name.bytes().chain(std::iter::repeat(b' '));
                Dtype::Other(u32::from_be_bytes(std::array::from_fn(|_| letters.next().unwrap_or(b' '))))
            },
            |(_, dtype)| *dtype,
        )
    }

    /// The name in safetensors, where that format has this type.
    pub fn safetensors_name(self) -> Option<&'static str> {
        SAFETENSORS_NAMES.iter().find(|(_, dtype)| *dtype == self).map(|(name, _)| *name)
    }

    /// Bytes that a tensor of `shape` (row-major) takes. `None` for [`Dtype::Other`], on overflow, or when the last
    /// dimension is no multiple of the block.
    pub fn bytes_for(self, shape: &[usize]) -> Option<usize> {
        let (block_len, block_bytes) = self.block()?;
        if block_len > 1 && shape.last().is_none_or(|columns| !columns.is_multiple_of(block_len)) {
            return None;
        }
        (elements(shape)? / block_len).checked_mul(block_bytes)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dtype::Bool => f.write_str("BOOL"),
            Dtype::Other(code) => match std::str::from_utf8(&code.to_be_bytes()) {
                Ok(name) if name.bytes().all(|letter| letter == b' ' || letter.is_ascii_graphic()) => {
                    write!(f, "type {}…", name.trim_end())
                }
                _ => write!(f, "ggml type {code}"),
            },
            known => write!(f, "{known:?}"),
        }
    }
}

/// Where a tensor's bytes lie in its file, and how to read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    pub dtype: Dtype,
    /// Row-major: the last dimension is contiguous in the file. Empty for a scalar.
    pub shape: Vec<usize>,
    /// Absolute in the file; checked to lie inside it. For [`Dtype::Other`] in a GGUF it runs to the next tensor.
    pub range: Range<usize>,
}

impl TensorEntry {
    /// Number of values; the product was checked when the index was made.
    pub fn elements(&self) -> usize {
        elements(&self.shape).unwrap_or(usize::MAX)
    }

    /// The tensor's bytes in `file`, the bytes of the file whose index this entry is from. `None` if `file` is shorter.
    pub fn bytes<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        file.get(self.range.clone())
    }
}

/// Checks that a shape can be addressed and fits the type's blocks; returns its size in bytes, `None` for an unknown type.
pub(crate) fn size_of(tensor: &str, dtype: Dtype, shape: &[usize]) -> Result<Option<usize>, ArtifactError> {
    let overflow = || ArtifactError::ShapeOverflow {
        tensor: shown(tensor),
        shape: shape.iter().map(|dimension| *dimension as u64).collect(),
    };
    elements(shape).ok_or_else(overflow)?;
    let Some((block_len, _)) = dtype.block() else { return Ok(None) };
    let columns = shape.last().copied().unwrap_or(1);
    if !columns.is_multiple_of(block_len) {
        return Err(ArtifactError::PartialBlock {
            tensor: shown(tensor),
            dtype,
            columns: columns as u64,
            block: block_len as u64,
        });
    }
    dtype.bytes_for(shape).ok_or_else(overflow).map(Some)
}

/// The product of the dimensions. A zero makes it zero, but only after the others were shown not to overflow: readers that
/// multiply strides in another order must be safe too.
fn elements(shape: &[usize]) -> Option<usize> {
    let product =
        shape.iter().filter(|dimension| **dimension > 0).try_fold(1_usize, |product, d| product.checked_mul(*d))?;
    let empty = shape.contains(&0);
    Some(if empty { 0 } else { product })
}

const SAFETENSORS_NAMES: [(&str, Dtype); 13] = [
    ("F64", Dtype::F64),
    ("F32", Dtype::F32),
    ("F16", Dtype::F16),
    ("BF16", Dtype::BF16),
    ("I64", Dtype::I64),
    ("I32", Dtype::I32),
    ("I16", Dtype::I16),
    ("I8", Dtype::I8),
    ("U64", Dtype::U64),
    ("U32", Dtype::U32),
    ("U16", Dtype::U16),
    ("U8", Dtype::U8),
    ("BOOL", Dtype::Bool),
];
