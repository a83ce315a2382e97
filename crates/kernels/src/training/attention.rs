//! Causal attention inside documents, forward and backward, made of the products of `gemm/tile.rs`. A task has some query rows
//! (forward) or all rows (backward) of one document and one kv head; scores of a block of rows with all keys they see lie side by
//! side in scratch. Every chain begins at its document's start, wherever that lies in the batch.

use std::cell::RefCell;
use std::ops::Range;

use super::{Heads, Span};
use crate::buffer::AlignedVec;
use crate::elementwise::dot;
use crate::gemm::{self, Block, LANES, Operand, Target, Values};
use crate::math::ln;
use crate::matmul::{Then, grown};
use crate::ops::Table;
use crate::simd::Simd;
use crate::softmax::exp_and_sum;

/// Query rows of a block: even, so that pairs of rows never cross one.
pub(super) const BLOCK_ROWS: usize = 128;

/// What all tasks share.
pub(crate) struct Attention<'a> {
    pub qkv: &'a [u16],
    pub shape: Heads,
    pub window: Option<usize>,
    pub scale: f32,
    /// The products of the ISA, behind pointers: written out at each of their ten places they would be most of this crate's code.
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
    gemm: gemm::Scratch,
    /// Keys and values, packed: for scores, and for sums over keys.
    keys: AlignedVec<u16>,
    values: AlignedVec<u16>,
    others: AlignedVec<u16>,
    /// (BLOCK_ROWS, keys)
    scores: AlignedVec<f32>,
    slopes: AlignedVec<f32>,
    shares: AlignedVec<u16>,
    slope_bits: AlignedVec<u16>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(super) fn with_scratch(f: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(f);
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

    /// The keys that some of `rows` see. From a multiple of the lanes on, so that a key's lane depends on its place alone; an even
    /// number from the document's start, so that pairs do, too.
    fn seen(&self, rows: &Range<usize>) -> Range<usize> {
        let first = self.window.map_or(0, |window| (rows.start + 1).saturating_sub(window));
        first / LANES * LANES..rows.end
    }

    fn key_head(&self, kv_head: usize) -> usize {
        self.shape.heads + kv_head
    }

    fn value_head(&self, kv_head: usize) -> usize {
        self.shape.heads + self.shape.kv_heads + kv_head
    }
}

/// `b` packed as products read it.
fn packed<'a>(table: &Table, b: &Operand, buffer: &'a mut AlignedVec<u16>) -> (&'a [[[u16; 2]; LANES]], usize) {
    let pairs = b.depth.div_ceil(2);
    let panels = b.rows.div_ceil(LANES);
    let to = grown(buffer, panels * pairs * LANES * 2).as_chunks_mut::<2>().0.as_chunks_mut::<LANES>().0;
    for panel in 0..panels {
        let rows = panel * LANES..((panel + 1) * LANES).min(b.rows);
        // SAFETY: the table's ISA is this CPU's.
        unsafe { (table.gemm_pack)(b, rows, 0..pairs, &mut to[panel * pairs..][..pairs]) };
    }
    (to, pairs)
}

