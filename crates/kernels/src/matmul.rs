//! Products of activations with weights: `out[m][n] = Σ_k x[m][k]·w[n][k]`, alone, added to what is there, or gated.
//! Which kernel runs is decided here; the kernels are in `blocks.rs` (quantised), `pairs.rs` (BF16) and `float.rs` (F32, F16).
//!
//! The numerics, for one output, whatever else is computed beside it:
//! - **Quantised:** acc = 0; for each block of 32 columns in order (each 16 in Q6_K): isum = Σ (q_w − zero)·q_x, an exact i32;
//!   acc = fma(f32(isum), ws·as, acc) with the weight block's scale ws (d·sc is exact) and the activation block's scale `as`. Formats
//!   with minima (Q4_K, Q5_K) then do acc = fma(−wmin, as·Σq_x, acc).
//! - **BF16:** activations rounded to bf16; acc = 0; for each pair of columns acc = fma(w₁, x₁, acc), then acc = fma(w₀, x₀, acc). That is
//!   what Zen 4's `vdpbf16ps` does, checked on two million random pairs; it also takes denormals for zero, so that numbers below
//!   2^-126 (which no weight, activation or sum of a model comes near) may differ between ISAs.
//! - **F32, F16:** column k goes to lane k % 16 with fused multiply-adds; the lanes are added by one tree (`Simd::sum`).
//!
//! Nothing depends on how many rows or tasks are in flight, so tiles, chunks and blocking change freely.

mod blocks;
mod float;
#[cfg(target_arch = "x86_64")]
pub(crate) mod halves;
mod pairs;
mod quants;
mod rows;
mod scratch;
mod tile;

use std::ops::Range;

use crate::activations::Activations;
use crate::format::Format;
use crate::isa::Isa;
use crate::ops::Table;
use crate::panels::{WIDTH, WeightView};
use crate::pool::Pool;

pub(crate) use blocks::panel as quantized_panel;
pub(crate) use float::{F16, F32};
pub(crate) use pairs::{panel as bf16_panel, shifted_panel};
#[cfg(target_arch = "x86_64")]
pub(crate) use quants::Quants;
pub(crate) use rows::{Columns, matmul_rows};
pub(crate) use scratch::Scratch;
pub(crate) use scratch::grown;

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// out = product.
    Store,
    /// out += product.
    Add,
}

/// `out` (rows.len(), w.rows) takes the activations' rows `rows` times `w`.
#[derive(Debug)]
pub struct Product<'a> {
    pub w: WeightView<'a>,
    pub rows: Range<usize>,
    pub out: &'a mut [f32],
    pub then: Then,
}

/// `out` (rows.len(), up.rows) = silu(x·gate)·(x·up): the inner half of SwiGLU. Source: Shazeer 2020, without bias.
#[derive(Debug)]
pub struct Gated<'a> {
    pub gate: WeightView<'a>,
    pub up: WeightView<'a>,
    pub rows: Range<usize>,
    pub out: &'a mut [f32],
}

/// A product as tasks see it.
struct Item<'a> {
    w: WeightView<'a>,
    up: Option<WeightView<'a>>,
    rows: Range<usize>,
    out: *mut [f32],
    then: Then,
}

/// Items of which the tasks write disjoint columns.
pub(crate) trait Work {
    /// # Safety
    /// `of` must point to a value that lives as long as the item; nobody may use its result meanwhile but through such items.
    #[expect(private_interfaces, reason = "only this module calls it")]
    unsafe fn item<'a>(of: *const Self) -> Item<'a>
    where
        Self: 'a;
}

impl Work for Product<'_> {
    #[expect(private_interfaces, reason = "only this module calls it")]
    unsafe fn item<'a>(of: *const Self) -> Item<'a>
    where
        Self: 'a,
    {
        // SAFETY: it lives, by the contract. The result is read as a pointer, which has the layout of a reference, so that no two
        // tasks ever hold a reference to the whole of it.
        unsafe {
            let rows = (*of).rows.clone();
            Item {
                w: (*of).w,
                up: None,
                rows,
                out: (&raw const (*of).out).cast::<*mut [f32]>().read(),
                then: (*of).then,
            }
        }
    }
}

impl Work for Gated<'_> {
    #[expect(private_interfaces, reason = "only this module calls it")]
    unsafe fn item<'a>(of: *const Self) -> Item<'a>
    where
        Self: 'a,
    {
        // SAFETY: as above.
        unsafe {
            let (rows, out) = ((*of).rows.clone(), (&raw const (*of).out).cast::<*mut [f32]>().read());
            Item { w: (*of).gate, up: Some((*of).up), rows, out, then: Then::Store }
        }
    }
}

