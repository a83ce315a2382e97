//! Rows of activations as products read them: floats, 8-bit blocks of 32 with a scale for quantised weights, bf16 for BF16 weights.
//! The rounding itself is in `activations/rounding.rs`.

mod rounding;

use std::ops::BitOr;

use crate::buffer::AlignedVec;
use crate::format::Format;
use crate::ops::Ops;
use crate::pool::Pool;
use crate::simd::BYTES;

pub(crate) use rounding::{quantize_activations, round_activations};

/// What the weights that read these activations need of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationKind {
    floats: bool,
    blocks: bool,
    bf16: bool,
}

impl ActivationKind {
    /// f32, for F32 and F16 weights.
    pub const FLOATS: Self = Self { floats: true, blocks: false, bf16: false };
    /// 8-bit blocks, for quantised weights.
    pub const BLOCKS: Self = Self { floats: false, blocks: true, bf16: false };
    /// Rounded to bf16, for BF16 weights in panels; as floats too, for rows of them.
    pub const BF16: Self = Self { floats: true, blocks: false, bf16: true };

    pub const fn for_format(format: Format) -> Self {
        match format {
            Format::F32 | Format::F16 => Self::FLOATS,
            Format::BF16 => Self::BF16,
            Format::Q8_0 | Format::Q4_0 | Format::Q4_K | Format::Q5_K | Format::Q6_K => Self::BLOCKS,
        }
    }
}

impl BitOr for ActivationKind {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { floats: self.floats || other.floats, blocks: self.blocks || other.blocks, bf16: self.bf16 || other.bf16 }
    }
}

/// Up to `max_rows` rows of up to `max_cols` values. Made once, filled by [`Activations::set`], never allocates again.
///
/// A block of 32 values x becomes q = round(x·127/amax) (ties to even) with scale amax/127, amax = max |x|. A block with NaN or ∞
/// gets scale NaN, so that what is broken stays visible; one whose amax is below 1e-30 becomes zeros.
#[derive(Clone, Debug)]
pub struct Activations {
    rows: usize,
    cols: usize,
    kind: ActivationKind,
    // Rows lie `stride` values apart, a multiple of 64; beyond `cols` everything is zero, so that kernels read whole vectors.
    stride: usize,
    floats: AlignedVec<f32>,
    // As bits, and as the floats that they mean.
    bf16: AlignedVec<u16>,
    rounded: AlignedVec<f32>,
    quants: AlignedVec<i8>,
    // Per block of 32.
    scales: AlignedVec<f32>,
    // Per block of 32: scale · Σq, for weights with a minimum.
    sums: AlignedVec<f32>,
    // −zero·Σq per block of 32 for zero 8 and 128, per 16 for 32: what exact sums with unsigned weights begin with.
    starts_8: AlignedVec<i32>,
    starts_128: AlignedVec<i32>,
    starts_32: AlignedVec<i32>,
}

pub(crate) const BLOCK: usize = 32;

impl Activations {
    pub fn new(max_rows: usize, max_cols: usize) -> Self {
        let values = max_rows * max_cols.next_multiple_of(BYTES);
        let blocks = values / BLOCK;
        Self {
            rows: 0,
            cols: 0,
            kind: ActivationKind::FLOATS,
            stride: 0,
            floats: AlignedVec::new(values),
            bf16: AlignedVec::new(values),
            rounded: AlignedVec::new(values),
            quants: AlignedVec::new(values),
            scales: AlignedVec::new(blocks),
            sums: AlignedVec::new(blocks),
            starts_8: AlignedVec::new(blocks),
            starts_128: AlignedVec::new(blocks),
            starts_32: AlignedVec::new(2 * blocks),
        }
    }

    /// Takes x: (rows, cols), keeping what `kind` asks for.
    ///
    /// # Panics
    /// Where `x` is not rows × cols, or that is more than was promised to [`Activations::new`].
    pub fn set(&mut self, ops: &Ops, pool: &Pool, x: &[f32], rows: usize, cols: usize, kind: ActivationKind) {
        assert_eq!(x.len(), rows * cols, "activations are (rows, cols)");
        self.fill(pool, rows, cols, kind, |row, to| {
            let x = &x[row * cols..][..cols];
            if kind.floats {
                to.floats[..cols].copy_from_slice(x);
                to.floats[cols..].fill(0.0);
            }
            to.rounded.round(ops, x, kind);
        });
    }

    /// Takes RMSNorm(x)·weight of x: (rows, weight.len()): the same bits as [`Ops::rms_norm`] and then [`Activations::set`].
    ///
    /// # Panics
    /// Where `x` is not rows × weight.len(), or that is more than was promised to [`Activations::new`].
    pub fn set_normed(
        &mut self,
        ops: &Ops,
        pool: &Pool,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        rows: usize,
        kind: ActivationKind,
    ) {
        let cols = weight.len();
        assert_eq!(x.len(), rows * cols, "activations are (rows, cols)");
        self.fill(pool, rows, cols, kind, |row, to| {
            // Through the floats' place, whether they are asked for or not: it is there and near.
            let (floats, padding) = to.floats.split_at_mut(cols);
            ops.rms_norm(&x[row * cols..][..cols], weight, eps, floats);
            padding.fill(0.0);
            to.rounded.round(ops, floats, kind);
        });
    }

