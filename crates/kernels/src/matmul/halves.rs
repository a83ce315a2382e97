//! Quantised panels times tiles of rows where registers are sixteen of 256 bits: half a panel, eight weight rows, at a time. A block's
//! eight vecs are unpacked into registers, and rows pass one after another over sums that lie in the first-level cache. Rows outside
//! of tiles go through `blocks.rs`. The bits are the same.
// SAFETY of the whole file: `Avx2` and the `Dots` are proofs of the instructions used; loads and stores go through references to
// arrays of at least the accessed size, with the unaligned instructions.
#![expect(clippy::undocumented_unsafe_blocks, reason = "the one argument that holds for all is above")]

#[cfg(test)]
mod tests;
mod words;

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::blocks;
use super::quants::Quants;
use super::scratch::Scratch;
use crate::activations::{Activations, TILE, Tile};
use crate::panels::WIDTH;
use crate::simd::{Avx2, BYTES, Simd};

/// How products of bytes are summed.
pub(crate) trait Dots: Copy {
    /// Whether weights of eight bits go another way: see `words.rs`.
    const WORDS: bool;

    /// Σ over the vecs w of w·x, plus `start`, in each lane; `depth` as `Quants::DEPTH` says.
    fn sum<const V: usize>(self, depth: usize, w: &[__m256i; V], x: &[[u8; 16]], row: usize, start: __m256i)
    -> __m256i;
}

/// The panel times `rows` of `x`, into tile (rows.len(), 16).
#[inline(always)]
pub(crate) fn panel<D: Dots, Q: Quants>(
    (s, d): (Avx2, D),
    panel: &[u8],
    x: &Activations,
    rows: Range<usize>,
    scratch: &mut Scratch,
    tile: &mut [[f32; WIDTH]],
) {
    assert_eq!(tile.len(), rows.len(), "a row of the tile for each activation row");
    let tiles = rows.start.div_ceil(TILE)..rows.end / TILE;
    // A nibble's block is not unpacked twice for four rows.
    let few = tiles.len() == 1 && Q::DEPTH == 8;
    if tiles.is_empty() || few || !x.has_tiles() {
        return blocks::panel::<Avx2, Q>(s, panel, x, rows, scratch, tile);
    }
    let (before, rest) = tile.split_at_mut(tiles.start * TILE - rows.start);
    let (inside, after) = rest.split_at_mut(tiles.len() * TILE);
    if !before.is_empty() {
        blocks::panel::<Avx2, Q>(s, panel, x, rows.start..tiles.start * TILE, scratch, before);
    }
    if !after.is_empty() {
        blocks::panel::<Avx2, Q>(s, panel, x, tiles.end * TILE..rows.end, scratch, after);
    }
    inside.fill([0.0; WIDTH]);
    // As many groups as stay in the first-level cache while all rows pass.
    let groups = (PART_BLOCKS / Q::BLOCKS).max(1);
    for (i, part) in panel.chunks(groups * Q::GROUP_BYTES).enumerate() {
        let first = i * groups * Q::BLOCKS;
        for (tiles, sums) in tiles.clone().step_by(TOGETHER).zip(inside.chunks_mut(TOGETHER * TILE)) {
            products::<D, Q>((s, d), part, x, tiles, first, sums);
        }
    }
}

/// Tiles for which a block is unpacked once.
const TOGETHER: usize = 4;
const PART_BLOCKS: usize = 16;
/// How far ahead of the sums the panel is asked for.
const AHEAD: usize = 2048;

/// Adds whole groups, of which the first block is the panel's block `first`, times the tiles from `tile` on to `sums`.
#[inline(always)]
fn products<D: Dots, Q: Quants>(
    (s, d): (Avx2, D),
    groups: &[u8],
    x: &Activations,
    tile: usize,
    first: usize,
    sums: &mut [[f32; WIDTH]],
) {
    let mut xs: [&[Tile]; TOGETHER] = [&[]; TOGETHER];
    let sums = sums.as_chunks_mut::<TILE>().0;
    for (i, xs) in xs[..sums.len()].iter_mut().enumerate() {
        *xs = &x.tile(tile + i)[first..];
    }
    if Q::DEPTH == 1 && D::WORDS {
        return words::products::<Q>(s, groups, &xs, sums);
    }
    for (g, group) in groups.chunks_exact(Q::GROUP_BYTES).enumerate() {
        for j in 0..Q::BLOCKS {
            let ahead = group.as_ptr().wrapping_add(AHEAD + j * (Q::GROUP_BYTES / Q::BLOCKS));
            for line in 0..Q::GROUP_BYTES.div_ceil(Q::BLOCKS * BYTES) {
                s.prefetch(ahead.wrapping_add(line * BYTES));
            }
            let b = g * Q::BLOCKS + j;
            add_half::<D, Q, 0>((s, d), group, j, &xs, b, sums);
            add_half::<D, Q, 1>((s, d), group, j, &xs, b, sums);
        }
    }
}

/// Half `HALF` of the group's block j times all rows.
#[inline(always)]
fn add_half<D: Dots, Q: Quants, const HALF: usize>(
    (s, d): (Avx2, D),
    group: &[u8],
    j: usize,
    xs: &[&[Tile]; TOGETHER],
    b: usize,
    sums: &mut [[[f32; WIDTH]; TILE]],
) {
    let weights = Block::load::<Q, HALF>(s, group, j);
    for (xs, sums) in xs.iter().zip(sums) {
        for (i, sums) in sums.iter_mut().enumerate() {
            add_row::<D, Q>(d, &weights, &xs[b], i, &mut sums.as_chunks_mut::<8>().0[HALF]);
        }
    }
}

