//! The kernels on emulated tiles, against the specification; and the hardware against the emulator where there is one.

use super::bytes::{self, BLOCK, BLOCKS};
use super::check::{self, Noise, bytes_agree, pairs_agree};
use super::tiles::{Shape, Sums, Tiles};
use super::{Emulator, Hardware, offers_bytes, offers_pairs, pairs, quantized_panel};
use crate::activations::{ActivationKind, Activations};
use crate::format::{Format, Matrix};
use crate::isa::Isa;
use crate::matmul::{self, Gated, Product, Quants, Scratch, Then, panel_formats};
use crate::ops::Ops;
use crate::panels::{Panels, WeightView};
use crate::pool::Pool;
use crate::simd::{Avx512, Scalar, Simd};

#[test]
fn the_emulator_passes_the_check_at_start() {
    let mut emulator = Emulator::new();
    assert!(bytes_agree::<_, 32>(&mut emulator));
    assert!(bytes_agree::<_, 16>(&mut emulator));
    assert!(pairs_agree(&mut emulator));
}

/// A unit with one instruction that is a little wrong.
struct Broken(Emulator, Fault);

#[derive(PartialEq)]
enum Fault {
    /// Reads activations as unsigned: `tdpbusd` instead of `tdpbssd`.
    Unsigned,
    /// The second set of tiles does nothing.
    LazySet,
    /// Adds all products of a tile in one chain, as `vdpbf16ps` does.
    OneChain,
}

impl Tiles for Broken {
    fn configure(&mut self, shape: Shape) {
        self.0.configure(shape);
    }

    unsafe fn bytes<const SET: usize>(&mut self, a: *const i8, a_stride: usize, b: *const i8, c: *mut Sums) {
        // SAFETY: by the contract of this function.
        unsafe {
            if self.1 == Fault::LazySet && SET == 1 {
                return;
            }
            self.0.bytes::<SET>(a, a_stride, b, c);
            if self.1 == Fault::Unsigned && *a < 0 {
                (*c).0[0][0] += 256 * i32::from(*b);
            }
        }
    }

    unsafe fn pairs<const M: usize, const N: usize>(
        &mut self,
        a: *const u16,
        a_stride: usize,
        b: [*const u8; N],
        c: [*mut f32; N],
        count: usize,
    ) {
        // SAFETY: by the contract of this function.
        unsafe {
            let before = *c[0];
            self.0.pairs::<M, N>(a, a_stride, b, c, count);
            let float = |bits: u16| f32::from_bits(u32::from(bits) << 16);
            *c[0] = (0..count * 32).fold(before, |sum, k| {
                float(*a.add(k)).mul_add(float(*b[0].add(k / 2 * 64 + k % 2 * 2).cast::<u16>()), sum)
            });
        }
    }
}

#[test]
fn the_check_at_start_refuses_wrong_instructions() {
    assert!(!bytes_agree::<_, 32>(&mut Broken(Emulator::new(), Fault::Unsigned)));
    assert!(!bytes_agree::<_, 16>(&mut Broken(Emulator::new(), Fault::LazySet)));
    assert!(!pairs_agree(&mut Broken(Emulator::new(), Fault::OneChain)));
}

#[test]
fn tiles_that_the_cpu_has_are_right() {
    // Not `offers_bytes() == has`: a system may refuse what the CPU has. But what is offered is right, and usable twice.
    if offers_bytes() {
        // SAFETY: just asked.
        let mut hardware = unsafe { Hardware::begin() };
        assert!(bytes_agree::<_, 32>(&mut hardware) && bytes_agree::<_, 16>(&mut hardware));
        assert_eq!(pairs_agree(&mut hardware), offers_pairs());
    }
    assert_eq!(Isa::Amx.is_available(), Isa::Avx512.is_available() && offers_bytes());
}

