//! Causal attention inside documents, made of tiles of eight query rows: their scores with the keys that they see, the softmax, and
//! the sums of values follow one another while all of it lies in the first-level cache. A task has some query rows (forward) or
//! all rows (backward, `attention/slopes.rs`) of one document and one kv head. Every chain begins at its document's start,
//! wherever that lies in the batch; what a row does not see has the share 0, and adds nothing.

mod slopes;

use std::cell::RefCell;
use std::ops::Range;

use super::{Heads, Span, rows};
use crate::buffer::AlignedVec;
use crate::exp::exp2_or_zero;
use crate::gemm::{LANES, Operand, ROWS, Tile, Values};
use crate::math::ln;
use crate::matmul::{Then, grown};
use crate::ops::Table;
use crate::simd::Simd;

pub(crate) use slopes::{Outputs, backward};

/// Query rows of a block, for which keys and values are packed once. Even, so that pairs of rows never cross one, and a multiple
/// of the lanes.
pub(super) const BLOCK_ROWS: usize = 128;

/// What all tasks share.
pub(crate) struct Attention<'a> {
    pub qkv: &'a [u16],
    pub shape: Heads,
    pub window: Option<usize>,
    pub scale: f32,
    /// The products of the ISA, behind pointers: written out at each of their places they would be most of this crate's code.
    pub table: &'static Table,
}

/// One document's rows in the batch; `rows` of it are the task's, counted from its start.
pub(crate) struct Part {
    pub document: Span,
    pub rows: Range<usize>,
    pub kv_head: usize,
}

/// What a thread keeps between tasks.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Keys and values as right operands: for scores, and for sums over keys.
    keys: AlignedVec<u16>,
    values: AlignedVec<u16>,
    across: AlignedVec<u16>,
    /// (ROWS, keys)
    scores: AlignedVec<f32>,
    shares: AlignedVec<u16>,
    /// (ROWS, E)
    sums: AlignedVec<f32>,
    slopes: slopes::Scratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(super) fn with_scratch(f: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(f);
}

/// Up to eight query rows, and the keys that they see.
struct Eight {
    /// Of the document.
    rows: Range<usize>,
    /// The first key's place in the block: a multiple of the lanes, so that a key's lane depends on its place alone.
    first: usize,
    /// Behind the last.
    end: usize,
    /// Of sixteen keys.
    panels: usize,
}

impl Attention<'_> {
    fn columns(&self) -> usize {
        (self.shape.heads + 2 * self.shape.kv_heads) * self.shape.head_dim
    }

    /// Where a head of the document's row begins in qkv: 0..H queries, then keys, then values.
    fn at(&self, document: Span, row: usize, head: usize) -> usize {
        (document.start + row) * self.columns() + head * self.shape.head_dim
    }

    /// `rows` of a head: (rows, E).
    fn rows(&self, document: Span, rows: Range<usize>, head: usize) -> Operand<'_> {
        let values = Values::Bf16(&self.qkv[self.at(document, rows.start, head)..]);
        Operand::rows(values, rows.len(), self.shape.head_dim).with_stride(self.columns())
    }

    /// The same as (E, rows).
    fn across(&self, document: Span, rows: Range<usize>, head: usize) -> Operand<'_> {
        let values = Values::Bf16(&self.qkv[self.at(document, rows.start, head)..]);
        Operand::transposed(values, self.shape.head_dim, rows.len()).with_stride(self.columns())
    }

    /// The keys that some of `rows` see. From a multiple of the lanes on, which is even, so that pairs of keys are the document's.
    fn seen(&self, rows: &Range<usize>) -> Range<usize> {
        self.first_seen(rows.start) / LANES * LANES..rows.end
    }

    fn first_seen(&self, row: usize) -> usize {
        self.window.map_or(0, |window| (row + 1).saturating_sub(window))
    }

    fn eight(&self, start: usize, end: usize, seen: &Range<usize>) -> Eight {
        let rows = start..(start + ROWS).min(end);
        let first = self.first_in(start, seen);
        let end = rows.end - seen.start;
        Eight { rows, first, end, panels: (end - first).div_ceil(LANES) }
    }

    /// The place of the first of the sixteen keys of which the eight rows from `start` on see one.
    fn first_in(&self, start: usize, seen: &Range<usize>) -> usize {
        (self.first_seen(start) - seen.start) / LANES * LANES
    }

    fn key_head(&self, kv_head: usize) -> usize {
        self.shape.heads + kv_head
    }

    fn value_head(&self, kv_head: usize) -> usize {
        self.shape.heads + self.shape.kv_heads + kv_head
    }
}

