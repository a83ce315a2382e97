//! Weights in panels: sixteen rows (outputs of a product) side by side, so that a vector of sixteen lanes is sixteen sums.
//! How bytes get there and back is in `panels/pack.rs`; what reads them in `matmul`.
//!
//! A panel holds its rows' blocks in order of the columns, as groups; missing rows at the end are zeros. A "vec" is 64 bytes: for
//! each row four consecutive columns (byte 4n + k % 4), a "quad". The nibbles of a 32-block are four vecs, quads 0..4 low and 4..8 high.
//! - Q8_0: 16 f16 scales, 8 vecs of q + 128.
//! - Q4_0: 16 f16 scales, 4 vecs of nibbles.
//! - Q4_K: 16 f16 scales, 16 f16 minima, the 12 bytes of 6-bit scales (16 rows each), then 4 vecs per 32-block.
//! - Q5_K: the same with a vec per 32-block behind its nibbles: bit j of a byte is the fifth bit in quad j.
//! - Q6_K: 16 f16 scales, the 16 i8 scales (16 rows each), then per 32-block 4 vecs of nibbles and 2 of high bits: bits 2j and 2j + 1
//!   of a byte belong to quad j, or 4 + j in the second.
//! - BF16: 16 rows × 2 columns per 64 bytes.

mod pack;

use crate::format::{Format, Matrix, MatrixError};

pub(crate) use pack::{pack, unpack_row};

/// Rows of a panel.
pub(crate) const WIDTH: usize = 16;

/// Weights in panels: a borrowed view. Bytes at multiples of 64 are read fastest; any alignment is correct.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    // INVARIANT: exactly `bytes_for(format, rows, cols)`.
    bytes: &'a [u8],
}

impl<'a> Panels<'a> {
    /// Bytes of `rows` × `cols` weights; `None` where the format has no panels, a row is not whole blocks, or the size overflows.
    pub fn bytes_for(format: Format, rows: usize, cols: usize) -> Option<usize> {
        rows.div_ceil(WIDTH).checked_mul(panel_bytes(format, cols)?)
    }

    /// # Errors
    /// Where the format has no panels, a row is not whole blocks, the size overflows, or `bytes` is not exactly the panels.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, MatrixError> {
        if !format.has_panels() {
            return Err(MatrixError::NoPanels { format });
        }
        format.row_bytes(cols).ok_or(MatrixError::PartialBlock { format, cols })?;
        let expected = Self::bytes_for(format, rows, cols).ok_or(MatrixError::TooLarge { rows, cols })?;
        if bytes.len() != expected {
            return Err(MatrixError::Length { format, rows, cols, expected, got: bytes.len() });
        }
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

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Panel `panel`: rows from 16·`panel` on.
    pub(crate) fn panel(&self, panel: usize) -> &'a [u8] {
        let bytes = panel_bytes(self.format, self.cols).expect("checked when the view was made");
        &self.bytes[panel * bytes..][..bytes]
    }
}

/// Bytes of one panel.
pub(crate) fn panel_bytes(format: Format, cols: usize) -> Option<usize> {
    match format {
        Format::F32 | Format::F16 => None,
        Format::BF16 => cols.div_ceil(2).checked_mul(4 * WIDTH),
        _ => format.row_bytes(cols)?.checked_mul(WIDTH),
    }
}

/// Weights as a product reads them.
#[derive(Clone, Copy, Debug)]
pub enum WeightView<'a> {
    /// Row-major, as the file holds them. Products read F32 and F16 only.
    Rows(Matrix<'a>),
    Panels(Panels<'a>),
}

impl WeightView<'_> {
    pub fn format(&self) -> Format {
        match self {
            WeightView::Rows(matrix) => matrix.format,
            WeightView::Panels(panels) => panels.format,
        }
    }

    pub fn rows(&self) -> usize {
        match self {
            WeightView::Rows(matrix) => matrix.rows,
            WeightView::Panels(panels) => panels.rows,
        }
    }

    pub fn cols(&self) -> usize {
        match self {
            WeightView::Rows(matrix) => matrix.cols,
            WeightView::Panels(panels) => panels.cols,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_take_the_bytes_of_the_file_where_rows_are_whole_panels() {
        for format in Format::ALL {
            let bytes = Panels::bytes_for(format, 32, 512);
            assert_eq!(bytes, format.has_panels().then(|| 32 * format.row_bytes(512).unwrap()), "{format}");
        }
        assert_eq!(Panels::bytes_for(Format::Q4_0, 17, 32), Some(2 * 288));
        assert_eq!(Panels::bytes_for(Format::Q4_0, 16, 33), None);
        assert_eq!(Panels::bytes_for(Format::BF16, 1, 3), Some(128));
        assert_eq!(Panels::bytes_for(Format::Q8_0, usize::MAX, 64), None);
    }

    #[test]
    fn views_check_their_bytes() {
        assert!(Panels::new(Format::Q8_0, 16, 32, &[0; 544]).is_ok());
        assert!(matches!(Panels::new(Format::Q8_0, 16, 32, &[0; 543]), Err(MatrixError::Length { expected: 544, .. })));
        assert!(matches!(Panels::new(Format::Q8_0, 16, 31, &[]), Err(MatrixError::PartialBlock { .. })));
        assert_eq!(
            Panels::new(Format::F16, 16, 32, &[]).unwrap_err().to_string(),
            "F16 weights are not kept in panels; read them as rows"
        );
    }
}
