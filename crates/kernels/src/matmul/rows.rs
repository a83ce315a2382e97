//! Products with rows of floats as files hold them, and columns of a result that many tasks write.

use std::ops::Range;

use super::tile;
use crate::activations::Activations;
use crate::format::Matrix;
use crate::simd::Simd;

/// A result, of which every task writes its own columns (one column per weight row).
pub(crate) struct Columns {
    // INVARIANT: valid for rows · stride values as long as it lives.
    start: *mut f32,
    rows: usize,
    stride: usize,
    // What `put` calls the first of each.
    first_row: usize,
    first_column: usize,
}

// SAFETY: tasks write different columns, by the contract of `put`, and nobody reads.
unsafe impl Sync for Columns {}

impl Columns {
    /// Rows of `stride` values.
    pub(crate) fn new(values: &mut [f32], first_row: usize, first_column: usize, stride: usize) -> Self {
        Self { start: values.as_mut_ptr(), rows: values.len() / stride, stride, first_row, first_column }
    }

    /// # Safety
    /// Only one task may write column `n`.
    #[inline(always)]
    pub(super) unsafe fn put(&self, m: usize, n: usize, value: f32) {
        let (m, n) = (m.wrapping_sub(self.first_row), n.wrapping_sub(self.first_column));
        assert!(m < self.rows && n < self.stride);
        // SAFETY: in bounds; not raced, by the contract.
        unsafe { *self.start.add(m * self.stride + n) = value }
    }
}

/// Columns `range` of the rows `m`.
#[inline(always)]
pub(crate) fn matmul_rows<S: Simd, F: tile::Tiled>(
    s: S,
    w: &Matrix,
    x: &Activations,
    range: Range<usize>,
    m: Range<usize>,
    out: &Columns,
) {
    for block in m.clone().step_by(CACHED_ROWS) {
        let block_end = m.end.min(block + CACHED_ROWS);
        let mut n = range.start;
        while n + tile::ROWS <= range.end {
            tile::rows::<S, F>(s, w, x, n, block..block_end, out);
            n += tile::ROWS;
        }
        for n in n..range.end {
            for m in block..block_end {
                let [[sum]] = F::tile::<S, 1, 1>(s, [w.row(n)], x, m);
                // SAFETY: the pool gives each range of columns to one task.
                unsafe { out.put(m, n, sum) }
            }
        }
    }
}

/// Activation rows that pass over a task's weights together: at 4,096 columns, a quarter of a MiB in blocks.
const CACHED_ROWS: usize = 64;
