//! Products: exact on integers, close to f64, and the same bits whatever the ISA, the batch and the threads.

use falaj_kernels::{ActivationKind, Activations, Format, Matrix, Ops, Pool};
use proptest::prelude::*;

use crate::random::{Random, all_ops, same_bits};

const ONE: u16 = 0x3c00;
const SMALL: u16 = 0x1c00;

/// Weights as bytes at an odd address, and as the values they mean.
struct Weights {
    format: Format,
    rows: usize,
    cols: usize,
    padded: Vec<u8>,
    values: Vec<f32>,
}

impl Weights {
    fn new(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Self {
        let mut values = vec![0.0; rows * cols];
        Ops::best().dequantize_row(format, bytes, &mut values);
        // One of two offsets is odd; alignment must not matter.
        Self { format, rows, cols, padded: [&[0], bytes].concat(), values }
    }

    fn random(random: &mut Random, format: Format, rows: usize, cols: usize) -> Self {
        let bytes = if format.is_quantized() {
            random.blocks(format, rows * cols, SMALL)
        } else {
            let x = random.floats(rows * cols);
            let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
            Ops::best().quantize_row(format, &x, &mut bytes);
            bytes
        };
        Self::new(format, rows, cols, &bytes)
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.format, self.rows, self.cols, &self.padded[1..]).unwrap()
    }
}

fn product(ops: &Ops, pool: &Pool, w: &Weights, x: &[f32], m: usize) -> Vec<f32> {
    let mut activations = Activations::new(m, w.cols);
    activations.set(ops, pool, x, m, w.cols, ActivationKind::for_format(w.format));
    let mut out = vec![f32::NAN; m * w.rows];
    ops.matmul(pool, &w.matrix(), &activations, &mut out);
    out
}

/// What 8-bit activations hold, by the rule in the documentation of `Activations`.
fn through_blocks(x: &[f32], cols: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for row in x.chunks(cols) {
        for block in row.chunks(32) {
            let amax = block.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            let inverse = if amax > 0.0 { 127.0 / amax } else { 0.0 };
            out.extend(block.iter().map(|v| (v * inverse).round_ties_even() * (amax / 127.0)));
        }
    }
    out
}

fn lengths(format: Format) -> Vec<usize> {
    match format.block_len() {
        1 => (1..=40).chain([63, 64, 65, 100, 130]).collect(),
        32 => (1..=9).map(|blocks| 32 * blocks).collect(),
        _ => vec![256, 512, 768],
    }
}

