//! Good safetensors files, and the writer's refusals.

use falaj_artifact::safetensors::{SafetensorsIndex, SafetensorsWriter};
use falaj_artifact::{ArtifactError, Dtype, TensorEntry};

use crate::samples::{directory, pattern, safetensors, safetensors_with};

#[test]
fn what_was_written_is_read() {
    let file = safetensors();
    let index = SafetensorsIndex::parse(&file).unwrap();
    assert_eq!(index.metadata.get("format").map(String::as_str), Some("pt"));
    let a = index.tensor("a").unwrap();
    assert_eq!((a.dtype, a.shape.as_slice(), a.elements()), (Dtype::F32, [2, 3].as_slice(), 6));
    assert_eq!(a.bytes(&file), Some(pattern(24).as_slice()));
    let b = index.tensor("b").unwrap();
    assert_eq!((b.dtype, b.bytes(&file)), (Dtype::BF16, Some(pattern(8).as_slice())));
    assert_eq!(a.range.start % 8, 0);
    assert!(matches!(index.tensor("c"), Err(ArtifactError::TensorMissing { .. })));
}

#[test]
fn opening_reads_the_header_alone() {
    let file = safetensors();
    let path = directory("safetensors").join("model.safetensors");
    std::fs::write(&path, &file).unwrap();
    assert_eq!(SafetensorsIndex::open(&path).unwrap(), SafetensorsIndex::parse(&file).unwrap());
    std::fs::write(&path, &file[..file.len() - 1]).unwrap();
    assert!(matches!(SafetensorsIndex::open(&path), Err(ArtifactError::OutsideFile { .. })));
}

#[test]
fn a_file_without_tensors_and_one_with_empty_and_scalar_tensors_are_read() {
    assert!(SafetensorsIndex::parse(&safetensors_with("{}   ", 0)).unwrap().tensors.is_empty());
    let header = r#"{"scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "empty":{"shape":[0,7],"data_offsets":[4,4],"dtype":"F16","later":{"x":[1]}}}"#;
    let index = SafetensorsIndex::parse(&safetensors_with(header, 4)).unwrap();
    assert_eq!(index.tensors["scalar"].elements(), 1);
    assert_eq!(index.tensors["empty"].elements(), 0);
}

#[test]
fn an_unknown_type_is_kept_for_who_does_not_need_it() {
    let header = r#"{"w":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]}}"#;
    let index = SafetensorsIndex::parse(&safetensors_with(header, 3)).unwrap();
    let TensorEntry { dtype, range, .. } = index.tensor("w").unwrap();
    assert_eq!((dtype.to_string().as_str(), dtype.block(), range.len()), ("type F8_E…", None, 3));
}

#[test]
fn the_writer_refuses_what_it_cannot_write() {
    let quantised = SafetensorsWriter::new().tensor("q", Dtype::Q4_0, &[32]);
    assert!(matches!(quantised, Err(ArtifactError::UnwritableDtype { .. })));
    let one = || SafetensorsWriter::new().tensor("a", Dtype::U8, &[2]).unwrap();
    let twice = one().tensor("a", Dtype::U8, &[2]).unwrap().write(Vec::new(), [[0; 2]; 2]);
    assert!(matches!(twice, Err(ArtifactError::Duplicate { .. })));
    assert!(matches!(one().write(Vec::new(), [[0; 3]]), Err(ArtifactError::SizeMismatch { .. })));
    assert!(matches!(one().write(Vec::new(), [[0; 2]; 2]), Err(ArtifactError::WriterCount { expected: 1, found: 2 })));
    let none: [[u8; 2]; 0] = [];
    assert!(matches!(one().write(Vec::new(), none), Err(ArtifactError::WriterCount { expected: 1, found: 0 })));
}
