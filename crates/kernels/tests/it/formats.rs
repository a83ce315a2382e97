//! Block layouts against `gguf` from PyPI (see golden/make_golden.py), and quantisers against their own step.

use falaj_kernels::{Format, Ops};

use crate::random::{Random, same_bits};

macro_rules! golden {
    ($name:literal) => {
        (
            include_bytes!(concat!("../golden/", $name, ".blocks")).as_slice(),
            include_bytes!(concat!("../golden/", $name, ".values")).as_slice(),
        )
    };
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

#[test]
fn values_are_those_of_gguf() {
    let cases = [
        (Format::F16, golden!("f16")),
        (Format::BF16, golden!("bf16")),
        (Format::Q8_0, golden!("q8_0")),
        (Format::Q4_0, golden!("q4_0")),
        (Format::Q4_K, golden!("q4_k")),
        (Format::Q5_K, golden!("q5_k")),
        (Format::Q6_K, golden!("q6_k")),
    ];
    let ops = Ops::best();
    for (format, (blocks, values)) in cases {
        let expected = floats(values);
        let mut got = vec![0.0; expected.len()];
        ops.dequantize_row(format, blocks, &mut got);
        // -0 is 0 here: gguf multiplies in another order where q is the zero point.
        for v in &mut got {
            *v += 0.0;
        }
        let expected: Vec<f32> = expected.iter().map(|v| v + 0.0).collect();
        same_bits(&got, &expected, &format.to_string());
    }
}

#[test]
fn quantised_bytes_are_those_of_gguf() {
    let input = floats(include_bytes!("../golden/input.values"));
    let ops = Ops::best();
    for (format, blocks) in [
        (Format::F16, golden!("f16").0),
        (Format::BF16, golden!("bf16").0),
        (Format::Q8_0, golden!("q8_0").0),
        (Format::Q4_0, golden!("q4_0").0),
    ] {
        let mut bytes = vec![0; blocks.len()];
        ops.quantize_row(format, &input, &mut bytes);
        assert!(bytes == blocks, "{format}");
    }
}

#[test]
fn quantising_loses_at_most_a_step() {
    // In parts of the largest magnitude of a block (large enough that its f16 scale is normal): half a step of 2 · amax / levels, and what rounding the scales adds.
    let cases = [
        (Format::F32, 0.0),
        (Format::F16, 0.0005),
        (Format::BF16, 0.004),
        (Format::Q8_0, 0.0045),
        (Format::Q4_0, 0.126),
        (Format::Q4_K, 0.10),
        (Format::Q5_K, 0.06),
        (Format::Q6_K, 0.04),
    ];
    let ops = Ops::best();
    let mut random = Random(3);
    for (format, bound) in cases {
        for scale in [1.0f32, 0.1, 100.0] {
            let x: Vec<f32> = random.floats(1024).iter().map(|v| v * scale).collect();
            let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
            ops.quantize_row(format, &x, &mut bytes);
            let mut back = vec![0.0; x.len()];
            ops.dequantize_row(format, &bytes, &mut back);
            for (x, back) in x.chunks(256).zip(back.chunks(256)) {
                let amax = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                let worst = x.iter().zip(back).fold(0.0f32, |a, (x, back)| a.max((x - back).abs()));
                assert!(worst <= bound * amax, "{format} at {scale}: {} of {bound}", worst / amax);
            }
        }
    }
}

#[test]
fn zeros_and_constants_survive_every_format() {
    let ops = Ops::best();
    for format in Format::ALL {
        for value in [0.0f32, 1.0, -1.0] {
            let x = [value; 256];
            let mut bytes = vec![0xff; format.row_bytes(256).unwrap()];
            ops.quantize_row(format, &x, &mut bytes);
            let mut back = [9.0; 256];
            ops.dequantize_row(format, &bytes, &mut back);
            assert!(back.iter().all(|v| (v - value).abs() <= 0.005), "{format} of {value}: {}", back[0]);
        }
    }
}
