//! RMSNorm. Sums of squares go through sixteen lanes, whatever the ISA.

use crate::simd::{LANES, Simd, load_part, store_part};

/// x, out: (rows, C); weight: (C).
#[inline(always)]
pub(crate) fn rms_norm<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let (chunks, tail) = x.as_chunks::<LANES>();
        let mut squares = s.splat(0.0);
        for chunk in chunks {
            let v = s.load(chunk);
            squares = s.fma(v, v, squares);
        }
        let last = load_part(s, tail);
        squares = s.fma(last, last, squares);
        let inverse = s.splat(1.0 / (s.sum(squares) / weight.len() as f32 + eps).sqrt());

        let (weights, weight_tail) = weight.as_chunks::<LANES>();
        let (outs, out_tail) = out.as_chunks_mut::<LANES>();
        for ((chunk, weight), out) in chunks.iter().zip(weights).zip(outs) {
            s.store(s.mul(s.mul(s.load(chunk), inverse), s.load(weight)), out);
        }
        store_part(s, s.mul(s.mul(last, inverse), load_part(s, weight_tail)), out_tail);
    }
}