impl Item<'_> {
    fn check(&self, x: &Activations) {
        for w in [Some(self.w), self.up].into_iter().flatten() {
            assert_eq!(x.cols(), w.cols(), "activations and weights have the same columns");
            assert!(x.serves(w.format()), "the activations were set for {} weights", w.format());
            if let WeightView::Rows(matrix) = w {
                assert!(!w.format().has_panels(), "products read {} weights in panels", w.format());
                // The fields of a matrix are public; a product that wraps around must not pass for a length.
                let bytes = matrix.format.row_bytes(matrix.cols).and_then(|bytes| bytes.checked_mul(matrix.rows));
                assert_eq!(Some(matrix.bytes.len()), bytes, "whole rows of weights");
            }
            assert_eq!(w.rows(), self.w.rows(), "gate and up have the same rows");
        }
        assert!(self.rows.start <= self.rows.end && self.rows.end <= x.rows(), "the activations have these rows");
        let len = self.rows.len().checked_mul(self.w.rows());
        assert_eq!(Some(self.out.len()), len, "the result is (activation rows, weight rows)");
    }

    /// Groups of sixteen weight rows.
    fn units(&self) -> usize {
        if self.rows.is_empty() { 0 } else { self.w.rows().div_ceil(WIDTH) }
    }

    /// What one unit costs, in nanoseconds of one thread, roughly.
    fn unit_ns(&self) -> usize {
        let format = self.w.format();
        let values = WIDTH * self.w.cols() * if self.up.is_some() { 2 } else { 1 };
        let bytes = values / format.block_len() * format.block_bytes();
        (bytes / BYTES_PER_NS).max(values * self.rows.len() / PRODUCTS_PER_NS).max(1)
    }
}

/// Calls `found` with the item and the units of task `task`; returns how many tasks there are up to that one, or in all. A task takes
/// its share of what is left, so that tasks are large at first, which streams best, and small at last, which ends them together;
/// none is so small that it is mostly overhead.
fn task<'a>(
    threads: usize,
    count: usize,
    item: impl Fn(usize) -> Item<'a>,
    wanted: usize,
    mut found: impl FnMut(Item<'a>, Range<usize>),
) -> usize {
    let mut left_ns: usize = (0..count).map(&item).map(|item| item.units() * item.unit_ns()).sum();
    let mut tasks = 0;
    for i in 0..count {
        let item = item(i);
        let (units, unit_ns) = (item.units(), item.unit_ns());
        let mut next = 0;
        while next < units {
            let share = if threads == 1 { left_ns } else { (left_ns / (SHARES * threads)).max(TASK_NS) };
            let end = units.min(next + share.div_ceil(unit_ns));
            if tasks == wanted {
                found(item, next..end);
                return tasks;
            }
            left_ns -= (end - next) * unit_ns;
            (tasks, next) = (tasks + 1, end);
        }
    }
    tasks
}

const BYTES_PER_NS: usize = 12;
const PRODUCTS_PER_NS: usize = 150;
/// A task shorter than this is mostly overhead.
const TASK_NS: usize = 4000;
/// A task takes one of so many shares of what is left for each thread.
const SHARES: usize = 2;
/// Activation rows that pass over an expanded panel at once; bounds the scratch.
const ROWS: usize = 512;

struct Shared<T>(*const T);
// SAFETY: tasks read the items, and write disjoint columns of their results.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, i: usize) -> *const T {
        self.0.wrapping_add(i)
    }
}

/// Everything in one job of the pool.
pub(crate) fn run<T: Work>(table: &'static Table, pool: &Pool, x: &Activations, work: &mut [T]) {
    let (count, shared) = (work.len(), Shared(work.as_mut_ptr().cast_const()));
    // SAFETY: `work` is borrowed exclusively until the end of this function, for `count` values.
    let item = |i: usize| unsafe { T::item(shared.at(i)) };
    let threads = pool.threads();
    for i in 0..count {
        item(i).check(x);
    }
    let tasks = task(threads, count, item, usize::MAX, |_, _| ());
    pool.run(tasks, |number, _| {
        let shared = &shared;
        // SAFETY: as above.
        let item = |i: usize| unsafe { T::item(shared.at(i)) };
        task(threads, count, item, number, |item, units| {
            scratch::with(|scratch| item_units(table, x, &item, units, scratch));
        });
    });
}

