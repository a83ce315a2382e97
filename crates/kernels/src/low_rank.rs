//! What low-rank adapters add to products that were made without them: out_i += B_i (A x), each row with its own adapter or none.
//! Source: Hu et al. 2021, eq. 3; rows of different adapters in one batch: Chen et al. 2023 (Punica), § 4.
//!
//! The matrices have eight bits, as `low_rank/layout.rs` says; x and A x are rounded to 8-bit blocks of 32, as `Activations` has them.
//! The numerics, for one output, whatever else is computed beside it: acc = 0; for each block in order, isum = Σ q_w·q_x, an exact
//! i32; acc = fma(f32(isum), block's scale, acc). A x is acc · row's scale (of rows that have several lanes each lane so, and then the
//! lanes by a tree); out = fma(acc, row's scale, out). A row reads nothing but its own, so that neither threads nor the rows beside
//! it change a bit. Against exact matrices, with a = largest |A| of a row, b of B's row, x̂ = largest |x| of a block, l̂ of A x's:
//! |Δ(A x)| ≤ Σ (a·|x| + x̂·|A| + a·x̂/254) / 254, |Δout| ≤ Σ (|B|·|Δ(A x)| + (1.01·b·(|A x| + |Δ|) + l̂·|B| + b·l̂/250) / 250).

mod kernel;
mod layout;

use std::cell::RefCell;
use std::ops::Range;

use crate::activations::{Activations, BLOCK, BlockRow, BlockRowMut};
use crate::buffer::AlignedVec;
use crate::format::Format;
use crate::matmul::grown;
use crate::ops::{Ops, Table};
use crate::pool::Pool;

use kernel::ROWS;
pub(crate) use kernel::{Row, first, second};
pub use layout::Matrices;
use layout::UNIT;
pub(crate) use layout::{First, Second};

/// An adapter's matrices for `N` products of one input.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a, const N: usize> {
    cols: usize,
    rank: usize,
    /// Outputs of each product. `None`: it is not adapted.
    widths: [Option<usize>; N],
    // INVARIANT: as long as `bytes_for` says.
    bytes: &'a [u8],
}

/// A row of the batch, and by which adapter it is changed, in the caller's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptedRow {
    pub row: u32,
    pub adapter: u32,
}

/// What rows of adapters read and change.
#[derive(Debug)]
pub struct LowRankRows<'a, const N: usize> {
    /// The input, in blocks.
    pub x: &'a Activations,
    /// In ascending order, each once.
    pub rows: &'a [AdaptedRow],
    /// The products, (rows, width) each, with their widths.
    pub outs: [(&'a mut [f32], usize); N],
    /// Scratch: `low_stride` for each of `rows`, at least the rank times the products that any adapter changes.
    pub low: &'a mut [f32],
    pub low_stride: usize,
}

/// What becomes of the first two products of a row when they are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finally {
    Nothing,
    /// out₀ = silu(out₀)·out₁
    Swiglu,
}

impl Ops {
    /// Adds to each row of `rows` what the adapter that `adapter` gives for it makes of its input, in one or two jobs of the pool.
    ///
    /// # Panics
    /// Where shapes differ, rows are not in ascending order, or the input is not there in blocks.
    pub fn low_rank<'a, const N: usize>(
        &self,
        pool: &Pool,
        rows: LowRankRows<'_, N>,
        adapter: impl Fn(u32) -> Option<LowRank<'a, N>> + Sync,
        finally: Finally,
    ) {
        let LowRankRows { x, rows, outs, low, low_stride } = rows;
        let widths = outs.each_ref().map(|(_, width)| *width);
        if finally == Finally::Swiglu {
            assert!(N >= 2 && widths[0] == widths[1], "a gate and what goes through it have one width");
        }
        assert!(x.serves(Format::Q8_0), "the input in blocks");
        let (mut before, mut most) = (None, 0);
        for AdaptedRow { row, adapter: number } in rows {
            assert!(before.is_none_or(|before| before < *row), "rows in ascending order");
            before = Some(*row);
            let row = *row as usize;
            assert!(row < x.rows(), "the input has this row");
            for (out, width) in &outs {
                assert!((row + 1) * width <= out.len(), "the products have this row");
            }
            let Some(matrices) = adapter(*number) else { continue };
            matrices.check(x.cols(), &widths);
            assert!(matrices.low_values() <= low_stride, "room between the two matrices");
            most = most.max(matrices.bytes.len());
        }
        assert!(rows.len() * low_stride <= low.len(), "room between the two matrices");
        let job = Job {
            table: self.table(),
            x,
            rows,
            outs: outs.map(|(out, width)| (out.as_mut_ptr(), width)),
            low: low.as_mut_ptr(),
            low_stride,
            adapter: &adapter,
            finally,
        };
        job.run(pool, most);
    }
}