/// Panels of an operand, one behind the other.
#[derive(Clone, Copy)]
struct Packed<'a> {
    panels: &'a [[[u16; 2]; LANES]],
    pairs: usize,
}

/// `b` packed as products read it.
fn packed<'a>(table: &Table, b: &Operand, buffer: &'a mut AlignedVec<u16>) -> Packed<'a> {
    let pairs = b.depth.div_ceil(2);
    let panels = b.rows.div_ceil(LANES);
    let to = grown(buffer, panels * pairs * LANES * 2).as_chunks_mut::<2>().0.as_chunks_mut::<LANES>().0;
    for panel in 0..panels {
        let rows = panel * LANES..((panel + 1) * LANES).min(b.rows);
        // SAFETY: the table's ISA is this CPU's.
        unsafe { (table.gemm_pack)(b, rows, 0..pairs, &mut to[panel * pairs..][..pairs]) };
    }
    Packed { panels: to, pairs }
}

/// Eight rows, and how many pairs their next pair lies further.
#[derive(Clone, Copy)]
struct Lines {
    starts: [*const [u16; 2]; ROWS],
    step: usize,
}

/// Eight rows of `from`, `first` values into each; where there are fewer, the last one again.
fn lines(from: &[u16], stride: usize, rows: usize, first: usize) -> Lines {
    let mut starts = [std::ptr::null(); ROWS];
    for (i, start) in starts.iter_mut().enumerate() {
        *start = from[i.min(rows - 1) * stride + first..].as_ptr().cast();
    }
    Lines { starts, step: 1 }
}

/// Eight rows, of which the pairs of `b` from `first` on are used, times `panels` of it from `panel` on. out: (ROWS, width).
///
/// # Safety
/// The rows have `pairs` pairs. All else is checked.
unsafe fn multiply(
    table: &Table,
    a: Lines,
    b: Packed,
    (panel, panels): (usize, usize),
    (first, pairs): (usize, usize),
    out: &mut [f32],
    width: usize,
    then: Then,
) {
    assert!((panel + panels) * b.pairs <= b.panels.len() && first + pairs <= b.pairs, "the panels are there");
    assert!(out.len() >= (ROWS - 1) * width + panels * LANES, "and so is room");
    for from in (0..panels).step_by(3) {
        let tile = Tile {
            a: a.starts,
            step: a.step,
            b: b.panels[(panel + from) * b.pairs + first..].as_ptr(),
            stride: b.pairs,
            pairs,
            panels: (panels - from).min(3),
            out: out[from * LANES..].as_mut_ptr(),
            width,
            then,
        };
        // SAFETY: the table's ISA is this CPU's; the operands are there, by the contract and by what was checked.
        unsafe { (table.gemm_tile)(&tile) };
    }
}

