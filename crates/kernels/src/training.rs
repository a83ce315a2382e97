//! The operations of training beside the products (`gemm.rs`). Rows are tokens of a batch, T of them; bf16 where a product reads
//! the numbers next, f32 elsewhere. Sums over tokens go through them in order, so that nothing depends on threads, and
//! micro-batches one after the other give what the large batch gives. What a row needs is in `training/rows.rs`.

mod attention;
mod rows;

use std::cell::RefCell;
use std::ops::Range;

use crate::buffer::AlignedVec;
use crate::matmul::grown;
use crate::ops::Ops;
use crate::pool::{Parts, Pool};
use crate::rope::RopeLayout;

pub(crate) use attention::{Attention, Outputs, Part, Scratch as AttentionScratch, backward, forward};
pub(crate) use rows::{
    adamw, cross_entropy, norm_backward, norm_forward, norm_weights, swiglu_backward, swiglu_forward, to_bf16,
    turn_heads,
};

/// The shape of attention: H heads over K kv heads, of E elements each. A row of qkv holds H·E queries, K·E keys, K·E values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    /// Even.
    pub head_dim: usize,
}

/// Cosines and sines: (positions, head_dim / 2).
#[derive(Clone, Debug)]
pub struct RopeTable {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub layout: RopeLayout,
}

/// One step of AdamW. Source: Loshchilov and Hutter 2019, algorithm 2.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled.
    pub decay: f32,
    /// 1 − β₁ᵗ
    pub bias1: f32,
    /// 1 − β₂ᵗ
    pub bias2: f32,
    /// On the gradient.
    pub clip: f32,
}

/// The rows of a document in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub start: usize,
    pub len: usize,
}

/// Rows of a task: enough to be worth one.
const ROWS: usize = 32;
/// Numbers of a task where there are no rows.
const NUMBERS: usize = 16 << 10;
/// Columns of a task where sums go down the rows: a cache line of every row.
const COLUMNS: usize = 32;

/// Calls `f` with ranges of at most `each` that make up `0..len`, in one job.
fn cut(pool: &Pool, len: usize, each: usize, f: impl Fn(Range<usize>) + Sync) {
    pool.run(len.div_ceil(each), |task, _| f(task * each..((task + 1) * each).min(len)));
}

thread_local! {
    static ROW: RefCell<AlignedVec<f32>> = RefCell::new(AlignedVec::new(0));
    static SPANS: RefCell<Vec<(Span, Range<usize>)>> = const { RefCell::new(Vec::new()) };
}

impl Ops {
    /// RMSNorm. x: (T, D) → out (T, D), rstd (T). Source: Zhang and Sennrich 2019.
    pub fn norm_forward(&self, pool: &Pool, x: &[f32], w: &[f32], eps: f32, out: &mut [u16], rstd: &mut [f32]) {
        let (d, rows) = (w.len(), rstd.len());
        assert!(x.len() == rows * d && out.len() == rows * d, "as many rows of x and out as of rstd");
        let (out, rstd) = (Parts::new(out, 1), Parts::new(rstd, 1));
        cut(pool, rows, ROWS, |rows| {
            // SAFETY: tasks have different rows.
            let (out, rstd) = unsafe { (out.range(rows.start * d..rows.end * d), rstd.range(rows.clone())) };
            for (i, row) in rows.enumerate() {
                // SAFETY: the table's ISA is this CPU's; so below.
                rstd[i] = unsafe { (self.table().norm_forward)(&x[row * d..][..d], w, eps, &mut out[i * d..][..d]) };
            }
        });
    }

