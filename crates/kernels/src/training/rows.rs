//! The operations of training that know one row at a time, written once for all ISAs. What they compute is said in
//! `training.rs`. No closures: they would be compiled without the instructions.

use crate::exp::{exp2_lanes, exp2_or_zero};
use crate::math::ln;
use crate::rope::{RopeLayout, rope};
use crate::simd::{LANES, Simd};

use super::AdamStep;

/// Steps over `len` values, sixteen at a time; the last step may be shorter.
macro_rules! lanes {
    ($len:expr, |$range:ident, $whole:ident| $body:block) => {{
        let len = $len;
        let mut at = 0;
        while at + LANES <= len {
            let ($range, $whole) = (at..at + LANES, true);
            $body
            at += LANES;
        }
        if at < len {
            let ($range, $whole) = (at..len, false);
            $body
        }
    }};
}

#[inline(always)]
fn get<S: Simd>(s: S, from: &[f32], whole: bool) -> S::F {
    match from.first_chunk::<LANES>() {
        Some(from) if whole => s.load(from),
        _ => s.load_some(from),
    }
}

#[inline(always)]
fn get_bf16<S: Simd>(s: S, from: &[u16], whole: bool) -> S::F {
    match from.first_chunk::<LANES>() {
        Some(from) if whole => s.load_bf16(from),
        _ => s.load_bf16_some(from),
    }
}

#[inline(always)]
fn put<S: Simd>(s: S, v: S::F, to: &mut [f32], whole: bool) {
    match to.first_chunk_mut::<LANES>() {
        Some(to) if whole => s.store(v, to),
        _ => s.store_some(v, to),
    }
}

#[inline(always)]
fn put_bf16<S: Simd>(s: S, v: S::F, to: &mut [u16], whole: bool) {
    match to.first_chunk_mut::<LANES>() {
        Some(to) if whole => s.store_bf16(v, to),
        _ => s.store_bf16_some(v, to),
    }
}

#[inline(always)]
pub(crate) fn to_bf16<S: Simd>(s: S, x: &[f32], out: &mut [u16]) {
    lanes!(x.len(), |at, whole| {
        put_bf16(s, get(s, &x[at.clone()], whole), &mut out[at], whole);
    });
}

#[inline(always)]
fn from_bf16<S: Simd>(s: S, x: &[u16], out: &mut [f32]) {
    lanes!(x.len(), |at, whole| {
        put(s, get_bf16(s, &x[at.clone()], whole), &mut out[at], whole);
    });
}

/// Each head of x turned by the same angles; `head` is scratch of a head's size.
#[inline(always)]
pub(crate) fn turn_heads<S: Simd>(s: S, x: &mut [u16], cos: &[f32], sin: &[f32], layout: RopeLayout, head: &mut [f32]) {
    for bits in x.chunks_exact_mut(head.len()) {
        from_bf16(s, bits, head);
        rope(s, head, cos, sin, layout);
        to_bf16(s, head, bits);
    }
}

/// Σ a·b through sixteen lanes.
#[inline(always)]
pub(super) fn dot_bf16<S: Simd>(s: S, a: &[u16], b: &[u16]) -> f32 {
    let mut sums = s.splat(0.0);
    lanes!(a.len(), |at, whole| {
        sums = s.fma(get_bf16(s, &a[at.clone()], whole), get_bf16(s, &b[at], whole), sums);
    });
    s.sum(sums)
}

/// Returns 1 / √(mean x² + eps).
#[inline(always)]
pub(crate) fn norm_forward<S: Simd>(s: S, x: &[f32], w: &[f32], eps: f32, out: &mut [u16]) -> f32 {
    let rstd = 1.0 / (crate::elementwise::dot(s, x, x) / x.len() as f32 + eps).sqrt();
    let scale = s.splat(rstd);
    lanes!(x.len(), |at, whole| {
        let normed = s.mul(get(s, &x[at.clone()], whole), scale);
        put_bf16(s, s.mul(normed, get(s, &w[at.clone()], whole)), &mut out[at], whole);
    });
    rstd
}

#[inline(always)]
pub(crate) fn norm_backward<S: Simd>(
    s: S,
    dy: &[u16],
    x: &[f32],
    w: &[f32],
    rstd: f32,
    dx: &mut [f32],
    bits: &mut [u16],
) {
    let mut sums = s.splat(0.0);
    lanes!(x.len(), |at, whole| {
        let slope = s.mul(get_bf16(s, &dy[at.clone()], whole), get(s, &w[at.clone()], whole));
        sums = s.fma(slope, get(s, &x[at], whole), sums);
    });
    // mean of dy·w·x̂, times x̂ = x·rstd
    let mean = s.splat(s.sum(sums) * rstd * rstd / x.len() as f32);
    let scale = s.splat(rstd);
    lanes!(x.len(), |at, whole| {
        let slope = s.mul(get_bf16(s, &dy[at.clone()], whole), get(s, &w[at.clone()], whole));
        let slope = s.fnma(get(s, &x[at.clone()], whole), mean, slope);
        let sum = s.fma(slope, scale, get(s, &dx[at.clone()], whole));
        put(s, sum, &mut dx[at.clone()], whole);
        put_bf16(s, sum, &mut bits[at], whole);
    });
}

