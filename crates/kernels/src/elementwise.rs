//! Operations without a reduction, and the dot product of two float vectors.

use crate::exp::exp_lanes;
use crate::simd::{LANES, Simd, load_part, store_part};

/// x = the expression, for sixteen lanes of x and y at a time. A macro, not a function with a closure: a closure may be left
/// uninlined, and then it is compiled without the instructions, one call for each (a fifth of a prompt's time, once).
macro_rules! zip_in_place {
    ($s:ident, $xs:expr, $ys:expr, |$x:ident, $y:ident| $lanes:expr) => {{
        let ((xs, x_tail), (ys, y_tail)) = ($xs.as_chunks_mut::<LANES>(), $ys.as_chunks::<LANES>());
        for (to, y) in xs.iter_mut().zip(ys) {
            let ($x, $y) = ($s.load(to), $s.load(y));
            $s.store($lanes, to);
        }
        if !x_tail.is_empty() {
            let ($x, $y) = (load_part($s, x_tail), load_part($s, y_tail));
            store_part($s, $lanes, x_tail);
        }
    }};
}

/// gate = silu(gate)·up. Source: Shazeer 2020, "GLU Variants", SwiGLU without bias.
#[inline(always)]
pub(crate) fn swiglu<S: Simd>(s: S, gate: &mut [f32], up: &[f32]) {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    zip_in_place!(s, gate, up, |g, u| s.mul(s.div(g, s.add(one, exp_lanes(s, s.sub(zero, g)))), u));
}

/// x += y.
#[inline(always)]
pub(crate) fn add<S: Simd>(s: S, x: &mut [f32], y: &[f32]) {
    zip_in_place!(s, x, y, |x, y| s.add(x, y));
}

/// x += scale·y, rounded once.
#[inline(always)]
pub(crate) fn scale_add<S: Simd>(s: S, x: &mut [f32], scale: f32, y: &[f32]) {
    let scale = s.splat(scale);
    zip_in_place!(s, x, y, |x, y| s.fma(scale, y, x));
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
