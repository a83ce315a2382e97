//! One panel of quantised weights times rows of activations. Few rows expand it in registers as it streams by; for more, some
//! blocks of it are expanded into scratch that stays in the first-level cache while all rows pass ([`Expanded`]).

use std::ops::Range;

use super::quants::Quants;
use super::scratch::{Scratch, grown};
use crate::activations::{Activations, BLOCK, BlockRow, TILE, Tile};
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
    let blocks = panel.len() / Q::GROUP_BYTES * Q::BLOCKS;
    if rows.len() <= if S::WIDE { WIDE_STREAMED } else { TILE } {
        let weights = Packed(panel);
        return products::<S, Q, _>(s, &weights, x, rows, 0..blocks, tile);
    }
    let expanded = grown(&mut scratch.expanded, (EXPANDED_BLOCKS + 8) * size_of::<Expanded>());
    let expanded = expanded.as_chunks_mut().0;
    let groups = EXPANDED_BLOCKS.div_ceil(Q::BLOCKS);
    for (i, part) in panel.chunks(groups * Q::GROUP_BYTES).enumerate() {
        let first = i * groups * Q::BLOCKS;
        let weights = expand::<S, Q>(s, part, expanded);
        products::<S, Q, _>(s, &weights, x, rows.clone(), first..first + weights.len(), tile);
    }
}

/// So many rows read the panel itself: expanding eight vecs for each eight rows costs less than writing and reading them once.
const WIDE_STREAMED: usize = 32;
/// How far ahead of the sums the panel is asked for.
const AHEAD: usize = 2048;
/// Blocks that are expanded at once: 11 KiB.
const EXPANDED_BLOCKS: usize = 16;

/// A block of 32 columns in bytes: eight vecs of unsigned values, of which the zero point is not taken off (the rows of an AMX
/// tile), two f32 scales of each row (the second only where halves have their own), and f32 minima where the format has them.
pub(crate) type Expanded = [u8; 704];

#[inline(always)]
fn part(block: &Expanded, at: usize) -> &[u8; BYTES] {
    block[at..].first_chunk().expect("a part of the block")
}

#[inline(always)]
fn part_mut(block: &mut Expanded, at: usize) -> &mut [u8; BYTES] {
    block[at..].first_chunk_mut().expect("a part of the block")
}

/// Whole groups into as many blocks of `to`, which are returned.
#[inline(always)]
pub(crate) fn expand<'a, S: Simd, Q: Quants>(s: S, groups: &[u8], to: &'a mut [Expanded]) -> &'a [Expanded] {
    let blocks = groups.len() / Q::GROUP_BYTES * Q::BLOCKS;
    let to = &mut to[..blocks];
    for (group, to) in groups.chunks_exact(Q::GROUP_BYTES).zip(to.chunks_exact_mut(Q::BLOCKS)) {
        for (j, to) in to.iter_mut().enumerate() {
            let scales = Q::scales(s, group, j);
            for v in 0..8 {
                s.store_bytes(Q::vec(s, group, j, v), part_mut(to, BYTES * v));
            }
            for i in 0..Q::SCALES {
                s.store_f32_bytes(scales[i], part_mut(to, 512 + BYTES * i));
            }
            if Q::MINIMA {
                s.store_f32_bytes(Q::minima(s, group, j), part_mut(to, 640));
            }
        }
    }
    to
}

/// Where blocks of weights come from.
trait Weights<S: Simd, Q: Quants> {
    fn vec(&self, s: S, b: usize, v: usize) -> S::B;
    fn scale(&self, s: S, b: usize, part: usize) -> S::F;
    fn minima(&self, s: S, b: usize) -> S::F;
    /// Called once before block b is read.
    fn ask_ahead(&self, s: S, b: usize);
}

/// Whole groups of a panel.
struct Packed<'a>(&'a [u8]);

impl Packed<'_> {
    /// Block b's group, and its number there.
    #[inline(always)]
    fn at<Q: Quants>(&self, b: usize) -> (&[u8], usize) {
        (&self.0[b / Q::BLOCKS * Q::GROUP_BYTES..][..Q::GROUP_BYTES], b % Q::BLOCKS)
    }
}

impl<S: Simd, Q: Quants> Weights<S, Q> for Packed<'_> {
    #[inline(always)]
    fn vec(&self, s: S, b: usize, v: usize) -> S::B {
        let (group, j) = self.at::<Q>(b);
        Q::vec(s, group, j, v)
    }
    #[inline(always)]
    fn scale(&self, s: S, b: usize, part: usize) -> S::F {
        let (group, j) = self.at::<Q>(b);
        Q::scales(s, group, j)[part]
    }
    #[inline(always)]
    fn minima(&self, s: S, b: usize) -> S::F {
        let (group, j) = self.at::<Q>(b);
        Q::minima(s, group, j)
    }
    #[inline(always)]
    fn ask_ahead(&self, s: S, b: usize) {
        let (group, j) = self.at::<Q>(b);
        let at = group.as_ptr().wrapping_add(AHEAD + j * (Q::GROUP_BYTES / Q::BLOCKS));
        for line in 0..Q::GROUP_BYTES.div_ceil(Q::BLOCKS * BYTES) {
            s.prefetch(at.wrapping_add(line * BYTES));
        }
    }
}

