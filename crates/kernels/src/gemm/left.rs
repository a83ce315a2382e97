//! The left operand as tiles of sums read it: where it lies, if that is bf16 in rows; its rows packed, if they are f32; packed tile
//! by tile, a pair of ks after the other, if it is transposed. Reading in place saves a pass, and packing a transposed operand for
//! all tiles at once reads each of its cache lines once.

use std::ops::Range;

use super::pack::Bits;
use super::tile::ROWS;
use super::{Operand, Values};
use crate::buffer::AlignedVec;
use crate::matmul::grown;

/// Rows of a block, some of its pairs.
pub(super) trait Left: Copy {
    /// Up to `ROWS` of the rows.
    type Tile: Copy;
    fn tile(self, number: usize) -> Self::Tile;
    /// # Safety
    /// The rows have this pair, and `row` is below `ROWS`.
    unsafe fn pair(tile: Self::Tile, row: usize, pair: usize) -> [u16; 2];
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
    unsafe fn pair(tile: [*const u16; ROWS], row: usize, pair: usize) -> [u16; 2] {
        // SAFETY: by the contract.
        unsafe { tile[row].add(2 * pair).cast::<[u16; 2]>().read() }
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
    #[inline(always)]
    unsafe fn pair(tile: Self::Tile, row: usize, pair: usize) -> [u16; 2] {
        // SAFETY: by the contract.
        unsafe { (*tile.add(pair))[row] }
    }
}

/// `rows` and `pairs` of `a`, in `packed` where they cannot be read where they lie. What is returned points into one of both.
#[inline(always)]
pub(super) fn prepare(a: &Operand, rows: Range<usize>, pairs: Range<usize>, packed: &mut AlignedVec<u16>) -> Prepared {
    if a.transposed {
        // An odd number of cache lines, so that tiles do not meet in the same sets of a cache.
        let stride = 2 * (pairs.len().div_ceil(2) | 1);
        let packed = grown(packed, rows.len().div_ceil(ROWS) * stride * ROWS * 2);
        let tiles = packed.as_chunks_mut::<2>().0.as_chunks_mut::<ROWS>().0;
        match a.values {
            Values::F32(values) => side_by_side(values, a, rows, pairs, stride, tiles),
            Values::Bf16(values) => side_by_side(values, a, rows, pairs, stride, tiles),
        }
        return Prepared::SideBySide(SideBySide { start: tiles.as_ptr(), stride });
    }
    Prepared::InRows(in_rows(a, rows, pairs, packed))
}

/// The same for rows, or a transposed operand turned into rows.
#[inline(always)]
pub(super) fn in_rows(a: &Operand, rows: Range<usize>, pairs: Range<usize>, packed: &mut AlignedVec<u16>) -> InRows {
    let count = rows.len();
    let in_place = !a.transposed && 2 * pairs.end <= a.depth && !a.stride.is_multiple_of(ALIASING);
    if let (Values::Bf16(values), true) = (a.values, in_place) {
        let end = (rows.end - 1) * a.stride + 2 * pairs.end;
        let values = &values[rows.start * a.stride + 2 * pairs.start..end];
        return InRows { start: values.as_ptr(), stride: a.stride, rows: count };
    }
    let stride = 32 * (pairs.len().div_ceil(16) | 1);
    let packed = grown(packed, count * stride);
    match (a.values, a.transposed) {
        (Values::F32(values), false) => copy_rows(values, a, rows, pairs, stride, packed),
        (Values::Bf16(values), false) => copy_rows(values, a, rows, pairs, stride, packed),
        (Values::F32(values), true) => turn(values, a, rows, pairs, stride, packed),
        (Values::Bf16(values), true) => turn(values, a, rows, pairs, stride, packed),
    }
    InRows { start: packed.as_ptr(), stride, rows: count }
}

/// Rows of bf16 that start in the same set of the first-level cache: 4 KiB.
const ALIASING: usize = 2048;

#[inline(always)]
fn copy_rows<T: Bits>(
    values: &[T],
    a: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    stride: usize,
    to: &mut [u16],
) {
    let ks = 2 * pairs.start..(2 * pairs.end).min(a.depth);
    for (row, to) in rows.zip(to.chunks_exact_mut(stride)) {
        let (to, rest) = to.split_at_mut(ks.len());
        for (to, value) in to.iter_mut().zip(&values[row * a.stride..][ks.clone()]) {
            *to = value.bits();
        }
        rest.fill(0);
    }
}

#[inline(always)]
fn turn<T: Bits>(values: &[T], a: &Operand, rows: Range<usize>, pairs: Range<usize>, stride: usize, to: &mut [u16]) {
    let to = &mut to[..rows.len() * stride];
    to.fill(0);
    for (column, k) in (2 * pairs.start..(2 * pairs.end).min(a.depth)).enumerate() {
        let values = &values[k * a.stride..][rows.clone()];
        for (row, value) in to.chunks_exact_mut(stride).zip(values) {
            row[column] = value.bits();
        }
    }
}

#[inline(always)]
fn side_by_side<T: Bits>(
    values: &[T],
    a: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    stride: usize,
    to: &mut [[[u16; 2]; ROWS]],
) {
    for (at, pair) in pairs.enumerate() {
        let line = |k: usize| &values[k * a.stride..][rows.clone()];
        let first = line(2 * pair);
        if 2 * pair + 1 == a.depth {
            for (tile, first) in first.chunks(ROWS).enumerate() {
                let to = &mut to[tile * stride + at];
                *to = [[0; 2]; ROWS];
                for (to, first) in to.iter_mut().zip(first) {
                    to[0] = first.bits();
                }
            }
            continue;
        }
        let second = line(2 * pair + 1);
        let ((firsts, first), (seconds, second)) = (first.as_chunks::<ROWS>(), second.as_chunks::<ROWS>());
        for (tile, (first, second)) in firsts.iter().zip(seconds).enumerate() {
            let to = &mut to[tile * stride + at];
            for i in 0..ROWS {
                to[i] = [first[i].bits(), second[i].bits()];
            }
        }
        if !first.is_empty() {
            let to = &mut to[firsts.len() * stride + at];
            *to = [[0; 2]; ROWS];
            for (to, (first, second)) in to.iter_mut().zip(first.iter().zip(second)) {
                *to = [first.bits(), second.bits()];
            }
        }
    }
}
