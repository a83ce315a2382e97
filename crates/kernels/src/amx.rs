//! Products in AMX tiles: which CPUs have them, the few instructions, the kernels over them. The instructions are behind `Tiles`,
//! with an emulator beside them, so that all but the instructions is tested on any CPU; what they do is checked once per process
//! before they are offered at all.

pub(crate) mod bytes;
mod check;
mod detect;
#[cfg(test)]
mod emulator;
mod hardware;
pub(crate) mod pairs;
#[cfg(test)]
mod tests;
mod tiles;

use std::ops::Range;

use crate::activations::Activations;
use crate::matmul::{Quants, Scratch, grown, quantized_panel as without_tiles};
use crate::panels::WIDTH;
use crate::simd::{BYTES, Simd};
use bytes::{BLOCK, BLOCKS, Next, Weights};
use tiles::Tiles;

pub(crate) use detect::{offers_bytes, offers_pairs};
#[cfg(test)]
pub(crate) use emulator::Emulator;
pub(crate) use hardware::{Hardware, Session};

/// One panel of quantised weights times `rows` of `x`, into tile (rows.len(), 16): the bits of `matmul`'s kernel.
#[inline(always)]
pub(crate) fn quantized_panel<T: Tiles, S: Simd, Q: Quants>(
    t: &mut T,
    s: S,
    panel: &[u8],
    x: &Activations,
    rows: Range<usize>,
    scratch: &mut Scratch,
    tile: &mut [[f32; WIDTH]],
) {
    assert_eq!(tile.len(), rows.len(), "a row of the tile for each activation row");
    if rows.len() < TILED_ROWS {
        return without_tiles::<S, Q>(s, panel, x, rows, scratch, tile);
    }
    tile.as_flattened_mut().fill(0.0);
    let rows = x.block_rows(rows);
    let (chunk_groups, part_bytes) = (BLOCKS / Q::BLOCKS, Q::GROUP_BYTES / (Q::BLOCKS * Q::SCALES));
    for (i, chunk) in panel.chunks(chunk_groups * Q::GROUP_BYTES).enumerate() {
        let first = i * BLOCKS * BLOCK;
        let next = Next { at: chunk.as_ptr_range().end, bytes: part_bytes };
        let w = Weights { next, ..signed::<S, Q>(s, chunk, scratch) };
        match (Q::SCALES, Q::MINIMA) {
            (1, false) => bytes::multiply::<T, S, BLOCK, false>(t, s, &w, &rows, first, tile),
            (1, true) => bytes::multiply::<T, S, BLOCK, true>(t, s, &w, &rows, first, tile),
            _ => bytes::multiply::<T, S, { BLOCK / 2 }, false>(t, s, &w, &rows, first, tile),
        }
    }
}

/// From so many rows on tiles are faster; by the estimate in `bytes`, not measured.
const TILED_ROWS: usize = 5;

/// Up to `BLOCKS` blocks of a panel as signed bytes with the zero point taken off.
#[inline(always)]
fn signed<'a, S: Simd, Q: Quants>(s: S, groups: &[u8], scratch: &'a mut Scratch) -> Weights<'a> {
    let blocks = groups.len() / Q::GROUP_BYTES * Q::BLOCKS;
    let vecs = grown(&mut scratch.signed, blocks * BLOCK * WIDTH).as_chunks_mut::<BYTES>().0;
    let scales = grown(&mut scratch.scales, blocks * Q::SCALES * WIDTH).as_chunks_mut::<WIDTH>().0;
    let minima = grown(&mut scratch.minima, if Q::MINIMA { blocks * WIDTH } else { 0 }).as_chunks_mut::<WIDTH>().0;
    for (g, group) in groups.chunks_exact(Q::GROUP_BYTES).enumerate() {
        for j in 0..Q::BLOCKS {
            let b = g * Q::BLOCKS + j;
            let scale = Q::scales(s, group, j);
            let to: &mut [[u8; BYTES]; 8] = vecs[8 * b..].first_chunk_mut().expect("a place for each block");
            for v in 0..8 {
                let w = Q::vec(s, group, j, v);
                let w = if Q::ZERO == 0 { w } else { s.sub_bytes(w, s.splat_byte(Q::ZERO)) };
                s.store_bytes(w, &mut to[v]);
            }
            for i in 0..Q::SCALES {
                s.store(scale[i], &mut scales[b * Q::SCALES + i]);
            }
            if Q::MINIMA {
                s.store(Q::minima(s, group, j), &mut minima[b]);
            }
        }
    }
    let vecs = vecs.as_flattened();
    // SAFETY: i8 and u8 have the same size, alignment and values of bits.
    let values = unsafe { std::slice::from_raw_parts(vecs.as_ptr().cast::<i8>(), vecs.len()) };
    Weights { values, scales, minima, next: Next::NOTHING }
}
