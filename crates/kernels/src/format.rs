//! How weights lie in memory: GGUF's block layouts, little endian, and a matrix of rows in one of them.
//! The fields of a block are read in `blocks.rs`; from and to floats in `dequantize.rs` and `quantize.rs`.

pub(crate) mod blocks;

use std::fmt;

/// An element format. A row is whole blocks of `block_len()` values in `block_bytes()` bytes.
/// Source of the layouts: ggml's `block_*` structures, as GGUF files hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "these are the names that files and people use")]
pub enum Format {
    F32,
    F16,
    BF16,
    /// 32 values: f16 scale, 32 i8.
    Q8_0,
    /// 32 values: f16 scale, 32 nibbles less 8.
    Q4_0,
    /// 256 values: f16 scale and minimum, eight 6-bit pairs of them, 256 nibbles.
    Q4_K,
    /// Like Q4_K with a fifth bit per value.
    Q5_K,
    /// 256 values: 6 bits each less 32, sixteen i8 scales, f16 scale.
    Q6_K,
}

impl Format {
    pub const ALL: [Format; 8] =
        [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0, Format::Q4_K, Format::Q5_K, Format::Q6_K];

    /// Values per block.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q8_0 | Format::Q4_0 => 32,
            Format::Q4_K | Format::Q5_K | Format::Q6_K => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
        }
    }

    /// Bytes of a row of `cols` values; `None` where that is not whole blocks or overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.block_len()) {
            (cols / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Whether products read it in panels (see [`crate::Panels`]); the others are read as rows.
    pub const fn has_panels(self) -> bool {
        !matches!(self, Format::F32 | Format::F16)
    }

    /// Whether products with it go through 8-bit activations and exact integer sums.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A weight matrix as its file holds it: `rows` rows of `cols` values, row-major, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// # Errors
    /// Where a row is not whole blocks, the size overflows, or `bytes` is not exactly the matrix.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, MatrixError> {
        let row_bytes = format.row_bytes(cols).ok_or(MatrixError::PartialBlock { format, cols })?;
        let expected = row_bytes.checked_mul(rows).ok_or(MatrixError::TooLarge { rows, cols })?;
        if bytes.len() != expected {
            return Err(MatrixError::Length { format, rows, cols, expected, got: bytes.len() });
        }
        Ok(Self { format, rows, cols, bytes })
    }

    /// Row `row`'s bytes.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let row_bytes = self.format.row_bytes(self.cols).expect("checked when the matrix was made");
        &self.bytes[row * row_bytes..][..row_bytes]
    }
}

/// Why bytes are not the matrix that somebody says they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    #[error("rows of {cols} values are not whole blocks of {}, which {format} needs", format.block_len())]
    PartialBlock { format: Format, cols: usize },
    #[error("{format} weights are not kept in panels; read them as rows")]
    NoPanels { format: Format },
    #[error("a matrix of {rows} × {cols} does not fit this machine")]
    TooLarge { rows: usize, cols: usize },
    #[error("a {format} matrix of {rows} × {cols} takes {expected} bytes, got {got}")]
    Length { format: Format, rows: usize, cols: usize, expected: usize, got: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Format::Q8_0.row_bytes(64), Some(68));
        assert_eq!(Format::Q8_0.row_bytes(48), None);
        assert_eq!(Format::Q6_K.row_bytes(512), Some(420));
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
    }

    #[test]
    fn matrices_check_their_bytes() {
        assert!(Matrix::new(Format::F16, 2, 3, &[0; 12]).is_ok());
        assert_eq!(
            Matrix::new(Format::F16, 2, 3, &[0; 11]).unwrap_err().to_string(),
            "a F16 matrix of 2 × 3 takes 12 bytes, got 11"
        );
        assert!(matches!(
            Matrix::new(Format::F16, usize::MAX, 3, &[]),
            Err(MatrixError::TooLarge { rows: usize::MAX, cols: 3 })
        ));
    }
}
