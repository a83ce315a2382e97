//! What low-rank adapters add to products that were made without them: out_i += B_i (A x), each row with its own adapter or none.
//! Source: Hu et al. 2021, eq. 3; rows of different adapters in one batch: Chen et al. 2023 (Punica), § 4.
//!
//! The matrices are BF16 panels as `panels.rs` has them, x and A x are f32. The numerics, for one output, whatever else is computed
//! beside it: pair p of columns goes to sum p % 4 as acc = fma(w₁, x₁, acc), then acc = fma(w₀, x₀, acc); the result is
//! (s₀ + s₁) + (s₂ + s₃). A row reads nothing but its own, so that neither threads nor the rows beside it change a bit.

use std::ops::Range;

use crate::format::Format;
use crate::ops::{Ops, Table};
use crate::panels::{Panels, WIDTH};
use crate::pool::Pool;
use crate::simd::{BYTES, Simd, load_part, store_part};

/// An adapter's matrices for `N` products of one input.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a, const N: usize> {
    /// The matrices A of those products that are adapted, one below the other: (their number · rank, in).
    pub first: Panels<'a>,
    /// B of each product: (its outputs, rank). `None`: it is not adapted.
    pub second: [Option<Panels<'a>>; N],
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
    /// Row i of the input: `x[i·stride..][..cols]`.
    pub x: &'a [f32],
    pub stride: usize,
    pub cols: usize,
    /// In ascending order, each once.
    pub rows: &'a [AdaptedRow],
    /// The products, (rows, width) each, with their widths.
    pub outs: [(&'a mut [f32], usize); N],
    /// Scratch: `low_stride` for each of `rows`, at least as many as any adapter's `first` has rows.
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
    /// Where shapes differ, rows are not in ascending order, or matrices are not BF16.
    pub fn low_rank<'a, const N: usize>(
        &self,
        pool: &Pool,
        rows: LowRankRows<'_, N>,
        adapter: impl Fn(u32) -> Option<LowRank<'a, N>> + Sync,
        finally: Finally,
    ) {
        let LowRankRows { x, stride, cols, rows, outs, low, low_stride } = rows;
        let widths = outs.each_ref().map(|(_, width)| *width);
        if finally == Finally::Swiglu {
            assert!(N >= 2 && widths[0] == widths[1], "a gate and what goes through it have one width");
        }
        let (mut before, mut most) = (None, 0);
        for AdaptedRow { row, adapter: number } in rows {
            assert!(before.is_none_or(|before| before < *row), "rows in ascending order");
            before = Some(*row);
            let row = *row as usize;
            assert!(row * stride + cols <= x.len() && cols <= stride, "the input has this row");
            for (out, width) in &outs {
                assert!((row + 1) * width <= out.len(), "the products have this row");
            }
            let Some(matrices) = adapter(*number) else { continue };
            let rank = matrices.check(cols, &widths);
            assert!(matrices.first.rows() <= low_stride, "room between the two matrices");
            most = most.max(matrices.values(cols, rank, &widths));
        }
        assert!(rows.len() * low_stride <= low.len(), "room between the two matrices");
        let job = Job {
            table: self.table(),
            x,
            stride,
            cols,
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
    /// Returns the rank.
    fn check(&self, cols: usize, widths: &[usize; N]) -> usize {
        assert_eq!((self.first.format(), self.first.cols()), (Format::BF16, cols), "a first matrix of this input");
        let mut rank = None;
        for (second, width) in self.second.iter().zip(widths) {
            let Some(second) = second else { continue };
            assert_eq!((second.format(), second.rows()), (Format::BF16, *width), "a second matrix of this product");
            assert!(*rank.get_or_insert(second.cols()) == second.cols(), "one rank");
        }
        let adapted = self.second.iter().flatten().count();
        let rank = rank.unwrap_or(0);
        assert_eq!(self.first.rows(), adapted * rank, "a first matrix for each second one");
        rank
    }

    /// Multiplications for one row.
    fn values(&self, cols: usize, rank: usize, widths: &[usize; N]) -> usize {
        let adapted = self.second.iter().zip(widths).filter(|(second, _)| second.is_some());
        self.first.rows() * cols + adapted.map(|(_, width)| rank * width).sum::<usize>()
    }
}

struct Job<'j, F, const N: usize> {
    table: &'static Table,
    x: &'j [f32],
    stride: usize,
    cols: usize,
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
    /// `most`: multiplications that a row may need.
    fn run(&self, pool: &Pool, most: usize) {
        let (threads, count) = (pool.threads(), self.rows.len());
        let row_ns = most / PRODUCTS_PER_NS + 1;
        if count < threads && row_ns > TASK_NS {
            // Fewer rows than threads: each is cut, and cut again when all of it has come down to the rank.
            let ways = threads.div_ceil(count.max(1));
            pool.run(count * ways, |task, _| self.first(task / ways, part(task % ways, ways)));
            pool.run(count * ways, |task, _| self.second(task / ways, part(task % ways, ways)));
            return;
        }
        let chunk = (TASK_NS / row_ns).max(count / (4 * threads)).clamp(1, MOST_ROWS);
        pool.run(count.div_ceil(chunk), |task, _| {
            for at in task * chunk..count.min((task + 1) * chunk) {
                self.first(at, part(0, 1));
                self.second(at, part(0, 1));
            }
        });
    }

    /// low = A x
    fn first(&self, at: usize, part: impl Fn(usize) -> Range<usize>) {
        let AdaptedRow { row, adapter } = self.rows[at];
        let Some(matrices) = (self.adapter)(adapter) else { return };
        let x = &self.x[row as usize * self.stride..][..self.cols];
        // SAFETY: a place of this row's own; `low_rank` has compared the lengths. Parts are whole panels and do not overlap.
        unsafe { self.times(&matrices.first, x, self.low.add(at * self.low_stride), part, false) }
    }

    /// out_i += B_i low
    fn second(&self, at: usize, part: impl Fn(usize) -> Range<usize>) {
        let AdaptedRow { row, adapter } = self.rows[at];
        let matrices = (self.adapter)(adapter);
        let mut number = 0;
        for (i, (out, width)) in self.outs.iter().enumerate() {
            let Some(second) = matrices.and_then(|matrices| matrices.second[i]) else { continue };
            let rank = second.cols();
            // SAFETY: this row's own, written by the job before or by this task; nobody writes it now.
            let low = unsafe { std::slice::from_raw_parts(self.low.add(at * self.low_stride + number * rank), rank) };
            number += 1;
            // SAFETY: as in `first`, of a row of the product.
            unsafe { self.times(&second, low, out.add(row as usize * width), &part, true) }
        }
        if self.finally == Finally::Swiglu {
            let (gate, width) = self.outs[0];
            let columns = part(width.div_ceil(WIDTH));
            let columns = columns.start * WIDTH..width.min(columns.end * WIDTH);
            let start = row as usize * width + columns.start;
            // SAFETY: the columns that this task has just completed.
            let (gate, up) = unsafe {
                let up = std::slice::from_raw_parts(self.outs[1].0.add(start), columns.len());
                (std::slice::from_raw_parts_mut(gate.add(start), columns.len()), up)
            };
            // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
            unsafe { (self.table.swiglu)(gate, up) }
        }
    }

    /// A part of the panels of `w` times `x`.
    ///
    /// # Safety
    /// `out` has as many values as `w` has rows; no other task has this part of it.
    unsafe fn times(&self, w: &Panels, x: &[f32], out: *mut f32, part: impl Fn(usize) -> Range<usize>, add: bool) {
        let panels = w.rows().div_ceil(WIDTH);
        let part = part(panels);
        if part.is_empty() {
            return;
        }
        let panel_bytes = w.bytes().len() / panels;
        let end = (part.end * WIDTH).min(w.rows());
        // SAFETY: by the contract.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(part.start * WIDTH), end - part.start * WIDTH) };
        let bytes = &w.bytes()[part.start * panel_bytes..part.end * panel_bytes];
        // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
        unsafe { (self.table.low_rank)(bytes, x, out, add) }
    }
}

/// Panels of part `part` of `ways`, for each number of them.
fn part(part: usize, ways: usize) -> impl Fn(usize) -> Range<usize> {
    move |panels| panels * part / ways..panels * (part + 1) / ways
}

/// Whole panels of BF16 pairs times one row: out (= or +=) panels · x.
#[inline(always)]
pub(crate) fn times<S: Simd>(s: S, panels: &[u8], x: &[f32], out: &mut [f32], add: bool) {
    let (xs, odd) = x.as_chunks::<2>();
    let panel_bytes = (xs.len() + odd.len()) * BYTES;
    assert_eq!(panels.len(), out.len().div_ceil(WIDTH) * panel_bytes, "a panel for every sixteen outputs");
    let (quads, rest) = xs.as_chunks::<SUMS>();
    for (panel, out) in panels.chunks_exact(panel_bytes.max(1)).zip(out.chunks_mut(WIDTH)) {
        let (weights, last) = panel.as_chunks::<BYTES>().0.as_chunks::<SUMS>();
        let mut sums = [s.splat(0.0); SUMS];
        for (w, x) in weights.iter().zip(quads) {
            for i in 0..SUMS {
                sums[i] = pair(s, sums[i], &w[i], x[i]);
            }
        }
        for (i, (w, x)) in last.iter().zip(rest).enumerate() {
            sums[i] = pair(s, sums[i], w, *x);
        }
        if let [x] = odd {
            let at = xs.len() % SUMS;
            let w = &panel.as_chunks::<BYTES>().0[xs.len()];
            sums[at] = s.fma(s.bf16_pairs(w).0, s.splat(*x), sums[at]);
        }
        let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
        match <&mut [f32; WIDTH]>::try_from(&mut *out) {
            Ok(out) if add => s.store(s.add(s.load(out), sum), out),
            Ok(out) => s.store(sum, out),
            Err(_) if add => {
                let sum = s.add(load_part(s, out), sum);
                store_part(s, sum, out);
            }
            Err(_) => store_part(s, sum, out),
        }
    }
}

#[inline(always)]
fn pair<S: Simd>(s: S, sum: S::F, w: &[u8; BYTES], x: [f32; 2]) -> S::F {
    let (first, second) = s.bf16_pairs(w);
    s.fma(first, s.splat(x[0]), s.fma(second, s.splat(x[1]), sum))
}

/// Independent sums, so that one addition need not wait for the one before.
const SUMS: usize = 4;
const PRODUCTS_PER_NS: usize = 30;
/// A task shorter than this is mostly overhead.
const TASK_NS: usize = 4000;
/// Rows of one task: enough for what several rows of one adapter read to stay near.
const MOST_ROWS: usize = 16;
