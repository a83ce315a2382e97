//! Products for training: out[i][j] (+)= Σ_k a(i, k)·b(j, k) in bf16 with sums in f32, of operands that lie in rows or transposed,
//! so that forward (x Wᵀ), and both backward products (dy W, dyᵀ x) read what is there. b is packed once for all
//! threads (`gemm/pack.rs`), a where it must be, block by block beside the sums (`gemm/left.rs`); the sums are made in registers
//! (`gemm/tile.rs`).
//!
//! The numerics are those of BF16 weights in `matmul.rs`: one sum per output, which begins at 0 or, with [`Then::Add`], at what is
//! in `out`; for each pair of ks in order acc = fma(b₁, a₁, acc), then acc = fma(b₀, a₀, acc). An odd depth ends with a pair
//! whose second half is 0. So the products of two halves of a depth added one after the other are the product of the whole, bit for
//! bit, and nothing depends on blocks or threads.
//! Source of the blocking: Goto and van de Geijn 2008; Van Zee and van de Geijn 2015 (BLIS).

mod left;
mod pack;
mod tile;

use std::cell::RefCell;
use std::ops::Range;

use crate::buffer::AlignedVec;
use crate::matmul::{Then, grown};
use crate::ops::{Ops, Table};
use crate::pool::Pool;

pub(crate) use pack::pack_columns;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use tile::Multiplied;
#[cfg(target_arch = "x86_64")]
pub(crate) use tile::{Dotted, Multiplied};
pub(crate) use tile::{ROWS, Scratch, Tile, block, tile};

/// Numbers of an operand. f32 are rounded to the nearest bf16, ties to even, as they are packed.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    F32(&'a [f32]),
    /// Bits of bf16.
    Bf16(&'a [u16]),
}

/// A matrix of `rows` × `depth`, in rows or transposed.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    pub values: Values<'a>,
    pub rows: usize,
    pub depth: usize,
    /// Between the starts of two rows, or, where it is transposed, of two ks.
    pub stride: usize,
    /// Element (i, k) lies at k·stride + i instead of i·stride + k.
    pub transposed: bool,
}

impl<'a> Operand<'a> {
    /// (rows, depth)
    pub fn rows(values: Values<'a>, rows: usize, depth: usize) -> Self {
        Self { values, rows, depth, stride: depth, transposed: false }
    }

    /// Lies as (depth, rows).
    pub fn transposed(values: Values<'a>, rows: usize, depth: usize) -> Self {
        Self { values, rows, depth, stride: rows, transposed: true }
    }

    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    fn check(&self) {
        let (lines, line) = if self.transposed { (self.depth, self.rows) } else { (self.rows, self.depth) };
        let len = match self.values {
            Values::F32(values) => values.len(),
            Values::Bf16(values) => values.len(),
        };
        let need = if lines == 0 || line == 0 { 0 } else { (lines - 1) * self.stride + line };
        assert!(self.stride >= line && len >= need, "an operand of {lines} × {line} at {} in {len}", self.stride);
    }
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    Operand(Operand<'a>),
    Packed(Packed<'a>),
}

/// A right operand as [`Ops::pack_right`] left it, for several products.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// (panels of 16 columns, pairs, 16) pairs of bf16
    values: &'a [u16],
    rows: usize,
    depth: usize,
}

impl Packed<'_> {
    /// Of the buffer for an operand of `rows` × `depth`.
    pub const fn len_of(rows: usize, depth: usize) -> usize {
        rows.div_ceil(LANES) * depth.div_ceil(2) * LANES * 2
    }
}

impl<'a> From<Operand<'a>> for Right<'a> {
    fn from(operand: Operand<'a>) -> Self {
        Right::Operand(operand)
    }
}

impl<'a> From<Packed<'a>> for Right<'a> {
    fn from(packed: Packed<'a>) -> Self {
        Right::Packed(packed)
    }
}