impl<const N: usize> LowRank<'_, N> {
    /// Values between the matrices: rows of the first.
    fn low_values(&self) -> usize {
        self.widths.iter().flatten().count() * self.rank
    }

    fn check(&self, cols: usize, widths: &[usize; N]) {
        assert_eq!(self.cols, cols, "a first matrix of this input");
        for (ours, width) in self.widths.iter().zip(widths) {
            assert!(ours.is_none_or(|ours| ours == *width), "a second matrix of this product");
        }
    }
}

struct Job<'j, F, const N: usize> {
    table: &'static Table,
    x: &'j Activations,
    rows: &'j [AdaptedRow],
    outs: [(*mut f32, usize); N],
    low: *mut f32,
    low_stride: usize,
    adapter: &'j F,
    finally: Finally,
}

// SAFETY: tasks write rows, or parts of rows, of their own.
unsafe impl<F: Sync, const N: usize> Sync for Job<'_, F, N> {}

impl<'a, F: Fn(u32) -> Option<LowRank<'a, N>> + Sync, const N: usize> Job<'_, F, N> {
    /// `most`: bytes that a row may need.
    fn run(&self, pool: &Pool, most: usize) {
        let (threads, count) = (pool.threads(), self.rows.len());
        let row_ns = most / BYTES_PER_NS + 1;
        if count < threads && row_ns > SPLIT_NS {
            // Fewer rows than threads: each is cut, and cut again when all of it has come down to the rank.
            let ways = threads.div_ceil(count.max(1));
            let row = |task: usize| task / ways..task / ways + 1;
            pool.run(count * ways, |task, _| self.first(row(task), part(task % ways, ways)));
            pool.run(count * ways, |task, _| self.second(row(task), part(task % ways, ways)));
            return;
        }
        let chunk = (TASK_NS / row_ns).max(count / (4 * threads)).min(count.div_ceil(threads)).clamp(1, MOST_ROWS);
        pool.run(count.div_ceil(chunk), |task, _| {
            let end = count.min((task + 1) * chunk);
            let mut at = task * chunk;
            while at < end {
                let same = self.rows[at..end].iter().take(ROWS).take_while(|row| row.adapter == self.rows[at].adapter);
                let next = at + same.count();
                self.first(at..next, part(0, 1));
                self.second(at..next, part(0, 1));
                at = next;
            }
        });
    }

    /// low = A x, of rows with one adapter
    fn first(&self, rows: Range<usize>, part: impl Fn(usize) -> Range<usize>) {
        let Some(matrices) = (self.adapter)(self.rows[rows.start].adapter) else { return };
        let first = matrices.first();
        let panels = part(first.panels());
        let (start, end) = (first.place(panels.start).1, first.place(panels.end).1);
        let (mut xs, mut lows) = ([Row::default(); ROWS], no_slices());
        for (i, at) in rows.clone().enumerate() {
            xs[i] = Row::new(self.x.block_row(self.rows[at].row as usize));
            // SAFETY: a place of this row's own; `low_rank` has compared the lengths. Parts are whole panels and do not overlap.
            lows[i] =
                unsafe { std::slice::from_raw_parts_mut(self.low.add(at * self.low_stride + start), end - start) };
        }
        // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
        unsafe { (self.table.low_rank_first)(&first, panels, &xs[..rows.len()], &mut lows[..rows.len()]) }
    }

    /// out_i += B_i low, of rows with one adapter
    fn second(&self, rows: Range<usize>, part: impl Fn(usize) -> Range<usize>) {
        if let Some(matrices) = (self.adapter)(self.rows[rows.start].adapter) {
            LOWS.with_borrow_mut(|lows| self.add(&matrices, rows.clone(), &part, lows));
        }
        if self.finally == Finally::Swiglu {
            let width = self.outs[0].1;
            let columns = columns(&part, width);
            for at in rows {
                let gate = self.out(0, at, &columns);
                // SAFETY: the columns that this task has just completed; nobody writes them now.
                let up = unsafe {
                    let up = self.outs[1].0.add(self.rows[at].row as usize * width + columns.start);
                    std::slice::from_raw_parts(up, columns.len())
                };
                // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
                unsafe { (self.table.swiglu)(gate, up) }
            }
        }
    }

    fn add(&self, matrices: &LowRank<N>, rows: Range<usize>, part: &impl Fn(usize) -> Range<usize>, lows: &mut Lows) {
        let rank = matrices.rank;
        let blocks = rank.div_ceil(BLOCK);
        lows.reserve(ROWS * N * blocks);
        for (i, at) in rows.clone().enumerate() {
            // SAFETY: this row's own, written by the job before or by this task; nobody writes it now.
            let low = unsafe { std::slice::from_raw_parts(self.low.add(at * self.low_stride), matrices.low_values()) };
            for (number, low) in low.chunks_exact(rank).enumerate() {
                let mut to = lows.place(i * N + number, blocks);
                // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
                unsafe { (self.table.quantize_activations)(low, &mut to) }
            }
        }
        let mut number = 0;
        for (i, (_, width)) in self.outs.iter().enumerate() {
            let Some(mut second) = matrices.second(i) else { continue };
            let columns = columns(part, *width);
            let unit_bytes = Second::unit_bytes(second.quads);
            second.bytes = &second.bytes[columns.start / UNIT * unit_bytes..columns.end.div_ceil(UNIT) * unit_bytes];
            let (mut xs, mut outs) = ([Row::default(); ROWS], no_slices());
            for (j, at) in rows.clone().enumerate() {
                xs[j] = Row::new(lows.row(j * N + number, blocks));
                outs[j] = self.out(i, at, &columns);
            }
            number += 1;
            // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
            unsafe { (self.table.low_rank_second)(&second, &xs[..rows.len()], &mut outs[..rows.len()]) }
        }
    }

    /// Columns of product `i`, in the row of place `at`.
    #[expect(clippy::mut_from_ref, reason = "a task holds columns of its own")]
    fn out(&self, i: usize, at: usize, columns: &Range<usize>) -> &mut [f32] {
        let (out, width) = self.outs[i];
        debug_assert!(columns.start <= columns.end && columns.end <= width);
        // SAFETY: `low_rank` has compared the lengths; each place is another row, parts of a row do not overlap, and a task makes one
        // slice of a product's row at a time.
        unsafe {
            let start = out.add(self.rows[at].row as usize * width + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }
}

/// Part `part` of `ways`, of so many units.
fn part(part: usize, ways: usize) -> impl Fn(usize) -> Range<usize> {
    move |units| units * part / ways..units * (part + 1) / ways
}

/// A part of a row's outputs: whole units.
fn columns(part: &impl Fn(usize) -> Range<usize>, width: usize) -> Range<usize> {
    let units = part(width.div_ceil(UNIT));
    width.min(units.start * UNIT)..width.min(units.end * UNIT)
}

fn no_slices<'a>() -> [&'a mut [f32]; ROWS] {
    std::array::from_fn(|_| <&mut [f32]>::default())
}

