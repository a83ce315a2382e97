//! Parsers take memory in proportion to the bytes they are given. Measured as the growth of the process's peak, so that no
//! allocator has to be replaced; the bounds leave room for the other tests of the same process.
#![cfg(target_os = "linux")]

use std::fmt::Write;
use std::fs::{self, File};
use std::io::Write as _;

use falaj_artifact::ArtifactError;
use falaj_artifact::gguf::Gguf;
use falaj_artifact::safetensors::SafetensorsIndex;
use falaj_artifact::sharded::ShardedIndex;

use crate::samples::{directory, safetensors_with};

#[test]
fn many_small_things_take_a_small_multiple_of_the_file() {
    let mut header = String::from("{");
    for tensor in 0..40_000 {
        let _ = write!(header, r#""{tensor}":{{"dtype":"I8","shape":[0,1,1,1,1,1,1,1],"data_offsets":[0,0]}},"#);
    }
    header.truncate(header.len() - 1);
    header.push('}');
    let file = safetensors_with(&header, 0);
    bounded(file.len(), || assert_eq!(SafetensorsIndex::parse(&file).unwrap().tensors.len(), 40_000));

    let mut index = String::from(r#"{"weight_map":{"#);
    for tensor in 0..100_000 {
        let _ = write!(index, r#""{tensor}":"{tensor}.safetensors","#);
    }
    index.truncate(index.len() - 1);
    index.push_str("}}");
    bounded(index.len(), || assert_eq!(ShardedIndex::parse(index.as_bytes()).unwrap().shards().len(), 100_000));

    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(60_000_u64.to_le_bytes());
    file.extend(60_000_u64.to_le_bytes());
    for key in 0..60_000 {
        let key = format!("{key:x}");
        file.extend((key.len() as u64).to_le_bytes());
        file.extend(key.bytes().chain([0, 0, 0, 0, 1]));
    }
    for tensor in 0..60_000 {
        let name = format!("{tensor:x}");
        file.extend((name.len() as u64).to_le_bytes());
        file.extend(name.bytes().chain([0; 4 + 4 + 8]));
    }
    // All tensors are scalars at offset 0: they overlap, but only after everything was read.
    file.resize(file.len() + 64, 0);
    bounded(file.len(), || assert!(matches!(Gguf::parse(&file), Err(ArtifactError::Overlap { .. }))));
}

#[test]
fn claims_that_a_huge_file_would_allow_are_not_paid_in_advance() {
    // A sparse file of a terabyte in which 2^36 strings, or a string of 2^38 bytes, could well be.
    let path = directory("sparse").join("model.gguf");
    for claim in [8_u32.to_le_bytes().to_vec(), [9_u32.to_le_bytes(), 8_u32.to_le_bytes()].concat()] {
        let mut file = File::create(&path).unwrap();
        file.write_all(b"GGUF\x03\0\0\0").unwrap();
        file.write_all(&[0_u64.to_le_bytes(), 1_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat()).unwrap();
        file.write_all(b"k").unwrap();
        file.write_all(&claim).unwrap();
        file.write_all(&(1_u64 << 36).to_le_bytes()).unwrap();
        file.set_len(1 << 40).unwrap();
        bounded(1 << 20, || assert!(matches!(Gguf::open(&path), Err(ArtifactError::HeaderTooLarge { .. }))));
    }
    let mut file = File::create(&path).unwrap();
    file.write_all(&(1_u64 << 39).to_le_bytes()).unwrap();
    file.set_len(1 << 40).unwrap();
    bounded(1 << 20, || assert!(matches!(SafetensorsIndex::open(&path), Err(ArtifactError::HeaderTooLarge { .. }))));
}

fn bounded(input_bytes: usize, work: impl FnOnce()) {
    let before = peak_bytes();
    work();
    let grown = peak_bytes().saturating_sub(before);
    let limit = 24 * input_bytes + (64 << 20);
    assert!(grown <= limit, "{input_bytes} bytes took {grown} bytes of memory");
}

/// The most memory this process ever had resident.
fn peak_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}
