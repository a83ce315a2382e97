//! One panel of BF16 weights times rows of activations rounded to bf16: a pair of columns at a time, one sum per output.

use std::ops::Range;

use super::scratch::Scratch;
use crate::activations::{Activations, PairTile, TILE};
use crate::panels::WIDTH;
use crate::simd::{BYTES, Simd};

/// How a pair of columns is added to the sums of sixteen rows.
pub(crate) trait Pairs<S: Simd>: Copy {
    /// Sixteen pairs of weights, ready.
    type W: Copy;
    fn load(self, s: S, w: &[u8; BYTES]) -> Self::W;
    /// fma(w₀, x₀, fma(w₁, x₁, sum)); `values` are what the bits of `x` mean.
    fn add(self, s: S, sum: S::F, w: Self::W, x: &[u16; 2], values: &[f32; 2]) -> S::F;
}

/// Two fused multiply-adds: the specification.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shifted;

impl<S: Simd> Pairs<S> for Shifted {
    type W = (S::F, S::F);

    #[inline(always)]
    fn load(self, s: S, w: &[u8; BYTES]) -> (S::F, S::F) {
        s.bf16_pairs(w)
    }
    #[inline(always)]
    fn add(self, s: S, sum: S::F, w: (S::F, S::F), _: &[u16; 2], values: &[f32; 2]) -> S::F {
        s.fma(w.0, s.splat(values[0]), s.fma(w.1, s.splat(values[1]), sum))
    }
}

#[cfg(target_arch = "x86_64")]
impl Pairs<crate::simd::Avx512> for crate::simd::DotBf16 {
    type W = <crate::simd::Avx512 as Simd>::B;

    #[inline(always)]
    fn load(self, s: crate::simd::Avx512, w: &[u8; BYTES]) -> Self::W {
        s.load_bytes(w)
    }
    #[inline(always)]
    fn add(
        self,
        _: crate::simd::Avx512,
        sum: <crate::simd::Avx512 as Simd>::F,
        w: Self::W,
        x: &[u16; 2],
        _: &[f32; 2],
    ) -> <crate::simd::Avx512 as Simd>::F {
        crate::simd::DotBf16::add(self, sum, w, x)
    }
}

/// The panel times `rows` of `x`, into tile (rows.len(), 16).
#[inline(always)]
pub(crate) fn panel<S: Simd, P: Pairs<S>>(
    s: S,
    p: P,
    panel: &[u8],
    x: &Activations,
    rows: Range<usize>,
    _: &mut Scratch,
    tile: &mut [[f32; WIDTH]],
) {
    assert_eq!(tile.len(), rows.len(), "a row of the tile for each activation row");
    let pairs = panel.as_chunks::<BYTES>().0;
    // Parts that stay in the first-level cache while all rows pass.
    let part = if rows.len() > 4 * TILE { CACHED_PAIRS } else { pairs.len().max(1) };
    for (i, weights) in pairs.chunks(part).enumerate() {
        let range = i * part..i * part + weights.len();
        let mut m = rows.start;
        while m < rows.end {
            let left = rows.end - m;
            let tile = &mut tile[m - rows.start..];
            let tiled = m.is_multiple_of(TILE) && x.has_tiles();
            m += if tiled && S::WIDE && left >= 4 * TILE {
                product::<S, P, 4, 16>(s, p, weights, bf16_tiles(x, m, &range), &range, tile)
            } else if tiled && S::WIDE && left >= 2 * TILE {
                product::<S, P, 2, 8>(s, p, weights, bf16_tiles(x, m, &range), &range, tile)
            } else if tiled && left >= TILE {
                product::<S, P, 1, 4>(s, p, weights, bf16_tiles(x, m, &range), &range, tile)
            } else {
                one_row(s, p, weights, x, m, &range, tile)
            };
        }
    }
}

/// How far ahead of the sums the panel is asked for.
const AHEAD: usize = 2048;
/// 8 KiB of weights.
const CACHED_PAIRS: usize = 128;

#[inline(always)]
fn bf16_tiles<'a, const T: usize>(x: &'a Activations, m: usize, range: &Range<usize>) -> [PairTile<'a>; T] {
    let mut tiles: [PairTile; T] = [(&[], &[]); T];
    for i in 0..T {
        let (bits, values) = x.bf16_tile(m / TILE + i);
        tiles[i] = (&bits[range.clone()], &values[range.clone()]);
    }
    tiles
}

/// M = 4·T rows; returns M.
#[inline(always)]
fn product<S: Simd, P: Pairs<S>, const T: usize, const M: usize>(
    s: S,
    p: P,
    weights: &[[u8; BYTES]],
    xs: [PairTile; T],
    range: &Range<usize>,
    tile: &mut [[f32; WIDTH]],
) -> usize {
    let mut sums = [s.splat(0.0); M];
    if range.start > 0 {
        for i in 0..M {
            sums[i] = s.load(&tile[i]);
        }
    }
    for (k, pair) in weights.iter().enumerate() {
        let w = p.load(s, pair);
        // Two loops of four, which the compiler unrolls; one of sixteen it leaves.
        for t in 0..T {
            let (bits, values) = (&xs[t].0[k], &xs[t].1[k]);
            for i in 0..TILE {
                sums[t * TILE + i] = p.add(s, sums[t * TILE + i], w, &bits[i], &values[i]);
            }
        }
    }
    for i in 0..M {
        s.store(sums[i], &mut tile[i]);
    }
    M
}

/// Row `m`; returns 1.
#[inline(always)]
fn one_row<S: Simd, P: Pairs<S>>(
    s: S,
    p: P,
    weights: &[[u8; BYTES]],
    x: &Activations,
    m: usize,
    range: &Range<usize>,
    tile: &mut [[f32; WIDTH]],
) -> usize {
    let (bits, values) = x.bf16_row(m);
    let (bits, values) = (&bits.as_chunks().0[range.clone()], &values.as_chunks().0[range.clone()]);
    let mut sum = if range.start > 0 { s.load(&tile[0]) } else { s.splat(0.0) };
    for ((pair, bits), values) in weights.iter().zip(bits).zip(values) {
        s.prefetch(pair.as_ptr().wrapping_add(AHEAD));
        sum = p.add(s, sum, p.load(s, pair), bits, values);
    }
    s.store(sum, &mut tile[0]);
    1
}

/// With the specification's pairs.
#[inline(always)]
pub(crate) fn shifted_panel<S: Simd>(
    s: S,
    weights: &[u8],
    x: &Activations,
    rows: Range<usize>,
    scratch: &mut Scratch,
    tile: &mut [[f32; WIDTH]],
) {
    panel(s, Shifted, weights, x, rows, scratch, tile);
}
