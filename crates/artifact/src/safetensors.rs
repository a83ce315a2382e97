//! The safetensors format: an 8-byte length, a JSON header, then the tensors' bytes without holes. Read as strictly as the
//! reference does (source: the format section of the safetensors README), and written by [`SafetensorsWriter`].

mod header;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use crate::dtype::size_of;
use crate::error::shown;
use crate::{ArtifactError, Dtype, TensorEntry};

pub use write::{SafetensorsStream, SafetensorsWriter};

/// What a safetensors file holds. Every range was checked against the file's length, the shapes and each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetensorsIndex {
    pub tensors: BTreeMap<String, TensorEntry>,
    /// The header's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl SafetensorsIndex {
    /// Indexes a whole file. Takes memory in proportion to the header, whatever it claims.
    ///
    /// # Errors
    /// Whatever is wrong with the header: too long, no JSON, a name twice, a shape that does not fit its range, ranges that
    /// overlap, leave holes or leave the file.
    pub fn parse(file: &[u8]) -> Result<SafetensorsIndex, ArtifactError> {
        SafetensorsIndex::parse_prefix(file, file.len() as u64)
    }

    /// Indexes a file of `file_bytes` of which `prefix` is the beginning, at least up to the header's end.
    ///
    /// # Errors
    /// As [`SafetensorsIndex::parse`].
    pub fn parse_prefix(prefix: &[u8], file_bytes: u64) -> Result<SafetensorsIndex, ArtifactError> {
        let header_end = header_end(prefix, file_bytes)?;
        let have_bytes = (prefix.len() as u64).min(file_bytes);
        let json = usize::try_from(header_end).ok().and_then(|end| prefix.get(LENGTH_BYTES..end)).ok_or(
            ArtifactError::Truncated {
                format: FORMAT,
                what: "the header",
                offset: LENGTH_BYTES as u64,
                need_bytes: header_end.saturating_sub(LENGTH_BYTES as u64),
                have_bytes,
            },
        )?;
        if json.first() != Some(&b'{') {
            return Err(ArtifactError::NotThisFormat {
                format: FORMAT,
                found: prefix.iter().take(12).copied().collect(),
            });
        }
        let header = header::parse(json)?;

        let data_bytes = file_bytes.saturating_sub(header_end);
        let mut tensors = BTreeMap::new();
        let mut spans = Vec::with_capacity(header.tensors.len());
        for (name, raw) in header.tensors {
            check_name("tensor name", &name)?;
            let entry = checked_entry(&name, raw, header_end, data_bytes)?;
            spans.push((entry.range.clone(), name.clone()));
            if tensors.insert(name.clone(), entry).is_some() {
                return Err(ArtifactError::Duplicate { what: "tensor name", name: shown(&name) });
            }
        }
        check_cover(spans, header_end, data_bytes)?;
        Ok(SafetensorsIndex { tensors, metadata: header.metadata })
    }

    /// Indexes the file at `path`, reading its header only.
    ///
    /// # Errors
    /// As [`SafetensorsIndex::parse`], and those of reading.
    pub fn open(path: &Path) -> Result<SafetensorsIndex, ArtifactError> {
        let mut file = File::open(path).map_err(ArtifactError::io("open", path))?;
        let file_bytes = file.metadata().map_err(ArtifactError::io("read", path))?.len();
        let mut prefix = Vec::new();
        (&mut file).take(LENGTH_BYTES as u64).read_to_end(&mut prefix).map_err(ArtifactError::io("read", path))?;
        // Bounded: the claim is compared with the file's length and with the limit before anything is read for it.
        let header_end = header_end(&prefix, file_bytes)?;
        let rest = header_end.saturating_sub(LENGTH_BYTES as u64);
        file.take(rest).read_to_end(&mut prefix).map_err(ArtifactError::io("read", path))?;
        SafetensorsIndex::parse_prefix(&prefix, file_bytes)
    }

    /// The entry of `name`.
    ///
    /// # Errors
    /// [`ArtifactError::TensorMissing`].
    pub fn tensor(&self, name: &str) -> Result<&TensorEntry, ArtifactError> {
        self.tensors.get(name).ok_or_else(|| ArtifactError::TensorMissing { tensor: shown(name) })
    }
}

