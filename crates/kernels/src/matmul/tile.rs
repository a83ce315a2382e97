//! Which tiles of sums are kept in registers: weights unpacked once for several activation rows, activations loaded once for
//! several weight rows. The shape changes speed only.

use std::ops::Range;

use super::rows::Columns;
use crate::activations::Activations;
use crate::format::Matrix;
use crate::simd::Simd;

/// Weight rows that are worked on together, at most.
pub(crate) const ROWS: usize = 4;

/// A format that can fill a tile: the sums of M activation rows from `m` on with N weight rows.
pub(crate) trait Tiled {
    fn tile<S: Simd, const M: usize, const N: usize>(s: S, w: [&[u8]; N], x: &Activations, m: usize) -> [[f32; N]; M];
}

/// Columns n..n+ROWS of the rows `range`.
#[inline(always)]
pub(crate) fn rows<S: Simd, F: Tiled>(s: S, w: &Matrix, x: &Activations, n: usize, range: Range<usize>, out: &Columns) {
    let mut m = range.start;
    while m + 4 <= range.end {
        if S::WIDE {
            put::<S, F, 4, 4>(s, w, x, m, n, out);
        } else {
            put::<S, F, 4, 1>(s, w, x, m, n, out);
        }
        m += 4;
    }
    if m + 2 <= range.end {
        if S::WIDE {
            put::<S, F, 2, 4>(s, w, x, m, n, out);
        } else {
            put::<S, F, 2, 2>(s, w, x, m, n, out);
        }
        m += 2;
    }
    if m < range.end {
        put::<S, F, 1, 4>(s, w, x, m, n, out);
    }
}

/// ROWS columns from `n` on, N at a time.
#[inline(always)]
fn put<S: Simd, F: Tiled, const M: usize, const N: usize>(
    s: S,
    w: &Matrix,
    x: &Activations,
    m: usize,
    n: usize,
    out: &Columns,
) {
    for n in (n..n + ROWS).step_by(N) {
        let sums = F::tile::<S, M, N>(s, std::array::from_fn(|i| w.row(n + i)), x, m);
        for (i, row) in sums.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                // SAFETY: `matmul_rows` has these columns to itself.
                unsafe { out.put(m + i, n + j, sum) }
            }
        }
    }
}
