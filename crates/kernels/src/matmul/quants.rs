//! How each quantised format's panels read: a block of 32 columns as eight vecs of unsigned bytes, scales, and minima where
//! it has them. The layouts are in the documentation of `panels`.
#![expect(non_camel_case_types, reason = "these are the names that files and people use")]

use crate::simd::{BYTES, Simd};

pub(crate) enum Q8_0 {}
pub(crate) enum Q4_0 {}
pub(crate) enum Q4_K {}
pub(crate) enum Q5_K {}
pub(crate) enum Q6_K {}

/// What the kernels ask of a format. A group is `BLOCKS` blocks of 32 columns of the sixteen rows.
pub(crate) trait Quants {
    const GROUP_BYTES: usize;
    const BLOCKS: usize;
    /// Scales per block: 1, or 2 where each half has its own.
    const SCALES: usize;
    /// Vecs whose products an i16 holds (15, 31 or 63 times 2 · 127 each); 1 where it takes `Simd::add_wide`.
    const DEPTH: usize;
    const MINIMA: bool;
    /// What a byte of `vecs` holds for the value 0.
    const ZERO: u8;

    /// Vec v of block j: values plus the zero point, which `start` takes off.
    fn vec<S: Simd>(s: S, group: &[u8], j: usize, v: usize) -> S::B;
    /// Block j's scales of its first and second half, the same where there is one.
    fn scales<S: Simd>(s: S, group: &[u8], j: usize) -> [S::F; 2];
    fn minima<S: Simd>(s: S, group: &[u8], j: usize) -> S::F;
    /// −zero·Σq of a block of activations, or of its half `part`, given −Σq of the block and of its first half.
    fn start<S: Simd>(s: S, total: i32, first: i32, part: usize) -> S::I;
}

#[inline(always)]
fn array<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("groups are whole")
}

#[inline(always)]
fn vec<S: Simd>(s: S, bytes: &[u8], at: usize) -> S::B {
    s.load_bytes(array(bytes, at))
}

/// Vec v of a block's nibbles, which begin at `at`.
#[inline(always)]
fn nibbles<S: Simd>(s: S, bytes: &[u8], at: usize, v: usize) -> S::B {
    s.right(vec(s, bytes, at + BYTES * (v % 4)), if v < 4 { 0 } else { 4 }, 15)
}

impl Quants for Q8_0 {
    const GROUP_BYTES: usize = 544;
    const BLOCKS: usize = 1;
    const SCALES: usize = 1;
    const DEPTH: usize = 1;
    const MINIMA: bool = false;
    const ZERO: u8 = 128;

    #[inline(always)]
    fn vec<S: Simd>(s: S, group: &[u8], _: usize, v: usize) -> S::B {
        vec(s, group, 32 + BYTES * v)
    }
    #[inline(always)]
    fn scales<S: Simd>(s: S, group: &[u8], _: usize) -> [S::F; 2] {
        [s.load_f16_bytes(array(group, 0)); 2]
    }
    #[inline(always)]
    fn minima<S: Simd>(s: S, _: &[u8], _: usize) -> S::F {
        s.splat(0.0)
    }
    #[inline(always)]
    fn start<S: Simd>(s: S, total: i32, _: i32, _: usize) -> S::I {
        s.int_left(s.splat_int(total), 7)
    }
}

impl Quants for Q4_0 {
    const GROUP_BYTES: usize = 288;
    const BLOCKS: usize = 1;
    const SCALES: usize = 1;
    const DEPTH: usize = 8;
    const MINIMA: bool = false;
    const ZERO: u8 = 8;

    #[inline(always)]
    fn vec<S: Simd>(s: S, group: &[u8], _: usize, v: usize) -> S::B {
        nibbles(s, group, 32, v)
    }
    #[inline(always)]
    fn scales<S: Simd>(s: S, group: &[u8], _: usize) -> [S::F; 2] {
        [s.load_f16_bytes(array(group, 0)); 2]
    }
    #[inline(always)]
    fn minima<S: Simd>(s: S, _: &[u8], _: usize) -> S::F {
        s.splat(0.0)
    }
    #[inline(always)]
    fn start<S: Simd>(s: S, total: i32, _: i32, _: usize) -> S::I {
        s.int_left(s.splat_int(total), 3)
    }
}

/// Byte i of the twelve, of each row.
#[inline(always)]
fn k_byte<S: Simd>(s: S, group: &[u8], i: usize) -> S::I {
    s.load_small(array(group, 64 + 16 * i))
}

