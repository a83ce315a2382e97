//! The operations as callers see them: lengths checked, then the table of the chosen ISA.

mod table;

use crate::activations::{Activations, BlockRowMut};
use crate::attention::page::{self, StoreArgs};
use crate::attention::{self, AttentionArgs};
use crate::dequantize;
use crate::format::{Format, Matrix};
use crate::isa::Isa;
use crate::matmul::{self, Gated, Product};
use crate::panels::{self, Panels, panel_bytes};
use crate::pool::Pool;
use crate::quantize;
use crate::rope::RopeLayout;
pub(crate) use table::Table;

/// Every operation, for one ISA. All of them give the same bits; they differ in speed.
#[derive(Clone, Copy)]
pub struct Ops {
    // INVARIANT: the CPU has the features of this table.
    table: &'static Table,
}

impl Ops {
    /// # Panics
    /// Where this CPU lacks `isa`: ask [`Isa::is_available`] before taking a user's word.
    pub fn new(isa: Isa) -> Self {
        assert!(isa.is_available(), "this CPU lacks {isa}");
        Self { table: table::of(isa) }
    }

    /// AMX on any x86-64, slowly.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub(crate) fn emulated() -> Self {
        Self { table: table::emulated() }
    }

    /// For the widest ISA that this CPU runs.
    pub fn best() -> Self {
        Self::new(Isa::best())
    }

    pub(crate) fn table(&self) -> &'static Table {
        self.table
    }

    pub fn isa(&self) -> Isa {
        self.table.isa
    }

    /// Changes where the same products have other bits: `1`, or `1-amx-bf16` where BF16 weights meet AMX tiles, which add in an
    /// order of their own. All other operations have the same bits everywhere.
    pub fn numerics_version(&self) -> &'static str {
        self.table.numerics
    }

    /// Each product of the activations' rows with a weight, in one job of the pool. Streams the weights once for all rows.
    ///
    /// # Panics
    /// Where shapes differ, `x` was set for another kind of weights, or rows are of a format that is read in panels.
    pub fn matmul(&self, pool: &Pool, x: &Activations, products: &mut [Product]) {
        matmul::run(self.table, pool, x, products);
    }

    /// silu(x·gate)·(x·up) for each of `products`, in one job of the pool: the bits of two products and [`Ops::swiglu`].
    ///
    /// # Panics
    /// As [`Ops::matmul`] does.
    pub fn gated(&self, pool: &Pool, x: &Activations, products: &mut [Gated]) {
        matmul::run(self.table, pool, x, products);
    }

    /// Rows as the file holds them to panels. out: `Panels::bytes_for` of them.
    ///
    /// # Panics
    /// Where the format has no panels, or `out` has another length.
    pub fn pack(&self, pool: &Pool, w: &Matrix, out: &mut [u8]) {
        assert_eq!(Some(out.len()), Panels::bytes_for(w.format, w.rows, w.cols), "the bytes of all panels");
        if let Some(bytes) = panel_bytes(w.format, w.cols).filter(|&bytes| bytes > 0) {
            panels::pack(pool, w, bytes, out);
        }
    }

    /// The exact values of row `row`: those that [`Ops::dequantize_row`] gives for the file's row. out: (w.cols()).
    ///
    /// # Panics
    /// Where there is no such row, or `out` has another length.
    pub fn unpack_row(&self, w: &Panels, row: usize, out: &mut [f32]) {
        assert!(row < w.rows() && out.len() == w.cols(), "a row of the weights");
        panels::unpack_row(w, row, out);
    }

    /// The exact values of whole blocks.
    ///
    /// # Panics
    /// Where `bytes` is not `out.len()` values of `format`.
    pub fn dequantize_row(&self, format: Format, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), format.row_bytes(out.len()), "whole blocks of {format}");
        dequantize::dequantize_row(format, bytes, out);
    }

    /// The inverse, rounded. F16, BF16, Q8_0 and Q4_0 give ggml's reference bytes.
    ///
    /// # Panics
    /// Where `bytes` is not `x.len()` values of `format`.
    pub fn quantize_row(&self, format: Format, x: &[f32], bytes: &mut [u8]) {
        assert_eq!(Some(bytes.len()), format.row_bytes(x.len()), "whole blocks of {format}");
        quantize::quantize_row(format, x, bytes);
    }

    /// RMSNorm over the last axis. x, out: (rows, C); weight: (C). Source: Zhang & Sennrich 2019, eq. 4.
    ///
    /// # Panics
    /// Where shapes differ or C is 0.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "rows of the weight's length");
        assert_eq!(x.len(), out.len(), "the result has the shape of x");
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.rms_norm)(x, weight, eps, out) }
    }

    /// Rotates one head vector in place. x: (head_dim); cos, sin: (n/2) with n ≤ head_dim; elements from n on stay.
    ///
    /// # Panics
    /// Where cos and sin differ in length or reach beyond `x`.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
        assert!(cos.len() == sin.len() && 2 * cos.len() <= x.len(), "a pair of elements per angle");
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.rope)(x, cos, sin, layout) }
    }

    /// gate = silu(gate)·up.
    ///
    /// # Panics
    /// Where lengths differ.
    pub fn swiglu(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up have one length");
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.swiglu)(gate, up) }
    }

    /// x += y.
    ///
    /// # Panics
    /// Where lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "both have one length");
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.add)(x, y) }
    }

    /// x += scale·y, rounded once.
    ///
    /// # Panics
    /// Where lengths differ.
    pub fn scale_add(&self, x: &mut [f32], scale: f32, y: &[f32]) {
        assert_eq!(x.len(), y.len(), "both have one length");
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.scale_add)(x, scale, y) }
    }

    /// Softmax in place; −∞ gives exactly 0, unless nothing else is there (NaN).
    pub fn softmax(&self, x: &mut [f32]) {
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.softmax)(x) }
    }

    /// The lowest index of the largest value; NaN never wins. 0 for an empty slice.
    pub fn argmax(&self, x: &[f32]) -> usize {
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.argmax)(x) }
    }

    /// Σ a·b.
    ///
    /// # Panics
    /// Where lengths differ.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "both have one length");
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.dot)(a, b) }
    }

    /// f32 to f16 bits, rounded to nearest even: what a [`crate::KvFormat::F16`] store holds.
    ///
    /// # Panics
    /// Where lengths differ.
    pub fn to_f16(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len(), "both have one length");
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.to_f16)(x, out) }
    }

    /// f32 to bf16 bits, rounded to nearest even.
    ///
    /// # Panics
    /// Where lengths differ.
    pub fn to_bf16(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len(), "both have one length");
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.to_bf16)(x, out) }
    }

    /// Softmax(q kᵀ · scale) v for every row and head, over pages. out: (rows, heads, head_dim).
    ///
    /// # Panics
    /// Where shapes differ, a position has no page, or a page is not in the store.
    pub fn attention(&self, pool: &Pool, args: &AttentionArgs, out: &mut [f32]) {
        attention::attention(pool, args, out, |args, rows, kv_head, scratch, out| {
            // SAFETY: the invariant of `table`.
            unsafe { (self.table.attend)(args, rows, kv_head, scratch, out) }
        });
    }

    /// RoPE of q and of k in place, and k and v into the pages, for all rows of a batch in one stage. A position's key and value
    /// replace what lay there, and make undefined what lies at later positions of its page.
    ///
    /// # Panics
    /// Where shapes differ, a position has no page, or a page is not in the store.
    pub fn rotate_and_store(&self, pool: &Pool, args: &mut StoreArgs) {
        page::rotate_and_store(pool, args, |store, kv_head| {
            // SAFETY: the invariant of `table`.
            unsafe { (self.table.store_head)(store, kv_head) }
        });
    }

    pub(crate) fn quantize_activations(&self, x: &[f32], to: &mut BlockRowMut) {
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.quantize_activations)(x, to) }
    }

    pub(crate) fn round_activations(&self, x: &[f32], bits: &mut [u16], values: &mut [f32]) {
        // SAFETY: the invariant of `table`.
        unsafe { (self.table.round_activations)(x, bits, values) }
    }
}

impl std::fmt::Debug for Ops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ops({})", self.isa())
    }
}