fn multiply(
    table: &Table,
    a: &Operand,
    (b, pairs): (&[[[u16; 2]; LANES]], usize),
    columns: usize,
    out: Target,
    then: Then,
    scratch: &mut gemm::Scratch,
) {
    let block = Block { a, b, pairs, rows: 0..a.rows, columns: 0..columns, out, then };
    // SAFETY: the table's ISA is this CPU's; `out` is the caller's own.
    unsafe { (table.gemm_block)(&block, scratch) };
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
    let group = heads / kv_heads;
    let (document, rows) = (part.document, part.rows.clone());
    let seen = args.seen(&rows);
    let width = seen.len().next_multiple_of(LANES);
    let keys = packed(args.table, &args.rows(document, seen.clone(), args.key_head(part.kv_head)), &mut scratch.keys);
    let values =
        packed(args.table, &args.across(document, seen.clone(), args.value_head(part.kv_head)), &mut scratch.values);
    let scores = grown(&mut scratch.scores, rows.len() * width);
    let shares = grown(&mut scratch.shares, rows.len() * width);
    for head in part.kv_head * group..(part.kv_head + 1) * group {
        let queries = args.rows(document, rows.clone(), head);
        let to = Target::f32_at(scores.as_mut_ptr(), width);
        multiply(args.table, &queries, keys, seen.len(), to, Then::Store, &mut scratch.gemm);
        let lines = scores.chunks_exact_mut(width).zip(shares.chunks_exact_mut(width));
        for (row, (scores, shares)) in rows.clone().zip(lines) {
            hide(args, row, &seen, scores);
            scaled(s, args.scale, scores);
            // exp_and_sum subtracts the largest; the logarithm needs it, too.
            let most = scores[crate::softmax::argmax(s, scores)];
            let sum = exp_and_sum(s, scores);
            scaled(s, 1.0 / sum, scores);
            super::rows::to_bf16(s, scores, shares);
            // SAFETY: this row and head are the task's.
            unsafe { lse.add((document.start + row) * heads + head).write(most + ln(sum)) };
        }
        let shares = Operand::rows(Values::Bf16(shares), rows.len(), seen.len()).with_stride(width);
        let first = ((document.start + rows.start) * heads + head) * head_dim;
        // SAFETY: inside of `o`, by the contract.
        let to = Target::bf16_at(unsafe { o.add(first) }, heads * head_dim);
        multiply(args.table, &shares, values, head_dim, to, Then::Store, &mut scratch.gemm);
    }
}

/// What the backward pass reads beside.
pub(crate) struct Outputs<'a> {
    pub o: &'a [u16],
    pub lse: &'a [f32],
    pub d_o: &'a [f32],
}

/// dqkv: (T, (H+2K)·E), zeros where the task's keys and values are; of which it writes its document's rows, its kv head and its
/// query heads.
///
/// # Safety
/// No other task may have the same document and kv head; the buffer must hold all rows.
#[inline(always)]
pub(crate) unsafe fn backward<S: Simd>(
    s: S,
    args: &Attention,
    outputs: &Outputs,
    part: &Part,
    dqkv: *mut f32,
    scratch: &mut Scratch,
) {
    let Heads { heads, kv_heads, head_dim } = args.shape;
    let group = heads / kv_heads;
    let document = part.document;
    let (key_head, value_head) = (args.key_head(part.kv_head), args.value_head(part.kv_head));
    let mut start = part.rows.start;
    while start < part.rows.end {
        let rows = start..(start + BLOCK_ROWS).min(part.rows.end);
        start = rows.end;
        let seen = args.seen(&rows);
        let width = seen.len().next_multiple_of(LANES);
        let keys = packed(args.table, &args.rows(document, seen.clone(), key_head), &mut scratch.keys);
        let values = packed(args.table, &args.rows(document, seen.clone(), value_head), &mut scratch.values);
        for head in part.kv_head * group..(part.kv_head + 1) * group {
            let scores = grown(&mut scratch.scores, rows.len() * width);
            let slopes = grown(&mut scratch.slopes, rows.len() * width);
            let shares = grown(&mut scratch.shares, rows.len() * width);
            let slope_bits = grown(&mut scratch.slope_bits, rows.len() * width);
            let queries = args.rows(document, rows.clone(), head);
            let to = Target::f32_at(scores.as_mut_ptr(), width);
            multiply(args.table, &queries, keys, seen.len(), to, Then::Store, &mut scratch.gemm);
            let first = ((document.start + rows.start) * heads + head) * head_dim;
            let (d_o, stride) = (&outputs.d_o[first..], heads * head_dim);
            let slope = Operand::rows(Values::F32(d_o), rows.len(), head_dim).with_stride(stride);
            let to = Target::f32_at(slopes.as_mut_ptr(), width);
            multiply(args.table, &slope, values, seen.len(), to, Then::Store, &mut scratch.gemm);
            for (i, row) in rows.clone().enumerate() {
                let scores = &mut scores[i * width..][..width];
                hide(args, row, &seen, scores);
                let lse = outputs.lse[(document.start + row) * heads + head];
                let delta = weighted(s, &outputs.o[first + i * stride..][..head_dim], &d_o[i * stride..][..head_dim]);
                let slopes = &mut slopes[i * width..][..width];
                // Beyond the keys nothing was written.
                slopes[seen.len()..].fill(0.0);
                through_softmax(s, scores, slopes, [args.scale, lse, delta]);
                super::rows::to_bf16(s, scores, &mut shares[i * width..][..width]);
                super::rows::to_bf16(s, slopes, &mut slope_bits[i * width..][..width]);
            }
            let columns = args.columns();
            // SAFETY: inside of `dqkv`, by the contract; the rows, the query head and the kv head are the task's.
            let to = |row, head| unsafe { Target::f32_at(dqkv.add(args.at(document, row, head)), columns) };
            let slopes = Values::Bf16(slope_bits);
            let others = packed(args.table, &args.across(document, seen.clone(), key_head), &mut scratch.others);
            let slope = Operand::rows(slopes, rows.len(), seen.len()).with_stride(width);
            multiply(args.table, &slope, others, head_dim, to(rows.start, head), Then::Store, &mut scratch.gemm);
            let others = packed(args.table, &args.across(document, rows.clone(), head), &mut scratch.others);
            let slope = Operand::transposed(slopes, seen.len(), rows.len()).with_stride(width);
            multiply(args.table, &slope, others, head_dim, to(seen.start, key_head), Then::Add, &mut scratch.gemm);
            let slope = Operand::transposed(Values::F32(d_o), head_dim, rows.len()).with_stride(stride);
            let others = packed(args.table, &slope, &mut scratch.others);
            let shares = Operand::transposed(Values::Bf16(shares), seen.len(), rows.len()).with_stride(width);
            multiply(args.table, &shares, others, head_dim, to(seen.start, value_head), Then::Add, &mut scratch.gemm);
        }
    }
}

