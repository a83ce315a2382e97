//! One panel of quantised weights times rows of activations. Few rows expand it in registers as it streams by; for more it is
//! expanded once into scratch, from where tiles of rows read it ([`Expanded`], whose vecs AMX tiles read as they are).

use std::ops::Range;

use super::quants::Quants;
use super::scratch::{Scratch, grown};
use crate::activations::{Activations, BLOCK, BlockRow};
use crate::panels::WIDTH;
use crate::simd::{BYTES, Simd};

/// The panel times `rows` of `x`, into tile (rows.len(), 16).
#[inline(always)]
pub(crate) fn panel<S: Simd, Q: Quants>(
    s: S,
    panel: &[u8],
    x: &Activations,
    rows: Range<usize>,
    scratch: &mut Scratch,
    tile: &mut [[f32; WIDTH]],
) {
    assert_eq!(tile.len(), rows.len(), "a row of the tile for each activation row");
    if rows.len() > STREAMED {
        let expanded = expand::<S, Q>(s, panel, scratch);
        return tiles::<S, Q>(s, &expanded, x, rows, tile);
    }
    let mut m = 0;
    while m < rows.len() {
        let (row, tile) = (rows.start + m, &mut tile[m..]);
        m += match rows.len() - m {
            4.. => streamed::<S, Q, 4>(s, panel, x, row, tile),
            2.. => streamed::<S, Q, 2>(s, panel, x, row, tile),
            _ => streamed::<S, Q, 1>(s, panel, x, row, tile),
        };
    }
}

/// So many rows read the panel itself.
const STREAMED: usize = 4;
/// How far ahead of the sums the panel is asked for.
const AHEAD: usize = 2048;

/// M rows from `m` on; returns M.
#[inline(always)]
fn streamed<S: Simd, Q: Quants, const M: usize>(
    s: S,
    panel: &[u8],
    x: &Activations,
    m: usize,
    tile: &mut [[f32; WIDTH]],
) -> usize {
    let xs = block_rows::<M>(x, m, panel.len() / Q::GROUP_BYTES * Q::BLOCKS);
    let mut acc = [s.splat(0.0); M];
    for (g, group) in panel.chunks_exact(Q::GROUP_BYTES).enumerate() {
        for j in 0..Q::BLOCKS {
            let at = group.as_ptr().wrapping_add(AHEAD + j * (Q::GROUP_BYTES / Q::BLOCKS));
            for line in 0..Q::GROUP_BYTES.div_ceil(Q::BLOCKS * BYTES) {
                s.prefetch(at.wrapping_add(line * BYTES));
            }
            let minima = if Q::MINIMA { Q::minima(s, group, j) } else { s.splat(0.0) };
            let w = Q::vecs(s, group, j);
            add_block::<S, Q, M>(s, &w, Q::scales(s, group, j), minima, &xs, g * Q::BLOCKS + j, &mut acc);
        }
    }
    for i in 0..M {
        s.store(acc[i], &mut tile[i]);
    }
    M
}

/// A panel in bytes.
pub(crate) struct Expanded<'a> {
    /// Eight per block of 32 columns: unsigned values, of which the zero point is not taken off.
    pub vecs: &'a [[u8; BYTES]],
    /// Of the sixteen rows, `Quants::SCALES` times per block.
    pub scales: &'a [[f32; WIDTH]],
    /// Once per block, where the format has them.
    pub minima: &'a [[f32; WIDTH]],
}

#[inline(always)]
pub(crate) fn expand<'a, S: Simd, Q: Quants>(s: S, panel: &[u8], scratch: &'a mut Scratch) -> Expanded<'a> {
    let blocks = panel.len() / Q::GROUP_BYTES * Q::BLOCKS;
    let vecs = grown(&mut scratch.vecs, blocks * 8 * BYTES).as_chunks_mut::<BYTES>().0;
    let scales = grown(&mut scratch.scales, blocks * Q::SCALES * WIDTH).as_chunks_mut::<WIDTH>().0;
    let minima = grown(&mut scratch.minima, if Q::MINIMA { blocks * WIDTH } else { 0 }).as_chunks_mut::<WIDTH>().0;
    for (g, group) in panel.chunks_exact(Q::GROUP_BYTES).enumerate() {
        for j in 0..Q::BLOCKS {
            let b = g * Q::BLOCKS + j;
            let (w, ws) = (Q::vecs(s, group, j), Q::scales(s, group, j));
            let to: &mut [[u8; BYTES]; 8] = vecs[8 * b..].first_chunk_mut().expect("a place for each block");
            for v in 0..8 {
                s.store_bytes(w[v], &mut to[v]);
            }
            for i in 0..Q::SCALES {
                s.store(ws[i], &mut scales[b * Q::SCALES + i]);
            }
            if Q::MINIMA {
                s.store(Q::minima(s, group, j), &mut minima[b]);
            }
        }
    }
    Expanded { vecs, scales, minima }
}

