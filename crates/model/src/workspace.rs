//! The buffers of a forward pass, made once for the largest batch, and the thread pool that works on them. One workspace runs
//! one batch at a time. Their memory is the system's until they are first written, so a large batch costs only when it comes.

use std::sync::Arc;

use falaj_kernels::{Activations, AlignedVec, AttentionRow, Gated, Pool, Product};

use crate::adapter::Adapted;
use crate::{Batch, Config, Model, ModelError, Want};

/// Buffers for batches of up to `max_rows` rows (T), `max_outputs` of which want logits. Letters as in `decoder.rs`; P is
/// the number of ways that rows take through feed-forward networks: T, or with experts T times those that a row uses.
pub struct Workspace {
    /// Shared with a draft model's workspace: two pools on the same cores would stand in each other's way.
    pub(crate) pool: Arc<Pool>,
    pub(crate) max_rows: usize,
    pub(crate) max_outputs: usize,
    /// (T, D): the residual stream.
    pub(crate) x: AlignedVec<f32>,
    /// (T, D): at the end, the norm of the rows that want something.
    pub(crate) normed: AlignedVec<f32>,
    /// (T, H, E)
    pub(crate) query: AlignedVec<f32>,
    /// (T, K, E)
    pub(crate) key: AlignedVec<f32>,
    /// (T, K, E)
    pub(crate) value: AlignedVec<f32>,
    /// (T, H, E)
    pub(crate) attended: AlignedVec<f32>,
    /// (P, F)
    pub(crate) inner: AlignedVec<f32>,
    /// (T, E/2)
    pub(crate) cos: AlignedVec<f32>,
    /// (T, E/2)
    pub(crate) sin: AlignedVec<f32>,
    /// What a mixture of experts needs beside.
    pub(crate) mixture: Mixture,
    /// What rows with adapters need beside.
    pub(crate) adapted: Adapted,
    /// (outputs, V)
    pub(crate) logits: AlignedVec<f32>,
    pub(crate) activations: Activations,
    pub(crate) attention_rows: Vec<AttentionRow<'static>>,
    /// The rows that want something, in their order.
    pub(crate) wanted: Vec<usize>,
    /// Per row of the batch: where in `normed` (and `logits`) its output is.
    pub(crate) slots: Vec<Option<usize>>,
    pub(crate) logit_rows: usize,
    /// Rows of `logits` that the last projection filled.
    pub(crate) projected: usize,
    d: usize,
    v: usize,
}

/// Buffers of the experts; empty without them.
pub(crate) struct Mixture {
    /// (T, X)
    pub(crate) routes: AlignedVec<f32>,
    /// (P, D): the rows, those of one expert together; then what the experts make of them.
    pub(crate) gathered: AlignedVec<f32>,
    pub(crate) chosen: Vec<Chosen>,
    /// (T, used): where in `chosen` a row's experts are, in ascending order.
    pub(crate) places: Vec<usize>,
    pub(crate) gated: Vec<Gated<'static>>,
    pub(crate) products: Vec<Product<'static>>,
}

/// A row's choice of an expert.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    pub(crate) expert: usize,
    pub(crate) row: usize,
    pub(crate) weight: f32,
}