#[test]
fn integers_are_exact_on_every_isa() {
    let mut random = Random(1);
    let pool = Pool::new(1);
    for format in Format::ALL {
        for cols in lengths(format) {
            let rows = 5;
            let w = if format.is_quantized() {
                let bytes = random.blocks(format, rows * cols, ONE);
                Weights::new(format, rows, cols, &bytes)
            } else {
                let mut bytes = vec![0; format.row_bytes(rows * cols).unwrap()];
                Ops::best().quantize_row(format, &random.integers(rows * cols, 100), &mut bytes);
                Weights::new(format, rows, cols, &bytes)
            };
            // One 127 per block makes its activation scale 1; the others keep sums below 2^24.
            let m = 3;
            let mut x = random.integers(m * cols, 3);
            if format.is_quantized() {
                for block in x.chunks_mut(32) {
                    block[random.below(32)] = if random.below(2) == 0 { 127.0 } else { -127.0 };
                }
            }
            let exact = |m: usize, n: usize| -> i64 {
                (0..cols).map(|k| x[m * cols + k] as i64 * w.values[n * cols + k] as i64).sum()
            };
            for ops in all_ops() {
                let out = product(&ops, &pool, &w, &x, m);
                for i in 0..m {
                    for n in 0..rows {
                        assert_eq!(out[i * rows + n] as i64, exact(i, n), "{format} {cols} {ops:?} [{i}][{n}]");
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_bytes_do_not_saturate() {
    let pool = Pool::new(1);
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4_K, Format::Q5_K, Format::Q6_K] {
        for byte in [0x00, 0x80, 0x7f, 0xff] {
            for sign in [1.0, -1.0] {
                let mut bytes = Random(0).blocks(format, 512, ONE);
                let halves = bytes.clone();
                bytes.fill(byte);
                for (to, from) in
                    bytes.chunks_exact_mut(format.block_bytes()).zip(halves.chunks_exact(format.block_bytes()))
                {
                    let at = if format == Format::Q6_K { 208 } else { 0 };
                    to[at..at + 2].copy_from_slice(&from[at..at + 2]);
                    if matches!(format, Format::Q4_K | Format::Q5_K) {
                        to[2..4].copy_from_slice(&from[2..4]);
                    }
                }
                let w = Weights::new(format, 1, 512, &bytes);
                let x = [sign * 127.0; 512];
                let exact: f64 = w.values.iter().map(|&w| f64::from(w) * f64::from(x[0])).sum();
                let scalar = product(&Ops::new(falaj_kernels::Isa::Scalar), &pool, &w, &x, 1);
                assert!((f64::from(scalar[0]) - exact).abs() <= exact.abs() * 1e-6, "{format} {byte:#x}");
                for ops in all_ops() {
                    same_bits(&product(&ops, &pool, &w, &x, 1), &scalar, &format!("{format} {byte:#x} {ops:?}"));
                }
            }
        }
    }
}

#[test]
fn random_products_are_within_the_rounding_bound_of_f64() {
    let mut random = Random(2);
    let pool = Pool::new(1);
    for format in Format::ALL {
        for cols in lengths(format) {
            let (rows, m) = (6, 2);
            let w = Weights::random(&mut random, format, rows, cols);
            let x = random.floats(m * cols);
            let seen = if format.is_quantized() { through_blocks(&x, cols) } else { x.clone() };
            for ops in all_ops() {
                let out = product(&ops, &pool, &w, &x, m);
                for (i, &got) in out.iter().enumerate() {
                    let (i, n) = (i / rows, i % rows);
                    let terms = (0..cols).map(|k| f64::from(seen[i * cols + k]) * f64::from(w.values[n * cols + k]));
                    let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                    // Minima make partial sums larger than the terms: 64 stands for that and for the scales' roundings.
                    let factor = if matches!(format, Format::Q4_K | Format::Q5_K) { 64.0 } else { 8.0 };
                    let bound = factor * (cols as f64 / 16.0 + 4.0) * f64::from(f32::EPSILON) * size;
                    assert!(
                        (f64::from(got) - exact).abs() <= bound,
                        "{format} {cols} {ops:?}: {got} {exact} {bound:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn broken_activations_stay_visible() {
    let mut random = Random(4);
    let pool = Pool::new(1);
    for format in Format::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let w = Weights::random(&mut random, format, 4, 256);
            let mut x = random.floats(256);
            x[77] = bad;
            for ops in all_ops() {
                assert!(product(&ops, &pool, &w, &x, 1).iter().all(|v| !v.is_finite()), "{format} {bad} {ops:?}");
            }
        }
    }
}

#[test]
fn tiny_and_zero_activations_give_zero() {
    let mut random = Random(5);
    let pool = Pool::new(1);
    for ops in all_ops() {
        let w = Weights::random(&mut random, Format::Q4_K, 4, 256);
        for x in [0.0, -0.0, 1e-38, f32::MIN_POSITIVE / 8.0] {
            assert!(product(&ops, &pool, &w, &[x; 256], 1).iter().all(|&v| v == 0.0), "{x}");
        }
    }
}

#[test]
fn activations_are_reused_for_other_shapes() {
    let ops = Ops::best();
    let pool = Pool::new(1);
    let mut random = Random(6);
    let mut activations = Activations::new(4, 320);
    for (m, cols) in [(4, 320), (2, 32), (1, 96), (3, 160)] {
        let w = Weights::random(&mut random, Format::Q8_0, 3, cols);
        let x = random.floats(m * cols);
        activations.set(&ops, &pool, &x, m, cols, ActivationKind::BLOCKS | ActivationKind::FLOATS);
        let mut out = vec![0.0; m * 3];
        ops.matmul(&pool, &w.matrix(), &activations, &mut out);
        same_bits(&out, &product(&ops, &pool, &w, &x, m), "reused");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A row's results are the same alone as in any batch, on one thread as on three, and on every ISA.
    #[test]
    fn bits_depend_on_the_row_alone(
        format in prop::sample::select(Format::ALL.to_vec()),
        m in 1usize..12,
        rows in 1usize..80,
        blocks in 1usize..6,
        odd in 0usize..40,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let cols = if format.is_quantized() { blocks * format.block_len() } else { blocks * 16 + odd };
        let w = Weights::random(&mut random, format, rows, cols);
        let x = random.floats(m * cols);
        let one = Pool::new(1);
        let expected: Vec<f32> =
            x.chunks(cols).flat_map(|x| product(&Ops::new(falaj_kernels::Isa::Scalar), &one, &w, x, 1)).collect();
        for ops in all_ops() {
            for threads in [1, 3] {
                same_bits(&product(&ops, &Pool::new(threads), &w, &x, m), &expected, &format!("{format} {ops:?}"));
            }
        }
    }
}

#[test]
fn large_batches_cross_cache_blocks_unchanged() {
    let mut random = Random(7);
    let pool = Pool::new(2);
    let (m, rows, cols) = (131, 37, 512);
    for format in Format::ALL {
        let w = Weights::random(&mut random, format, rows, cols);
        let x = random.floats(m * cols);
        let ops = Ops::best();
        let all = product(&ops, &pool, &w, &x, m);
        for i in [0, 63, 64, 100, 130] {
            let alone = product(&ops, &pool, &w, &x[i * cols..][..cols], 1);
            same_bits(&all[i * rows..][..rows], &alone, &format!("{format} row {i}"));
        }
    }
}

/// The fields of a matrix are public, so a claim may never have met `Matrix::new`. A product that wrapped around would pass
/// for the true length.
#[test]
#[should_panic(expected = "whole rows of weights")]
fn a_matrix_whose_size_wraps_around_is_refused() {
    let (ops, pool) = (Ops::best(), Pool::new(1));
    let mut x = Activations::new(2, 1);
    x.set(&ops, &pool, &[1.0; 2], 2, 1, ActivationKind::FLOATS);
    let w = Matrix { format: Format::F32, rows: (usize::MAX >> 1) + 2, cols: 1, bytes: &[0; 4] };
    ops.matmul(&pool, &w, &x, &mut [0.0; 2]);
}
