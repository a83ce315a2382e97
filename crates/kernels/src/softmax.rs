//! Softmax in place, and the position of the largest value.

use crate::exp::exp_lanes;
use crate::simd::{LANES, Simd, load_part, store_part};

/// x = exp(x − max x), and their sum. −∞ gives exactly 0.
#[inline(always)]
pub(crate) fn exp_and_sum<S: Simd>(s: S, x: &mut [f32]) -> f32 {
    let max = s.splat(largest(s, x));
    let (chunks, tail) = x.as_chunks_mut::<LANES>();
    let mut sums = s.splat(0.0);
    for chunk in chunks {
        let e = exp_lanes(s, s.sub(s.load(chunk), max));
        sums = s.add(sums, e);
        s.store(e, chunk);
    }
    if !tail.is_empty() {
        store_part(s, exp_lanes(s, s.sub(load_part(s, tail), max)), tail);
        // Loaded back, so that the padding adds zeros.
        sums = s.add(sums, load_part(s, tail));
    }
    s.sum(sums)
}

#[inline(always)]
pub(crate) fn softmax<S: Simd>(s: S, x: &mut [f32]) {
    let inverse = s.splat(1.0 / exp_and_sum(s, x));
    let (chunks, tail) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        s.store(s.mul(s.load(chunk), inverse), chunk);
    }
    store_part(s, s.mul(load_part(s, tail), inverse), tail);
}

/// The lowest index of the largest value; NaN is never the largest. 0 where nothing else is there.
#[inline(always)]
pub(crate) fn argmax<S: Simd>(s: S, x: &[f32]) -> usize {
    let max = largest(s, x);
    x.iter().position(|&v| v == max).unwrap_or(0)
}

/// −∞ for an empty slice.
#[inline(always)]
pub(crate) fn largest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut max = s.splat(f32::NEG_INFINITY);
    for chunk in chunks {
        max = s.max(s.load(chunk), max);
    }
    let mut padded = [f32::NEG_INFINITY; LANES];
    padded[..tail.len()].copy_from_slice(tail);
    s.largest(s.max(s.load(&padded), max))
}