/// Where a product goes: (a.rows, b.rows).
#[derive(Debug)]
pub enum OutValues<'a> {
    F32(&'a mut [f32]),
    /// Rounded to the nearest bf16, ties to even.
    Bf16(&'a mut [u16]),
}

#[derive(Debug)]
pub struct OutMut<'a> {
    pub values: OutValues<'a>,
    /// Between the starts of two rows; `None`: they touch.
    pub stride: Option<usize>,
    /// Sums begin at these, which lie as `values` do.
    pub onto: Option<&'a [f32]>,
}

impl<'a> OutMut<'a> {
    pub fn f32(values: &'a mut [f32]) -> Self {
        Self { values: OutValues::F32(values), stride: None, onto: None }
    }

    pub fn bf16(values: &'a mut [u16]) -> Self {
        Self { values: OutValues::Bf16(values), stride: None, onto: None }
    }

    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride: Some(stride), ..self }
    }

    /// What is stored is `begin` plus the product, rounded as if the product had been added to a copy of it.
    pub fn onto(self, begin: &'a [f32]) -> Self {
        Self { onto: Some(begin), ..self }
    }
}

/// Columns of b that lie side by side when packed: sixteen rows of it, one for each lane.
pub(crate) const LANES: usize = 16;
/// Pairs of ks whose columns of b rows of a pass over: 3 × 16 KiB, which the second-level cache gives as fast as they are used. Fewer
/// would stay in the first, and have sums go to and fro more often.
const CACHED_PAIRS: usize = 256;
/// Rows of a in a block: 96 KiB of pairs, in the second-level cache.
const BLOCK_ROWS: usize = 96;
/// For each thread, so that they end together. More would have more of them pack the same rows.
const TASKS_PER_THREAD: usize = 2;

/// The part of a product that one task makes.
pub(crate) struct Block<'a> {
    pub a: &'a Operand<'a>,
    /// (panels of 16 columns, pairs, 16) pairs of bf16
    pub b: &'a [[[u16; 2]; LANES]],
    pub pairs: usize,
    /// Of a, and of b.
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub out: Target,
    pub begin: Begin<'a>,
}

/// Where sums begin.
#[derive(Clone, Copy)]
pub(crate) enum Begin<'a> {
    Zero,
    /// At what is in `out`.
    Out,
    /// At these, which lie as `out` does.
    At(&'a [f32]),
}

/// `out` as tasks see it: each writes its own rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    start: TargetStart,
    stride: usize,
}

#[derive(Clone, Copy)]
enum TargetStart {
    F32(*mut f32),
    Bf16(*mut u16),
}

// SAFETY: tasks write different elements (see `Block`), all inside the buffer that `gemm` borrows.
unsafe impl Sync for Target {}

thread_local! {
    /// b, packed, of the thread that asks for a product.
    static PACKED: RefCell<AlignedVec<u16>> = RefCell::new(AlignedVec::new(0));
}

impl Ops {
    /// out[i][j] = Σ_k a(i, k)·b(j, k), or the same added to `out`. Nothing is allocated once buffers have grown.
    ///
    /// # Panics
    /// Where an operand or `out` is shorter than its shape, depths differ, or [`Then::Add`] goes into bf16 or onto something else.
    pub fn gemm<'b>(&self, pool: &Pool, a: Operand, b: impl Into<Right<'b>>, out: OutMut, then: Then) {
        a.check();
        let b = b.into();
        let (columns, depth) = match b {
            Right::Operand(b) => {
                b.check();
                (b.rows, b.depth)
            }
            Right::Packed(b) => (b.rows, b.depth),
        };
        assert_eq!(a.depth, depth, "both operands have the same depth");
        let stride = out.stride.unwrap_or(columns);
        let need = if a.rows == 0 || columns == 0 { 0 } else { (a.rows - 1) * stride + columns };
        let (start, len) = match out.values {
            OutValues::F32(out) => (TargetStart::F32(out.as_mut_ptr()), out.len()),
            OutValues::Bf16(out) => {
                assert!(then == Then::Store, "sums are added in f32");
                (TargetStart::Bf16(out.as_mut_ptr()), out.len())
            }
        };
        assert!(stride >= columns && len >= need, "the product of {} × {columns} in {len}", a.rows);
        let begin = match (then, out.onto) {
            (Then::Add, onto) => {
                assert!(onto.is_none(), "sums begin at one place");
                Begin::Out
            }
            (Then::Store, None) => Begin::Zero,
            (Then::Store, Some(begin)) => {
                assert!(begin.len() >= need, "as many beginnings as sums");
                Begin::At(begin)
            }
        };
        if need == 0 {
            return;
        }
        let out = Target { start, stride };
        match b {
            Right::Operand(b) => PACKED.with_borrow_mut(|packed| {
                let b = self.pack_right(pool, b, grown(packed, Packed::len_of(b.rows, b.depth)));
                run(self.table(), pool, &a, b, out, begin);
            }),
            Right::Packed(b) => run(self.table(), pool, &a, b, out, begin),
        }
    }

    /// `b` rounded and laid out once, for several products.
    ///
    /// # Panics
    /// Where `b` is shorter than its shape, or `to` than [`Packed::len_of`] says.
    pub fn pack_right<'a>(&self, pool: &Pool, b: Operand, to: &'a mut [u16]) -> Packed<'a> {
        b.check();
        let len = Packed::len_of(b.rows, b.depth);
        let to = &mut to[..len];
        pack::pack(self.table(), pool, &b, b.depth.div_ceil(2), to.as_chunks_mut::<2>().0.as_chunks_mut::<LANES>().0);
        Packed { values: to, rows: b.rows, depth: b.depth }
    }
}