    /// dy, x: (T, D), w: (D), rstd: (T) → dx (T, D) +=, the same rounded into `bits`, dw (D) +=.
    pub fn norm_backward(
        &self,
        pool: &Pool,
        dy: &[u16],
        x: &[f32],
        w: &[f32],
        rstd: &[f32],
        dx: &mut [f32],
        bits: &mut [u16],
        dw: &mut [f32],
    ) {
        let (d, rows) = (w.len(), rstd.len());
        let lens = [dy.len(), x.len(), dx.len(), bits.len()];
        assert!(lens == [rows * d; 4] && dw.len() == d, "as many rows of all");
        let (dx, bits, dw) = (Parts::new(dx, 1), Parts::new(bits, 1), Parts::new(dw, 1));
        cut(pool, rows, ROWS, |rows| {
            for row in rows {
                let at = row * d..(row + 1) * d;
                // SAFETY: tasks have different rows.
                let (dx, bits) = unsafe { (dx.range(at.clone()), bits.range(at.clone())) };
                // SAFETY: as above.
                unsafe { (self.table().norm_backward)(&dy[at.clone()], &x[at], w, rstd[row], dx, bits) };
            }
        });
        cut(pool, d, COLUMNS, |columns| {
            // SAFETY: tasks have different columns.
            let dw = unsafe { dw.range(columns.clone()) };
            // SAFETY: as above.
            unsafe { (self.table().norm_weights)(dy, x, rstd, (d, columns.start), dw) };
        });
    }

    /// gu: (T, 2F), gate beside up → out (T, F) = silu(gate)·up. Source: Shazeer 2020.
    pub fn swiglu_forward(&self, pool: &Pool, gu: &[u16], ffn: usize, out: &mut [u16]) {
        assert_eq!(gu.len(), 2 * out.len(), "gate and up for each");
        let rows = out.len().checked_div(ffn).unwrap_or(0);
        let out = Parts::new(out, 1);
        cut(pool, rows, ROWS, |rows| {
            for row in rows {
                let (gate, up) = gu[row * 2 * ffn..][..2 * ffn].split_at(ffn);
                // SAFETY: tasks have different rows.
                unsafe { (self.table().swiglu_forward)(gate, up, out.range(row * ffn..(row + 1) * ffn)) };
            }
        });
    }

    /// da: (T, F) → dgu (T, 2F).
    pub fn swiglu_backward(&self, pool: &Pool, gu: &[u16], ffn: usize, da: &[u16], dgu: &mut [u16]) {
        assert!(gu.len() == 2 * da.len() && dgu.len() == gu.len(), "gate and up for each");
        let rows = da.len().checked_div(ffn).unwrap_or(0);
        let dgu = Parts::new(dgu, 1);
        cut(pool, rows, ROWS, |rows| {
            for row in rows {
                let (gate, up) = gu[row * 2 * ffn..][..2 * ffn].split_at(ffn);
                // SAFETY: tasks have different rows.
                let (dgate, dup) = unsafe { dgu.range(row * 2 * ffn..(row + 1) * 2 * ffn) }.split_at_mut(ffn);
                // SAFETY: as above.
                unsafe { (self.table().swiglu_backward)(gate, up, &da[row * ffn..][..ffn], dgate, dup) };
            }
        });
    }

    /// qkv: (T, (H+2K)·E), whose queries and keys are turned by the angles of `positions` (T).
    pub fn rope_forward(&self, pool: &Pool, qkv: &mut [u16], shape: &Heads, positions: &[u32], table: &RopeTable) {
        let (e, half) = (shape.head_dim, shape.head_dim / 2);
        let columns = shape.columns();
        assert_eq!(qkv.len(), positions.len() * columns, "a position for each row");
        let qkv = Parts::new(qkv, 1);
        cut(pool, positions.len(), ROWS, |rows| {
            ROW.with_borrow_mut(|scratch| {
                let head = grown(scratch, e);
                for row in rows {
                    let angles = positions[row] as usize * half..(positions[row] as usize + 1) * half;
                    let (cos, sin) = (&table.cos[angles.clone()], &table.sin[angles]);
                    let turned = (shape.heads + shape.kv_heads) * e;
                    // SAFETY: tasks have different rows; the table's ISA is this CPU's.
                    unsafe {
                        let heads = qkv.range(row * columns..row * columns + turned);
                        (self.table().turn_heads)(heads, cos, sin, table.layout, head);
                    }
                }
            });
        });
    }

