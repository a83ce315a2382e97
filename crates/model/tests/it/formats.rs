//! Between formats: what a model in another format computes against the f32 model with exactly the same (dequantised)
//! weights, and how far it is from the original.

use falaj_artifact::Dtype;
use falaj_artifact::gguf::{Gguf, GgufWriter};
use falaj_kernels::{Format, Isa, KvFormat, Ops};
use falaj_model::Slot;
use falaj_model::synthetic::Checkpoint;

use crate::golden::Golden;
use crate::run::{load_gguf, logits, max_abs_diff};

/// Format; bound against f32 arithmetic on the same weights (the quantised ones meet activations in 8-bit blocks, BF16 ones
/// activations rounded to bf16, which is the whole difference); bound against the original weights. Logits are about 1 in
/// size.
const BOUNDS: [(Format, f32, f32); 8] = [
    (Format::F32, 0.0, 0.0),
    (Format::F16, 0.0, 2e-3),
    (Format::BF16, 1.5e-2, 2e-2),
    (Format::Q8_0, 4e-2, 6e-2),
    (Format::Q6_K, 4e-2, 0.15),
    (Format::Q5_K, 4e-2, 0.25),
    (Format::Q4_K, 4e-2, 0.5),
    (Format::Q4_0, 4e-2, 0.6),
];

#[test]
fn every_format_computes_with_the_weights_it_holds() {
    let golden = Golden::parse(include_str!("../golden/llama_gqa.json"));
    let checkpoint = golden.checkpoint();
    let original = run(&checkpoint, |_| Format::F32, &golden.tokens);
    for (format, bound, bound_to_original) in BOUNDS {
        let (ours, reference) = both(&checkpoint, format, &golden.tokens);
        let (diff, to_original) = (max_abs_diff(&ours, &reference), max_abs_diff(&ours, &original));
        println!("{format}: {diff:.2e} to the same weights in f32, {to_original:.2e} to the original");
        assert!(diff <= bound, "{format}: {diff:e} is above {bound:e}");
        assert!(to_original <= bound_to_original, "{format}: {to_original:e} is above {bound_to_original:e}");
    }
}

/// With random weights two experts are often almost tied; rounding then sends a token to another one, which is a jump and
/// not an error. So: the bound of the dense model, for all but a few positions.
#[test]
fn every_format_computes_a_mixture() {
    let golden = Golden::parse(include_str!("../golden/mixtral.json"));
    let checkpoint = golden.checkpoint();
    for (format, bound, _) in BOUNDS {
        let (ours, reference) = both(&checkpoint, format, &golden.tokens);
        let outside = |pair: &(&Vec<f32>, &Vec<f32>)| pair.0.iter().zip(pair.1).any(|(a, b)| (a - b).abs() > bound);
        let jumped = ours.iter().zip(&reference).filter(outside).count();
        println!("{format}: {jumped} of {} positions took another expert", ours.len());
        assert!(jumped <= if bound > 0.0 { 3 } else { 0 }, "{format}: {jumped}");
    }
}

/// Logits in `format`, and those of an f32 file with exactly the same weights.
fn both(checkpoint: &Checkpoint, format: Format, tokens: &[u32]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let bytes = checkpoint.gguf(|_| format).unwrap();
    let reference = load_gguf(in_f32(&bytes), None).unwrap();
    let ours = load_gguf(bytes, None).unwrap();
    (logits(&ours, tokens, KvFormat::F32, 32), logits(&reference, tokens, KvFormat::F32, 32))
}

#[test]
fn formats_mix_in_one_file() {
    let golden = Golden::parse(include_str!("../golden/llama_gqa.json"));
    let checkpoint = golden.checkpoint();
    let mixed = |slot| match slot {
        Slot::Embedding => Format::Q6_K,
        Slot::Query { .. } | Slot::Gate { .. } => Format::Q4_K,
        Slot::Key { .. } | Slot::Up { .. } => Format::BF16,
        Slot::Down { .. } => Format::Q8_0,
        _ => Format::F16,
    };
    let original = run(&checkpoint, |_| Format::F32, &golden.tokens);
    let ours = run(&checkpoint, mixed, &golden.tokens);
    assert!(max_abs_diff(&ours, &original) < 0.4);
}

fn run(checkpoint: &Checkpoint, format: impl Fn(Slot) -> Format, tokens: &[u32]) -> Vec<Vec<f32>> {
    logits(&load_gguf(checkpoint.gguf(format).unwrap(), None).unwrap(), tokens, KvFormat::F32, 32)
}

/// The same file with every tensor's exact values in f32.
fn in_f32(bytes: &[u8]) -> Vec<u8> {
    let ops = Ops::new(Isa::Scalar);
    let gguf = Gguf::parse(bytes).unwrap();
    let mut writer = GgufWriter::new("llama");
    for (key, value) in &gguf.metadata {
        writer = writer.set(key, value.clone());
    }
    let mut data = Vec::new();
    for (name, entry) in &gguf.tensors {
        writer = writer.tensor(name, Dtype::F32, &entry.shape).unwrap();
        let format = Format::ALL.into_iter().find(|format| format.to_string() == entry.dtype.to_string()).unwrap();
        let mut values = vec![0.0; entry.elements()];
        ops.dequantize_row(format, entry.bytes(bytes).unwrap(), &mut values);
        data.push(values.iter().flat_map(|value: &f32| value.to_le_bytes()).collect::<Vec<u8>>());
    }
    writer.write(Vec::new(), data).unwrap()
}
