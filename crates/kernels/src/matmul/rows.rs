//! Products with rows of floats as files hold them, and columns of a result that many tasks write.

use std::ops::Range;

use super::tile;
use crate::activations::Activations;
use crate::format::Matrix;
use crate::pool::Pool;
use crate::simd::Simd;

/// Splits the rows of `w` over the pool and calls `rows` for each part.
pub(crate) fn matmul(
    pool: &Pool,
    w: &Matrix,
    x: &Activations,
    out: &mut [f32],
    rows: impl Fn(&Matrix, &Activations, Range<usize>, &Columns) + Sync,
) {
    assert_eq!(x.cols(), w.cols, "activations and weights have the same columns");
    assert!(x.serves(w.format), "the activations were set for {} weights", w.format);
    // A product that wraps around must not pass for a length: `Columns` writes by these.
    let bytes = w.format.row_bytes(w.cols).and_then(|bytes| bytes.checked_mul(w.rows));
    assert_eq!(Some(w.bytes.len()), bytes, "whole rows of weights");
    assert_eq!(Some(out.len()), x.rows().checked_mul(w.rows), "the result is (activation rows, weight rows)");
    if out.is_empty() {
        return;
    }
    if w.cols == 0 {
        out.fill(0.0);
        return;
    }
    let columns = Columns::new(out, 0, 0, w.rows);
    let chunk = rows_per_task(w, x.rows(), pool.threads());
    pool.run(w.rows.div_ceil(chunk), |task, _| {
        let first = task * chunk;
        rows(w, x, first..w.rows.min(first + chunk), &columns);
    });
}

/// Enough tasks to even out the threads, each small enough that its weights stay in the second-level cache while all
/// activation rows pass, and none where the whole product costs less than waking a thread.
fn rows_per_task(w: &Matrix, x_rows: usize, threads: usize) -> usize {
    if threads == 1 && x_rows == 1 || w.rows * w.cols * x_rows < SMALL_PRODUCT {
        return w.rows;
    }
    let cached = CACHED_BYTES / (w.bytes.len() / w.rows).max(1);
    let even = w.rows.div_ceil(threads * TASKS_PER_THREAD);
    even.min(cached).max(1).next_multiple_of(tile::ROWS)
}

const SMALL_PRODUCT: usize = 1 << 16;
const CACHED_BYTES: usize = 128 << 10;
const TASKS_PER_THREAD: usize = 8;

/// The result, of which every task writes its own columns (one column per weight row).
pub(crate) struct Columns {
    // INVARIANT: valid for rows · stride values as long as the tasks run.
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

/// All rows, columns `range` of the result.
#[inline(always)]
pub(crate) fn matmul_rows<S: Simd, F: tile::Tiled>(
    s: S,
    w: &Matrix,
    x: &Activations,
    range: Range<usize>,
    out: &Columns,
) {
    some_rows::<S, F>(s, w, x, range, 0..x.rows(), out);
}

/// Columns `range` of the rows `m`.
#[inline(always)]
pub(crate) fn some_rows<S: Simd, F: tile::Tiled>(
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
