//! The two products of an adapter, for one or four rows that have the same one. What they read is described in `layout.rs`.
//!
//! Budget for one row, AVX-512: a block of a panel of A is W/2 loads and W/2 dot products of 64 bytes, and five instructions more; B
//! takes the same for each 512 bytes, and a load, a store and a scale for each sixteen outputs. That is about 2.5 instructions for each
//! 64 bytes, 10 cycles for the 128 bytes that memory gives in that time: memory is what is waited for.

use std::ops::Range;

use super::layout::{First, Second, UNIT};
use crate::activations::{BLOCK, BlockRow};
use crate::panels::WIDTH;
use crate::simd::{BYTES, Simd, load_part, store_part};

/// Rows that are multiplied at once.
pub(crate) const ROWS: usize = 4;
/// How far ahead of the sums weights are asked for.
const AHEAD: usize = 2048;

/// A row of activations, in blocks.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row<'a> {
    quants: &'a [[u8; BLOCK]],
    scales: &'a [f32],
    /// −Σq of each block.
    totals: &'a [i32],
}

impl<'a> Row<'a> {
    pub(crate) fn new(row: BlockRow<'a>) -> Self {
        // SAFETY: i8 and u8 have the same size, alignment and values of bits.
        let bytes = unsafe { std::slice::from_raw_parts(row.quants.as_ptr().cast::<u8>(), row.quants.len()) };
        Self { quants: bytes.as_chunks().0, scales: row.scales, totals: row.totals }
    }
}

/// Panels `panels` of A times each of `xs`, into `lows`, which begin with those panels' first row.
#[inline(always)]
pub(crate) fn first<S: Simd>(s: S, w: &First, panels: Range<usize>, xs: &[Row], lows: &mut [&mut [f32]]) {
    let start = w.place(panels.start).1;
    for i in panels {
        let (width, row, bytes) = w.panel(i);
        let rows = row - start..w.rows.min(row + width) - start;
        if let (Ok(xs), Ok(lows)) = (<&[Row; ROWS]>::try_from(xs), <&mut [&mut [f32]; ROWS]>::try_from(&mut *lows)) {
            panel_of(s, width, bytes, xs, lows, rows);
        } else {
            for (x, low) in xs.iter().zip(lows.iter_mut()) {
                panel_of(s, width, bytes, std::array::from_ref(x), std::array::from_mut(low), rows.clone());
            }
        }
    }
}

#[inline(always)]
fn panel_of<S: Simd, const M: usize>(
    s: S,
    width: usize,
    bytes: &[u8],
    xs: &[Row; M],
    lows: &mut [&mut [f32]; M],
    rows: Range<usize>,
) {
    let mut sums = [[0.0; WIDTH]; M];
    match width {
        WIDTH => panel::<S, 1, M>(s, bytes, xs, &mut sums),
        8 => panel::<S, 2, M>(s, bytes, xs, &mut sums),
        _ => panel::<S, 4, M>(s, bytes, xs, &mut sums),
    }
    for (low, sums) in lows.iter_mut().zip(&sums) {
        for (i, low) in low[rows.clone()].iter_mut().enumerate() {
            *low = match width {
                WIDTH => sums[i],
                8 => sums[2 * i] + sums[2 * i + 1],
                _ => (sums[4 * i] + sums[4 * i + 1]) + (sums[4 * i + 2] + sums[4 * i + 3]),
            };
        }
    }
}

/// The sums of a panel's lanes, of which `L` belong to a row.
#[inline(always)]
fn panel<S: Simd, const L: usize, const M: usize>(s: S, bytes: &[u8], xs: &[Row; M], sums: &mut [[f32; WIDTH]; M]) {
    let (scales, weights) = bytes.split_first_chunk::<BYTES>().expect("a panel has scales");
    let vecs = 8 / L;
    let mut acc = [s.splat(0.0); M];
    for (b, block) in weights.chunks_exact(BYTES * vecs).enumerate() {
        dot_block::<S, L, M>(s, block, xs, b, &mut acc);
    }
    let scales = s.load_f32_bytes(scales);
    for i in 0..M {
        s.store(s.mul(acc[i], scales), &mut sums[i]);
    }
}