/// Half of a block in registers.
struct Block {
    vecs: [__m256i; 8],
    scales: [__m256; 2],
    minima: __m256,
}

impl Block {
    #[inline(always)]
    fn load<Q: Quants, const HALF: usize>(s: Avx2, group: &[u8], j: usize) -> Self {
        let mut vecs = [unsafe { _mm256_setzero_si256() }; 8];
        for (v, vec) in vecs.iter_mut().enumerate() {
            *vec = Q::vec(s, group, j, v)[HALF];
        }
        let scales = Q::scales(s, group, j);
        Self { vecs, scales: [scales[0][HALF], scales[1][HALF]], minima: Q::minima(s, group, j)[HALF] }
    }
}

/// The block times row `row` of the tile, added to eight sums.
#[inline(always)]
fn add_row<D: Dots, Q: Quants>(d: D, w: &Block, x: &Tile, row: usize, sums: &mut [f32; 8]) {
    let field = |at: usize| x[at + 4 * row..].first_chunk::<4>().expect("a field of the tile");
    let int = |at: usize| i32::from_ne_bytes(*field(at));
    let quads = &x.as_chunks::<16>().0[..8];
    let scale = float_field(x, 128, row);
    let mut acc = unsafe { _mm256_loadu_ps(sums.as_ptr()) };
    for part in 0..Q::SCALES {
        let start = start::<Q>(int(160), int(176), part);
        let sum = if Q::SCALES == 2 {
            let half: &[__m256i; 4] = &w.vecs.as_chunks().0[part];
            d.sum(Q::DEPTH, half, &quads[4 * part..], row, start)
        } else {
            d.sum(Q::DEPTH, &w.vecs, quads, row, start)
        };
        acc = unsafe { _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(w.scales[part], scale), acc) };
    }
    if Q::MINIMA {
        acc = unsafe { _mm256_fnmadd_ps(w.minima, float_field(x, 144, row), acc) };
    }
    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), acc) }
}

#[inline(always)]
fn float_field(x: &Tile, at: usize, row: usize) -> __m256 {
    let bytes = x[at + 4 * row..].first_chunk().expect("a field of the tile");
    unsafe { _mm256_set1_ps(f32::from_ne_bytes(*bytes)) }
}

/// What takes the zero point off: see `Quants::start`.
#[inline(always)]
fn start<Q: Quants>(total: i32, first: i32, part: usize) -> __m256i {
    if Q::ZERO == 0 {
        return unsafe { _mm256_setzero_si256() };
    }
    let sum = match (Q::SCALES, part) {
        (1, _) => total,
        (_, 0) => first,
        _ => total - first,
    };
    unsafe {
        let zero = _mm256_set1_epi32(Q::ZERO.ilog2().cast_signed());
        _mm256_sllv_epi32(spread(sum), zero)
    }
}

/// `value` in every lane, of which the compiler knows nothing: it would shift one lane first and spread it by a shuffle, where a
/// broadcast from memory is free.
#[inline(always)]
fn spread(value: i32) -> __m256i {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn opaque(mut v: __m256i) -> __m256i {
        unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) }
        v
    }
    unsafe { opaque(_mm256_set1_epi32(value)) }
}

#[inline(always)]
fn quad(x: &[[u8; 16]], v: usize, row: usize) -> __m256i {
    unsafe { _mm256_set1_epi32(i32::from_ne_bytes(x[v].as_chunks().0[row])) }
}

/// Without an instruction for it: pairs in 16 bits as long as those hold them, then in 32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs16;

impl Dots for Pairs16 {
    const WORDS: bool = true;

    #[inline(always)]
    fn sum<const V: usize>(
        self,
        depth: usize,
        w: &[__m256i; V],
        x: &[[u8; 16]],
        row: usize,
        start: __m256i,
    ) -> __m256i {
        let mut sum = start;
        for v in (0..V).step_by(depth) {
            unsafe {
                let mut pairs = _mm256_maddubs_epi16(w[v], quad(x, v, row));
                for more in v + 1..v + depth {
                    pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[more], quad(x, more, row)));
                }
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
        }
        sum
    }
}

/// `vpdpbusd` as AVX-VNNI has it (Alder Lake 2021, Zen 5 2024).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni(());

impl Vnni {
    /// # Safety
    /// The CPU must have AVX-VNNI.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// The same instruction as AVX-512 encodes it: for tests of the kernel where the first one is missing.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni512(());

#[cfg(test)]
impl Vnni512 {
    /// # Safety
    /// The CPU must have AVX-512 VL and VNNI.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

macro_rules! vnni {
    ($type:ty, $dot:ident) => {
        impl Dots for $type {
            const WORDS: bool = false;

            #[inline(always)]
            fn sum<const V: usize>(
                self,
                _: usize,
                w: &[__m256i; V],
                x: &[[u8; 16]],
                row: usize,
                start: __m256i,
            ) -> __m256i {
                unsafe {
                    // Two sums: one would wait for itself.
                    let mut sums = [start, _mm256_setzero_si256()];
                    for v in 0..V / 2 {
                        sums[0] = $dot(sums[0], w[v], quad(x, v, row));
                        sums[1] = $dot(sums[1], w[V / 2 + v], quad(x, V / 2 + v, row));
                    }
                    _mm256_add_epi32(sums[0], sums[1])
                }
            }
        }
    };
}

vnni!(Vnni, _mm256_dpbusd_avx_epi32);
#[cfg(test)]
vnni!(Vnni512, _mm256_dpbusd_epi32);
