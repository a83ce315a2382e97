//! The vocabulary of every operation: sixteen f32 lanes and sixty-four bytes. A value of an implementing type proves
//! that the CPU has its instructions (the idea is memchr's), so the operations themselves are safe code written once.
//! `scalar.rs` says what each method means; the others must agree with it bit for bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, DotBf16};
pub(crate) use scalar::Scalar;

/// Lanes per vector of floats. It is part of the numerics: a sum over a row goes into lane `k % 16`.
pub(crate) const LANES: usize = 16;
/// Bytes per vector of bytes: two blocks of 32 values.
pub(crate) const BYTES: usize = 64;

/// Methods are `#[inline(always)]`: they only become vector instructions inside a function that enables the features.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixty-four bytes.
    type B: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixteen sums of byte products, before they are widened to i32.
    type Partial: Copy;
    /// The same where weights have eight bits.
    type Wide: Copy;
    /// Whether registers are many and wide enough for tiles of eight rows and more.
    const WIDE: bool;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &[f32; 16]) -> Self::F;
    fn store(self, v: Self::F, to: &mut [f32; 16]);
    /// Rounds to nearest even.
    fn store_f16(self, v: Self::F, to: &mut [u16; 16]);
    /// Little-endian elements of a matrix row, at any alignment.
    fn load_f32_bytes(self, from: &[u8; 64]) -> Self::F;
    fn load_f16_bytes(self, from: &[u8; 32]) -> Self::F;

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a·b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// c − a·b, rounded once.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a > b ? a : b, so that NaN in `a` gives b.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// a < b ? a : b, so that NaN in `a` gives b.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// 2^a for integral a in −126..=127.
    fn exp2i(self, a: Self::F) -> Self::F;
    /// Lanes i and i+8, then i and i+4, then +2, then +1.
    fn sum(self, a: Self::F) -> f32;
    /// The same tree with `max`.
    fn largest(self, a: Self::F) -> f32;

    fn splat_byte(self, value: u8) -> Self::B;
    fn load_bytes(self, from: &[u8; 64]) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Sixteen i8.
    fn signed_to_f32(self, from: &[u8; 16]) -> Self::F;
    /// Thirty-two integral values in −127..=127 as i8.
    fn store_i8(self, low: Self::F, high: Self::F, to: &mut [i8; 32]);

    // What panels of weights need: lane n of a vector belongs to weight row n, its four bytes to four consecutive columns.

    fn store_bytes(self, v: Self::B, to: &mut [u8; 64]);
    fn store_f32_bytes(self, v: Self::F, to: &mut [u8; 64]);
    /// Four bytes in every lane.
    fn splat_quad(self, from: &[u8; 4]) -> Self::B;
    /// Two quads, in turns.
    fn splat_eight(self, from: &[u8; 8]) -> Self::B;
    /// Four quads, in turns.
    fn splat_sixteen(self, from: &[u8; 16]) -> Self::B;
    /// Each byte shifted right by `bits`, keeping only what is in `mask`, which must exclude what comes from the neighbour.
    fn right(self, a: Self::B, bits: u32, mask: u8) -> Self::B;
    fn left(self, a: Self::B, bits: u32, mask: u8) -> Self::B;

    fn splat_int(self, value: i32) -> Self::I;
    /// In every `L`th lane from the first on, L = 1, 2 or 4; zeros between.
    fn splat_int_every<const L: usize>(self, value: i32) -> Self::I;
    /// Sixteen u8.
    fn load_small(self, from: &[u8; 16]) -> Self::I;
    fn int_and(self, a: Self::I, mask: i32) -> Self::I;
    fn int_or(self, a: Self::I, b: Self::I) -> Self::I;
    fn int_sub(self, a: Self::I, b: Self::I) -> Self::I;
    fn int_left(self, a: Self::I, bits: u32) -> Self::I;
    fn int_right(self, a: Self::I, bits: u32) -> Self::I;
    fn to_float(self, a: Self::I) -> Self::F;
    fn load_int(self, from: &[i32; 16]) -> Self::I;
    /// a − b in each byte, wrapping around.
    fn sub_bytes(self, a: Self::B, b: Self::B) -> Self::B;

    /// Begins sums that continue `sum`; `widen(sum, partial)` is then `sum` plus all that was added meanwhile, exactly. No lane
    /// may take more than 2^15 − 1 in either half before it is widened (see `Quants::DEPTH`).
    fn partial(self, sum: Self::I) -> Self::Partial;
    /// Adds Σ over bytes 4i..4i+4 of w·x to lane i; w unsigned and below 64, x in −127..=127.
    fn add_dot(self, partial: Self::Partial, w: Self::B, x: Self::B) -> Self::Partial;
    fn widen(self, sum: Self::I, partial: Self::Partial) -> Self::I;
    /// The same three steps for any w, of which a block of 32 columns may be added.
    fn wide(self, sum: Self::I) -> Self::Wide;
    fn add_wide(self, wide: Self::Wide, w: Self::B, x: Self::B) -> Self::Wide;
    fn wide_sum(self, sum: Self::I, wide: Self::Wide) -> Self::I;

    /// Sixteen pairs of bf16, as (first of each pair, second).
    fn bf16_pairs(self, from: &[u8; 64]) -> (Self::F, Self::F);
    /// Asks for a cache line that will be read soon; any address will do.
    fn prefetch(self, at: *const u8);

    /// v where x is not below `bound`, else +0.
    fn keep_from(self, v: Self::F, x: Self::F, bound: Self::F) -> Self::F;
    /// To the nearest bf16, ties to even. A NaN with all bits set may become another value.
    fn round_bf16(self, v: Self::F) -> Self::F;
    /// The bits of sixteen bf16.
    fn load_bf16(self, from: &[u16; 16]) -> Self::F;
    /// Rounded as [`Simd::round_bf16`] does.
    fn store_bf16(self, v: Self::F, to: &mut [u16; 16]);
    /// The same for two, lane by lane side by side.
    fn store_bf16_pairs(self, first: Self::F, second: Self::F, to: &mut [[u16; 2]; 16]);
    fn sqrt(self, a: Self::F) -> Self::F;

    /// Up to sixteen values, then zeros.
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> Self::F {
        let mut padded = [0.0; LANES];
        padded[..from.len()].copy_from_slice(from);
        self.load(&padded)
    }
    /// The first `to.len()` (at most sixteen) lanes.
    #[inline(always)]
    fn store_some(self, v: Self::F, to: &mut [f32]) {
        let mut padded = [0.0; LANES];
        self.store(v, &mut padded);
        to.copy_from_slice(&padded[..to.len()]);
    }
    /// Up to sixteen values of bf16, then zeros.
    #[inline(always)]
    fn load_bf16_some(self, from: &[u16]) -> Self::F {
        let mut padded = [0; LANES];
        padded[..from.len()].copy_from_slice(from);
        self.load_bf16(&padded)
    }
    /// The first `to.len()` (at most sixteen) lanes, rounded to bf16.
    #[inline(always)]
    fn store_bf16_some(self, v: Self::F, to: &mut [u16]) {
        let mut padded = [0; LANES];
        self.store_bf16(v, &mut padded);
        to.copy_from_slice(&padded[..to.len()]);
    }
}

/// As [`Simd::load_some`].
#[inline(always)]
pub(crate) fn load_part<S: Simd>(s: S, from: &[f32]) -> S::F {
    s.load_some(from)
}

/// As [`Simd::store_some`].
#[inline(always)]
pub(crate) fn store_part<S: Simd>(s: S, v: S::F, to: &mut [f32]) {
    s.store_some(v, to);
}