/// Tiles of bytes, of all shapes of rows, in each instantiation.
#[test]
fn bytes_are_those_of_the_specification() {
    fn each<S: Simd, const PART: usize, const MINIMA: bool>(s: S, noise: &mut Noise) {
        for rows in (1..=17).chain([31, 32, 40, 48, 53]) {
            for parts in [1, 2, 3, 4, 9, 2 * BLOCKS] {
                let parts = parts.min(BLOCKS * BLOCK / PART);
                let (first, columns) = (64, parts * PART);
                let stride = (first + columns).next_multiple_of(64);
                let values: Vec<i8> = (0..16 * columns).map(|_| noise.next() as i8).collect();
                let quants: Vec<i8> = (0..rows * stride).map(|_| (noise.next() as i8).max(-127)).collect();
                let mut floats = |n: usize| -> Vec<f32> { (0..n).map(|_| noise.float()).collect() };
                let (scales, minima) = (floats(16 * parts), floats(16 * parts));
                let (row_scales, row_sums) = (floats(rows * stride / BLOCK), floats(rows * stride / BLOCK));
                let w = bytes::Weights {
                    values: &values,
                    scales: scales.as_chunks().0,
                    minima: if MINIMA { minima.as_chunks().0 } else { &[] },
                    next: bytes::Next::NOTHING,
                };
                let x = bytes::Rows { quants: &quants, scales: &row_scales, sums: &row_sums, stride };
                let before: Vec<f32> = floats(16 * rows);
                let mut sums: Vec<[f32; 16]> = before.as_chunks().0.to_vec();
                bytes::multiply::<_, S, PART, MINIMA>(&mut Emulator::new(), s, &w, &x, first, &mut sums);
                // The specification from the first of these columns on, continuing what was there.
                let from = bytes::Rows {
                    quants: &quants[first..],
                    scales: &row_scales[first / BLOCK..],
                    sums: &row_sums[first / BLOCK..],
                    stride,
                };
                for (m, n) in (0..rows).flat_map(|m| (0..16).map(move |n| (m, n))) {
                    let expected = check::continued::<PART>(&w, &from, m, n, before[16 * m + n]);
                    let got = sums[m][n];
                    assert_eq!(
                        got.to_bits(),
                        expected.to_bits(),
                        "{rows} rows, {parts} of {PART}: ({m}, {n}) {got} {expected}"
                    );
                }
            }
        }
    }
    let mut noise = Noise(3);
    each::<_, 32, false>(Scalar, &mut noise);
    each::<_, 32, true>(Scalar, &mut noise);
    each::<_, 16, false>(Scalar, &mut noise);
    if Isa::Avx512.is_available() {
        // SAFETY: just asked.
        let s = unsafe { Avx512::assume() };
        each::<_, 32, true>(s, &mut noise);
        each::<_, 16, false>(s, &mut noise);
    }
}

/// From packed panels, for every format, the bits of the kernel without tiles.
#[test]
fn quantized_panels_have_the_bits_of_the_other_kernels() {
    fn check<Q: Quants>(format: Format, noise: &mut Noise) {
        let pool = Pool::new(1);
        for (blocks, m) in [(1, 5), (3, 16), (33, 33), (40, 23), (2, 70)] {
            let cols = (blocks * 32usize).next_multiple_of(format.block_len());
            let floats: Vec<f32> = (0..16 * cols).map(|_| noise.float()).collect();
            let mut file = vec![0; 16 * format.row_bytes(cols).unwrap()];
            for (x, bytes) in floats.chunks(cols).zip(file.chunks_mut(format.row_bytes(cols).unwrap())) {
                Ops::best().quantize_row(format, x, bytes);
            }
            let mut bytes = vec![0; Panels::bytes_for(format, 16, cols).unwrap()];
            Ops::best().pack(&pool, &Matrix::new(format, 16, cols, &file).unwrap(), &mut bytes);
            let x: Vec<f32> = (0..m * cols).map(|_| noise.float()).collect();
            let mut activations = Activations::new(m, cols);
            activations.set(&Ops::best(), &pool, &x, m, cols, ActivationKind::BLOCKS);
            let (mut got, mut expected) = (vec![[f32::NAN; 16]; m - 2], vec![[0.0; 16]; m - 2]);
            let mut scratch = Scratch::default();
            quantized_panel::<_, _, Q>(
                &mut Emulator::new(),
                Scalar,
                &bytes,
                &activations,
                2..m,
                &mut scratch,
                &mut got,
            );
            matmul::quantized_panel::<_, Q>(Scalar, &bytes, &activations, 2..m, &mut scratch, &mut expected);
            let bits = |x: &[[f32; 16]]| x.as_flattened().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&expected), "{format}, {m} rows of {cols}");
        }
    }
    let mut noise = Noise(4);
    check::<panel_formats::Q8_0>(Format::Q8_0, &mut noise);
    check::<panel_formats::Q4_0>(Format::Q4_0, &mut noise);
    check::<panel_formats::Q4_K>(Format::Q4_K, &mut noise);
    check::<panel_formats::Q5_K>(Format::Q5_K, &mut noise);
    check::<panel_formats::Q6_K>(Format::Q6_K, &mut noise);
}

#[test]
fn pairs_are_those_of_the_specification_for_any_shape() {
    let mut noise = Noise(5);
    for columns in [1, 2, 31, 32, 33, 64, 100, 512, 1000, 1100] {
        let stride = usize::next_multiple_of(columns, 64);
        let mut panel = || (0..columns.div_ceil(2) * 32).flat_map(|_| noise.bf16().to_le_bytes()).collect::<Vec<u8>>();
        let w = [panel(), panel()];
        let mut bits = vec![0; 70 * stride];
        for row in bits.chunks_mut(stride) {
            row[..columns].fill_with(|| noise.bf16());
        }
        let x = pairs::Rows { bits: &bits, stride };
        let expected: Vec<[[f32; 16]; 2]> = bits
            .chunks(stride)
            .map(|x| std::array::from_fn(|p| std::array::from_fn(|n| pairs::specified(&w[p], n, x))))
            .collect();
        for rows in [1, 2, 15, 16, 17, 31, 32, 33, 64, 70] {
            let mut sums = [vec![[f32::NAN; 16]; rows], vec![[f32::NAN; 16]; rows]];
            let [first, second] = &mut sums;
            pairs::multiply(&mut Emulator::new(), [&w[0], &w[1]], &x, [first, second]);
            for (m, n) in (0..rows).flat_map(|m| (0..2).map(move |n| (m, n))) {
                assert_eq!(sums[n][m], expected[m][n], "{rows} rows of {columns}: row {m}, panel {n}");
            }
            let [alone, _] = &mut sums;
            pairs::multiply(&mut Emulator::new(), [&w[1]], &x, [alone]);
            assert!(
                sums[0].iter().zip(&expected).all(|(got, expected)| *got == expected[1]),
                "{rows} rows of {columns}"
            );
        }
    }
}

