//! Tiles for block formats: integer products with 8-bit activations, exact within four elements, then floats.
#![expect(non_camel_case_types, reason = "these are the names that files and people use")]

use super::tile::Tiled;
use crate::activations::{Activations, BlockRow};
use crate::format::blocks::{half_at, six_bit_scales};
use crate::simd::{BYTES, Simd};

pub(crate) enum Q8_0 {}
pub(crate) enum Q4_0 {}
pub(crate) enum Q4_K {}
pub(crate) enum Q5_K {}
pub(crate) enum Q6_K {}

/// How a format unpacks. A group is `PAIRS` pairs of 32 values.
trait Blocks {
    type Group: Copy;
    const EMPTY: Self::Group;
    const PAIRS: usize;
    /// What an unpacked byte holds for the value 0.
    const ZERO: u8;
    /// Whether values are scale·q − minimum.
    const MINIMA: bool;
    /// Whole groups, and the bytes of the single block after them where there is one.
    fn groups(row: &[u8]) -> (&[Self::Group], &[u8]);
    fn bytes(group: &mut Self::Group) -> &mut [u8];
    /// Scales of the group in order, then minima if any; nothing where `pair_scales` reads the group itself.
    fn scales<S: Simd>(s: S, group: &Self::Group) -> [f32; 16];
    /// The lanes' scales of pair j.
    fn pair_scales<S: Simd>(s: S, group: &Self::Group, scales: &[f32; 16], j: usize) -> S::F;
    /// The values of pair j as bytes.
    fn pair<S: Simd>(s: S, group: &Self::Group, j: usize) -> S::B;
}

#[inline(always)]
fn tile<Q: Blocks, S: Simd, const M: usize, const N: usize>(
    s: S,
    w: [&[u8]; N],
    x: &Activations,
    m: usize,
) -> [[f32; N]; M] {
    let mut sums = [[s.splat(0.0); N]; M];
    let mut groups: [&[Q::Group]; N] = [&[]; N];
    let mut tails = [Q::EMPTY; N];
    let mut has_tail = false;
    for n in 0..N {
        let (whole, tail) = Q::groups(w[n]);
        groups[n] = whole;
        has_tail |= !tail.is_empty();
        Q::bytes(&mut tails[n])[..tail.len()].copy_from_slice(tail);
    }
    let mut xs = [BlockRow::default(); M];
    for i in 0..M {
        xs[i] = x.block_row(m + i);
    }
    let whole = groups[0].len();
    for g in 0..whole {
        let mut step: [&Q::Group; N] = [&tails[0]; N];
        for n in 0..N {
            step[n] = &groups[n][g];
        }
        add_group::<Q, S, M, N>(s, step, &xs, g, &mut sums);
    }
    if has_tail {
        let mut step: [&Q::Group; N] = [&tails[0]; N];
        for n in 0..N {
            step[n] = &tails[n];
        }
        add_group::<Q, S, M, N>(s, step, &xs, whole, &mut sums);
    }
    let mut out = [[0.0; N]; M];
    for i in 0..M {
        for n in 0..N {
            out[i][n] = s.sum(sums[i][n]);
        }
    }
    out
}

#[inline(always)]
fn add_group<Q: Blocks, S: Simd, const M: usize, const N: usize>(
    s: S,
    w: [&Q::Group; N],
    xs: &[BlockRow; M],
    g: usize,
    sums: &mut [[S::F; N]; M],
) {
    let mut scales = [[0.0; 16]; N];
    for n in 0..N {
        scales[n] = Q::scales(s, w[n]);
    }
    for j in 0..Q::PAIRS {
        let mut weights = [s.splat_byte(0); N];
        let mut weight_scales = [s.splat(0.0); N];
        for n in 0..N {
            weights[n] = Q::pair(s, w[n], j);
            weight_scales[n] = Q::pair_scales(s, w[n], &scales[n], j);
        }
        let pair = g * Q::PAIRS + j;
        for i in 0..M {
            let x = s.load_bytes(quants(&xs[i], pair));
            let x_scales = s.spread_2(floats(xs[i].scales, 2 * pair));
            for n in 0..N {
                let products = s.dot(weights[n], x, Q::ZERO);
                sums[i][n] = s.fma(products, s.mul(weight_scales[n], x_scales), sums[i][n]);
            }
        }
    }
    if Q::MINIMA {
        for n in 0..N {
            let minima = s.load_8(floats(&scales[n], 8));
            for i in 0..M {
                // Once per group, into the first eight lanes: lane b takes block b's minimum.
                sums[i][n] = s.fnma(minima, s.load_8(floats(xs[i].sums, 8 * g)), sums[i][n]);
            }
        }
    }
}

