//! Weights of eight bits without an instruction for products of bytes: weights and activations widened to 16 bits, so that
//! `vpmaddwd` sums pairs exactly. Moving the signs to the activations instead, for `vpmaddubsw`, needs three instructions of which
//! a core has two units, where this needs two.
// SAFETY of the whole file: as in `halves.rs`.
#![expect(clippy::undocumented_unsafe_blocks, reason = "the one argument that holds for all is in the parent module")]

use std::arch::x86_64::*;

use super::{TILE, TOGETHER, float_field};
use crate::activations::Tile;
use crate::matmul::quants::Quants;
use crate::panels::WIDTH;
use crate::simd::{Avx2, BYTES, Simd};

/// A block of a tile: for each quad, bytes 0 and 2 of four rows as i16, then bytes 1 and 3.
type Words = [[[i32; TILE]; 2]; 8];

/// Adds whole groups of one block times the same blocks of the tiles `xs` to `sums`.
#[inline(always)]
pub(super) fn products<Q: Quants>(s: Avx2, groups: &[u8], xs: &[&[Tile]; TOGETHER], sums: &mut [[[f32; WIDTH]; TILE]]) {
    for (b, group) in groups.chunks_exact(Q::GROUP_BYTES).enumerate() {
        for line in 0..Q::GROUP_BYTES.div_ceil(BYTES) {
            s.prefetch(group.as_ptr().wrapping_add(super::AHEAD + line * BYTES));
        }
        let mut words: [Words; TOGETHER] = [[[[0; TILE]; 2]; 8]; TOGETHER];
        for (words, xs) in words.iter_mut().zip(xs).take(sums.len()) {
            widen(&xs[b], words);
        }
        add_half::<Q, 0>(s, group, &words, xs, b, sums);
        add_half::<Q, 1>(s, group, &words, xs, b, sums);
    }
}

#[inline(always)]
fn widen(tile: &Tile, to: &mut Words) {
    for (v, to) in to.iter_mut().enumerate() {
        unsafe {
            let quads = _mm_loadu_si128(tile[16 * v..][..16].as_ptr().cast());
            let even = _mm_srai_epi16::<8>(_mm_slli_epi16::<8>(quads));
            _mm_storeu_si128(to[0].as_mut_ptr().cast(), even);
            _mm_storeu_si128(to[1].as_mut_ptr().cast(), _mm_srai_epi16::<8>(quads));
        }
    }
}

#[inline(always)]
fn add_half<Q: Quants, const HALF: usize>(
    s: Avx2,
    group: &[u8],
    words: &[Words; TOGETHER],
    xs: &[&[Tile]; TOGETHER],
    b: usize,
    sums: &mut [[[f32; WIDTH]; TILE]],
) {
    // Eight vecs take all registers twice over: the sums of four wait in memory for those of the others.
    let mut waiting = [[[0i32; 8]; TILE]; TOGETHER];
    let weights = load::<Q, HALF>(s, group, 0);
    for (words, waiting) in words.iter().zip(&mut waiting).take(sums.len()) {
        for (row, waiting) in waiting.iter_mut().enumerate() {
            unsafe {
                let sum = dots(&weights, words, 0, row, _mm256_setzero_si256());
                _mm256_storeu_si256(waiting.as_mut_ptr().cast(), sum);
            }
        }
    }
    let weights = load::<Q, HALF>(s, group, 4);
    let scales = Q::scales(s, group, 0)[0][HALF];
    for (((words, waiting), x), sums) in words.iter().zip(&waiting).zip(xs).zip(sums) {
        for (row, (waiting, sums)) in waiting.iter().zip(sums).enumerate() {
            let sums = &mut sums.as_chunks_mut::<8>().0[HALF];
            unsafe {
                let sum = dots(&weights, words, 4, row, _mm256_loadu_si256(waiting.as_ptr().cast()));
                let scale = _mm256_mul_ps(scales, float_field(&x[b], 128, row));
                let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, _mm256_loadu_ps(sums.as_ptr()));
                _mm256_storeu_ps(sums.as_mut_ptr(), sum);
            }
        }
    }
}

/// Four vecs from `first` on, signed: bytes 0 and 2 of each lane, then 1 and 3.
#[inline(always)]
fn load<Q: Quants, const HALF: usize>(s: Avx2, group: &[u8], first: usize) -> [[__m256i; 2]; 4] {
    let mut words = [[unsafe { _mm256_setzero_si256() }; 2]; 4];
    for (v, words) in words.iter_mut().enumerate() {
        unsafe {
            let bytes = _mm256_xor_si256(Q::vec(s, group, 0, first + v)[HALF], _mm256_set1_epi8(-0x80));
            *words = [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)];
        }
    }
    words
}

/// A block's Σ is below 2^31 by far: each product is at most 2^14.
#[inline(always)]
fn dots(w: &[[__m256i; 2]; 4], x: &Words, first: usize, row: usize, start: __m256i) -> __m256i {
    let mut sums = [start, unsafe { _mm256_setzero_si256() }];
    for (w, x) in w.iter().zip(&x[first..first + 4]) {
        for parity in 0..2 {
            unsafe {
                let pairs = _mm256_madd_epi16(w[parity], _mm256_set1_epi32(x[parity][row]));
                sums[parity] = _mm256_add_epi32(sums[parity], pairs);
            }
        }
    }
    unsafe { _mm256_add_epi32(sums[0], sums[1]) }
}
