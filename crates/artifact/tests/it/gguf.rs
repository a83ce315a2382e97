//! Good GGUF files, metadata conversions, and the writer's refusals.

use std::borrow::Cow;

use falaj_artifact::gguf::{Gguf, GgufWriter, StringArray};
use falaj_artifact::{ArtifactError, Dtype};

use crate::samples::{directory, gguf, pattern, replace};

#[test]
fn what_was_written_is_read() {
    let file = gguf();
    let read = Gguf::parse(&file).unwrap();
    assert_eq!(read.version, 3);
    assert_eq!(read.str("general.architecture").unwrap(), "llama");
    assert_eq!(read.u32("llama.block_count").unwrap(), 2);
    assert_eq!(read.f32("llama.rope.freq_base").unwrap(), 10_000.0);
    assert!(read.bool("tokenizer.ggml.add_bos_token").unwrap());
    let tokens: Vec<&str> = read.strings("tokenizer.ggml.tokens").unwrap().iter().collect();
    assert_eq!(tokens, ["<s>", "</s>", "سلام", "é", "a b"]);
    assert_eq!(read.f32s("tokenizer.ggml.scores").unwrap(), [0.0, -1.0, -2.0, -3.0, -4.0]);
    assert!(matches!(read.i32s("tokenizer.ggml.token_type").unwrap(), Cow::Borrowed([3, 3, 1, 1, 1])));
    assert_eq!(*read.u32s("tokenizer.ggml.token_type").unwrap(), [3, 3, 1, 1, 1]);

    let embedding = read.tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.dtype, embedding.shape.as_slice()), (Dtype::Q8_0, [2, 32].as_slice()));
    assert_eq!(embedding.bytes(&file), Some(pattern(68).as_slice()));
    let output = read.tensor("output.weight").unwrap();
    assert_eq!((output.shape.as_slice(), output.bytes(&file)), ([3, 4].as_slice(), Some(pattern(24).as_slice())));
    assert!(read.tensors.values().all(|tensor| tensor.range.start % 32 == 0));
}

#[test]
fn dimensions_are_stored_in_ggmls_order() {
    let file = GgufWriter::new("x").tensor("w", Dtype::U8, &[2]);
    assert!(matches!(file, Err(ArtifactError::UnwritableDtype { .. })));
    let file = GgufWriter::new("x").tensor("w", Dtype::I8, &[2, 3]).unwrap().write(Vec::new(), [[0; 6]]).unwrap();
    let stored: Vec<u8> = [3_u64, 2].iter().flat_map(|dimension| dimension.to_le_bytes()).collect();
    assert!(file.windows(16).any(|window| window == stored));
}

#[test]
fn metadata_that_is_missing_or_of_another_type_is_named() {
    let read = Gguf::parse(&gguf()).unwrap();
    assert!(matches!(read.u32("nope"), Err(ArtifactError::MetadataMissing { key }) if key == "nope"));
    assert_eq!(read.get::<u32>("nope").unwrap(), None);
    assert_eq!(read.get::<i64>("an.i64").unwrap(), Some(-5_000_000_000));
    let message = read.u32("an.i8").unwrap_err().to_string();
    assert!(message.contains("`an.i8` is a signed integer, not an integer from 0 to 4294967295"), "{message}");
    assert!(matches!(read.u32("an.i64"), Err(ArtifactError::MetadataType { .. })));
    assert!(matches!(read.str("llama.block_count"), Err(ArtifactError::MetadataType { .. })));
    assert!(matches!(read.f32s("tokenizer.ggml.tokens"), Err(ArtifactError::MetadataType { .. })));
    assert!(matches!(read.strings("tokenizer.ggml.scores"), Err(ArtifactError::MetadataType { .. })));
    assert!(matches!(read.bool("general.architecture"), Err(ArtifactError::MetadataType { .. })));
}

#[test]
fn version_2_has_the_same_form() {
    let file = gguf();
    let second = replace(&file, b"GGUF\x03\0\0\0", b"GGUF\x02\0\0\0");
    assert_eq!(Gguf::parse(&second).unwrap().tensors, Gguf::parse(&file).unwrap().tensors);
}

