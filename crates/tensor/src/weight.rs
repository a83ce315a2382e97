//! A weight matrix as its file holds it: format, shape, bytes. Checked once here, so that `matrix()` never fails.

use std::ops::Range;

use falaj_kernels::{Format, Matrix, MatrixError, Ops};

use crate::SharedBytes;

/// Row-major `(rows, cols)`; `y = x Wᵀ` reads whole rows.
#[derive(Clone, Debug)]
pub struct Weight {
    format: Format,
    rows: usize,
    cols: usize,
    // INVARIANT: exactly rows * format.row_bytes(cols) long.
    bytes: SharedBytes,
}

impl Weight {
    /// # Errors
    /// Where a row is not whole blocks of `format`, the size overflows, or `bytes` is not exactly the matrix.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: SharedBytes) -> Result<Self, MatrixError> {
        Matrix::new(format, rows, cols, &bytes)?;
        Ok(Self { format, rows, cols, bytes })
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn matrix(&self) -> Matrix<'_> {
        Matrix { format: self.format, rows: self.rows, cols: self.cols, bytes: &self.bytes }
    }

    /// The rows `range` as a weight of their own, sharing the bytes. `None` where they are not there.
    pub fn row_range(&self, range: Range<usize>) -> Option<Self> {
        let row_bytes = self.format.row_bytes(self.cols)?;
        if range.start > range.end || range.end > self.rows {
            return None;
        }
        let bytes = self.bytes.slice(range.start * row_bytes..range.end * row_bytes)?;
        Some(Self { format: self.format, rows: range.len(), cols: self.cols, bytes })
    }

    /// Row `row` in f32; `out`: (cols). False where there is no such row.
    pub fn dequantize_row(&self, ops: &Ops, row: usize, out: &mut [f32]) -> bool {
        let Some(row_bytes) = self.format.row_bytes(self.cols) else { return false };
        let Some(bytes) = row.checked_mul(row_bytes).and_then(|start| self.bytes.get(start..)?.get(..row_bytes)) else {
            return false;
        };
        ops.dequantize_row(self.format, bytes, out);
        true
    }

    /// Everything in f32, row-major.
    pub fn dequantize(&self, ops: &Ops) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, values) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.dequantize_row(ops, row, values);
        }
        out
    }
}