fn item_units(table: &Table, x: &Activations, item: &Item, units: Range<usize>, scratch: &mut Scratch) {
    #[cfg(target_arch = "x86_64")]
    let _session = (table.isa == Isa::Amx).then(crate::amx::Session::begin);
    let mut tiles = std::mem::take(&mut scratch.tiles);
    let pass = rows_per_pass(table, item.w);
    for first in item.rows.clone().step_by(pass) {
        let end = item.rows.end.min(first.saturating_add(pass));
        let mut unit = units.start;
        while unit < units.end {
            let pair = table.panel_pair.zip(panel_pair(item, unit..units.end));
            // Two units at once, or a gate with its up, which is one.
            let both = pair.is_some() && item.up.is_none();
            for first in (first..end).step_by(ROWS) {
                let rows = first..end.min(first + ROWS);
                let [tile, second] = &mut tiles;
                let tile = scratch::grown(tile, rows.len() * WIDTH);
                let second = scratch::grown(second, if both || item.up.is_some() { rows.len() * WIDTH } else { 0 });
                if let Some((kernel, panels)) = pair {
                    let tiles = [tile.as_chunks_mut().0, second.as_chunks_mut().0];
                    // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
                    unsafe { kernel(panels, x, rows, tiles) }
                } else {
                    unit_of(table, item.w, x, unit, rows.clone(), scratch, tile);
                    if let Some(up) = item.up {
                        unit_of(table, up, x, unit, rows, scratch, second);
                    }
                }
                if item.up.is_some() {
                    // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
                    unsafe { (table.swiglu)(tile, second) }
                }
                put(item, unit, first, tile);
                if both {
                    put(item, unit + 1, first, second);
                }
            }
            unit += if both { 2 } else { 1 };
        }
    }
    scratch.tiles = tiles;
}

/// What `Table::panel_pair` takes at once: two units' panels, or a unit's gate and up.
fn panel_pair<'a>(item: &Item<'a>, units: Range<usize>) -> Option<[&'a [u8]; 2]> {
    match (item.w, item.up) {
        (WeightView::Panels(w), None) if w.format() == Format::BF16 && units.len() > 1 => {
            Some([w.panel(units.start), w.panel(units.start + 1)])
        }
        (WeightView::Panels(w), Some(WeightView::Panels(up))) if [w.format(), up.format()] == [Format::BF16; 2] => {
            Some([w.panel(units.start), up.panel(units.start)])
        }
        _ => None,
    }
}

/// AMX tiles read activations faster than the third-level cache gives them: as many rows as stay in the second while all units of
/// a task pass over them. Elsewhere a unit has all rows before the next one comes.
fn rows_per_pass(table: &Table, w: WeightView) -> usize {
    if table.isa != Isa::Amx {
        return usize::MAX;
    }
    let row_bytes = w.cols() * if w.format() == Format::BF16 { 2 } else { 1 };
    (PASS_BYTES / row_bytes.max(1) / 32 * 32).clamp(32, ROWS)
}

const PASS_BYTES: usize = 512 << 10;

/// Weight rows of `unit` times the activations' `rows`, into tile (rows, 16).
fn unit_of(
    table: &Table,
    w: WeightView,
    x: &Activations,
    unit: usize,
    rows: Range<usize>,
    scratch: &mut Scratch,
    tile: &mut [f32],
) {
    match w {
        WeightView::Panels(panels) => {
            let kernel = table.panel[panel_index(panels.format())];
            // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
            unsafe { kernel(panels.panel(unit), x, rows, scratch, tile.as_chunks_mut().0) }
        }
        WeightView::Rows(matrix) => {
            let kernel = if matrix.format == Format::F16 { table.rows_f16 } else { table.rows_f32 };
            let (first, end) = (unit * WIDTH, matrix.rows.min((unit + 1) * WIDTH));
            let columns = Columns::new(tile, rows.start, first, WIDTH);
            // SAFETY: the CPU has the table's ISA, by the invariant of `Ops`.
            unsafe { kernel(&matrix, x, first..end, rows, &columns) }
        }
    }
}

/// The tile of `unit` for the rows from `first` on, into the result.
fn put(item: &Item, unit: usize, first: usize, tile: &[f32]) {
    let stride = item.w.rows();
    let (column, width) = (unit * WIDTH, WIDTH.min(stride - unit * WIDTH));
    for (m, sums) in tile.as_chunks::<WIDTH>().0.iter().enumerate() {
        let at = (first - item.rows.start + m) * stride + column;
        // SAFETY: inside the result, whose length `check` compared; only this task writes these columns.
        let out = unsafe { std::slice::from_raw_parts_mut(item.out.cast::<f32>().add(at), width) };
        match item.then {
            Then::Store => out.copy_from_slice(&sums[..width]),
            Then::Add => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
        }
    }
}

/// The formats of panels, as types for the generic code.
pub(crate) mod panel_formats {
    pub(crate) use super::quants::{Q4_0, Q4_K, Q5_K, Q6_K, Q8_0};
}

/// The order of `Table::panel`.
fn panel_index(format: Format) -> usize {
    match format {
        Format::BF16 => 0,
        Format::Q8_0 => 1,
        Format::Q4_0 => 2,
        Format::Q4_K => 3,
        Format::Q5_K => 4,
        Format::Q6_K => 5,
        Format::F32 | Format::F16 => unreachable!("these have no panels"),
    }
}