/// What `row` does not see gets the share 0.
#[inline(always)]
fn hide(args: &Attention, row: usize, seen: &Range<usize>, scores: &mut [f32]) {
    scores[row + 1 - seen.start..].fill(f32::NEG_INFINITY);
    if let Some(window) = args.window {
        let first = (row + 1).saturating_sub(window).saturating_sub(seen.start);
        scores[..first].fill(f32::NEG_INFINITY);
    }
}

#[inline(always)]
fn scaled<S: Simd>(s: S, scale: f32, x: &mut [f32]) {
    let scale = s.splat(scale);
    for x in x.as_chunks_mut::<LANES>().0 {
        let product = s.mul(s.load(x), scale);
        s.store(product, x);
    }
}

/// Σ o·d_o
#[inline(always)]
fn weighted<S: Simd>(s: S, o: &[u16], d_o: &[f32]) -> f32 {
    // A head is short: its bf16 are widened into a buffer of its own.
    let mut sum = 0.0;
    let mut wide = [0.0; 64];
    for (o, d_o) in o.chunks(64).zip(d_o.chunks(64)) {
        for (to, bits) in wide.iter_mut().zip(o) {
            *to = f32::from_bits(u32::from(*bits) << 16);
        }
        sum += dot(s, &wide[..o.len()], d_o);
    }
    sum
}

/// scores become shares p = exp(scale·score − lse), slopes become p·(slope − delta)·scale.
#[inline(always)]
fn through_softmax<S: Simd>(s: S, scores: &mut [f32], slopes: &mut [f32], [scale, lse, delta]: [f32; 3]) {
    let (factor, lse, delta) = (s.splat(scale), s.splat(lse), s.splat(delta));
    for (score, slope) in scores.as_chunks_mut::<LANES>().0.iter_mut().zip(slopes.as_chunks_mut::<LANES>().0) {
        let share = crate::exp::exp_lanes(s, s.sub(s.mul(s.load(score), factor), lse));
        let turned = s.mul(s.mul(share, s.sub(s.load(slope), delta)), factor);
        s.store(share, score);
        s.store(turned, slope);
    }
}
