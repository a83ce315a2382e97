//! Good files to read, and to spoil.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use falaj_artifact::Dtype;
use falaj_artifact::gguf::{GgufWriter, StringArray};
use falaj_artifact::safetensors::SafetensorsWriter;

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) >> 2) as u8).collect()
}

/// Two tensors, `a` (2, 3) F32 and `b` (4) BF16, and one metadata entry.
pub fn safetensors() -> Vec<u8> {
    SafetensorsWriter::new()
        .metadata("format", "pt")
        .tensor("a", Dtype::F32, &[2, 3])
        .and_then(|writer| writer.tensor("b", Dtype::BF16, &[4]))
        .and_then(|writer| writer.write(Vec::new(), [pattern(24), pattern(8)]))
        .expect("the sample is valid")
}

/// A safetensors file with this header, followed by `data_bytes` bytes.
pub fn safetensors_with(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(pattern(data_bytes));
    file
}

/// Every kind of value, tensors of several types.
pub fn gguf() -> Vec<u8> {
    let tokens: StringArray = ["<s>", "</s>", "سلام", "é", "a b"].into_iter().collect();
    GgufWriter::new("llama")
        .set("llama.block_count", 2_u32)
        .set("llama.rope.freq_base", 10_000.0_f32)
        .set("general.parameter_count", 64_u64)
        .set("an.i8", -3_i8)
        .set("an.i64", -5_000_000_000_i64)
        .set("tokenizer.ggml.add_bos_token", true)
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.scores", vec![0.0_f32, -1.0, -2.0, -3.0, -4.0])
        .set("tokenizer.ggml.token_type", vec![3_i32, 3, 1, 1, 1])
        .tensor("token_embd.weight", Dtype::Q8_0, &[2, 32])
        .and_then(|writer| writer.tensor("blk.0.attn_norm.weight", Dtype::F32, &[5]))
        .and_then(|writer| writer.tensor("output.weight", Dtype::F16, &[3, 4]))
        .and_then(|writer| writer.write(Vec::new(), [pattern(68), pattern(20), pattern(24)]))
        .expect("the sample is valid")
}

/// Puts `new` in the place of the only occurrence of `old`.
pub fn replace(file: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut places = (0..file.len()).filter(|at| file[*at..].starts_with(old));
    let at = places.next().expect("the bytes to replace are there");
    assert_eq!(places.next(), None, "the bytes to replace are there once");
    [&file[..at], new, &file[at + old.len()..]].concat()
}

/// A fresh directory under cargo's place for test files.
pub fn directory(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{count}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("the target directory is writable");
    dir
}