/// Everything above the kernels: units in pairs and alone, gate with up, passes of rows, results added.
#[test]
fn operations_on_emulated_tiles_have_the_specified_bits() {
    let mut noise = Noise(6);
    let (ops, scalar, pool) = (Ops::emulated(), Ops::new(Isa::Scalar), Pool::new(2));
    assert_eq!((ops.numerics_version(), scalar.numerics_version()), ("1-amx-bf16", "1"));
    // The last two are beyond a pass of rows: 512 KiB of activations.
    for (format, m, rows, cols) in [
        (Format::BF16, 1, 16, 33),
        (Format::BF16, 3, 45, 70),
        (Format::BF16, 35, 90, 64),
        (Format::Q4_0, 9, 45, 64),
        (Format::Q4_K, 21, 33, 512),
        (Format::Q5_K, 37, 17, 256),
        (Format::Q6_K, 66, 33, 256),
        // More rows than any pass takes.
        (Format::Q4_0, 530, 20, 32),
        (Format::BF16, 530, 40, 32),
        (Format::BF16, 97, 32, 4096),
        (Format::Q8_0, 70, 17, 8192),
    ] {
        let floats: Vec<f32> = (0..rows * cols).map(|_| noise.float()).collect();
        let mut file = vec![0; rows * format.row_bytes(cols).unwrap()];
        for (x, bytes) in floats.chunks(cols).zip(file.chunks_mut(format.row_bytes(cols).unwrap())) {
            ops.quantize_row(format, x, bytes);
        }
        let mut bytes = vec![0; Panels::bytes_for(format, rows, cols).unwrap()];
        ops.pack(&pool, &Matrix::new(format, rows, cols, &file).unwrap(), &mut bytes);
        let panels = Panels::new(format, rows, cols, &bytes).unwrap();
        let w = WeightView::Panels(panels);
        let x: Vec<f32> = (0..m * cols).map(|_| noise.float()).collect();
        let mut activations = Activations::new(m, cols);
        activations.set(&scalar, &pool, &x, m, cols, ActivationKind::for_format(format));

        let mut expected = vec![0.0; m * rows];
        if format == Format::BF16 {
            for (i, expected) in expected.iter_mut().enumerate() {
                let (m, n) = (i / rows, i % rows);
                *expected = pairs::specified(panels.panel(n / 16), n % 16, activations.bf16_row(m).0);
            }
        } else {
            let product = Product { w, rows: 0..m, out: &mut expected, then: Then::Store };
            scalar.matmul(&pool, &activations, &mut [product]);
        }
        let mut got = vec![1.0; m * rows];
        let product = Product { w, rows: 0..m, out: &mut got, then: Then::Add };
        ops.matmul(&pool, &activations, &mut [product]);
        assert!(got.iter().zip(&expected).all(|(got, expected)| *got == 1.0 + expected), "{format} {m} {rows} {cols}");

        let mut got = vec![0.0; m * rows];
        ops.gated(&pool, &activations, &mut [Gated { gate: w, up: w, rows: 0..m, out: &mut got }]);
        let up = expected.clone();
        scalar.swiglu(&mut expected, &up);
        assert!(got == expected, "{format} {m} {rows} {cols} gated");
    }
}

/// Denormals are zeros, in and out, as the manual says.
#[test]
fn pairs_flush_denormals() {
    let product = |w: f32, x: f32| {
        let bf16 = |x: f32| (x.to_bits() >> 16) as u16;
        let mut panel = vec![0; 64];
        panel[..2].copy_from_slice(&bf16(w).to_le_bytes());
        let mut bits = vec![0; 64];
        bits[0] = bf16(x);
        let mut sums = [[f32::NAN; 16]];
        pairs::multiply(&mut Emulator::new(), [&panel], &pairs::Rows { bits: &bits, stride: 64 }, [&mut sums]);
        sums[0][0]
    };
    assert_eq!(product(f32::MIN_POSITIVE, 1.0), f32::MIN_POSITIVE);
    assert_eq!(product(f32::MIN_POSITIVE, 0.5), 0.0);
    assert_eq!(product(f32::MIN_POSITIVE / 2.0, 2.0), 0.0);
}