impl<S: Simd, Q: Quants> Weights<S, Q> for &[Expanded] {
    #[inline(always)]
    fn vec(&self, s: S, b: usize, v: usize) -> S::B {
        s.load_bytes(part(&self[b], BYTES * v))
    }
    #[inline(always)]
    fn scale(&self, s: S, b: usize, i: usize) -> S::F {
        s.load_f32_bytes(part(&self[b], 512 + BYTES * i))
    }
    #[inline(always)]
    fn minima(&self, s: S, b: usize) -> S::F {
        s.load_f32_bytes(part(&self[b], 640))
    }
    #[inline(always)]
    fn ask_ahead(&self, _: S, _: usize) {}
}

/// Adds blocks `range` of the weights, which `w` counts from 0, to `tile`; sets it where the range begins at 0.
#[inline(always)]
fn products<S: Simd, Q: Quants, W: Weights<S, Q>>(
    s: S,
    w: &W,
    x: &Activations,
    rows: Range<usize>,
    range: Range<usize>,
    tile: &mut [[f32; WIDTH]],
) {
    let mut m = rows.start;
    while m < rows.end {
        let left = rows.end - m;
        let tile = &mut tile[m - rows.start..];
        m += if left >= TILE && m.is_multiple_of(TILE) && x.has_tiles() {
            if S::WIDE && left >= 2 * TILE {
                let xs = [&x.tile(m / TILE)[range.clone()], &x.tile(m / TILE + 1)[range.clone()]];
                product::<S, Q, W, 8>(s, w, &xs, &range, tile)
            } else if !S::WIDE && Q::DEPTH == 1 {
                // Wide sums take twice the registers.
                let xs = &x.tile(m / TILE)[range.clone()];
                product::<S, Q, W, 2>(s, w, &Half::<0>(xs), &range, tile)
                    + product::<S, Q, W, 2>(s, w, &Half::<2>(xs), &range, &mut tile[2..])
            } else {
                product::<S, Q, W, 4>(s, w, &[&x.tile(m / TILE)[range.clone()]], &range, tile)
            }
        } else if left >= 2 {
            product::<S, Q, W, 2>(s, w, &[row(x, m, &range), row(x, m + 1, &range)], &range, tile)
        } else {
            product::<S, Q, W, 1>(s, w, &[row(x, m, &range)], &range, tile)
        };
    }
}

/// M rows; returns M.
#[inline(always)]
fn product<S: Simd, Q: Quants, W: Weights<S, Q>, const M: usize>(
    s: S,
    w: &W,
    xs: &impl Rows<M>,
    range: &Range<usize>,
    tile: &mut [[f32; WIDTH]],
) -> usize {
    let mut acc = [s.splat(0.0); M];
    if range.start > 0 {
        for i in 0..M {
            acc[i] = s.load(&tile[i]);
        }
    }
    for b in 0..range.len() {
        w.ask_ahead(s, b);
        add_block::<S, Q, W, M>(s, w, xs, b, &mut acc);
    }
    for i in 0..M {
        s.store(acc[i], &mut tile[i]);
    }
    M
}

/// Block b added to the sums.
#[inline(always)]
fn add_block<S: Simd, Q: Quants, W: Weights<S, Q>, const M: usize>(
    s: S,
    w: &W,
    xs: &impl Rows<M>,
    b: usize,
    acc: &mut [S::F; M],
) {
    for part in 0..Q::SCALES {
        let mut sums = [s.splat_int(0); M];
        for i in 0..M {
            sums[i] = Q::start(s, xs.total(b, i), xs.first(b, i), part);
        }
        if Q::DEPTH == 1 {
            wide_dots::<S, Q, W, M>(s, w, part, xs, b, &mut sums);
        } else {
            dots::<S, Q, W, M>(s, w, part, xs, b, &mut sums);
        }
        let scales = w.scale(s, b, part);
        for i in 0..M {
            let scale = s.mul(scales, s.splat(xs.scale(b, i)));
            acc[i] = s.fma(s.to_float(sums[i]), scale, acc[i]);
        }
    }
    if Q::MINIMA {
        let minima = w.minima(s, b);
        for i in 0..M {
            acc[i] = s.fnma(minima, s.splat(xs.sum(b, i)), acc[i]);
        }
    }
}

/// The exact sums of block b, or of its half `part`.
#[inline(always)]
fn dots<S: Simd, Q: Quants, W: Weights<S, Q>, const M: usize>(
    s: S,
    w: &W,
    part: usize,
    xs: &impl Rows<M>,
    b: usize,
    sums: &mut [S::I; M],
) {
    let vecs = 8 / Q::SCALES;
    for step in 0..vecs / Q::DEPTH {
        let mut partial = [s.partial(sums[0]); M];
        for i in 0..M {
            partial[i] = s.partial(sums[i]);
        }
        for d in 0..Q::DEPTH {
            let v = part * vecs + step * Q::DEPTH + d;
            let weights = w.vec(s, b, v);
            for i in 0..M {
                partial[i] = s.add_dot(partial[i], weights, s.splat_quad(xs.quad(b, v, i)));
            }
        }
        for i in 0..M {
            sums[i] = s.widen(sums[i], partial[i]);
        }
    }
}