#[inline(always)]
fn quants<'a>(x: &BlockRow<'a>, pair: usize) -> &'a [u8; BYTES] {
    let values: &[i8; BYTES] = array(x.quants, pair * BYTES);
    // SAFETY: i8 and u8 have the same size, alignment and values of bits.
    unsafe { &*std::ptr::from_ref(values).cast::<[u8; BYTES]>() }
}

#[inline(always)]
fn floats<const N: usize>(values: &[f32], at: usize) -> &[f32; N] {
    array(values, at)
}

/// N elements from `at` on.
#[inline(always)]
pub(crate) fn array<T, const N: usize>(values: &[T], at: usize) -> &[T; N] {
    values[at..].first_chunk().expect("rows are padded to whole vectors, and groups are arrays")
}

impl Blocks for Q8_0 {
    type Group = [u8; 68];
    const EMPTY: Self::Group = [0; 68];
    const PAIRS: usize = 1;
    const ZERO: u8 = 128;
    const MINIMA: bool = false;

    #[inline(always)]
    fn groups(row: &[u8]) -> (&[Self::Group], &[u8]) {
        row.as_chunks()
    }
    #[inline(always)]
    fn bytes(group: &mut Self::Group) -> &mut [u8] {
        group
    }
    #[inline(always)]
    fn scales<S: Simd>(_: S, _: &Self::Group) -> [f32; 16] {
        [0.0; 16]
    }
    #[inline(always)]
    fn pair_scales<S: Simd>(s: S, group: &Self::Group, _: &[f32; 16], _: usize) -> S::F {
        s.spread_f16(half_at(group, 0), half_at(group, 34))
    }
    #[inline(always)]
    fn pair<S: Simd>(s: S, group: &Self::Group, _: usize) -> S::B {
        s.xor(s.load_halves(array(group, 2), array(group, 36)), s.splat_byte(128))
    }
}

impl Blocks for Q4_0 {
    type Group = [u8; 36];
    const EMPTY: Self::Group = [0; 36];
    const PAIRS: usize = 1;
    const ZERO: u8 = 8;
    const MINIMA: bool = false;

    #[inline(always)]
    fn groups(row: &[u8]) -> (&[Self::Group], &[u8]) {
        row.as_chunks()
    }
    #[inline(always)]
    fn bytes(group: &mut Self::Group) -> &mut [u8] {
        group
    }
    #[inline(always)]
    fn scales<S: Simd>(_: S, _: &Self::Group) -> [f32; 16] {
        [0.0; 16]
    }
    #[inline(always)]
    fn pair_scales<S: Simd>(s: S, group: &Self::Group, _: &[f32; 16], _: usize) -> S::F {
        s.spread_f16(half_at(group, 0), half_at(group, 18))
    }
    #[inline(always)]
    fn pair<S: Simd>(s: S, group: &Self::Group, _: usize) -> S::B {
        s.load_nibbles(array(group, 2), array(group, 20))
    }
}

impl Blocks for Q4_K {
    type Group = [u8; 144];
    const EMPTY: Self::Group = [0; 144];
    const PAIRS: usize = 4;
    const ZERO: u8 = 0;
    const MINIMA: bool = true;

    #[inline(always)]
    fn groups(row: &[u8]) -> (&[Self::Group], &[u8]) {
        row.as_chunks()
    }
    #[inline(always)]
    fn bytes(group: &mut Self::Group) -> &mut [u8] {
        group
    }
    #[inline(always)]
    fn scales<S: Simd>(s: S, group: &Self::Group) -> [f32; 16] {
        k_scales(s, half_at(group, 0), half_at(group, 2), array(group, 4))
    }
    #[inline(always)]
    fn pair_scales<S: Simd>(s: S, _: &Self::Group, scales: &[f32; 16], j: usize) -> S::F {
        s.spread_2(floats(scales, 2 * j))
    }
    #[inline(always)]
    fn pair<S: Simd>(s: S, group: &Self::Group, j: usize) -> S::B {
        let nibbles = array(group, 16 + 32 * j);
        s.shift_right(s.load_halves(nibbles, nibbles), 0, 4, 15)
    }
}

