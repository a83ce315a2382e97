//! What every method means, in plain Rust. Kept in a shape that LLVM can vectorise.

use super::Simd;
use crate::format::blocks::{bf16_to_f32, f16_to_f32, f32_to_f16};

/// Runs everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

#[inline(always)]
fn each(f: impl FnMut(usize) -> f32) -> [f32; 16] {
    std::array::from_fn(f)
}

#[inline(always)]
fn bytes(f: impl FnMut(usize) -> u8) -> [u8; 64] {
    std::array::from_fn(f)
}

impl Simd for Scalar {
    type F = [f32; 16];
    type B = [u8; 64];
    type I = [i32; 16];
    type Partial = [i32; 16];
    type Wide = [i32; 16];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 16] {
        [value; 16]
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> [f32; 16] {
        *from
    }
    #[inline(always)]
    fn store(self, v: [f32; 16], to: &mut [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn store_f16(self, v: [f32; 16], to: &mut [u16; 16]) {
        *to = v.map(f32_to_f16);
    }
    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 64]) -> [f32; 16] {
        each(|i| f32::from_le_bytes([from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]]))
    }
    #[inline(always)]
    fn load_f16_bytes(self, from: &[u8; 32]) -> [f32; 16] {
        each(|i| f16_to_f32(u16::from_le_bytes([from[2 * i], from[2 * i + 1]])))
    }

    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn fnma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        each(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        each(|i| a[i].abs())
    }
    #[inline(always)]
    fn round(self, a: [f32; 16]) -> [f32; 16] {
        each(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    fn exp2i(self, a: [f32; 16]) -> [f32; 16] {
        each(|i| f32::from_bits(((a[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn sum(self, a: [f32; 16]) -> f32 {
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }
    #[inline(always)]
    fn largest(self, a: [f32; 16]) -> f32 {
        let max = |a: f32, b: f32| if a > b { a } else { b };
        let b: [f32; 8] = std::array::from_fn(|i| max(a[i], a[i + 8]));
        let c: [f32; 4] = std::array::from_fn(|i| max(b[i], b[i + 4]));
        max(max(c[0], c[2]), max(c[1], c[3]))
    }

    #[inline(always)]
    fn splat_byte(self, value: u8) -> [u8; 64] {
        [value; 64]
    }
    #[inline(always)]
    fn load_bytes(self, from: &[u8; 64]) -> [u8; 64] {
        *from
    }
    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        bytes(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn signed_to_f32(self, from: &[u8; 16]) -> [f32; 16] {
        each(|i| f32::from(from[i].cast_signed()))
    }
    #[inline(always)]
    fn store_i8(self, low: [f32; 16], high: [f32; 16], to: &mut [i8; 32]) {
        *to = std::array::from_fn(|i| (if i < 16 { low[i] } else { high[i - 16] }) as i8);
    }

    #[inline(always)]
    fn store_bytes(self, v: [u8; 64], to: &mut [u8; 64]) {
        *to = v;
    }
    #[inline(always)]
    fn store_f32_bytes(self, v: [f32; 16], to: &mut [u8; 64]) {
        *to = bytes(|i| v[i / 4].to_le_bytes()[i % 4]);
    }
    #[inline(always)]
    fn splat_quad(self, from: &[u8; 4]) -> [u8; 64] {
        bytes(|i| from[i % 4])
    }
    #[inline(always)]
    fn splat_eight(self, from: &[u8; 8]) -> [u8; 64] {
        bytes(|i| from[i % 8])
    }
    #[inline(always)]
    fn splat_sixteen(self, from: &[u8; 16]) -> [u8; 64] {
        bytes(|i| from[i % 16])
    }
    #[inline(always)]
    fn right(self, a: [u8; 64], bits: u32, mask: u8) -> [u8; 64] {
        bytes(|i| (a[i] >> bits) & mask)
    }
    #[inline(always)]
    fn left(self, a: [u8; 64], bits: u32, mask: u8) -> [u8; 64] {
        bytes(|i| (a[i] << bits) & mask)
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> [i32; 16] {
        [value; 16]
    }
    #[inline(always)]
    fn splat_int_every<const L: usize>(self, value: i32) -> [i32; 16] {
        std::array::from_fn(|i| if i % L == 0 { value } else { 0 })
    }
    #[inline(always)]
    fn load_small(self, from: &[u8; 16]) -> [i32; 16] {
        from.map(i32::from)
    }
    #[inline(always)]
    fn int_and(self, a: [i32; 16], mask: i32) -> [i32; 16] {
        a.map(|a| a & mask)
    }
    #[inline(always)]
    fn int_or(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn int_sub(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn int_left(self, a: [i32; 16], bits: u32) -> [i32; 16] {
        a.map(|a| a << bits)
    }
    #[inline(always)]
    fn int_right(self, a: [i32; 16], bits: u32) -> [i32; 16] {
        a.map(|a| (a.cast_unsigned() >> bits).cast_signed())
    }
    #[inline(always)]
    fn to_float(self, a: [i32; 16]) -> [f32; 16] {
        a.map(|a| a as f32)
    }
    #[inline(always)]
    fn load_int(self, from: &[i32; 16]) -> [i32; 16] {
        *from
    }
    #[inline(always)]
    fn sub_bytes(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        bytes(|i| a[i].wrapping_sub(b[i]))
    }

    #[inline(always)]
    fn partial(self, sum: [i32; 16]) -> [i32; 16] {
        sum
    }
    #[inline(always)]
    fn add_dot(self, partial: [i32; 16], w: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        std::array::from_fn(|i| {
            let products = (4 * i..4 * i + 4).map(|k| i32::from(w[k]) * i32::from(x[k].cast_signed()));
            partial[i] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    fn widen(self, _: [i32; 16], partial: [i32; 16]) -> [i32; 16] {
        partial
    }
    #[inline(always)]
    fn wide(self, sum: [i32; 16]) -> [i32; 16] {
        sum
    }
    #[inline(always)]
    fn add_wide(self, wide: [i32; 16], w: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        self.add_dot(wide, w, x)
    }
    #[inline(always)]
    fn wide_sum(self, _: [i32; 16], wide: [i32; 16]) -> [i32; 16] {
        wide
    }

    #[inline(always)]
    fn bf16_pairs(self, from: &[u8; 64]) -> ([f32; 16], [f32; 16]) {
        let at = |i: usize| bf16_to_f32(u16::from_le_bytes([from[i], from[i + 1]]));
        (each(|i| at(4 * i)), each(|i| at(4 * i + 2)))
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn keep_from(self, v: [f32; 16], x: [f32; 16], bound: [f32; 16]) -> [f32; 16] {
        each(|i| if x[i] < bound[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    fn round_bf16(self, v: [f32; 16]) -> [f32; 16] {
        each(|i| {
            let bits = v[i].to_bits();
            f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
        })
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16; 16]) -> [f32; 16] {
        each(|i| f32::from_bits(u32::from(from[i]) << 16))
    }
    #[inline(always)]
    fn store_bf16(self, v: [f32; 16], to: &mut [u16; 16]) {
        let rounded = self.round_bf16(v);
        for i in 0..16 {
            to[i] = (rounded[i].to_bits() >> 16) as u16;
        }
    }
    #[inline(always)]
    fn store_bf16_pairs(self, first: [f32; 16], second: [f32; 16], to: &mut [[u16; 2]; 16]) {
        let (first, second) = (self.round_bf16(first), self.round_bf16(second));
        for i in 0..16 {
            to[i] = [(first[i].to_bits() >> 16) as u16, (second[i].to_bits() >> 16) as u16];
        }
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; 16]) -> [f32; 16] {
        a.map(f32::sqrt)
    }
}