/// Where the header ends, from its length field. The claim is believed only if the file is that long.
fn header_end(prefix: &[u8], file_bytes: u64) -> Result<u64, ArtifactError> {
    let length = prefix.first_chunk::<LENGTH_BYTES>().ok_or(ArtifactError::Truncated {
        format: FORMAT,
        what: "the header's length",
        offset: 0,
        need_bytes: LENGTH_BYTES as u64,
        have_bytes: file_bytes,
    })?;
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT_BYTES {
        // Eight bytes of some other format read as an enormous length far more often than anyone lies.
        return Err(ArtifactError::HeaderTooLarge { format: FORMAT, limit_bytes: HEADER_LIMIT_BYTES });
    }
    let end = length + LENGTH_BYTES as u64;
    if end > file_bytes {
        return Err(ArtifactError::Truncated {
            format: FORMAT,
            what: "the header",
            offset: LENGTH_BYTES as u64,
            need_bytes: length,
            have_bytes: file_bytes,
        });
    }
    Ok(end)
}

fn checked_entry(
    name: &str,
    raw: header::RawTensor,
    header_end: u64,
    data_bytes: u64,
) -> Result<TensorEntry, ArtifactError> {
    let (begin, end) = raw.data_offsets;
    let outside = || ArtifactError::OutsideFile {
        tensor: shown(name),
        begin: begin.saturating_add(header_end),
        end: end.saturating_add(header_end),
        file_bytes: header_end.saturating_add(data_bytes),
    };
    if begin > end || end > data_bytes {
        return Err(outside());
    }
    let shape = raw.shape.dimensions(name)?;
    let dtype = Dtype::from_safetensors(&raw.dtype);
    let found_bytes = end - begin;
    if let Some(expected) = size_of(name, dtype, &shape)?
        && expected as u64 != found_bytes
    {
        return Err(ArtifactError::SizeMismatch { tensor: shown(name), expected_bytes: expected as u64, found_bytes });
    }
    let absolute = |offset: u64| offset.checked_add(header_end).and_then(|at| usize::try_from(at).ok());
    let range = absolute(begin).ok_or_else(outside)?..absolute(end).ok_or_else(outside)?;
    Ok(TensorEntry { dtype, shape, range })
}

/// The tensors must cover the data exactly: bytes that belong to nobody could smuggle a second file past a reviewer.
fn check_cover(mut spans: Vec<(Range<usize>, String)>, header_end: u64, data_bytes: u64) -> Result<(), ArtifactError> {
    spans.sort_by(|(a, name_a), (b, name_b)| (a.start, a.end, name_a).cmp(&(b.start, b.end, name_b)));
    let hole = |begin: u64, end: u64| ArtifactError::Hole {
        begin: begin.saturating_sub(header_end),
        end: end.saturating_sub(header_end),
    };
    let mut covered = header_end;
    let mut last = "";
    for (range, name) in &spans {
        let (start, end) = (range.start as u64, range.end as u64);
        if start > covered {
            return Err(hole(covered, start));
        }
        if start < covered {
            return Err(ArtifactError::Overlap { first: shown(last), second: shown(name) });
        }
        covered = end;
        last = name;
    }
    let file_bytes = header_end.saturating_add(data_bytes);
    if covered < file_bytes { Err(hole(covered, file_bytes)) } else { Ok(()) }
}

pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), ArtifactError> {
    if name.is_empty() || name.len() > NAME_LIMIT_BYTES || name.chars().any(char::is_control) {
        return Err(ArtifactError::BadName { what, name: shown(name) });
    }
    Ok(())
}

pub(crate) const FORMAT: &str = "safetensors";
const LENGTH_BYTES: usize = 8;
/// The reference implementation's limit.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;
const NAME_LIMIT_BYTES: usize = 1024;
