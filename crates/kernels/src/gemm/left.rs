//! The left operand as tiles of sums read it: where it lies, if that is bf16 in rows; its rows packed, if they are f32; packed tile
//! by tile, a pair of ks after the other, if it is transposed. Reading in place saves a pass, and packing a transposed operand for
//! all tiles at once reads each of its cache lines once.

use std::ops::Range;

use super::pack::{AHEAD, Number, some};
use super::tile::ROWS;
use super::{LANES, Operand, Values};
use crate::buffer::AlignedVec;
use crate::matmul::grown;
use crate::simd::Simd;

/// Rows of a block, some of its pairs.
pub(super) trait Left: Copy {
    type Tile: Eight;
    fn tile(self, number: usize) -> Self::Tile;
    /// Asks for a tile of so many pairs, if there is such a one and it may lie far away.
    fn ask<S: Simd>(self, s: S, number: usize, pairs: usize);
}

/// `ROWS` rows.
pub(super) trait Eight: Copy {
    /// # Safety
    /// The rows have this pair, and `row` is below `ROWS`.
    unsafe fn pair(self, row: usize, pair: usize) -> [u16; 2];
}

#[derive(Clone, Copy)]
pub(super) enum Prepared {
    InRows(InRows),
    SideBySide(SideBySide),
}

/// `rows` rows, `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct InRows {
    pub(super) start: *const u16,
    pub(super) stride: usize,
    rows: usize,
}

impl Left for InRows {
    type Tile = [*const u16; ROWS];

    #[inline(always)]
    fn tile(self, number: usize) -> [*const u16; ROWS] {
        let mut tile = [self.start; ROWS];
        for (i, row) in tile.iter_mut().enumerate() {
            // Beyond the end the last row again: its sums are thrown away.
            *row = self.start.wrapping_add((number * ROWS + i).min(self.rows - 1) * self.stride);
        }
        tile
    }

    #[inline(always)]
    fn ask<S: Simd>(self, s: S, number: usize, pairs: usize) {
        for row in number * ROWS..((number + 1) * ROWS).min(self.rows) {
            let start = self.start.wrapping_add(row * self.stride).cast::<u8>();
            for byte in (0..4 * pairs).step_by(64) {
                s.prefetch(start.wrapping_add(byte));
            }
        }
    }
}

impl Eight for [*const u16; ROWS] {
    #[inline(always)]
    unsafe fn pair(self, row: usize, pair: usize) -> [u16; 2] {
        // SAFETY: by the contract.
        unsafe { self[row].add(2 * pair).cast::<[u16; 2]>().read() }
    }
}

/// Tiles, `stride` pairs of ks apart.
#[derive(Clone, Copy)]
pub(super) struct SideBySide {
    start: *const [[u16; 2]; ROWS],
    stride: usize,
}

impl Left for SideBySide {
    type Tile = *const [[u16; 2]; ROWS];

    #[inline(always)]
    fn tile(self, number: usize) -> Self::Tile {
        self.start.wrapping_add(number * self.stride)
    }

    /// Just packed.
    #[inline(always)]
    fn ask<S: Simd>(self, _: S, _: usize, _: usize) {}
}

impl Eight for *const [[u16; 2]; ROWS] {
    #[inline(always)]
    unsafe fn pair(self, row: usize, pair: usize) -> [u16; 2] {
        // SAFETY: by the contract.
        unsafe { (*self.add(pair))[row] }
    }
}

/// Laid out by somebody else: where each row begins, and how far its next pair is.
#[derive(Clone, Copy)]
pub(super) struct Stepped(pub(super) [*const [u16; 2]; ROWS], pub(super) usize);

impl Eight for Stepped {
    #[inline(always)]
    unsafe fn pair(self, row: usize, pair: usize) -> [u16; 2] {
        // SAFETY: by the contract.
        unsafe { self.0[row].add(pair * self.1).read() }
    }
}

