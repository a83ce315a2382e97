//! Rotary position embedding of one head vector, in the two layouts that checkpoints use.

use crate::simd::{LANES, Simd, load_part, store_part};

/// Which two elements of a head vector form the pair that is rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// (2i, 2i+1): Mistral's own files, and GGUF files of the Llama family.
    Interleaved,
    /// (i, i + n/2): Hugging Face files.
    Halves,
}

/// x: (head_dim), of which the first 2·cos.len() are rotated; cos, sin: (n/2). Source: Su et al. 2021, eq. 34.
#[inline(always)]
pub(crate) fn rope<S: Simd>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    turn::<S, false>(s, x, cos, sin, layout);
}

/// By minus the angles: the transpose of [`rope`].
#[inline(always)]
pub(crate) fn rope_back<S: Simd>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    turn::<S, true>(s, x, cos, sin, layout);
}

#[inline(always)]
fn turn<S: Simd, const BACK: bool>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    match layout {
        RopeLayout::Interleaved => {
            // Shuffles would differ per ISA and this is a thousandth of a step: one lane at a time, same arithmetic.
            for ((pair, &c), &sn) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                let [a, b] = *pair;
                let (a, b) = rotate_one(s, a, b, c, if BACK { -sn } else { sn });
                *pair = [a, b];
            }
        }
        RopeLayout::Halves => {
            let (first, rest) = x.split_at_mut(cos.len());
            let second = &mut rest[..cos.len()];
            let whole = cos.len() / LANES * LANES;
            let (first, first_tail) = first.split_at_mut(whole);
            let (second, second_tail) = second.split_at_mut(whole);
            let pairs = first.as_chunks_mut::<LANES>().0.iter_mut().zip(second.as_chunks_mut::<LANES>().0);
            let angles = cos.as_chunks::<LANES>().0.iter().zip(sin.as_chunks::<LANES>().0);
            for ((a, b), (c, sn)) in pairs.zip(angles) {
                let sn = signed::<S, BACK>(s, s.load(sn));
                let (new_a, new_b) = rotate(s, s.load(a), s.load(b), s.load(c), sn);
                s.store(new_a, a);
                s.store(new_b, b);
            }
            let (a, b) = (load_part(s, first_tail), load_part(s, second_tail));
            let sn = signed::<S, BACK>(s, load_part(s, &sin[whole..]));
            let (a, b) = rotate(s, a, b, load_part(s, &cos[whole..]), sn);
            store_part(s, a, first_tail);
            store_part(s, b, second_tail);
        }
    }
}

#[inline(always)]
fn signed<S: Simd, const BACK: bool>(s: S, sin: S::F) -> S::F {
    if BACK { s.sub(s.splat(-0.0), sin) } else { sin }
}

/// (a cos − b sin, b cos + a sin); the second product is rounded, the first is fused.
#[inline(always)]
fn rotate<S: Simd>(s: S, a: S::F, b: S::F, cos: S::F, sin: S::F) -> (S::F, S::F) {
    let minus = s.sub(s.splat(-0.0), s.mul(b, sin));
    (s.fma(a, cos, minus), s.fma(b, cos, s.mul(a, sin)))
}

#[inline(always)]
fn rotate_one<S: Simd>(_: S, a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a.mul_add(cos, -(b * sin)), b.mul_add(cos, a * sin))
}