/// A block of at most 32 columns of sixteen lanes, `L` of a row: the exact integer sum times the row's scale, added to `acc`.
#[inline(always)]
fn dot_block<S: Simd, const L: usize, const M: usize>(
    s: S,
    block: &[u8],
    xs: &[Row; M],
    b: usize,
    acc: &mut [S::F; M],
) {
    let mut sums = [s.splat_int(0); M];
    for i in 0..M {
        // What the zero point of 128 adds, taken off once for each row.
        sums[i] = s.splat_int_every::<L>(xs[i].totals[b] << 7);
    }
    let mut wide = [s.wide(sums[0]); M];
    for i in 0..M {
        wide[i] = s.wide(sums[i]);
    }
    let ahead = block.as_ptr().wrapping_add(AHEAD);
    for (v, w) in block.as_chunks::<BYTES>().0.iter().enumerate() {
        s.prefetch(ahead.wrapping_add(BYTES * v));
        let w = s.load_bytes(w);
        for i in 0..M {
            wide[i] = s.add_wide(wide[i], w, spread::<S, L>(s, &xs[i].quants[b], v));
        }
    }
    for i in 0..M {
        acc[i] = s.fma(s.to_float(s.wide_sum(sums[i], wide[i])), s.splat(xs[i].scales[b]), acc[i]);
    }
}

/// The columns that vec `v` of a block is multiplied by, for `L` lanes of each row.
#[inline(always)]
fn spread<S: Simd, const L: usize>(s: S, quants: &[u8; BLOCK], v: usize) -> S::B {
    match L {
        1 => s.splat_quad(&quants.as_chunks().0[v]),
        2 => s.splat_eight(&quants.as_chunks().0[v]),
        _ => s.splat_sixteen(&quants.as_chunks().0[v]),
    }
}

/// B, or whole units of it, times each of `lows`, added to `outs`.
#[inline(always)]
pub(crate) fn second<S: Simd>(s: S, w: &Second, lows: &[Row], outs: &mut [&mut [f32]]) {
    if let (Ok(lows), Ok(outs)) = (<&[Row; ROWS]>::try_from(lows), <&mut [&mut [f32]; ROWS]>::try_from(&mut *outs)) {
        units(s, w, lows, outs);
    } else {
        for (low, out) in lows.iter().zip(outs.iter_mut()) {
            units(s, w, std::array::from_ref(low), std::array::from_mut(out));
        }
    }
}

#[inline(always)]
fn units<S: Simd, const M: usize>(s: S, w: &Second, lows: &[Row; M], outs: &mut [&mut [f32]; M]) {
    for (n, unit) in w.bytes.chunks_exact(Second::unit_bytes(w.quads)).enumerate() {
        let (scales, weights) = unit.split_first_chunk::<BYTES>().expect("a unit has scales");
        let (even, odd) = s.bf16_pairs(scales);
        let (low, high) = weights.split_at(BYTES * w.quads);
        half(s, low, even, lows, outs, n * UNIT);
        half(s, high, odd, lows, outs, n * UNIT + WIDTH);
    }
}

/// Sixteen outputs from `at` on, or fewer at the end.
#[inline(always)]
fn half<S: Simd, const M: usize>(
    s: S,
    weights: &[u8],
    scale: S::F,
    lows: &[Row; M],
    outs: &mut [&mut [f32]; M],
    at: usize,
) {
    let mut acc = [s.splat(0.0); M];
    for (b, block) in weights.chunks(BYTES * BLOCK / 4).enumerate() {
        dot_block::<S, 1, M>(s, block, lows, b, &mut acc);
    }
    for i in 0..M {
        let end = outs[i].len().min(at + WIDTH);
        let Some(out) = outs[i].get_mut(at..end) else { continue };
        match <&mut [f32; WIDTH]>::try_from(&mut *out) {
            Ok(out) => s.store(s.fma(acc[i], scale, s.load(out)), out),
            Err(_) => {
                let sum = s.fma(acc[i], scale, load_part(s, out));
                store_part(s, sum, out);
            }
        }
    }
}