/// `rows` and `pairs` of `a`, in `packed` where they cannot be read where they lie. What is returned points into one of both.
#[inline(always)]
pub(super) fn prepare<S: Simd>(
    s: S,
    a: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    packed: &mut AlignedVec<u16>,
) -> Prepared {
    if a.transposed {
        // An odd number of cache lines, so that tiles do not meet in the same sets of a cache. Sixteen rows are packed at once.
        let stride = 2 * (pairs.len().div_ceil(2) | 1);
        let packed = grown(packed, rows.len().div_ceil(LANES) * 2 * stride * ROWS * 2);
        let tiles = packed.as_chunks_mut::<2>().0.as_chunks_mut::<ROWS>().0;
        match a.values {
            Values::F32(values) => side_by_side(s, values, a, rows, pairs, stride, tiles),
            Values::Bf16(values) => side_by_side(s, values, a, rows, pairs, stride, tiles),
        }
        return Prepared::SideBySide(SideBySide { start: tiles.as_ptr(), stride });
    }
    let count = rows.len();
    let in_place = 2 * pairs.end <= a.depth && !a.stride.is_multiple_of(ALIASING);
    if let (Values::Bf16(values), true) = (a.values, in_place) {
        let end = (rows.end - 1) * a.stride + 2 * pairs.end;
        let values = &values[rows.start * a.stride + 2 * pairs.start..end];
        return Prepared::InRows(InRows { start: values.as_ptr(), stride: a.stride, rows: count });
    }
    let stride = 32 * (pairs.len().div_ceil(16) | 1);
    let packed = grown(packed, count * stride);
    match a.values {
        Values::F32(values) => copy_rows(s, values, a, rows, pairs, stride, packed),
        Values::Bf16(values) => copy_rows(s, values, a, rows, pairs, stride, packed),
    }
    Prepared::InRows(InRows { start: packed.as_ptr(), stride, rows: count })
}

/// Rows of bf16 that start in the same set of the first-level cache: 4 KiB.
const ALIASING: usize = 2048;

#[inline(always)]
fn copy_rows<S: Simd, T: Number>(
    s: S,
    values: &[T],
    a: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    stride: usize,
    to: &mut [u16],
) {
    let ks = 2 * pairs.start..(2 * pairs.end).min(a.depth);
    for (row, to) in rows.zip(to.chunks_exact_mut(stride)) {
        let from = &values[row * a.stride..][ks.clone()];
        // Whole lanes of zeros behind the last: there is room for them.
        for (from, to) in from.chunks(LANES).zip(to.as_chunks_mut::<LANES>().0) {
            s.store_bf16(some(s, from), to);
        }
    }
}

#[inline(always)]
fn side_by_side<S: Simd, T: Number>(
    s: S,
    values: &[T],
    a: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    stride: usize,
    to: &mut [[[u16; 2]; ROWS]],
) {
    let whole = rows.len() / LANES;
    for (at, pair) in pairs.enumerate() {
        let first = &values[2 * pair * a.stride..][rows.clone()];
        let second = match 2 * pair + 1 < a.depth {
            true => &values[(2 * pair + 1) * a.stride..][rows.clone()],
            false => &[],
        };
        for line in [first, second] {
            // Lines lie too far apart for the processor to see what comes.
            let ahead = line.as_ptr().wrapping_add(2 * AHEAD * a.stride).cast::<u8>();
            for byte in (0..size_of_val(line)).step_by(64) {
                s.prefetch(ahead.wrapping_add(byte));
            }
        }
        let sixteens = first.as_chunks::<LANES>().0.iter().zip(second.as_chunks::<LANES>().0);
        for (sixteen, (first, second)) in sixteens.enumerate() {
            put(s, T::lanes(s, first), T::lanes(s, second), &mut to[2 * sixteen * stride + at..], stride);
        }
        // The rest, and where there is no second.
        let from = if second.is_empty() { 0 } else { whole };
        for sixteen in from..rows.len().div_ceil(LANES) {
            let part = sixteen * LANES..((sixteen + 1) * LANES).min(rows.len());
            let second = some(s, second.get(part.clone()).unwrap_or(&[]));
            put(s, some(s, &first[part]), second, &mut to[2 * sixteen * stride + at..], stride);
        }
    }
}

/// Sixteen pairs into two tiles.
#[inline(always)]
fn put<S: Simd>(s: S, first: S::F, second: S::F, to: &mut [[[u16; 2]; ROWS]], stride: usize) {
    let mut both = [[0; 2]; LANES];
    s.store_bf16_pairs(first, second, &mut both);
    let (low, high) = both.split_at(ROWS);
    to[0].copy_from_slice(low);
    to[stride].copy_from_slice(high);
}
