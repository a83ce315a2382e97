//! Rows of activations as products read them: floats, 8-bit blocks of 32 with a scale for quantised weights, bf16 for BF16 weights.
//! The rounding itself is in `activations/rounding.rs`.

mod rounding;

use std::ops::{BitOr, Range};

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
    /// Rounded to bf16, for BF16 weights.
    pub const BF16: Self = Self { floats: false, blocks: false, bf16: true };

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
    // Per block of 32: −Σq, and −Σq of its first half, from which exact sums with unsigned weights begin.
    totals: AlignedVec<i32>,
    firsts: AlignedVec<i32>,
    // The same numbers again for four rows at a time, where there are that many: see `Tile`, `PairTile`.
    tiles: AlignedVec<u8>,
    bf16_tiles: AlignedVec<u16>,
    rounded_tiles: AlignedVec<f32>,
}

pub(crate) const BLOCK: usize = 32;
/// Rows of a tile.
pub(crate) const TILE: usize = 4;
/// One block of four rows: eight quads of 4 × 4 bytes, four scales, four scaled sums, four totals, four firsts. So a kernel needs one
/// pointer for four rows, and what it reads together lies together.
pub(crate) type Tile = [u8; 192];
/// Pairs of columns of four rows, as bf16 bits and as the floats that they mean.
pub(crate) type PairTile<'a> = (&'a [[[u16; 2]; TILE]], &'a [[[f32; 2]; TILE]]);

impl Activations {
    pub fn new(max_rows: usize, max_cols: usize) -> Self {
        let stride = max_cols.next_multiple_of(BYTES);
        let (values, tiled) = (max_rows * stride, max_rows.next_multiple_of(TILE) * stride);
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
            totals: AlignedVec::new(blocks),
            firsts: AlignedVec::new(blocks),
            tiles: AlignedVec::new(tiled / TILE / BLOCK * size_of::<Tile>()),
            bf16_tiles: AlignedVec::new(tiled),
            rounded_tiles: AlignedVec::new(tiled),
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
            to.rounded.round(ops, x, kind, &mut to.tile);
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
            to.rounded.round(ops, floats, kind, &mut to.tile);
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
        let totals = SharedRows::new(&mut self.totals, blocks);
        let firsts = SharedRows::new(&mut self.firsts, blocks);
        let tiles = SharedRows::new(&mut self.tiles, blocks * size_of::<Tile>());
        let bf16_tiles = SharedRows::new(&mut self.bf16_tiles, TILE * stride);
        let rounded_tiles = SharedRows::new(&mut self.rounded_tiles, TILE * stride);
        // Whole tiles.
        let chunk = TASK_VALUES.div_ceil(stride).next_multiple_of(TILE);
        pool.run(rows.div_ceil(chunk), |task, _| {
            for m in task * chunk..rows.min((task + 1) * chunk) {
                let tiled = rows >= TILE;
                let part = |len: usize| if tiled { len } else { 0 };
                // SAFETY: the pool gives each row, and each tile, to one task, which holds them once at a time.
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
                                totals: totals.row(m),
                                firsts: firsts.row(m),
                            },
                        },
                        tile: TileMut {
                            row: m % TILE,
                            blocks: &mut tiles.row(m / TILE).as_chunks_mut().0[..part(blocks)],
                            bf16: &mut bf16_tiles.row(m / TILE).as_chunks_mut().0[..part(stride / 2)],
                            values: &mut rounded_tiles.row(m / TILE).as_chunks_mut().0[..part(stride / 2)],
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

    /// `rows` in blocks, as tiles read them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn block_rows(&self, rows: Range<usize>) -> crate::amx::bytes::Rows<'_> {
        let (values, blocks) = (rows.start * self.stride..rows.end * self.stride, self.stride / BLOCK);
        let blocks = rows.start * blocks..rows.end * blocks;
        crate::amx::bytes::Rows {
            quants: &self.quants[values],
            scales: &self.scales[blocks.clone()],
            sums: &self.sums[blocks],
            stride: self.stride,
        }
    }

    /// `rows` rounded to bf16, as tiles read them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn bf16_rows(&self, rows: Range<usize>) -> crate::amx::pairs::Rows<'_> {
        crate::amx::pairs::Rows {
            bits: &self.bf16[rows.start * self.stride..rows.end * self.stride],
            stride: self.stride,
        }
    }

    #[inline(always)]
    pub(crate) fn block_row(&self, row: usize) -> BlockRow<'_> {
        let blocks = self.stride / BLOCK;
        let range = row * blocks..(row + 1) * blocks;
        BlockRow {
            quants: &self.quants[row * self.stride..][..self.stride],
            scales: &self.scales[range.clone()],
            sums: &self.sums[range.clone()],
            totals: &self.totals[range.clone()],
            firsts: &self.firsts[range],
        }
    }

