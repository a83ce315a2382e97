//! One panel of BF16 weights times rows of activations rounded to bf16: a pair of columns at a time, one sum per output.

use std::ops::Range;

use super::scratch::Scratch;
use crate::activations::Activations;
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
    let mut m = 0;
    while m < rows.len() {
        let (row, tile) = (rows.start + m, &mut tile[m..]);
        m += match rows.len() - m {
            12.. if S::WIDE => product::<S, P, 12>(s, p, panel, x, row, tile),
            4.. => product::<S, P, 4>(s, p, panel, x, row, tile),
            2.. => product::<S, P, 2>(s, p, panel, x, row, tile),
            _ => product::<S, P, 1>(s, p, panel, x, row, tile),
        };
    }
}

/// How far ahead of the sums the panel is asked for.
const AHEAD: usize = 2048;

/// M rows from `m` on; returns M.
#[inline(always)]
fn product<S: Simd, P: Pairs<S>, const M: usize>(
    s: S,
    p: P,
    panel: &[u8],
    x: &Activations,
    m: usize,
    tile: &mut [[f32; WIDTH]],
) -> usize {
    let pairs = panel.as_chunks::<BYTES>().0;
    let mut bits: [&[[u16; 2]]; M] = [&[]; M];
    let mut values: [&[[f32; 2]]; M] = [&[]; M];
    for i in 0..M {
        let row = x.bf16_row(m + i);
        bits[i] = &row.0.as_chunks().0[..pairs.len()];
        values[i] = &row.1.as_chunks().0[..pairs.len()];
    }
    let mut sums = [s.splat(0.0); M];
    for (k, pair) in pairs.iter().enumerate() {
        s.prefetch(pair.as_ptr().wrapping_add(AHEAD));
        let w = p.load(s, pair);
        for i in 0..M {
            sums[i] = p.add(s, sums[i], w, &bits[i][k], &values[i][k]);
        }
    }
    for i in 0..M {
        s.store(sums[i], &mut tile[i]);
    }
    M
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