impl Workspace {
    /// # Errors
    /// Sizes that overflow.
    pub fn new(
        model: &Model,
        pool: impl Into<Arc<Pool>>,
        max_rows: usize,
        max_outputs: usize,
    ) -> Result<Self, ModelError> {
        let config = model.config();
        let &Config { hidden_size: d, heads, kv_heads, head_dim, ffn_size: f, vocab_size: v, .. } = config;
        let (experts, used) = config.experts.map_or((0, 0), |experts| (experts.count, experts.used));
        let widest = d.max(f).max(heads * head_dim);
        for (rows, cols) in [(max_rows, widest * used.max(1)), (max_rows, experts), (max_outputs, v)] {
            let bytes = rows as u128 * cols as u128 * 4;
            if bytes > isize::MAX as u128 {
                return Err(ModelError::TooLarge { what: "the workspace", bytes });
            }
        }
        let rows = |cols: usize| AlignedVec::new(max_rows * cols);
        let (ways, uses) = (max_rows * used.max(1), max_rows * used);
        Ok(Self {
            pool: pool.into(),
            max_rows,
            max_outputs,
            x: rows(d),
            normed: rows(d),
            query: rows(heads * head_dim),
            key: rows(kv_heads * head_dim),
            value: rows(kv_heads * head_dim),
            attended: rows(heads * head_dim),
            inner: AlignedVec::new(ways * f),
            cos: rows(head_dim / 2),
            sin: rows(head_dim / 2),
            mixture: Mixture {
                routes: rows(experts),
                gathered: AlignedVec::new(uses * d),
                chosen: Vec::with_capacity(uses),
                places: Vec::with_capacity(uses),
                gated: Vec::with_capacity(experts),
                products: Vec::with_capacity(experts),
            },
            adapted: Adapted::new(max_rows),
            logits: AlignedVec::new(max_outputs * v),
            activations: Activations::new(ways, widest),
            attention_rows: Vec::with_capacity(max_rows),
            wanted: Vec::with_capacity(max_rows),
            slots: Vec::with_capacity(max_rows),
            logit_rows: 0,
            projected: 0,
            d,
            v,
        })
    }

    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Most rows of a batch that may want logits.
    pub fn max_outputs(&self) -> usize {
        self.max_outputs
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The logits (V) of a row that wanted them in the last batch. Writable: sampling works in place.
    pub fn logits(&mut self, row: usize) -> Option<&mut [f32]> {
        let slot = self.slots.get(row).copied().flatten().filter(|slot| *slot < self.logit_rows)?;
        self.logits.get_mut(slot * self.v..)?.get_mut(..self.v)
    }

    /// As [`Workspace::logits`], to read: several threads may.
    pub fn logits_of(&self, row: usize) -> Option<&[f32]> {
        let slot = self.slots.get(row).copied().flatten().filter(|slot| *slot < self.logit_rows)?;
        self.logits.get(slot * self.v..)?.get(..self.v)
    }

    /// The logits (V) of the row that stood at `place` in the last projection: [`Model::project`].
    pub fn projected(&self, place: usize) -> Option<&[f32]> {
        self.logits.get(..self.projected * self.v)?.get(place * self.v..)?.get(..self.v)
    }

    /// The normed last hidden state (D) of a row that wanted anything in the last batch.
    pub fn hidden(&self, row: usize) -> Option<&[f32]> {
        let slot = self.slots.get(row).copied().flatten()?;
        self.normed.get(slot * self.d..)?.get(..self.d)
    }

    /// Gives every row that wants something its place: those with logits first, since the head runs over these only.
    pub(crate) fn begin(&mut self, batch: &Batch) {
        self.logit_rows = batch.count(Want::Logits);
        self.projected = 0;
        let (mut logits, mut hidden) = (0..self.logit_rows, self.logit_rows..batch.rows());
        self.slots.clear();
        self.slots.extend(batch.wants.iter().map(|want| match want {
            Want::Nothing => None,
            Want::Logits => logits.next(),
            Want::Hidden => hidden.next(),
        }));
        self.wanted.clear();
        self.wanted.extend(self.slots.iter().enumerate().filter_map(|(row, slot)| slot.map(|_| row)));
    }
}

/// The same allocation, empty, for values of another lifetime: these borrow a step's data, the buffer outlives it. The
/// standard library collects in place; if it ever stops, this allocates and is still right.
pub(crate) fn recycle<A, B>(mut values: Vec<A>) -> Vec<B> {
    values.clear();
    values.into_iter().map_while(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recycling_keeps_the_allocation() {
        let rows: Vec<AttentionRow> = Vec::with_capacity(100);
        let start = rows.as_ptr();
        let page_table = [1];
        let mut borrowed: Vec<AttentionRow> = recycle(rows);
        borrowed.push(AttentionRow { page_table: &page_table, position: 0 });
        let again: Vec<AttentionRow<'static>> = recycle(borrowed);
        assert_eq!((again.as_ptr(), again.capacity(), again.len()), (start, 100, 0));
    }
}