/// The 6-bit scales and minima of block j in Q4_K and Q5_K, times their f16 steps: exact, 11 bits times 6.
#[inline(always)]
fn k_scale<S: Simd>(s: S, group: &[u8], j: usize) -> S::F {
    let scale = if j < 4 {
        s.int_and(k_byte(s, group, j), 63)
    } else {
        s.int_or(s.int_and(k_byte(s, group, j + 4), 15), s.int_left(s.int_right(k_byte(s, group, j - 4), 6), 4))
    };
    s.mul(s.to_float(scale), s.load_f16_bytes(array(group, 0)))
}

#[inline(always)]
fn k_minimum<S: Simd>(s: S, group: &[u8], j: usize) -> S::F {
    let minimum = if j < 4 {
        s.int_and(k_byte(s, group, j + 4), 63)
    } else {
        s.int_or(s.int_right(k_byte(s, group, j + 4), 4), s.int_left(s.int_right(k_byte(s, group, j), 6), 4))
    };
    s.mul(s.to_float(minimum), s.load_f16_bytes(array(group, 32)))
}

impl Quants for Q4_K {
    const GROUP_BYTES: usize = 2304;
    const BLOCKS: usize = 8;
    const SCALES: usize = 1;
    const DEPTH: usize = 8;
    const MINIMA: bool = true;
    const ZERO: u8 = 0;

    #[inline(always)]
    fn vec<S: Simd>(s: S, group: &[u8], j: usize, v: usize) -> S::B {
        nibbles(s, group, 256 + 256 * j, v)
    }
    #[inline(always)]
    fn scales<S: Simd>(s: S, group: &[u8], j: usize) -> [S::F; 2] {
        [k_scale(s, group, j); 2]
    }
    #[inline(always)]
    fn minima<S: Simd>(s: S, group: &[u8], j: usize) -> S::F {
        k_minimum(s, group, j)
    }
    #[inline(always)]
    fn start<S: Simd>(s: S, _: i32, _: i32, _: usize) -> S::I {
        s.splat_int(0)
    }
}

impl Quants for Q5_K {
    const GROUP_BYTES: usize = 2816;
    const BLOCKS: usize = 8;
    const SCALES: usize = 1;
    const DEPTH: usize = 4;
    const MINIMA: bool = true;
    const ZERO: u8 = 0;

    #[inline(always)]
    fn vec<S: Simd>(s: S, group: &[u8], j: usize, v: usize) -> S::B {
        let low = nibbles(s, group, 256 + 320 * j, v);
        let bits = vec(s, group, 512 + 320 * j);
        s.or(low, if v < 4 { s.left(bits, 4 - v as u32, 16) } else { s.right(bits, v as u32 - 4, 16) })
    }
    #[inline(always)]
    fn scales<S: Simd>(s: S, group: &[u8], j: usize) -> [S::F; 2] {
        [k_scale(s, group, j); 2]
    }
    #[inline(always)]
    fn minima<S: Simd>(s: S, group: &[u8], j: usize) -> S::F {
        k_minimum(s, group, j)
    }
    #[inline(always)]
    fn start<S: Simd>(s: S, _: i32, _: i32, _: usize) -> S::I {
        s.splat_int(0)
    }
}

impl Quants for Q6_K {
    const GROUP_BYTES: usize = 3360;
    const BLOCKS: usize = 8;
    const SCALES: usize = 2;
    const DEPTH: usize = 2;
    const MINIMA: bool = false;
    const ZERO: u8 = 32;

    #[inline(always)]
    fn vec<S: Simd>(s: S, group: &[u8], j: usize, v: usize) -> S::B {
        let at = 288 + 384 * j;
        let low = nibbles(s, group, at, v);
        let high = vec(s, group, at + 256 + BYTES * (v / 4));
        let j = v as u32 % 4;
        s.or(low, if j < 2 { s.left(high, 4 - 2 * j, 48) } else { s.right(high, 2 * j - 4, 48) })
    }
    #[inline(always)]
    fn scales<S: Simd>(s: S, group: &[u8], j: usize) -> [S::F; 2] {
        let d = s.load_f16_bytes(array(group, 0));
        let first = s.signed_to_f32(array(group, 32 + 32 * j));
        [s.mul(first, d), s.mul(s.signed_to_f32(array(group, 48 + 32 * j)), d)]
    }
    #[inline(always)]
    fn minima<S: Simd>(s: S, _: &[u8], _: usize) -> S::F {
        s.splat(0.0)
    }
    #[inline(always)]
    fn start<S: Simd>(s: S, total: i32, first: i32, part: usize) -> S::I {
        let first = s.splat_int(first);
        s.int_left(if part == 0 { first } else { s.int_sub(s.splat_int(total), first) }, 5)
    }
}