/// The same for weights of eight bits.
#[inline(always)]
fn wide_dots<S: Simd, Q: Quants, W: Weights<S, Q>, const M: usize>(
    s: S,
    w: &W,
    part: usize,
    xs: &impl Rows<M>,
    b: usize,
    sums: &mut [S::I; M],
) {
    let vecs = 8 / Q::SCALES;
    let mut wide = [s.wide(sums[0]); M];
    for i in 0..M {
        wide[i] = s.wide(sums[i]);
    }
    for v in part * vecs..(part + 1) * vecs {
        let weights = w.vec(s, b, v);
        for i in 0..M {
            wide[i] = s.add_wide(wide[i], weights, s.splat_quad(xs.quad(b, v, i)));
        }
    }
    for i in 0..M {
        sums[i] = s.wide_sum(sums[i], wide[i]);
    }
}

/// M rows of activations, cut to the blocks that are multiplied.
trait Rows<const M: usize> {
    fn quad(&self, b: usize, v: usize, i: usize) -> &[u8; 4];
    fn scale(&self, b: usize, i: usize) -> f32;
    /// Scale · Σq.
    fn sum(&self, b: usize, i: usize) -> f32;
    /// −Σq, of the block and of its first half.
    fn total(&self, b: usize, i: usize) -> i32;
    fn first(&self, b: usize, i: usize) -> i32;
}

/// Rows as they lie.
#[derive(Clone, Copy)]
struct Row<'a> {
    quads: &'a [[u8; BLOCK]],
    row: BlockRow<'a>,
}

#[inline(always)]
fn row<'a>(x: &'a Activations, m: usize, range: &Range<usize>) -> Row<'a> {
    let row = x.block_row(m);
    // SAFETY: i8 and u8 have the same size, alignment and values of bits.
    let bytes = unsafe { std::slice::from_raw_parts(row.quants.as_ptr().cast::<u8>(), row.quants.len()) };
    Row {
        quads: &bytes.as_chunks::<BLOCK>().0[range.clone()],
        row: BlockRow {
            quants: row.quants,
            scales: &row.scales[range.clone()],
            sums: &row.sums[range.clone()],
            totals: &row.totals[range.clone()],
            firsts: &row.firsts[range.clone()],
        },
    }
}

impl<const M: usize> Rows<M> for [Row<'_>; M] {
    #[inline(always)]
    fn quad(&self, b: usize, v: usize, i: usize) -> &[u8; 4] {
        &self[i].quads[b].as_chunks::<4>().0[v]
    }
    #[inline(always)]
    fn scale(&self, b: usize, i: usize) -> f32 {
        self[i].row.scales[b]
    }
    #[inline(always)]
    fn sum(&self, b: usize, i: usize) -> f32 {
        self[i].row.sums[b]
    }
    #[inline(always)]
    fn total(&self, b: usize, i: usize) -> i32 {
        self[i].row.totals[b]
    }
    #[inline(always)]
    fn first(&self, b: usize, i: usize) -> i32 {
        self[i].row.firsts[b]
    }
}

/// Four bytes of row i at `at`, in its tile.
#[inline(always)]
fn field<'a, const T: usize>(tiles: &[&'a [Tile]; T], b: usize, at: usize, i: usize) -> &'a [u8; 4] {
    tiles[i / TILE][b][at + 4 * (i % TILE)..].first_chunk().expect("a field of the tile")
}

macro_rules! tiles {
    ($rows:literal, $type:ty, $self:ident, $tiles:expr, $first:expr, [$($generics:tt)*]) => {
        impl<$($generics)*> Rows<$rows> for $type {
            #[inline(always)]
            fn quad(&$self, b: usize, v: usize, i: usize) -> &[u8; 4] {
                field(&$tiles, b, 16 * v, $first + i)
            }
            #[inline(always)]
            fn scale(&$self, b: usize, i: usize) -> f32 {
                f32::from_ne_bytes(*field(&$tiles, b, 128, $first + i))
            }
            #[inline(always)]
            fn sum(&$self, b: usize, i: usize) -> f32 {
                f32::from_ne_bytes(*field(&$tiles, b, 144, $first + i))
            }
            #[inline(always)]
            fn total(&$self, b: usize, i: usize) -> i32 {
                i32::from_ne_bytes(*field(&$tiles, b, 160, $first + i))
            }
            #[inline(always)]
            fn first(&$self, b: usize, i: usize) -> i32 {
                i32::from_ne_bytes(*field(&$tiles, b, 176, $first + i))
            }
        }
    };
}
/// Two rows of a tile, from FIRST on.
struct Half<'a, const FIRST: usize>(&'a [Tile]);

tiles!(4, [&[Tile]; 1], self, *self, 0, []);
tiles!(8, [&[Tile]; 2], self, *self, 0, []);
tiles!(2, Half<'_, FIRST>, self, [self.0], FIRST, [const FIRST: usize]);