#[inline(always)]
fn tiles<S: Simd, Q: Quants>(s: S, w: &Expanded, x: &Activations, rows: Range<usize>, tile: &mut [[f32; WIDTH]]) {
    let mut m = 0;
    while m < rows.len() {
        let (row, tile) = (rows.start + m, &mut tile[m..]);
        m += match rows.len() - m {
            8.. if S::WIDE => product::<S, Q, 8>(s, w, x, row, tile),
            4.. => product::<S, Q, 4>(s, w, x, row, tile),
            2.. => product::<S, Q, 2>(s, w, x, row, tile),
            _ => product::<S, Q, 1>(s, w, x, row, tile),
        };
    }
}

/// M rows from `m` on; returns M.
#[inline(always)]
fn product<S: Simd, Q: Quants, const M: usize>(
    s: S,
    w: &Expanded,
    x: &Activations,
    m: usize,
    tile: &mut [[f32; WIDTH]],
) -> usize {
    let blocks = w.vecs.as_chunks::<8>().0;
    let xs = block_rows::<M>(x, m, blocks.len());
    let mut acc = [s.splat(0.0); M];
    for (b, block) in blocks.iter().enumerate() {
        let mut vecs = [s.splat_byte(0); 8];
        for v in 0..8 {
            vecs[v] = s.load_bytes(&block[v]);
        }
        let mut scales = [s.load(&w.scales[b * Q::SCALES]); 2];
        if Q::SCALES == 2 {
            scales[1] = s.load(&w.scales[b * 2 + 1]);
        }
        let minima = if Q::MINIMA { s.load(&w.minima[b]) } else { s.splat(0.0) };
        add_block::<S, Q, M>(s, &vecs, scales, minima, &xs, b, &mut acc);
    }
    for i in 0..M {
        s.store(acc[i], &mut tile[i]);
    }
    M
}

/// An activation row, cut to the weights' blocks.
#[derive(Clone, Copy)]
struct Row<'a> {
    quads: &'a [[u8; BLOCK]],
    row: BlockRow<'a>,
}

#[inline(always)]
fn block_rows<const M: usize>(x: &Activations, m: usize, blocks: usize) -> [Row<'_>; M] {
    let mut rows = [Row { quads: &[], row: x.block_row(m) }; M];
    for i in 0..M {
        let row = x.block_row(m + i);
        // SAFETY: i8 and u8 have the same size, alignment and values of bits.
        let bytes = unsafe { std::slice::from_raw_parts(row.quants.as_ptr().cast::<u8>(), row.quants.len()) };
        let row = BlockRow { scales: &row.scales[..blocks], sums: &row.sums[..blocks], ..row };
        rows[i] = Row { quads: &bytes.as_chunks::<BLOCK>().0[..blocks], row };
    }
    rows
}

/// Block b of the sums.
#[inline(always)]
fn add_block<S: Simd, Q: Quants, const M: usize>(
    s: S,
    w: &[S::B; 8],
    scales: [S::F; 2],
    minima: S::F,
    xs: &[Row; M],
    b: usize,
    acc: &mut [S::F; M],
) {
    for part in 0..Q::SCALES {
        let sums = dots::<S, Q, M>(s, w, part, xs, b);
        for i in 0..M {
            let scale = s.mul(scales[part], s.splat(xs[i].row.scales[b]));
            acc[i] = s.fma(s.to_float(sums[i]), scale, acc[i]);
        }
    }
    if Q::MINIMA {
        for i in 0..M {
            acc[i] = s.fnma(minima, s.splat(xs[i].row.sums[b]), acc[i]);
        }
    }
}

/// The exact sums of block b, or of its half `part`.
#[inline(always)]
fn dots<S: Simd, Q: Quants, const M: usize>(s: S, w: &[S::B; 8], part: usize, xs: &[Row; M], b: usize) -> [S::I; M] {
    let mut sums = [s.splat_int(0); M];
    for i in 0..M {
        sums[i] = s.splat_int(Q::start(&xs[i].row, b * Q::SCALES + part));
    }
    let vecs = 8 / Q::SCALES;
    if Q::DEPTH == 1 {
        for i in 0..M {
            sums[i] = s.wide_start(sums[i]);
        }
        for v in part * vecs..(part + 1) * vecs {
            for i in 0..M {
                sums[i] = s.add_dot_wide(sums[i], w[v], s.splat_quad(quad(&xs[i].quads[b], v)));
            }
        }
        return sums;
    }
    for step in 0..vecs / Q::DEPTH {
        let mut partial = [s.partial(sums[0]); M];
        for i in 0..M {
            partial[i] = s.partial(sums[i]);
        }
        for d in 0..Q::DEPTH {
            let v = part * vecs + step * Q::DEPTH + d;
            for i in 0..M {
                partial[i] = s.add_dot(partial[i], w[v], s.splat_quad(quad(&xs[i].quads[b], v)));
            }
        }
        for i in 0..M {
            sums[i] = s.widen(sums[i], partial[i]);
        }
    }
    sums
}

#[inline(always)]
fn quad(block: &[u8; BLOCK], v: usize) -> &[u8; 4] {
    &block.as_chunks::<4>().0[v]
}
