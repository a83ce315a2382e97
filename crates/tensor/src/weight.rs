//! A weight matrix: format, shape, and bytes as rows (a file's form) or as panels (the form that products read). Checked
//! once here, so that `view()` never fails. How panels lie is the kernels' business.

use std::ops::Range;

use falaj_kernels::{AlignedVec, Format, Matrix, MatrixError, Ops, Panels, Pool, WeightView};

use crate::SharedBytes;

/// `(rows, cols)`; `y = x Wᵀ` reads whole rows.
#[derive(Clone, Debug)]
pub struct Weight {
    format: Format,
    rows: usize,
    cols: usize,
    form: Form,
    // INVARIANT: exactly the bytes that `form` takes.
    bytes: SharedBytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Rows,
    Panels,
}

impl Weight {
    /// Of rows as files hold them.
    ///
    /// # Errors
    /// Where a row is not whole blocks of `format`, the size overflows, or `bytes` is not exactly the matrix.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: SharedBytes) -> Result<Self, MatrixError> {
        Matrix::new(format, rows, cols, &bytes)?;
        Ok(Self { format, rows, cols, form: Form::Rows, bytes })
    }

    /// Of panels.
    ///
    /// # Errors
    /// As [`Weight::new`], and where the format has no panels.
    pub fn from_panels(format: Format, rows: usize, cols: usize, bytes: SharedBytes) -> Result<Self, MatrixError> {
        Panels::new(format, rows, cols, &bytes)?;
        Ok(Self { format, rows, cols, form: Form::Panels, bytes })
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

    /// Whether the bytes are panels.
    pub fn is_packed(&self) -> bool {
        self.form == Form::Panels
    }

    /// As they lie, rows or panels.
    pub fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }

    /// As a product reads it.
    pub fn view(&self) -> WeightView<'_> {
        match self.panels() {
            Some(panels) => WeightView::Panels(panels),
            None => WeightView::Rows(self.matrix()),
        }
    }

    /// Bytes that it would take in panels; `None` where it is in panels or its format has none, so that rows serve.
    pub fn panel_bytes(&self) -> Option<usize> {
        let format = Some(self.format).filter(|format| format.has_panels() && !self.is_packed())?;
        Panels::bytes_for(format, self.rows, self.cols)
    }

    /// Writes its panels, over all threads of `pool`. out: [`Weight::panel_bytes`].
    ///
    /// # Panics
    /// Where that is `None`, or `out` has another length.
    pub fn pack(&self, ops: &Ops, pool: &Pool, out: &mut [u8]) {
        assert_eq!(Some(out.len()), self.panel_bytes(), "rows, and room for their panels");
        ops.pack(pool, &self.matrix(), out);
    }

    /// The rows `range` as a weight of their own, sharing the bytes. `None` where they are not there, or not rows.
    pub fn row_range(&self, range: Range<usize>) -> Option<Self> {
        let row_bytes = self.format.row_bytes(self.cols)?;
        if range.start > range.end || range.end > self.rows || self.is_packed() {
            return None;
        }
        let bytes = self.bytes.slice(range.start * row_bytes..range.end * row_bytes)?;
        Some(Self { rows: range.len(), bytes, ..*self })
    }

    /// Row `row` in f32; `out`: (cols). False where there is no such row.
    pub fn dequantize_row(&self, ops: &Ops, row: usize, out: &mut [f32]) -> bool {
        if row >= self.rows || out.len() != self.cols {
            return false;
        }
        match self.panels() {
            Some(panels) => ops.unpack_row(&panels, row, out),
            None => ops.dequantize_row(self.format, self.matrix().row(row), out),
        }
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

    /// The same values as F32 rows: what a quantised matrix is measured against.
    pub fn dequantized(&self, ops: &Ops) -> Self {
        let mut bytes = AlignedVec::<u8>::new(self.rows * self.cols * 4);
        let mut values = vec![0.0; self.cols];
        for (row, out) in bytes.chunks_exact_mut((self.cols * 4).max(1)).enumerate() {
            self.dequantize_row(ops, row, &mut values);
            for (value, out) in values.iter().zip(out.chunks_exact_mut(4)) {
                out.copy_from_slice(&value.to_le_bytes());
            }
        }
        Self { format: Format::F32, form: Form::Rows, bytes: SharedBytes::new(bytes), ..*self }
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix { format: self.format, rows: self.rows, cols: self.cols, bytes: &self.bytes }
    }

    fn panels(&self) -> Option<Panels<'_>> {
        let packed = self.is_packed().then_some(&self.bytes)?;
        Panels::new(self.format, self.rows, self.cols, packed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_the_values_of_the_rows() {
        let (ops, pool) = (Ops::best(), Pool::new(2));
        for format in Format::ALL {
            // No whole number of panels.
            let (rows, cols) = (37, 512);
            let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 + i / 7) % 101) as f32 / 50.0 - 1.0).collect();
            let mut bytes = vec![0; format.row_bytes(cols).unwrap() * rows];
            ops.quantize_row(format, &values, &mut bytes);
            let weight = Weight::new(format, rows, cols, SharedBytes::new(bytes)).unwrap();
            let expected = weight.dequantize(&ops);
            assert_eq!(weight.dequantized(&ops).dequantize(&ops), expected, "{format}");
            assert_eq!(weight.row_range(5..9).unwrap().dequantize(&ops), expected[5 * cols..9 * cols], "{format}");
            let Some(bytes) = weight.panel_bytes() else {
                assert!(matches!(weight.view(), WeightView::Rows(_)));
                assert!(Weight::from_panels(format, rows, cols, SharedBytes::new(Vec::new())).is_err());
                continue;
            };
            let mut panels = AlignedVec::new(bytes);
            weight.pack(&ops, &pool, &mut panels);
            let packed = Weight::from_panels(format, rows, cols, SharedBytes::new(panels)).unwrap();
            assert!(packed.is_packed() && packed.panel_bytes().is_none() && packed.row_range(0..16).is_none());
            assert_eq!(packed.dequantize(&ops), expected, "{format}");
            assert_eq!(packed.dequantized(&ops).dequantize(&ops), expected, "{format}");
            let short = packed.bytes().slice(0..bytes - 1).unwrap();
            assert!(Weight::from_panels(format, rows, cols, short).is_err(), "{format}");
        }
    }
}
