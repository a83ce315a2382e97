//! How sixteen lanes of a store's format meet one pair of numbers: the inner step of attention. Every kind adds the product with
//! the second of the pair first, then that with the first, each as one fused multiply-add, so kinds of one format agree.

use crate::simd::{LANES, Simd};

pub(crate) trait Pairs<S: Simd>: Copy {
    /// Sixteen lanes of two elements, as they lie in a page, and as they are multiplied.
    type Group;
    type W: Copy;
    /// A pair of numbers for all lanes, and how many f32 it takes in a buffer.
    type X: Copy;
    const X_FLOATS: usize;

    fn groups(bytes: &[u8]) -> &[Self::Group];
    fn load(self, s: S, from: &Self::Group) -> Self::W;
    /// Pair number `i`.
    fn x(from: &[f32], i: usize) -> Self::X;
    fn dot(self, s: S, acc: S::F, w: Self::W, x: Self::X) -> S::F;
    /// Sixteen numbers as eight pairs, rounded as the format demands; returns them as rounded. None is below 2^-56, unless zero.
    fn put(self, s: S, v: S::F, to: &mut [f32]) -> S::F;
}

/// F32.
#[derive(Clone, Copy)]
pub(crate) struct Floats;

/// F16.
#[derive(Clone, Copy)]
pub(crate) struct Halves;

/// BF16 in f32 arithmetic.
#[derive(Clone, Copy)]
pub(crate) struct Widened;

#[inline(always)]
fn x(from: &[f32], i: usize) -> [f32; 2] {
    [from[2 * i], from[2 * i + 1]]
}

#[inline(always)]
fn dot<S: Simd>(s: S, acc: S::F, w: [S::F; 2], x: [f32; 2]) -> S::F {
    s.fma(w[0], s.splat(x[0]), s.fma(w[1], s.splat(x[1]), acc))
}

#[inline(always)]
fn put<S: Simd>(s: S, v: S::F, to: &mut [f32]) -> S::F {
    s.store(v, to.first_chunk_mut().expect("room for eight pairs"));
    v
}

impl<S: Simd> Pairs<S> for Floats {
    type Group = [u8; 8 * LANES];
    type W = [S::F; 2];
    type X = [f32; 2];
    const X_FLOATS: usize = 2;

    #[inline(always)]
    fn groups(bytes: &[u8]) -> &[Self::Group] {
        bytes.as_chunks().0
    }
    #[inline(always)]
    fn load(self, s: S, from: &Self::Group) -> [S::F; 2] {
        let (halves, _) = from.as_chunks();
        [s.load_f32_bytes(&halves[0]), s.load_f32_bytes(&halves[1])]
    }
    #[inline(always)]
    fn x(from: &[f32], i: usize) -> [f32; 2] {
        x(from, i)
    }
    #[inline(always)]
    fn dot(self, s: S, acc: S::F, w: [S::F; 2], x: [f32; 2]) -> S::F {
        dot(s, acc, w, x)
    }
    #[inline(always)]
    fn put(self, s: S, v: S::F, to: &mut [f32]) -> S::F {
        put(s, v, to)
    }
}

impl<S: Simd> Pairs<S> for Halves {
    type Group = [u8; 4 * LANES];
    type W = [S::F; 2];
    type X = [f32; 2];
    const X_FLOATS: usize = 2;

    #[inline(always)]
    fn groups(bytes: &[u8]) -> &[Self::Group] {
        bytes.as_chunks().0
    }
    #[inline(always)]
    fn load(self, s: S, from: &Self::Group) -> [S::F; 2] {
        let (halves, _) = from.as_chunks();
        [s.load_f16_bytes(&halves[0]), s.load_f16_bytes(&halves[1])]
    }
    #[inline(always)]
    fn x(from: &[f32], i: usize) -> [f32; 2] {
        x(from, i)
    }
    #[inline(always)]
    fn dot(self, s: S, acc: S::F, w: [S::F; 2], x: [f32; 2]) -> S::F {
        dot(s, acc, w, x)
    }
    #[inline(always)]
    fn put(self, s: S, v: S::F, to: &mut [f32]) -> S::F {
        put(s, v, to)
    }
}

impl<S: Simd> Pairs<S> for Widened {
    type Group = [u8; 4 * LANES];
    type W = [S::F; 2];
    type X = [f32; 2];
    const X_FLOATS: usize = 2;

    #[inline(always)]
    fn groups(bytes: &[u8]) -> &[Self::Group] {
        bytes.as_chunks().0
    }
    #[inline(always)]
    fn load(self, s: S, from: &Self::Group) -> [S::F; 2] {
        let (first, second) = s.bf16_pairs(from);
        [first, second]
    }
    #[inline(always)]
    fn x(from: &[f32], i: usize) -> [f32; 2] {
        x(from, i)
    }
    #[inline(always)]
    fn dot(self, s: S, acc: S::F, w: [S::F; 2], x: [f32; 2]) -> S::F {
        dot(s, acc, w, x)
    }
    #[inline(always)]
    fn put(self, s: S, v: S::F, to: &mut [f32]) -> S::F {
        put(s, s.round_bf16(v), to)
    }
}

/// BF16 in one instruction.
#[cfg(target_arch = "x86_64")]
impl Pairs<crate::simd::Avx512> for crate::simd::DotBf16 {
    type Group = [u8; 4 * LANES];
    type W = std::arch::x86_64::__m512i;
    type X = u32;
    const X_FLOATS: usize = 1;

    #[inline(always)]
    fn groups(bytes: &[u8]) -> &[Self::Group] {
        bytes.as_chunks().0
    }
    #[inline(always)]
    fn load(self, s: crate::simd::Avx512, from: &Self::Group) -> Self::W {
        s.load_bytes(from)
    }
    #[inline(always)]
    fn x(from: &[f32], i: usize) -> u32 {
        from[i].to_bits()
    }
    #[inline(always)]
    fn dot(
        self,
        _: crate::simd::Avx512,
        acc: std::arch::x86_64::__m512,
        w: Self::W,
        x: u32,
    ) -> std::arch::x86_64::__m512 {
        self.add_pairs(acc, w, x)
    }
    #[inline(always)]
    fn put(self, _: crate::simd::Avx512, v: std::arch::x86_64::__m512, to: &mut [f32]) -> std::arch::x86_64::__m512 {
        self.store_bf16(v, to.first_chunk_mut().expect("room for eight pairs"))
    }
}
