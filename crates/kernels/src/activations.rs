//! Rows of activations as products read them: floats, and 8-bit blocks of 32 with a scale for quantised weights.

use std::cmp::Ordering;
use std::ops::BitOr;

use crate::buffer::AlignedVec;
use crate::format::Format;
use crate::ops::Ops;
use crate::pool::Pool;
use crate::simd::{BYTES, LANES, Simd};

/// What the weights that read these activations need of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationKind {
    floats: bool,
    blocks: bool,
}

impl ActivationKind {
    /// f32, for F32, F16 and BF16 weights.
    pub const FLOATS: Self = Self { floats: true, blocks: false };
    /// 8-bit blocks, for quantised weights.
    pub const BLOCKS: Self = Self { floats: false, blocks: true };

    pub const fn for_format(format: Format) -> Self {
        if format.is_quantized() { Self::BLOCKS } else { Self::FLOATS }
    }
}

impl BitOr for ActivationKind {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { floats: self.floats || other.floats, blocks: self.blocks || other.blocks }
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
    quants: AlignedVec<i8>,
    // Per block of 32.
    scales: AlignedVec<f32>,
    // Per block of 32: scale · Σq, for weights with a minimum.
    sums: AlignedVec<f32>,
}

const BLOCK: usize = 32;

impl Activations {
    pub fn new(max_rows: usize, max_cols: usize) -> Self {
        let values = max_rows * max_cols.next_multiple_of(BYTES);
        Self {
            rows: 0,
            cols: 0,
            kind: ActivationKind::FLOATS,
            stride: 0,
            floats: AlignedVec::new(values),
            quants: AlignedVec::new(values),
            scales: AlignedVec::new(values / BLOCK),
            sums: AlignedVec::new(values / BLOCK),
        }
    }

    /// Takes x: (rows, cols), keeping what `kind` asks for.
    ///
    /// # Panics
    /// Where `x` is not rows × cols, or that is more than was promised to [`Activations::new`].
    pub fn set(&mut self, ops: &Ops, pool: &Pool, x: &[f32], rows: usize, cols: usize, kind: ActivationKind) {
        assert_eq!(x.len(), rows * cols, "activations are (rows, cols)");
        let stride = cols.next_multiple_of(BYTES);
        assert!(rows * stride <= self.floats.len(), "more activations than were promised");
        (self.rows, self.cols, self.kind, self.stride) = (rows, cols, kind, stride);
        if cols == 0 {
            return;
        }
        if kind.floats {
            for (x, padded) in x.chunks_exact(cols).zip(self.floats.chunks_exact_mut(stride)) {
                padded[..cols].copy_from_slice(x);
                padded[cols..].fill(0.0);
            }
        }
        if kind.blocks {
            let blocks = stride / BLOCK;
            let quants = SharedRows::new(&mut self.quants, stride);
            let scales = SharedRows::new(&mut self.scales, blocks);
            let sums = SharedRows::new(&mut self.sums, blocks);
            pool.run(rows, |row, _| {
                // SAFETY: the pool gives each row to one task.
                let (quants, scales, sums) = unsafe { (quants.row(row), scales.row(row), sums.row(row)) };
                ops.quantize_activations(&x[row * cols..][..cols], quants, scales, sums);
            });
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether a product with weights of `format` finds what it reads.
    pub fn serves(&self, format: Format) -> bool {
        if format.is_quantized() { self.kind.blocks } else { self.kind.floats }
    }

    /// Row `row`, padded with zeros to whole vectors.
    #[inline(always)]
    pub(crate) fn float_row(&self, row: usize) -> &[f32] {
        &self.floats[row * self.stride..][..self.stride]
    }

    #[inline(always)]
    pub(crate) fn block_row(&self, row: usize) -> BlockRow<'_> {
        let blocks = self.stride / BLOCK;
        BlockRow {
            quants: &self.quants[row * self.stride..][..self.stride],
            scales: &self.scales[row * blocks..][..blocks],
            sums: &self.sums[row * blocks..][..blocks],
        }
    }
}

/// One row in blocks, padded with zeros to an even number of them.
#[derive(Clone, Copy)]
pub(crate) struct BlockRow<'a> {
    pub quants: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [f32],
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

/// quants, scales and sums are the whole padded row.
#[inline(always)]
pub(crate) fn quantize_activations<S: Simd>(s: S, x: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let (whole, rest) = x.as_chunks::<BLOCK>();
    let mut last = [0.0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    let blocks = quants.as_chunks_mut::<BLOCK>().0.iter_mut().zip(scales).zip(sums);
    for (i, ((quants, scale), sum)) in blocks.enumerate() {
        let values = match i.cmp(&whole.len()) {
            Ordering::Less => &whole[i],
            Ordering::Equal => &last,
            Ordering::Greater => &[0.0; BLOCK],
        };
        (*scale, *sum) = quantize_block(s, values, quants);
    }
}

/// Scale, and scale · Σq.
#[inline(always)]
fn quantize_block<S: Simd>(s: S, values: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, f32) {
    let [low, high] = values.as_chunks::<LANES>().0 else { unreachable!("32 is twice 16") };
    let (low, high) = (s.load(low), s.load(high));
    // Zero unless something is NaN or infinite.
    let zero = s.splat(0.0);
    let broken = s.sum(s.fma(low, zero, s.mul(high, zero)));
    let amax = s.largest(s.max(s.abs(low), s.abs(high)));
    if broken != 0.0 || amax < SMALLEST {
        quants.fill(0);
        let scale = if broken == 0.0 { 0.0 } else { f32::NAN };
        return (scale, scale);
    }
    let inverse = s.splat(127.0 / amax);
    s.store_i8(s.round(s.mul(low, inverse)), s.round(s.mul(high, inverse)), quants);
    let scale = amax / 127.0;
    (scale, scale * quants.iter().map(|&q| i32::from(q)).sum::<i32>() as f32)
}

/// Below this the inverse scale would overflow or lose precision.
const SMALLEST: f32 = 1e-30;