    /// Causal attention inside documents: `starts[t]` is the row at which the document of row t begins. qkv: (T, (H+2K)·E) →
    /// o (T, H·E), lse (T, H), the natural logarithms of the sums. A row sees itself and `window − 1` rows before it.
    /// Source: Vaswani et al. 2017, § 3.2.1; grouped as in Ainslie et al. 2023.
    ///
    /// # Panics
    /// Where shapes do not fit, or documents are not one after the other.
    pub fn attention_forward(
        &self,
        pool: &Pool,
        qkv: &[u16],
        shape: &Heads,
        starts: &[u32],
        window: Option<usize>,
        scale: f32,
        o: &mut [u16],
        lse: &mut [f32],
    ) {
        shape.check(qkv.len(), starts.len());
        assert!(o.len() == starts.len() * shape.heads * shape.head_dim && lse.len() == starts.len() * shape.heads);
        let args = Attention { qkv, shape: *shape, window, scale, table: self.table() };
        let (o, lse) = (Parts::new(o, 1), Parts::new(lse, 1));
        SPANS.with_borrow_mut(|blocks| {
            documents(starts, blocks, attention::BLOCK_ROWS);
            // The longest rows first, so that no thread begins them at the end.
            blocks.sort_by_key(|(document, rows)| (usize::MAX - rows.end, document.start));
            pool.run(blocks.len() * shape.kv_heads, |task, _| {
                let (document, rows) = blocks[task / shape.kv_heads].clone();
                let part = Part { document, rows, kv_head: task % shape.kv_heads };
                let (o, lse) = (&o, &lse);
                // SAFETY: tasks have different rows or kv heads, and the buffers hold all rows (see above).
                attention::with_scratch(|scratch| unsafe {
                    (self.table().attention_forward)(&args, &part, o.start(), lse.start(), scratch);
                });
            });
        });
    }

    /// d_o: (T, H·E) → dqkv (T, (H+2K)·E), its queries and keys turned back by the angles of `positions` (T), which is the gradient
    /// before [`Ops::rope_forward`]. `o` and `lse` are what [`Ops::attention_forward`] gave.
    ///
    /// # Panics
    /// As there.
    pub fn attention_backward(
        &self,
        pool: &Pool,
        qkv: &[u16],
        shape: &Heads,
        starts: &[u32],
        window: Option<usize>,
        scale: f32,
        (o, lse): (&[u16], &[f32]),
        d_o: &[u16],
        positions: &[u32],
        rope: &RopeTable,
        dqkv: &mut [u16],
    ) {
        shape.check(qkv.len(), starts.len());
        let width = shape.heads * shape.head_dim;
        assert!([o.len(), d_o.len()] == [starts.len() * width; 2] && lse.len() == starts.len() * shape.heads);
        assert!(dqkv.len() == qkv.len() && positions.len() == starts.len());
        let args = Attention { qkv, shape: *shape, window, scale, table: self.table() };
        let outputs = Outputs { o, lse, d_o, positions, rope };
        let dqkv = Parts::new(dqkv, 1);
        SPANS.with_borrow_mut(|spans| {
            documents(starts, spans, usize::MAX);
            spans.sort_by_key(|(document, _)| (usize::MAX - document.len, document.start));
            pool.run(spans.len() * shape.kv_heads, |task, _| {
                let (document, rows) = spans[task / shape.kv_heads].clone();
                let part = Part { document, rows, kv_head: task % shape.kv_heads };
                let dqkv = &dqkv;
                // SAFETY: tasks have different documents or kv heads, and the buffer holds all rows (see above).
                attention::with_scratch(|scratch| unsafe {
                    (self.table().attention_backward)(&args, &outputs, &part, dqkv.start(), scratch);
                });
            });
        });
    }