    /// Whether the rows are there in tiles too.
    pub(crate) fn has_tiles(&self) -> bool {
        self.rows >= TILE
    }

    /// The blocks of rows 4·`tile` to 4·`tile` + 3, as far as there are such rows.
    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize) -> &[Tile] {
        let blocks = self.stride / BLOCK;
        &self.tiles.as_chunks().0[tile * blocks..][..blocks]
    }

    /// The same rows rounded to bf16: for each pair of columns, the pairs of four rows.
    #[inline(always)]
    pub(crate) fn bf16_tile(&self, tile: usize) -> PairTile<'_> {
        let range = tile * self.stride / 2..(tile + 1) * self.stride / 2;
        let bits = self.bf16_tiles.as_chunks::<2>().0.as_chunks().0;
        let values = self.rounded_tiles.as_chunks::<2>().0.as_chunks().0;
        (&bits[range.clone()], &values[range])
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
    pub totals: &'a [i32],
    pub firsts: &'a [i32],
}

pub(crate) struct BlockRowMut<'a> {
    pub quants: &'a mut [i8],
    pub scales: &'a mut [f32],
    pub sums: &'a mut [f32],
    pub totals: &'a mut [i32],
    pub firsts: &'a mut [i32],
}

/// All places of one row.
struct RowMut<'a> {
    floats: &'a mut [f32],
    rounded: RoundedRow<'a>,
    tile: TileMut<'a>,
}

/// A row's part of its tile; empty where there are no tiles.
struct TileMut<'a> {
    row: usize,
    blocks: &'a mut [Tile],
    bf16: &'a mut [[u16; 2 * TILE]],
    values: &'a mut [[f32; 2 * TILE]],
}

struct RoundedRow<'a> {
    bf16: &'a mut [u16],
    values: &'a mut [f32],
    blocks: BlockRowMut<'a>,
}

impl RoundedRow<'_> {
    fn round(&mut self, ops: &Ops, x: &[f32], kind: ActivationKind, tile: &mut TileMut) {
        if kind.blocks {
            ops.quantize_activations(x, &mut self.blocks);
            self.blocks.copy_to(tile);
        }
        if kind.bf16 {
            ops.round_activations(x, self.bf16, self.values);
            let at = 2 * tile.row;
            for (to, pair) in tile.bf16.iter_mut().zip(self.bf16.as_chunks::<2>().0) {
                to[at..at + 2].copy_from_slice(pair);
            }
            for (to, pair) in tile.values.iter_mut().zip(self.values.as_chunks::<2>().0) {
                to[at..at + 2].copy_from_slice(pair);
            }
        }
    }
}

impl BlockRowMut<'_> {
    fn copy_to(&self, tile: &mut TileMut) {
        let at = 4 * tile.row;
        let quants = self.quants.as_chunks::<BLOCK>().0;
        for (b, (to, quants)) in tile.blocks.iter_mut().zip(quants).enumerate() {
            let quads = quants.as_chunks::<4>().0;
            for (v, quad) in quads.iter().enumerate() {
                to[16 * v + at..16 * v + at + 4].copy_from_slice(&quad.map(i8::cast_unsigned));
            }
            to[128 + at..132 + at].copy_from_slice(&self.scales[b].to_ne_bytes());
            to[144 + at..148 + at].copy_from_slice(&self.sums[b].to_ne_bytes());
            to[160 + at..164 + at].copy_from_slice(&self.totals[b].to_ne_bytes());
            to[176 + at..180 + at].copy_from_slice(&self.firsts[b].to_ne_bytes());
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
