//! Reads a GGUF header. A cursor hands out bytes only where the file has them, and compares each claimed count with what
//! could fit into the rest, so that no claim decides an allocation.

use std::collections::BTreeMap;

use super::value::code;
use super::{Array, FORMAT, Gguf, StringArray, Value};
use crate::dtype::size_of;
use crate::error::shown;
use crate::safetensors::check_name;
use crate::{ArtifactError, Dtype, TensorEntry};

pub(super) fn parse(prefix: &[u8], file_bytes: u64) -> Result<Gguf, ArtifactError> {
    let mut cursor = Cursor { bytes: prefix, at: 0, file_bytes: file_bytes.max(prefix.len() as u64) };
    let version = version(&mut cursor)?;
    let tensor_count = cursor.u64("the number of tensors")?;
    let metadata_count = cursor.u64("the number of metadata values")?;

    let metadata_count = cursor.count("metadata values", metadata_count, LEAST_METADATA_BYTES)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..metadata_count {
        let key = cursor.string("a metadata key")?.to_owned();
        check_name("metadata key", &key)?;
        let type_code = cursor.u32("a metadata type")?;
        let value = value(&mut cursor, &key, type_code)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(ArtifactError::Duplicate { what: "metadata key", name: shown(&key) });
        }
    }
    let alignment = alignment(&metadata)?;

    let tensor_count = cursor.count("tensors", tensor_count, LEAST_TENSOR_BYTES)?;
    let mut claims = Vec::new();
    for _ in 0..tensor_count {
        claims.push(claim(&mut cursor, alignment)?);
    }
    let data_offset = (cursor.at as u64).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let tensors = place(claims, data_offset, cursor.file_bytes)?;
    let data_offset = usize::try_from(data_offset).unwrap_or(usize::MAX);
    Ok(Gguf { version, metadata, tensors, data_offset })
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, ArtifactError> {
    let magic = cursor.array::<4>("the magic number")?;
    if magic != MAGIC {
        return Err(ArtifactError::NotThisFormat { format: FORMAT, found: magic.to_vec() });
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        swapped if (1..=0xff).contains(&swapped.swap_bytes()) => Err(ArtifactError::BigEndian),
        version => Err(ArtifactError::GgufVersion { version }),
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, ArtifactError> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    let Value::U32(alignment) = value else {
        return Err(ArtifactError::MetadataType {
            key: "general.alignment".to_owned(),
            expected: "an unsigned 32-bit integer",
            found: value.kind(),
        });
    };
    let alignment = u64::from(*alignment);
    if !alignment.is_power_of_two() || !(8..=1 << 20).contains(&alignment) {
        return Err(ArtifactError::BadAlignment { alignment });
    }
    Ok(alignment)
}

fn value(cursor: &mut Cursor<'_>, key: &str, type_code: u32) -> Result<Value, ArtifactError> {
    const WHAT: &str = "a metadata value";
    Ok(match type_code {
        code::U8 => Value::U8(u8::from_le_bytes(cursor.array(WHAT)?)),
        code::I8 => Value::I8(i8::from_le_bytes(cursor.array(WHAT)?)),
        code::U16 => Value::U16(u16::from_le_bytes(cursor.array(WHAT)?)),
        code::I16 => Value::I16(i16::from_le_bytes(cursor.array(WHAT)?)),
        code::U32 => Value::U32(u32::from_le_bytes(cursor.array(WHAT)?)),
        code::I32 => Value::I32(i32::from_le_bytes(cursor.array(WHAT)?)),
        code::U64 => Value::U64(u64::from_le_bytes(cursor.array(WHAT)?)),
        code::I64 => Value::I64(i64::from_le_bytes(cursor.array(WHAT)?)),
        code::F32 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
        code::F64 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
        code::BOOL => {
            let [byte] = cursor.array(WHAT)?;
            Value::Bool(truth(byte).ok_or_else(|| ArtifactError::BadBool { key: shown(key) })?)
        }
        code::STRING => Value::String(cursor.string("a metadata string")?.to_owned()),
        code::ARRAY => Value::Array(Box::new(array(cursor, key)?)),
        code => return Err(ArtifactError::UnknownValueType { key: shown(key), code }),
    })
}

fn array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, ArtifactError> {
    let type_code = cursor.u32("an array's type")?;
    let count = cursor.u64("an array's length")?;
    Ok(match type_code {
        code::U8 => Array::U8(cursor.numbers(count, u8::from_le_bytes)?),
        code::I8 => Array::I8(cursor.numbers(count, i8::from_le_bytes)?),
        code::U16 => Array::U16(cursor.numbers(count, u16::from_le_bytes)?),
        code::I16 => Array::I16(cursor.numbers(count, i16::from_le_bytes)?),
        code::U32 => Array::U32(cursor.numbers(count, u32::from_le_bytes)?),
        code::I32 => Array::I32(cursor.numbers(count, i32::from_le_bytes)?),
        code::U64 => Array::U64(cursor.numbers(count, u64::from_le_bytes)?),
        code::I64 => Array::I64(cursor.numbers(count, i64::from_le_bytes)?),
        code::F32 => Array::F32(cursor.numbers(count, f32::from_le_bytes)?),
        code::F64 => Array::F64(cursor.numbers(count, f64::from_le_bytes)?),
        code::BOOL => {
            let truths: Option<Vec<bool>> = cursor.numbers(count, |[byte]| byte)?.into_iter().map(truth).collect();
            Array::Bool(truths.ok_or_else(|| ArtifactError::BadBool { key: shown(key) })?)
        }
        code::STRING => {
            let count = cursor.count("strings in an array", count, LENGTH_BYTES)?;
            let mut strings = StringArray::with_capacity(count);
            for _ in 0..count {
                strings.push(cursor.string("a string in an array")?);
            }
            Array::Strings(strings)
        }
        code::ARRAY => return Err(ArtifactError::NestedArray { key: shown(key) }),
        code => return Err(ArtifactError::UnknownValueType { key: shown(key), code }),
    })
}

fn truth(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// What the header says of one tensor; its offset counts from the data section.
struct Claim {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: u64,
}

fn claim(cursor: &mut Cursor<'_>, alignment: u64) -> Result<Claim, ArtifactError> {
    let name = cursor.string("a tensor name")?.to_owned();
    check_name("tensor name", &name)?;
    let rank = cursor.u32("a tensor's number of dimensions")?;
    if rank > MOST_DIMENSIONS {
        let (tensor, rank) = (shown(&name), u64::from(rank));
        return Err(ArtifactError::TooManyDimensions { tensor, rank, most: u64::from(MOST_DIMENSIONS) });
    }
    let mut dimensions = Vec::new();
    for _ in 0..rank {
        dimensions.push(cursor.u64("a tensor's dimension")?);
    }
    dimensions.reverse();
    let shape: Result<Vec<usize>, _> = dimensions.iter().map(|dimension| usize::try_from(*dimension)).collect();
    let shape = shape.map_err(|_| ArtifactError::ShapeOverflow { tensor: shown(&name), shape: dimensions })?;
    let dtype = Dtype::from_ggml(cursor.u32("a tensor's type")?);
    let offset = cursor.u64("a tensor's offset")?;
    if !offset.is_multiple_of(alignment) {
        return Err(ArtifactError::Misaligned { tensor: shown(&name), offset, alignment });
    }
    Ok(Claim { name, dtype, shape, offset })
}

/// Turns claims into entries: inside the file, with the size of their shape, apart from each other, each name once.
fn place(
    mut claims: Vec<Claim>,
    data_offset: u64,
    file_bytes: u64,
) -> Result<BTreeMap<String, TensorEntry>, ArtifactError> {
    claims.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    let data_bytes = file_bytes.saturating_sub(data_offset);
    let mut tensors = BTreeMap::new();
    let mut nexts = claims.iter().map(|claim| claim.offset).skip(1).collect::<Vec<_>>().into_iter();
    let mut taken = (0_u64, String::new());
    for claim in claims {
        let Claim { name, dtype, shape, offset } = claim;
        let next = nexts.next().unwrap_or(data_bytes);
        // Nobody here knows how many bytes a foreign type takes; it gets all there are, and who uses it gets an error.
        let bytes = match size_of(&name, dtype, &shape)? {
            Some(bytes) => bytes as u64,
            None => next.saturating_sub(offset),
        };
        let end = offset.saturating_add(bytes);
        // Also of an empty tensor in a file that ends before its data section would begin.
        if end.saturating_add(data_offset) > file_bytes {
            return Err(ArtifactError::OutsideFile {
                tensor: shown(&name),
                begin: offset.saturating_add(data_offset),
                end: end.saturating_add(data_offset),
                file_bytes,
            });
        }
        if bytes > 0 {
            if offset < taken.0 {
                return Err(ArtifactError::Overlap { first: shown(&taken.1), second: shown(&name) });
            }
            taken = (end, name.clone());
        }
        // Cannot saturate: both sums are at most the file's length.
        let absolute = |at: u64| usize::try_from(at.saturating_add(data_offset)).unwrap_or(usize::MAX);
        let entry = TensorEntry { dtype, shape, range: absolute(offset)..absolute(end) };
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(ArtifactError::Duplicate { what: "tensor name", name: shown(&name) });
        }
    }
    Ok(tensors)
}

/// Hands out the header's bytes in order.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    file_bytes: u64,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], ArtifactError> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let Some((end, taken)) = end.and_then(|end| Some((end, self.bytes.get(self.at..end)?))) else {
            return Err(ArtifactError::Truncated {
                format: FORMAT,
                what,
                offset: self.at as u64,
                need_bytes: count,
                have_bytes: self.file_bytes,
            });
        };
        if end as u64 > HEADER_LIMIT_BYTES {
            return Err(ArtifactError::HeaderTooLarge { format: FORMAT, limit_bytes: HEADER_LIMIT_BYTES });
        }
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], ArtifactError> {
        let taken = self.take(N as u64, what)?;
        Ok(taken.first_chunk().copied().unwrap_or([0; N]))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, ArtifactError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, ArtifactError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &'static str) -> Result<&'a str, ArtifactError> {
        let length = self.u64(what)?;
        let offset = self.at as u64;
        let length = self.count("bytes in a string", length, 1)?;
        let bytes = self.take(length as u64, what)?;
        std::str::from_utf8(bytes)
            .map_err(|error| ArtifactError::NotUtf8 { what, offset: offset + error.valid_up_to() as u64 })
    }

    fn numbers<const N: usize, T>(&mut self, count: u64, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, ArtifactError> {
        let count = self.count("numbers in an array", count, N as u64)?;
        let bytes = self.take((count * N) as u64, "an array of numbers")?;
        let (numbers, _) = bytes.as_chunks::<N>();
        Ok(numbers.iter().map(|number| read(*number)).collect())
    }

    /// Believes a claimed `count` of things that take at least `least_bytes` each only if they fit into the bytes at hand.
    /// What no file of this length could hold is a lie; what this one no longer holds means that the file, or the part of it
    /// that was read so far, ends too early.
    fn count(&self, what: &'static str, count: u64, least_bytes: u64) -> Result<usize, ArtifactError> {
        let most = self.file_bytes / least_bytes;
        if count > most {
            return Err(ArtifactError::TooMany { format: FORMAT, what, claimed: count, most });
        }
        // Cannot overflow: count * least_bytes is at most the file's length.
        let need_bytes = count * least_bytes;
        if need_bytes > HEADER_LIMIT_BYTES {
            return Err(ArtifactError::HeaderTooLarge { format: FORMAT, limit_bytes: HEADER_LIMIT_BYTES });
        }
        if need_bytes > (self.bytes.len() - self.at) as u64 {
            return Err(ArtifactError::Truncated {
                format: FORMAT,
                what,
                offset: self.at as u64,
                need_bytes,
                have_bytes: self.file_bytes,
            });
        }
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

/// The largest public vocabularies make headers of some 20 MB.
pub(super) const HEADER_LIMIT_BYTES: u64 = 256 << 20;
const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// `GGML_MAX_DIMS`.
const MOST_DIMENSIONS: u32 = 4;
const LENGTH_BYTES: u64 = 8;
/// A key's length, a key of one letter, a type, a value of one byte.
const LEAST_METADATA_BYTES: u64 = 8 + 1 + 4 + 1;
/// A name's length, a name of one letter, rank 0, a type, an offset.
const LEAST_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;