/// A x of some rows in blocks, of each product: what a thread keeps between tasks.
#[derive(Default)]
struct Lows {
    quants: AlignedVec<i8>,
    /// Per block: scale, and what `BlockRowMut` has beside.
    floats: [AlignedVec<f32>; 2],
    ints: [AlignedVec<i32>; 2],
}

impl Lows {
    fn reserve(&mut self, blocks: usize) {
        grown(&mut self.quants, blocks * BLOCK);
        self.floats.iter_mut().for_each(|floats| _ = grown(floats, blocks));
        self.ints.iter_mut().for_each(|ints| _ = grown(ints, blocks));
    }

    fn place(&mut self, place: usize, blocks: usize) -> BlockRowMut<'_> {
        let range = place * blocks..(place + 1) * blocks;
        let [scales, sums] = &mut self.floats;
        let [totals, firsts] = &mut self.ints;
        BlockRowMut {
            quants: &mut self.quants[range.start * BLOCK..range.end * BLOCK],
            scales: &mut scales[range.clone()],
            sums: &mut sums[range.clone()],
            totals: &mut totals[range.clone()],
            firsts: &mut firsts[range],
        }
    }

    fn row(&self, place: usize, blocks: usize) -> BlockRow<'_> {
        let range = place * blocks..(place + 1) * blocks;
        BlockRow {
            quants: &self.quants[range.start * BLOCK..range.end * BLOCK],
            scales: &self.floats[0][range.clone()],
            sums: &self.floats[1][range.clone()],
            totals: &self.ints[0][range.clone()],
            firsts: &self.ints[1][range],
        }
    }
}

thread_local! {
    static LOWS: RefCell<Lows> = RefCell::default();
}

/// What one thread reads.
const BYTES_PER_NS: usize = 12;
/// A row longer than this is worth two jobs.
const SPLIT_NS: usize = 4000;
/// A task shorter than this is mostly overhead.
const TASK_NS: usize = 1000;
/// Rows of one task: enough for what several rows of one adapter read to stay near.
const MOST_ROWS: usize = 16;
