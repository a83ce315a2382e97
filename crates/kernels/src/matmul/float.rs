//! Tiles for F32 and F16 weights.

use super::tile::Tiled;
use crate::activations::Activations;
use crate::simd::{LANES, Simd};

pub(crate) enum F32 {}
pub(crate) enum F16 {}

/// Sixteen elements as a row holds them.
trait Elements {
    type Chunk: Copy;
    const ZERO: Self::Chunk;
    /// Whole chunks, and the bytes after them.
    fn chunks(row: &[u8]) -> (&[Self::Chunk], &[u8]);
    fn bytes(chunk: &mut Self::Chunk) -> &mut [u8];
    fn load<S: Simd>(s: S, chunk: &Self::Chunk) -> S::F;
}

#[inline(always)]
fn tile<E: Elements, S: Simd, const M: usize, const N: usize>(
    s: S,
    w: [&[u8]; N],
    x: &Activations,
    m: usize,
) -> [[f32; N]; M] {
    let mut sums = [[s.splat(0.0); N]; M];
    let mut chunks: [&[E::Chunk]; N] = [&[]; N];
    let mut tails = [E::ZERO; N];
    let mut has_tail = false;
    for n in 0..N {
        let (whole, tail) = E::chunks(w[n]);
        chunks[n] = whole;
        has_tail |= !tail.is_empty();
        E::bytes(&mut tails[n])[..tail.len()].copy_from_slice(tail);
    }
    let mut xs: [&[[f32; LANES]]; M] = [&[]; M];
    for i in 0..M {
        xs[i] = x.float_row(m + i).as_chunks::<LANES>().0;
    }
    let whole = chunks[0].len();
    for k in 0..whole {
        let mut step: [&E::Chunk; N] = [&tails[0]; N];
        for n in 0..N {
            step[n] = &chunks[n][k];
        }
        add_step::<E, S, M, N>(s, step, &xs, k, &mut sums);
    }
    if has_tail {
        let mut step: [&E::Chunk; N] = [&tails[0]; N];
        for n in 0..N {
            step[n] = &tails[n];
        }
        add_step::<E, S, M, N>(s, step, &xs, whole, &mut sums);
    }
    let mut out = [[0.0; N]; M];
    for i in 0..M {
        for n in 0..N {
            out[i][n] = s.sum(sums[i][n]);
        }
    }
    out
}

#[inline(always)]
fn add_step<E: Elements, S: Simd, const M: usize, const N: usize>(
    s: S,
    w: [&E::Chunk; N],
    xs: &[&[[f32; LANES]]; M],
    k: usize,
    sums: &mut [[S::F; N]; M],
) {
    let mut weights = [s.splat(0.0); N];
    for n in 0..N {
        weights[n] = E::load(s, w[n]);
    }
    for i in 0..M {
        let x = s.load(&xs[i][k]);
        for n in 0..N {
            sums[i][n] = s.fma(weights[n], x, sums[i][n]);
        }
    }
}

macro_rules! elements {
    ($format:ident, $bytes:literal, $load:ident) => {
        impl Elements for $format {
            type Chunk = [u8; $bytes];
            const ZERO: Self::Chunk = [0; $bytes];

            #[inline(always)]
            fn chunks(row: &[u8]) -> (&[Self::Chunk], &[u8]) {
                row.as_chunks::<$bytes>()
            }
            #[inline(always)]
            fn bytes(chunk: &mut Self::Chunk) -> &mut [u8] {
                chunk
            }
            #[inline(always)]
            fn load<S: Simd>(s: S, chunk: &Self::Chunk) -> S::F {
                s.$load(chunk)
            }
        }

        impl Tiled for $format {
            #[inline(always)]
            fn tile<S: Simd, const M: usize, const N: usize>(
                s: S,
                w: [&[u8]; N],
                x: &Activations,
                m: usize,
            ) -> [[f32; N]; M] {
                tile::<Self, S, M, N>(s, w, x, m)
            }
        }
    };
}
elements!(F32, 64, load_f32_bytes);
elements!(F16, 32, load_f16_bytes);