    /// logits: (n, V), targets, weights: (n) → losses (n) = −ln softmax[target], unweighted; correct (n): whether the target is the
    /// most likely; slopes (n, V) = weight·(softmax − one-hot).
    ///
    /// # Panics
    /// Where shapes do not fit, or a target is beyond V.
    pub fn cross_entropy(
        &self,
        pool: &Pool,
        logits: &[f32],
        targets: &[u32],
        weights: &[f32],
        losses: &mut [f32],
        correct: &mut [u8],
        slopes: &mut [u16],
    ) {
        let n = targets.len();
        let v = logits.len().checked_div(n).unwrap_or(0);
        assert!([weights.len(), losses.len(), correct.len()] == [n; 3], "one of each for each row");
        assert!(logits.len() == n * v && slopes.len() == logits.len(), "as many slopes as logits");
        assert!(targets.iter().all(|target| (*target as usize) < v), "targets are of the vocabulary");
        let (losses, correct, slopes) = (Parts::new(losses, 1), Parts::new(correct, 1), Parts::new(slopes, 1));
        // A few rows each: a row may have a hundred thousand logits.
        cut(pool, n, 4, |rows| {
            ROW.with_borrow_mut(|scratch| {
                let exps = grown(scratch, v);
                for row in rows {
                    let (at, target) = (row * v..(row + 1) * v, targets[row] as usize);
                    // SAFETY: tasks have different rows; the table's ISA is this CPU's.
                    unsafe {
                        let slopes = slopes.range(at.clone());
                        let (loss, best) =
                            (self.table().cross_entropy)(&logits[at], target, weights[row], exps, slopes);
                        losses.range(row..row + 1)[0] = loss;
                        correct.range(row..row + 1)[0] = u8::from(best);
                    }
                }
            });
        });
    }

    /// p −= lr·(m̂ / (√v̂ + eps) + decay·p).
    pub fn adamw(&self, pool: &Pool, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: &AdamStep) {
        let len = p.len();
        assert!([g.len(), m.len(), v.len()] == [len; 3], "a gradient and two moments for each weight");
        let (p, m, v) = (Parts::new(p, 1), Parts::new(m, 1), Parts::new(v, 1));
        cut(pool, len, NUMBERS, |at| {
            // SAFETY: tasks have different ranges; the table's ISA is this CPU's.
            unsafe {
                let (p, m, v) = (p.range(at.clone()), m.range(at.clone()), v.range(at.clone()));
                (self.table().adamw)(p, &g[at], m, v, step);
            }
        });
    }

    /// Σ x²: in f32 through sixteen lanes for 4,096 numbers, in f64 from there on.
    pub fn sum_squares(&self, pool: &Pool, x: &[f32]) -> f64 {
        const PART: usize = 4096;
        let parts = x.len().div_ceil(PART);
        ROW.with_borrow_mut(|scratch| {
            let sums = grown(scratch, parts);
            let shared = Parts::new(sums, 1);
            cut(pool, parts, 8, |range| {
                for part in range {
                    let x = &x[part * PART..((part + 1) * PART).min(x.len())];
                    // SAFETY: tasks have different parts.
                    unsafe { shared.range(part..part + 1)[0] = self.dot(x, x) };
                }
            });
            sums.iter().map(|sum| f64::from(*sum)).sum()
        })
    }
}

impl Heads {
    /// Of a row of qkv.
    pub fn columns(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn check(&self, len: usize, rows: usize) {
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "whole groups of heads");
        assert!(self.head_dim.is_multiple_of(2), "heads of an even size");
        assert_eq!(len, rows * self.columns(), "rows of queries, keys and values");
    }
}

/// Each document in blocks of at most `each` rows, counted from its start.
fn documents(starts: &[u32], blocks: &mut Vec<(Span, Range<usize>)>, each: usize) {
    blocks.clear();
    let mut start = 0;
    while start < starts.len() {
        assert_eq!(starts[start] as usize, start, "a document begins at its own start");
        let len = starts[start..].iter().take_while(|s| **s as usize == start).count();
        let mut from = 0;
        while from < len {
            let to = from.saturating_add(each).min(len);
            blocks.push((Span { start, len }, from..to));
            from = to;
        }
        start += len;
    }
}
