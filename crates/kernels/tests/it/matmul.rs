//! Products: exact on integers, close to f64, and the same bits whatever the ISA, the batch and the threads.

use falaj_kernels::{
    ActivationKind, Activations, AlignedVec, Format, Gated, Matrix, Ops, Panels, Pool, Product, Then, WeightView,
};
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
    // Those of `has_panels`; at an odd address too.
    panels: Vec<u8>,
    values: Vec<f32>,
}

impl Weights {
    fn new(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Self {
        let mut values = vec![0.0; rows * cols];
        Ops::best().dequantize_row(format, bytes, &mut values);
        let mut panels = Vec::new();
        if let Some(len) = Panels::bytes_for(format, rows, cols) {
            panels = vec![0xaa; len + 1];
            let matrix = Matrix::new(format, rows, cols, bytes).unwrap();
            Ops::best().pack(&Pool::new(1), &matrix, &mut panels[1..]);
        }
        // One of two offsets is odd; alignment must not matter.
        Self { format, rows, cols, padded: [&[0], bytes].concat(), panels, values }
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

    fn view(&self) -> WeightView<'_> {
        if self.format.has_panels() {
            WeightView::Panels(Panels::new(self.format, self.rows, self.cols, &self.panels[1..]).unwrap())
        } else {
            WeightView::Rows(self.matrix())
        }
    }
}

fn product(ops: &Ops, pool: &Pool, w: &Weights, x: &[f32], m: usize) -> Vec<f32> {
    let mut activations = Activations::new(m, w.cols);
    activations.set(ops, pool, x, m, w.cols, ActivationKind::for_format(w.format));
    let mut out = vec![f32::NAN; m * w.rows];
    multiply(ops, pool, w, &activations, &mut out);
    out
}

fn multiply(ops: &Ops, pool: &Pool, w: &Weights, x: &Activations, out: &mut [f32]) {
    ops.matmul(pool, x, &mut [Product { w: w.view(), rows: 0..x.rows(), out, then: Then::Store }]);
}

/// What the documentation of products says, in plain Rust, from the file's bytes.
fn specified(w: &Weights, x: &[f32], m: usize, tiles: bool) -> Vec<f32> {
    let mut out = Vec::new();
    for x in x.chunks(w.cols).take(m) {
        for n in 0..w.rows {
            let row = w.matrix().row(n);
            out.push(if w.format == Format::BF16 { bf16_sum(row, x, tiles) } else { block_sum(w.format, row, x) });
        }
    }
    out
}

/// Where BF16 weights meet tiles, each 32 columns are summed apart, even and odd ones.
fn in_tiles(ops: &Ops) -> bool {
    ops.numerics_version() == "1-amx-bf16"
}

fn bf16_sum(row: &[u8], x: &[f32], tiles: bool) -> f32 {
    let value = |k: usize| {
        let w = row.get(2 * k..2 * k + 2).map_or(0.0, |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32());
        (w, x.get(k).map_or(0.0, |&x| half::bf16::from_f32(x).to_f32()))
    };
    if tiles {
        return (0..x.len()).step_by(32).fold(0.0, |sum, first| {
            let half = |parity: usize| {
                (0..16).map(|i| value(first + 2 * i + parity)).fold(0.0f32, |sum, (w, x)| w.mul_add(x, sum))
            };
            sum + (half(0) + half(1))
        });
    }
    (0..x.len().div_ceil(2)).fold(0.0f32, |sum, pair| {
        let ((w0, x0), (w1, x1)) = (value(2 * pair), value(2 * pair + 1));
        w0.mul_add(x0, w1.mul_add(x1, sum))
    })
}

fn block_sum(format: Format, row: &[u8], x: &[f32]) -> f32 {
    let half = |bytes: &[u8]| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    let mut sum = 0.0f32;
    for (b, x) in x.chunks(32).enumerate() {
        let amax = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        let q: Vec<i32> = x.iter().map(|v| (v * (127.0 / amax)).round_ties_even() as i32).collect();
        let scale = amax / 127.0;
        let per_block = format.block_len() / 32;
        let block = &row[b / per_block * format.block_bytes()..][..format.block_bytes()];
        let j = b % per_block;
        let dot = |w: &dyn Fn(usize) -> i32, range: std::ops::Range<usize>| -> f32 {
            range.map(|k| w(k) * q[k]).sum::<i32>() as f32
        };
        match format {
            Format::Q8_0 => {
                let isum = dot(&|k| i32::from(block[2 + k].cast_signed()), 0..32);
                sum = isum.mul_add(half(block) * scale, sum);
            }
            Format::Q4_0 => {
                let isum = dot(&|k| i32::from((block[2 + k % 16] >> (k / 16 * 4)) & 15) - 8, 0..32);
                sum = isum.mul_add(half(block) * scale, sum);
            }
            Format::Q4_K | Format::Q5_K => {
                let packed = &block[4..16];
                let (sc, min) = if j < 4 {
                    (packed[j] & 63, packed[j + 4] & 63)
                } else {
                    let high = packed[j + 4];
                    ((high & 15) | (packed[j - 4] >> 6 << 4), (high >> 4) | (packed[j] >> 6 << 4))
                };
                let nibbles = &block[if format == Format::Q4_K { 16 } else { 48 }..];
                let isum = dot(
                    &|k| {
                        let low = (nibbles[j / 2 * 32 + k] >> (j % 2 * 4)) & 15;
                        let fifth = if format == Format::Q5_K { (block[16 + k] >> j) & 1 } else { 0 };
                        i32::from(low | (fifth << 4))
                    },
                    0..32,
                );
                sum = isum.mul_add((half(block) * f32::from(sc)) * scale, sum);
                let total = scale * q.iter().sum::<i32>() as f32;
                sum = (-(half(&block[2..]) * f32::from(min))).mul_add(total, sum);
            }
            Format::Q6_K => {
                let (h, run) = (j / 4, j % 4);
                let w = |k: usize| {
                    let low = (block[64 * h + 32 * (run % 2) + k] >> (4 * (run / 2))) & 15;
                    i32::from(low | (((block[128 + 32 * h + k] >> (2 * run)) & 3) << 4)) - 32
                };
                for part in 0..2 {
                    let isum = dot(&w, 16 * part..16 * (part + 1));
                    let sc = f32::from(block[192 + 2 * j + part].cast_signed());
                    sum = isum.mul_add((half(&block[208..]) * sc) * scale, sum);
                }
            }
            Format::F32 | Format::F16 | Format::BF16 => unreachable!(),
        }
    }
    sum
}

const PANELS: [Format; 6] = [Format::BF16, Format::Q8_0, Format::Q4_0, Format::Q4_K, Format::Q5_K, Format::Q6_K];

#[test]
fn products_are_those_of_the_specification() {
    let mut random = Random(21);
    for format in PANELS {
        for (rows, blocks) in [(1, 1), (16, 2), (37, 3), (64, 5)] {
            let cols = if format == Format::BF16 { 67 * blocks } else { blocks * format.block_len() };
            let w = Weights::random(&mut random, format, rows, cols);
            let x = random.floats(21 * cols);
            for ops in all_ops() {
                let expected = specified(&w, &x, 21, in_tiles(&ops));
                for (m, threads) in [(1, 1), (2, 2), (3, 1), (4, 1), (5, 3), (8, 1), (9, 1), (12, 2), (21, 2)] {
                    let got = product(&ops, &Pool::new(threads), &w, &x[..m * cols], m);
                    same_bits(&got, &expected[..m * rows], &format!("{format} {rows} x {cols}, {m} rows, {ops:?}"));
                }
            }
        }
    }
}

#[test]
fn packing_keeps_every_value() {
    let mut random = Random(22);
    for format in PANELS {
        for (rows, blocks) in [(1, 1), (16, 3), (35, 2), (300, 1)] {
            let cols = if format == Format::BF16 { 33 * blocks } else { blocks * format.block_len() };
            let w = Weights::random(&mut random, format, rows, cols);
            let mut again = AlignedVec::<u8>::new(w.panels.len() - 1);
            let mut got = vec![0.0; cols];
            for ops in all_ops() {
                ops.pack(&Pool::new(3), &w.matrix(), &mut again);
                assert_eq!(*again, w.panels[1..], "{format} {ops:?}");
                let panels = Panels::new(format, rows, cols, &again).unwrap();
                for (row, expected) in w.values.chunks(cols).enumerate() {
                    ops.unpack_row(&panels, row, &mut got);
                    same_bits(&got, expected, &format!("{format} row {row} of {rows}"));
                }
            }
        }
    }
}

#[test]
fn products_are_added_gated_and_of_ranges() {
    let mut random = Random(23);
    let (m, cols, rows) = (11, 512, 45);
    for format in Format::ALL {
        let (a, b) =
            (Weights::random(&mut random, format, rows, cols), Weights::random(&mut random, Format::Q6_K, rows, cols));
        let x = random.floats(m * cols);
        for ops in all_ops() {
            let pool = Pool::new(2);
            let mut activations = Activations::new(m, cols);
            let kind = ActivationKind::for_format(format) | ActivationKind::BLOCKS;
            activations.set(&ops, &pool, &x, m, cols, kind);
            let (first, second) = (product(&ops, &pool, &a, &x, m), product(&ops, &pool, &b, &x, m));

            let before = random.floats(m * rows);
            let (mut added, mut part, mut none) = (before.clone(), vec![f32::NAN; 3 * rows], vec![]);
            ops.matmul(
                &pool,
                &activations,
                &mut [
                    Product { w: a.view(), rows: 0..m, out: &mut added, then: Then::Add },
                    Product { w: b.view(), rows: 4..4, out: &mut none, then: Then::Store },
                    Product { w: b.view(), rows: 7..10, out: &mut part, then: Then::Store },
                ],
            );
            let expected: Vec<f32> = before.iter().zip(&first).map(|(a, b)| a + b).collect();
            same_bits(&added, &expected, &format!("{format} added, {ops:?}"));
            same_bits(&part, &second[7 * rows..10 * rows], &format!("{format} rows 7 to 10, {ops:?}"));

            let mut gated = vec![f32::NAN; 9 * rows];
            ops.gated(&pool, &activations, &mut [Gated { gate: a.view(), up: b.view(), rows: 2..m, out: &mut gated }]);
            let mut expected = first[2 * rows..].to_vec();
            ops.swiglu(&mut expected, &second[2 * rows..]);
            same_bits(&gated, &expected, &format!("{format} gated, {ops:?}"));
        }
    }
}

#[test]
fn normed_activations_are_those_of_two_steps() {
    let mut random = Random(24);
    let (m, cols, rows) = (5, 256, 20);
    let (x, weight) = (random.floats(m * cols), random.floats(cols));
    for format in Format::ALL {
        let w = Weights::random(&mut random, format, rows, cols);
        for ops in all_ops() {
            let pool = Pool::new(2);
            let mut normed = vec![0.0; m * cols];
            ops.rms_norm(&x, &weight, 1e-5, &mut normed);
            let mut activations = Activations::new(m, cols);
            activations.set_normed(&ops, &pool, &x, &weight, 1e-5, m, ActivationKind::for_format(format));
            let mut got = vec![0.0; m * rows];
            multiply(&ops, &pool, &w, &activations, &mut got);
            same_bits(&got, &product(&ops, &pool, &w, &normed, m), &format!("{format} {ops:?}"));
        }
    }
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
            let seen = match format {
                Format::F32 | Format::F16 => x.clone(),
                Format::BF16 => x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect(),
                _ => through_blocks(&x, cols),
            };
            for ops in all_ops() {
                let out = product(&ops, &pool, &w, &x, m);
                for (i, &got) in out.iter().enumerate() {
                    let (i, n) = (i / rows, i % rows);
                    let terms = (0..cols).map(|k| f64::from(seen[i * cols + k]) * f64::from(w.values[n * cols + k]));
                    let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                    // Minima make partial sums larger than the terms: 64 stands for that and for the scales' roundings.
                    let factor = if matches!(format, Format::Q4_K | Format::Q5_K) { 64.0 } else { 8.0 };
                    let lanes = if format.has_panels() { 1.0 } else { 16.0 };
                    let bound = factor * (cols as f64 / lanes + 4.0) * f64::from(f32::EPSILON) * size;
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
        multiply(&ops, &pool, &w, &activations, &mut out);
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
        let alone = |ops| x.chunks(cols).flat_map(|x| product(&ops, &one, &w, x, 1)).collect::<Vec<f32>>();
        let scalar = alone(Ops::new(falaj_kernels::Isa::Scalar));
        for ops in all_ops() {
            let expected = if format == Format::BF16 && in_tiles(&ops) { alone(ops) } else { scalar.clone() };
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
    ops.matmul(&pool, &x, &mut [Product { w: WeightView::Rows(w), rows: 0..2, out: &mut [0.0; 2], then: Then::Store }]);
}
