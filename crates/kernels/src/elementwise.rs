//! Operations without a reduction, and the dot product of two float vectors.

use crate::exp::exp_lanes;
use crate::simd::{LANES, Simd, load_part, store_part};

/// gate = silu(gate)·up. Source: Shazeer 2020, "GLU Variants", SwiGLU without bias.
#[inline(always)]
pub(crate) fn swiglu<S: Simd>(s: S, gate: &mut [f32], up: &[f32]) {
    zip_in_place(s, gate, up, |g, u| {
        let one = s.splat(1.0);
        let denominator = s.add(one, exp_lanes(s, s.sub(s.splat(0.0), g)));
        s.mul(s.div(g, denominator), u)
    });
}

/// x += y.
#[inline(always)]
pub(crate) fn add<S: Simd>(s: S, x: &mut [f32], y: &[f32]) {
    zip_in_place(s, x, y, |x, y| s.add(x, y));
}

/// x += scale·y, rounded once.
#[inline(always)]
pub(crate) fn scale_add<S: Simd>(s: S, x: &mut [f32], scale: f32, y: &[f32]) {
    let scale = s.splat(scale);
    zip_in_place(s, x, y, |x, y| s.fma(scale, y, x));
}

#[inline(always)]
fn zip_in_place<S: Simd>(s: S, x: &mut [f32], y: &[f32], f: impl Fn(S::F, S::F) -> S::F) {
    let (xs, x_tail) = x.as_chunks_mut::<LANES>();
    let (ys, y_tail) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter_mut().zip(ys) {
        s.store(f(s.load(x), s.load(y)), x);
    }
    if !x_tail.is_empty() {
        store_part(s, f(load_part(s, x_tail), load_part(s, y_tail)), x_tail);
    }
}

/// Σ a·b through sixteen lanes with fused multiply-adds; the tail is padded with zeros.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    let mut sums = s.splat(0.0);
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        sums = s.fma(s.load(a), s.load(b), sums);
    }
    if !a_tail.is_empty() {
        sums = s.fma(load_part(s, a_tail), load_part(s, b_tail), sums);
    }
    s.sum(sums)
}

/// f32 to f16 bits, rounded to nearest even.
#[inline(always)]
pub(crate) fn to_f16<S: Simd>(s: S, x: &[f32], out: &mut [u16]) {
    let (xs, x_tail) = x.as_chunks::<LANES>();
    let (outs, out_tail) = out.as_chunks_mut::<LANES>();
    for (x, out) in xs.iter().zip(outs) {
        s.store_f16(s.load(x), out);
    }
    let mut padded = [0; LANES];
    s.store_f16(load_part(s, x_tail), &mut padded);
    out_tail.copy_from_slice(&padded[..out_tail.len()]);
}