impl Blocks for Q5_K {
    type Group = [u8; 176];
    const EMPTY: Self::Group = [0; 176];
    const PAIRS: usize = 4;
    const ZERO: u8 = 0;
    const MINIMA: bool = true;

    #[inline(always)]
    fn groups(row: &[u8]) -> (&[Self::Group], &[u8]) {
        row.as_chunks()
    }
    #[inline(always)]
    fn bytes(group: &mut Self::Group) -> &mut [u8] {
        group
    }
    #[inline(always)]
    fn scales<S: Simd>(s: S, group: &Self::Group) -> [f32; 16] {
        k_scales(s, half_at(group, 0), half_at(group, 2), array(group, 4))
    }
    #[inline(always)]
    fn pair_scales<S: Simd>(s: S, _: &Self::Group, scales: &[f32; 16], j: usize) -> S::F {
        s.spread_2(floats(scales, 2 * j))
    }
    #[inline(always)]
    fn pair<S: Simd>(s: S, group: &Self::Group, j: usize) -> S::B {
        let (nibbles, fifth) = (array(group, 48 + 32 * j), array(group, 16));
        let low = s.shift_right(s.load_halves(nibbles, nibbles), 0, 4, 15);
        let bit = 2 * j as u32;
        let high = s.shift_right(s.load_halves(fifth, fifth), bit, bit + 1, 1);
        s.or(low, s.shift_left_4(high))
    }
}

impl Blocks for Q6_K {
    type Group = [u8; 210];
    const EMPTY: Self::Group = [0; 210];
    const PAIRS: usize = 4;
    const ZERO: u8 = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn groups(row: &[u8]) -> (&[Self::Group], &[u8]) {
        row.as_chunks()
    }
    #[inline(always)]
    fn bytes(group: &mut Self::Group) -> &mut [u8] {
        group
    }
    #[inline(always)]
    fn scales<S: Simd>(s: S, group: &Self::Group) -> [f32; 16] {
        let mut scales = [0.0; 16];
        let d = s.splat(s.half(half_at(group, 208)));
        s.store(s.mul(s.signed_to_f32(array(group, 192)), d), &mut scales);
        scales
    }
    #[inline(always)]
    fn pair_scales<S: Simd>(s: S, _: &Self::Group, scales: &[f32; 16], j: usize) -> S::F {
        s.spread_4(floats(scales, 4 * j))
    }
    #[inline(always)]
    fn pair<S: Simd>(s: S, group: &Self::Group, j: usize) -> S::B {
        // Each half of 128 values: low nibbles of 64 bytes, then their high nibbles; two more bits per value in 32 bytes.
        let (half, shift) = (j / 2, 4 * (j % 2) as u32);
        let high = array(group, 128 + 32 * half);
        let low = s.shift_right(s.load_bytes(array(group, 64 * half)), shift, shift, 15);
        let high = s.shift_right(s.load_halves(high, high), shift, shift + 2, 3);
        s.or(low, s.shift_left_4(high))
    }
}

/// Eight scales and eight minima of Q4_K and Q5_K. The products are exact: 11 bits times 6.
#[inline(always)]
fn k_scales<S: Simd>(s: S, d: u16, dmin: u16, packed: &[u8; 12]) -> [f32; 16] {
    let (scales, minima) = six_bit_scales(packed);
    let mut both = [0; 16];
    both[..8].copy_from_slice(&scales);
    both[8..].copy_from_slice(&minima);
    let mut out = [0.0; 16];
    s.store(s.mul(s.signed_to_f32(&both), s.spread_2(&[s.half(d), s.half(dmin)])), &mut out);
    out
}

macro_rules! tiled {
    ($($format:ident),*) => { $(impl Tiled for $format {
        #[inline(always)]
        fn tile<S: Simd, const M: usize, const N: usize>(s: S, w: [&[u8]; N], x: &Activations, m: usize) -> [[f32; N]; M] {
            tile::<Self, S, M, N>(s, w, x, m)
        }
    })* };
}
tiled!(Q8_0, Q4_0, Q4_K, Q5_K, Q6_K);
