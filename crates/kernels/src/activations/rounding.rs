//! One row of activations to 8-bit blocks, and to bf16. The rules are in the documentation of `Activations`.

use std::cmp::Ordering;

use super::{BLOCK, BlockRowMut};
use crate::simd::{LANES, Simd};

/// `to` is the whole padded row.
#[inline(always)]
pub(crate) fn quantize_activations<S: Simd>(s: S, x: &[f32], to: &mut BlockRowMut) {
    let (whole, rest) = x.as_chunks::<BLOCK>();
    let mut last = [0.0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    let blocks = to.quants.as_chunks_mut::<BLOCK>().0;
    let sums = to.scales.iter_mut().zip(to.sums.iter_mut());
    let totals = to.totals.iter_mut().zip(to.firsts.iter_mut());
    for (i, ((quants, (scale, sum)), (total, first))) in blocks.iter_mut().zip(sums).zip(totals).enumerate() {
        let values = match i.cmp(&whole.len()) {
            Ordering::Less => &whole[i],
            Ordering::Equal => &last,
            Ordering::Greater => &[0.0; BLOCK],
        };
        *scale = quantize_block(s, values, quants);
        let halves = quants.as_chunks::<16>().0;
        let (a, b) = (halves[0].iter().map(|&q| i32::from(q)), halves[1].iter().map(|&q| i32::from(q)));
        let a: i32 = a.sum();
        let both = a + b.sum::<i32>();
        *sum = *scale * both as f32;
        (*total, *first) = (-both, -a);
    }
}

/// The scale.
#[inline(always)]
fn quantize_block<S: Simd>(s: S, values: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> f32 {
    let [low, high] = values.as_chunks::<LANES>().0 else { unreachable!("32 is twice 16") };
    let (low, high) = (s.load(low), s.load(high));
    // Zero unless something is NaN or infinite.
    let zero = s.splat(0.0);
    let broken = s.sum(s.fma(low, zero, s.mul(high, zero)));
    let amax = s.largest(s.max(s.abs(low), s.abs(high)));
    if broken != 0.0 || amax < SMALLEST {
        quants.fill(0);
        return if broken == 0.0 { 0.0 } else { f32::NAN };
    }
    let inverse = s.splat(127.0 / amax);
    s.store_i8(s.round(s.mul(low, inverse)), s.round(s.mul(high, inverse)), quants);
    amax / 127.0
}

/// Below this the inverse scale would overflow or lose precision.
const SMALLEST: f32 = 1e-30;

/// To nearest, ties to even; NaN stays NaN; what bf16 holds as a denormal becomes zero, as its instructions read it.
/// `bits` and `values` are whole padded rows. Plain Rust that LLVM vectorises within each ISA's function.
#[inline(always)]
pub(crate) fn round_activations<S: Simd>(_: S, x: &[f32], bits: &mut [u16], values: &mut [f32]) {
    for ((&x, bits), value) in x.iter().zip(&mut *bits).zip(&mut *values) {
        let old = x.to_bits();
        let nearest = (old.wrapping_add(0x7fff + ((old >> 16) & 1))) >> 16;
        let quiet = (old >> 16) | 0x40;
        let new = if x.is_nan() { quiet } else { nearest };
        let new = if new & 0x7f80 == 0 { new & 0x8000 } else { new };
        *bits = new as u16;
        *value = f32::from_bits(new << 16);
    }
    bits[x.len()..].fill(0);
    values[x.len()..].fill(0.0);
}
