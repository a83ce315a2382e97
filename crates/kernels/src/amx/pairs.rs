//! BF16 weights times activations rounded to bf16 on tiles, with sums that stay in tiles along the columns.
//!
//! The numerics are the tile instruction's, for any number of rows: acc = 0; for each 32 columns in order (the last padded with
//! zeros): even = Σ of w·x over the even columns of them, each a fused multiply-add in order from 0, odd likewise, and acc = acc +
//! (even + odd). Denormals are zeros. It is not the order of the other ISAs; [`specified`] is its scalar form.
//!
//! 2×2 tiles read four for four products: *estimated*, not measured, 32 cycles of loads under 64 of products. So that A, of which each
//! tile is used for 32 outputs only, is all that comes from the second-level cache (32 of the 48 bytes per cycle that it gives),
//! a chunk of columns of both panels stays in the first while all rows pass.

use super::tiles::{ROWS, Shape, Tiles};

/// Rows of activations: bits of bf16, zeros beyond the columns.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub bits: &'a [u16],
    /// Values from row to row, a multiple of 32.
    pub stride: usize,
}

/// sums: for each of the N (1 or 2) panels, (rows, 16) = x · w. w: (columns/2, 16, 2).
///
/// # Panics
/// Where the lengths do not fit.
#[inline(always)]
pub(crate) fn multiply<T: Tiles, const N: usize>(t: &mut T, w: [&[u8]; N], x: &Rows, mut sums: [&mut [[f32; 16]]; N]) {
    let (bytes, rows) = (w[0].len(), sums[0].len());
    assert!(bytes.is_multiple_of(PAIR) && w.iter().all(|w| w.len() == bytes), "panels of the same columns");
    assert!(sums.iter().all(|sums| sums.len() == rows), "a row of sums for each row");
    assert!(
        x.stride.is_multiple_of(COLUMNS) && bytes.div_ceil(TILE) * COLUMNS <= x.stride,
        "rows as long as the panels"
    );
    assert!(rows * x.stride <= x.bits.len(), "as many rows as sums");
    for sums in &mut sums {
        sums.as_flattened_mut().fill(0.0);
    }
    let whole = bytes / TILE;
    let mut last = [[0; TILE]; N];
    for (last, w) in last.iter_mut().zip(&w) {
        let rest = &w[whole * TILE..];
        last[..rest.len()].copy_from_slice(rest);
    }
    // Whole squares of tiles, the weights in chunks that the first-level cache holds; then the rows that are left, straight through.
    let paired = rows / (2 * ROWS) * (2 * ROWS);
    for (first, end, chunk) in [(0, paired, CHUNK), (paired, rows, usize::MAX)] {
        let mut k = 0;
        while first < end && k < whole {
            let count = chunk.min(whole - k);
            // SAFETY: `count` tiles from tile k on are in all panels, and in the rows as asserted above.
            let at = std::array::from_fn(|n| unsafe { w[n].as_ptr().add(k * TILE) });
            // SAFETY: as above.
            unsafe { all_rows::<T, N>(t, at, x, k, count, first, end, &mut sums) }
            k += count;
        }
        if first < end && bytes > whole * TILE {
            let at = std::array::from_fn(|n| last[n].as_ptr());
            // SAFETY: one tile in each of `last`; the rows have its columns, as asserted above.
            unsafe { all_rows::<T, N>(t, at, x, whole, 1, first, end, &mut sums) }
        }
    }
}

/// Columns of a tile, and what they take in a panel.
const COLUMNS: usize = 32;
const TILE: usize = 1024;
/// Bytes of a pair of columns.
const PAIR: usize = 64;
/// Tiles of columns that stay in the first-level cache: 16 KiB of each panel.
const CHUNK: usize = 16;

/// Rows first..end, over `count` tiles of columns from tile `k` of the rows on.
///
/// # Safety
/// `w` points to `count` tiles, and each row of `x` below `end` has those columns.
#[inline(always)]
unsafe fn all_rows<T: Tiles, const N: usize>(
    t: &mut T,
    w: [*const u8; N],
    x: &Rows,
    k: usize,
    count: usize,
    first: usize,
    end: usize,
    sums: &mut [&mut [[f32; 16]]; N],
) {
    let stride = x.stride * size_of::<u16>();
    let mut m = first;
    while m < end {
        let here = (end - m).min(2 * ROWS);
        let a = x.bits[m * x.stride + k * COLUMNS..].as_ptr();
        let c = std::array::from_fn(|n| sums[n][m..m + here].as_mut_ptr().cast::<f32>());
        if here > ROWS {
            t.configure(Shape::Pairs { rows: ROWS as u8, more: (here - ROWS) as u8 });
            // SAFETY: A by the contract; C has `here` rows, sixteen and those that the shape has more.
            unsafe { t.pairs::<2, N>(a, stride, w, c, count) }
        } else {
            t.configure(Shape::Pairs { rows: here as u8, more: 0 });
            // SAFETY: A by the contract; C has `here` rows, as the shape.
            unsafe { t.pairs::<1, N>(a, stride, w, c, count) }
        }
        m += here;
    }
}

/// The numerics, for one row of activations and weight row `n` of a panel. Slow.
pub(crate) fn specified(w: &[u8], n: usize, x: &[u16]) -> f32 {
    let flushed = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    let float = |bits: u16| flushed(f32::from_bits(u32::from(bits) << 16));
    let columns = w.len() / PAIR * 2;
    let mut acc = 0.0;
    for first in (0..columns).step_by(COLUMNS) {
        let mut halves = [0.0f32; 2];
        for k in first..columns.min(first + COLUMNS) {
            let at = k / 2 * PAIR + 4 * n + k % 2 * 2;
            let weight = float(u16::from_le_bytes([w[at], w[at + 1]]));
            halves[k % 2] = flushed(weight.mul_add(float(x[k]), halves[k % 2]));
        }
        acc = flushed(acc + flushed(halves[0] + halves[1]));
    }
    acc
}