    /// Calls `row` for each row, on many threads where that pays.
    fn fill(
        &mut self,
        pool: &Pool,
        rows: usize,
        cols: usize,
        kind: ActivationKind,
        row: impl Fn(usize, &mut RowMut) + Sync,
    ) {
        let stride = cols.next_multiple_of(BYTES);
        assert!(rows * stride <= self.floats.len(), "more activations than were promised");
        (self.rows, self.cols, self.kind, self.stride) = (rows, cols, kind, stride);
        if cols == 0 {
            return;
        }
        let blocks = stride / BLOCK;
        let floats = SharedRows::new(&mut self.floats, stride);
        let bf16 = SharedRows::new(&mut self.bf16, stride);
        let rounded = SharedRows::new(&mut self.rounded, stride);
        let quants = SharedRows::new(&mut self.quants, stride);
        let scales = SharedRows::new(&mut self.scales, blocks);
        let sums = SharedRows::new(&mut self.sums, blocks);
        let starts_8 = SharedRows::new(&mut self.starts_8, blocks);
        let starts_128 = SharedRows::new(&mut self.starts_128, blocks);
        let starts_32 = SharedRows::new(&mut self.starts_32, 2 * blocks);
        let chunk = TASK_VALUES.div_ceil(stride);
        pool.run(rows.div_ceil(chunk), |task, _| {
            for m in task * chunk..rows.min((task + 1) * chunk) {
                // SAFETY: the pool gives each row to one task.
                let mut to = unsafe {
                    RowMut {
                        floats: floats.row(m),
                        rounded: RoundedRow {
                            bf16: bf16.row(m),
                            values: rounded.row(m),
                            blocks: BlockRowMut {
                                quants: quants.row(m),
                                scales: scales.row(m),
                                sums: sums.row(m),
                                starts_8: starts_8.row(m),
                                starts_128: starts_128.row(m),
                                starts_32: starts_32.row(m),
                            },
                        },
                    }
                };
                row(m, &mut to);
            }
        });
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether a product with weights of `format` finds what it reads.
    pub fn serves(&self, format: Format) -> bool {
        let wanted = ActivationKind::for_format(format);
        self.kind | wanted == self.kind
    }

    /// Row `row`, padded with zeros to whole vectors.
    #[inline(always)]
    pub(crate) fn float_row(&self, row: usize) -> &[f32] {
        &self.floats[row * self.stride..][..self.stride]
    }

    /// Row `row` rounded to bf16, padded with zeros: bits, and the floats that they mean.
    #[inline(always)]
    pub(crate) fn bf16_row(&self, row: usize) -> (&[u16], &[f32]) {
        let range = row * self.stride..(row + 1) * self.stride;
        (&self.bf16[range.clone()], &self.rounded[range])
    }

    #[inline(always)]
    pub(crate) fn block_row(&self, row: usize) -> BlockRow<'_> {
        let blocks = self.stride / BLOCK;
        let range = row * blocks..(row + 1) * blocks;
        BlockRow {
            quants: &self.quants[row * self.stride..][..self.stride],
            scales: &self.scales[range.clone()],
            sums: &self.sums[range.clone()],
            starts_8: &self.starts_8[range.clone()],
            starts_128: &self.starts_128[range.clone()],
            starts_32: &self.starts_32[2 * range.start..2 * range.end],
        }
    }
}

/// Values per task below which threads cost more than they bring.
const TASK_VALUES: usize = 1 << 15;

/// One row in blocks, padded with zeros to an even number of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct BlockRow<'a> {
    pub quants: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [f32],
    pub starts_8: &'a [i32],
    pub starts_128: &'a [i32],
    pub starts_32: &'a [i32],
}

pub(crate) struct BlockRowMut<'a> {
    pub quants: &'a mut [i8],
    pub scales: &'a mut [f32],
    pub sums: &'a mut [f32],
    pub starts_8: &'a mut [i32],
    pub starts_128: &'a mut [i32],
    pub starts_32: &'a mut [i32],
}

/// All places of one row.
struct RowMut<'a> {
    floats: &'a mut [f32],
    rounded: RoundedRow<'a>,
}

struct RoundedRow<'a> {
    bf16: &'a mut [u16],
    values: &'a mut [f32],
    blocks: BlockRowMut<'a>,
}

impl RoundedRow<'_> {
    fn round(&mut self, ops: &Ops, x: &[f32], kind: ActivationKind) {
        if kind.blocks {
            ops.quantize_activations(x, &mut self.blocks);
        }
        if kind.bf16 {
            ops.round_activations(x, self.bf16, self.values);
        }
    }
}

/// Rows of one buffer that different tasks write.
struct SharedRows<T> {
    start: *mut T,
    rows: usize,
    stride: usize,
}

impl<T> SharedRows<T> {
    fn new(values: &mut [T], stride: usize) -> Self {
        Self { start: values.as_mut_ptr(), rows: values.len() / stride, stride }
    }

    /// # Safety
    /// No two of the returned slices may be of the same row at the same time, nor outlive the buffer.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps the rows apart")]
    unsafe fn row(&self, row: usize) -> &mut [T] {
        assert!(row < self.rows);
        // SAFETY: inside the buffer, since row < rows; not aliased, by the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.stride) }
    }
}

// SAFETY: tasks write different rows, by the contract of `row`.
unsafe impl<T: Send> Sync for SharedRows<T> {}