/// o: (T, H·E), lse: (T, H), of which the task writes its rows and its kv head's query heads.
///
/// # Safety
/// No other task may have the same rows and kv head; the buffers must hold all rows.
#[inline(always)]
pub(crate) unsafe fn forward<S: Simd>(
    s: S,
    args: &Attention,
    part: &Part,
    o: *mut u16,
    lse: *mut f32,
    scratch: &mut Scratch,
) {
    let Heads { heads, kv_heads, head_dim } = args.shape;
    let (group, wide) = (heads / kv_heads, head_dim.next_multiple_of(LANES));
    let (document, rows) = (part.document, part.rows.clone());
    let seen = args.seen(&rows);
    let width = seen.len().next_multiple_of(LANES);
    let keys = packed(args.table, &args.rows(document, seen.clone(), args.key_head(part.kv_head)), &mut scratch.keys);
    let values =
        packed(args.table, &args.across(document, seen.clone(), args.value_head(part.kv_head)), &mut scratch.values);
    let scores = grown(&mut scratch.scores, ROWS * width);
    let shares = grown(&mut scratch.shares, ROWS * width);
    let sums = grown(&mut scratch.sums, ROWS * wide);
    for head in part.kv_head * group..(part.kv_head + 1) * group {
        for start in rows.clone().step_by(ROWS) {
            let eight = args.eight(start, rows.end, &seen);
            let queries = &args.qkv[args.at(document, start, head)..];
            let queries = lines(queries, args.columns(), eight.rows.len(), 0);
            let panels = (eight.first / LANES, eight.panels);
            // SAFETY: a query has as many pairs as a key.
            unsafe {
                multiply(args.table, queries, keys, panels, (0, keys.pairs), scores, width, Then::Store);
            }
            for (i, row) in eight.rows.clone().enumerate() {
                let scores = &mut scores[i * width..][..eight.panels * LANES];
                hide(args, row, seen.start + eight.first, scores);
                let sum = softmax(s, args.scale, scores, &mut shares[i * width..][..eight.panels * LANES]);
                // SAFETY: this row and head are the task's.
                unsafe { lse.add((document.start + row) * heads + head).write(sum) };
            }
            let shares = lines(shares, width, eight.rows.len(), 0);
            let pairs = (eight.first / 2, (eight.end - eight.first).div_ceil(2));
            // SAFETY: the shares go on until the last of sixteen keys.
            unsafe { multiply(args.table, shares, values, (0, wide / LANES), pairs, sums, wide, Then::Store) };
            for (i, row) in eight.rows.enumerate() {
                let first = ((document.start + row) * heads + head) * head_dim;
                // SAFETY: inside of `o`, by the contract; this row and head are the task's.
                let to = unsafe { std::slice::from_raw_parts_mut(o.add(first), head_dim) };
                rows::to_bf16(s, &sums[i * wide..][..head_dim], to);
            }
        }
    }
}

/// What `row` does not see gets the share 0. `scores` begin with the key `first`.
#[inline(always)]
fn hide(args: &Attention, row: usize, first: usize, scores: &mut [f32]) {
    scores[row + 1 - first..].fill(f32::NEG_INFINITY);
    scores[..args.first_seen(row).saturating_sub(first)].fill(f32::NEG_INFINITY);
}

/// shares = the softmax of scale·scores, whole lanes of them, by powers of two. Returns the natural logarithm of the sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, scale: f32, scores: &mut [f32], shares: &mut [u16]) -> f32 {
    let scores = scores.as_chunks_mut::<LANES>().0;
    let (factor, mut most) = (s.splat(scale * std::f32::consts::LOG2_E), s.splat(f32::NEG_INFINITY));
    for score in &mut *scores {
        let scaled = s.mul(s.load(score), factor);
        most = s.max(scaled, most);
        s.store(scaled, score);
    }
    let most = s.largest(most);
    let (shift, mut sums) = (s.splat(most), s.splat(0.0));
    for score in &mut *scores {
        let e = exp2_or_zero(s, s.sub(s.load(score), shift));
        sums = s.add(sums, e);
        s.store(e, score);
    }
    let sum = s.sum(sums);
    let inverse = s.splat(1.0 / sum);
    for (score, share) in scores.iter().zip(shares.as_chunks_mut::<LANES>().0) {
        s.store_bf16(s.mul(s.load(score), inverse), share);
    }
    most.mul_add(std::f32::consts::LN_2, ln(sum))
}