#[test]
fn another_alignment_is_kept() {
    let file = GgufWriter::new("x")
        .set("general.alignment", 256_u32)
        .tensor("a", Dtype::F32, &[1])
        .and_then(|writer| writer.tensor("b", Dtype::F32, &[1]))
        .and_then(|writer| writer.write(Vec::new(), [[1; 4], [2; 4]]))
        .unwrap();
    let read = Gguf::parse(&file).unwrap();
    assert_eq!(read.tensors["b"].range.start - read.tensors["a"].range.start, 256);
    assert_eq!(read.data_offset % 256, 0);
}

#[test]
fn a_file_of_metadata_alone_is_read() {
    let none: [&[u8]; 0] = [];
    let file = GgufWriter::new("x").write(Vec::new(), none).unwrap();
    assert!(Gguf::parse(&file).unwrap().tensors.is_empty());
}

#[test]
fn an_unknown_tensor_type_is_kept_for_who_does_not_need_it() {
    // F16, shape (3, 4), becomes the type 21 (ggml's IQ3_S), about which nothing is known here.
    let file = gguf();
    let mut dimensions = 4_u64.to_le_bytes().to_vec();
    dimensions.extend(3_u64.to_le_bytes());
    let old = [dimensions.as_slice(), &1_u32.to_le_bytes()].concat();
    let new = [dimensions.as_slice(), &21_u32.to_le_bytes()].concat();
    let read = Gguf::parse(&replace(&file, &old, &new)).unwrap();
    let output = read.tensor("output.weight").unwrap();
    assert_eq!((output.dtype, output.dtype.to_string().as_str()), (Dtype::Other(21), "ggml type 21"));
    assert_eq!(output.range.end, file.len());
    assert_eq!(read.tensor("token_embd.weight").unwrap().dtype, Dtype::Q8_0);
}

#[test]
fn opening_reads_as_far_as_the_header_goes() {
    // A vocabulary beyond the first read of 1 MiB, so that the reader must come back for more.
    let tokens: StringArray = (0..150_000).map(|token| format!("token number {token}")).collect();
    let file = GgufWriter::new("llama")
        .set("tokenizer.ggml.tokens", tokens.clone())
        .tensor("w", Dtype::F32, &[1 << 20])
        .and_then(|writer| writer.write(Vec::new(), [vec![0; 4 << 20]]))
        .unwrap();
    let path = directory("gguf").join("model.gguf");
    std::fs::write(&path, &file).unwrap();
    let opened = Gguf::open(&path).unwrap();
    assert_eq!(opened, Gguf::parse(&file).unwrap());
    assert_eq!(opened.strings("tokenizer.ggml.tokens").unwrap(), &tokens);
    assert_eq!(tokens.get(149_999), Some("token number 149999"));
    assert_eq!(tokens.get(150_000), None);

    std::fs::write(&path, &file[..2 << 20]).unwrap();
    assert!(matches!(Gguf::open(&path), Err(ArtifactError::Truncated { .. })));
}

#[test]
fn the_writer_refuses_what_it_cannot_write() {
    let tensor = |dtype, shape: &[usize]| GgufWriter::new("x").tensor("w", dtype, shape);
    assert!(matches!(tensor(Dtype::Q4_K, &[2, 128]), Err(ArtifactError::PartialBlock { block: 256, .. })));
    assert!(matches!(tensor(Dtype::Q8_0, &[]), Err(ArtifactError::PartialBlock { .. })));
    assert!(matches!(tensor(Dtype::F32, &[1; 5]), Err(ArtifactError::TooManyDimensions { rank: 5, .. })));
    assert!(matches!(tensor(Dtype::F32, &[usize::MAX, 2]), Err(ArtifactError::ShapeOverflow { .. })));
    assert!(matches!(tensor(Dtype::Other(21), &[256]), Err(ArtifactError::UnwritableDtype { .. })));
    let twice = tensor(Dtype::F32, &[1]).unwrap().tensor("w", Dtype::F32, &[1]);
    assert!(matches!(twice, Err(ArtifactError::Duplicate { .. })));
    assert!(matches!(GgufWriter::new("x").tensor("", Dtype::F32, &[1]), Err(ArtifactError::BadName { .. })));
}