/// dw += Σ dy·x·rstd down the rows, for the columns from `first` on of rows of `d`.
#[inline(always)]
pub(crate) fn norm_weights<S: Simd>(
    s: S,
    dy: &[u16],
    x: &[f32],
    rstd: &[f32],
    (d, first): (usize, usize),
    dw: &mut [f32],
) {
    lanes!(dw.len(), |at, whole| {
        let mut sums = get(s, &dw[at.clone()], whole);
        let from = first + at.start..first + at.end;
        for (row, rstd) in rstd.iter().enumerate() {
            let (dy, x) = (&dy[row * d..][from.clone()], &x[row * d..][from.clone()]);
            sums = s.fma(get_bf16(s, dy, whole), s.mul(get(s, x, whole), s.splat(*rstd)), sums);
        }
        put(s, sums, &mut dw[at], whole);
    });
}

/// Within a few units in the last place; its exponential is bounded, which takes it to within 2^-125 of 0.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let x = s.mul(x, s.splat(-std::f32::consts::LOG2_E));
    // The bounds are the first operands, so that NaN passes.
    let x = s.min(s.splat(125.0), s.max(s.splat(-125.0), x));
    s.div(one, s.add(one, exp2_lanes(s, x)))
}

#[inline(always)]
pub(crate) fn swiglu_forward<S: Simd>(s: S, gate: &[u16], up: &[u16], out: &mut [u16]) {
    lanes!(out.len(), |at, whole| {
        let (g, u) = (get_bf16(s, &gate[at.clone()], whole), get_bf16(s, &up[at.clone()], whole));
        put_bf16(s, s.mul(s.mul(g, sigmoid(s, g)), u), &mut out[at], whole);
    });
}

#[inline(always)]
pub(crate) fn swiglu_backward<S: Simd>(s: S, gate: &[u16], up: &[u16], da: &[u16], dgate: &mut [u16], dup: &mut [u16]) {
    let one = s.splat(1.0);
    lanes!(da.len(), |at, whole| {
        let (g, u) = (get_bf16(s, &gate[at.clone()], whole), get_bf16(s, &up[at.clone()], whole));
        let (d, sig) = (get_bf16(s, &da[at.clone()], whole), sigmoid(s, g));
        let silu = s.mul(g, sig);
        // silu' = σ·(1 + g·(1 − σ)) = σ + silu·(1 − σ)
        let slope = s.fma(silu, s.sub(one, sig), sig);
        put_bf16(s, s.mul(s.mul(d, u), slope), &mut dgate[at.clone()], whole);
        put_bf16(s, s.mul(d, silu), &mut dup[at], whole);
    });
}

/// `exps` is scratch of the row's length. Returns the loss, and whether the target is the most likely.
#[inline(always)]
pub(crate) fn cross_entropy<S: Simd>(
    s: S,
    logits: &[f32],
    target: usize,
    weight: f32,
    exps: &mut [f32],
    slope: &mut [u16],
) -> (f32, bool) {
    let most = crate::softmax::largest(s, logits);
    let (shift, base, mut sums) = (s.splat(most), s.splat(std::f32::consts::LOG2_E), s.splat(0.0));
    lanes!(logits.len(), |at, whole| {
        let x = s.mul(s.sub(get(s, &logits[at.clone()], whole), shift), base);
        put(s, exp2_or_zero(s, x), &mut exps[at.clone()], whole);
        // Loaded back, so that what is beyond the end adds zeros.
        sums = s.add(sums, get(s, &exps[at], whole));
    });
    let sum = s.sum(sums);
    let loss = most + ln(sum) - logits[target];
    // The first of equals is the most likely.
    let best = logits[target] == most && !logits[..target].contains(&most);
    let share = weight / sum;
    let scale = s.splat(share);
    lanes!(exps.len(), |at, whole| {
        put_bf16(s, s.mul(get(s, &exps[at.clone()], whole), scale), &mut slope[at], whole);
    });
    // Rounded once, as its neighbours are.
    let mut one = [0];
    s.store_bf16_some(s.splat(exps[target].mul_add(share, -weight)), &mut one);
    slope[target] = one[0];
    (loss, best)
}

#[inline(always)]
pub(crate) fn adamw<S: Simd>(s: S, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: &AdamStep) {
    let (clip, rate) = (s.splat(step.clip), s.splat(step.lr));
    let (beta1, rest1) = (s.splat(step.beta1), s.splat(1.0 - step.beta1));
    let (beta2, rest2) = (s.splat(step.beta2), s.splat(1.0 - step.beta2));
    let (bias1, bias2) = (s.splat(1.0 / step.bias1), s.splat(1.0 / step.bias2));
    let (eps, decay) = (s.splat(step.eps), s.splat(step.decay));
    lanes!(p.len(), |at, whole| {
        let grad = s.mul(get(s, &g[at.clone()], whole), clip);
        let first = s.fma(beta1, get(s, &m[at.clone()], whole), s.mul(rest1, grad));
        let second = s.fma(beta2, get(s, &v[at.clone()], whole), s.mul(s.mul(rest2, grad), grad));
        let weight = get(s, &p[at.clone()], whole);
        let size = s.add(s.sqrt(s.mul(second, bias2)), eps);
        let move_by = s.fma(decay, weight, s.div(s.mul(first, bias1), size));
        put(s, first, &mut m[at.clone()], whole);
        put(s, second, &mut v[at.clone()], whole);
        put(s, s.fnma(rate, move_by, weight), &mut p[at], whole);
    });
}
