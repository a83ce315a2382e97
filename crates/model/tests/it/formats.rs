//! Between formats: what a model in another format computes against the f32 model with exactly the same (dequantised)
//! weights, and how far it is from the original.

use falaj_artifact::Dtype;
use falaj_artifact::gguf::{Gguf, GgufWriter};
use falaj_kernels::{Format, Isa, KvFormat, Ops};
use falaj_model::Slot;
use falaj_model::synthetic::Checkpoint;

use crate::golden::Golden;
use crate::run::{load_gguf, logits, max_abs_diff};

/// Format; bound against f32 arithmetic on the same weights (activations rounded to 8 bits in blocks of 32 are the whole
/// difference for the quantised ones); bound against the original weights. Logits are about 1 in size.
const BOUNDS: [(Format, f32, f32); 8] = [
    (Format::F32, 1e-5, 1e-5),
    (Format::F16, 1e-5, 2e-3),
    (Format::BF16, 1e-5, 2e-2),
    (Format::Q8_0, 0.2, 0.3),
    (Format::Q6_K, 0.2, 0.9),
    (Format::Q5_K, 0.2, 2.2),
    (Format::Q4_K, 0.2, 2.4),
    (Format::Q4_0, 0.2, 2.5),
];

#[test]
fn every_format_computes_with_the_weights_it_holds() {
    for json in [include_str!("../golden/llama_gqa.json"), include_str!("../golden/mixtral.json")] {
        let golden = Golden::parse(json);
        let checkpoint = golden.checkpoint();
        let original = run(&checkpoint, |_| Format::F32, &golden.tokens);
        for (format, bound, bound_to_original) in BOUNDS {
            let bytes = checkpoint.gguf(|_| format).unwrap();
            let ours = logits(&load_gguf(bytes.clone(), None).unwrap(), &golden.tokens, KvFormat::F32, 32);
            let same_weights = in_f32(&bytes);
            let reference = logits(&load_gguf(same_weights, None).unwrap(), &golden.tokens, KvFormat::F32, 32);
            let (diff, to_original) = (max_abs_diff(&ours, &reference), max_abs_diff(&ours, &original));
            println!("{format}: {diff:.2e} to the same weights in f32, {to_original:.2e} to the original");
            assert!(diff <= bound, "{format}: {diff:e} is above {bound:e}");
            assert!(to_original <= bound_to_original, "{format}: {to_original:e} is above {bound_to_original:e}");
        }
    }
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