fn run(table: &Table, pool: &Pool, a: &Operand, b: Packed, out: Target, begin: Begin) {
    let pairs = a.depth.div_ceil(2);
    let panels = b.rows.div_ceil(LANES);
    let packed = b.values.as_chunks::<2>().0.as_chunks::<LANES>().0;
    let (row_blocks, column_blocks) = cut(pool.threads(), a.rows, panels);
    let tiles = a.rows.div_ceil(tile::ROWS);
    pool.run(row_blocks * column_blocks, |task, _| {
        let (row, column) = (task / column_blocks, task % column_blocks);
        // As equal as whole tiles and panels can be.
        let row_at = |row: usize| (row * tiles / row_blocks * tile::ROWS).min(a.rows);
        let column_at = |column: usize| (column * panels / column_blocks * LANES).min(b.rows);
        let (rows, columns) = (row_at(row)..row_at(row + 1), column_at(column)..column_at(column + 1));
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        let block = Block { a, b: packed, pairs, rows, columns, out, begin };
        // SAFETY: the table's ISA is this CPU's. No other task has these rows and columns.
        tile::with_scratch(|scratch| unsafe { (table.gemm_block)(&block, scratch) });
    });
}

/// Into how many blocks of rows and of columns a product is cut: rows as the cache wants them, columns so that every thread has
/// its share even where rows are few.
fn cut(threads: usize, rows: usize, panels: usize) -> (usize, usize) {
    let row_blocks = match rows.div_ceil(BLOCK_ROWS) {
        // The same number for every thread.
        many if many > threads => many.next_multiple_of(threads),
        few => few,
    };
    let wanted = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
    // At least three panels, which are worked on together.
    let column_blocks = wanted.div_ceil(row_blocks).clamp(1, panels.div_ceil(3));
    (row_blocks, column_blocks)
}

/// The pairs of a depth in parts that stay in the first-level cache, as equal as can be.
fn parts(pairs: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = pairs.div_ceil(CACHED_PAIRS).max(1);
    let each = pairs.div_ceil(parts);
    (0..parts).map(move |part| (part * each).min(pairs)..((part + 1) * each).min(pairs))
}

impl Target {
    fn is_bf16(&self) -> bool {
        matches!(self.start, TargetStart::Bf16(_))
    }

    fn at(&self, i: usize, j: usize) -> usize {
        i * self.stride + j
    }

    /// Where row `i` has column `j`: to be read and written by the task whose they are.
    fn pointer(&self, i: usize, j: usize) -> TargetStart {
        match self.start {
            TargetStart::F32(start) => TargetStart::F32(start.wrapping_add(self.at(i, j))),
            TargetStart::Bf16(start) => TargetStart::Bf16(start.wrapping_add(self.at(i, j))),
        }
    }
}
