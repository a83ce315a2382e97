//! The decoder, as the papers have it: embedding, then per block RMSNorm, grouped-query attention with RoPE over a paged
//! cache, RMSNorm and SwiGLU (or a sparse mixture of them), and at the end a norm and the output head.
//!
//! Letters: T rows of the batch, V vocabulary, D hidden size, H query heads, K key and value heads, E head size, F
//! feed-forward size, X experts. All activations are row-major f32. A row's result does not depend on the other rows: every
//! operation below works row by row, in an order that the row alone decides.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        reason = "sizes come from the checked configuration, rows from the checked batch"
    )
)]

use falaj_artifact::Digest;
use falaj_kernels::{ActivationKind, AttentionArgs, Finally, Gated, Ops, Product, StoreArgs, Then};
use falaj_tensor::Weight;

use crate::adapter::Place;
use crate::cache::{KvCache, PAGE_TOKENS};
use crate::params::{FeedForward, Layer, Swiglu};
use crate::rope::Frequencies;
use crate::workspace::{Workspace, recycle};
use crate::{Batch, Config, ModelError, Params, Want};

/// A decoder, ready to run. Shared by any number of caches and workspaces.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) config: Config,
    pub(crate) params: Params,
    pub(crate) frequencies: Frequencies,
    pub(crate) ops: Ops,
    pub(crate) digest: Option<Digest>,
}

impl Model {
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The operations that it runs on, of one instruction set.
    pub fn ops(&self) -> &Ops {
        &self.ops
    }

    pub fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    pub fn context_tokens(&self) -> usize {
        self.config.context_tokens
    }

    /// Of the verified files; `None` for a synthetic model.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Bytes of all matrices, as they lie in memory.
    pub fn weight_bytes(&self) -> usize {
        self.params.matrices().map(Weight::size_bytes).sum()
    }

    /// Values in all matrices and norms.
    pub fn parameter_count(&self) -> usize {
        let norms = (2 * self.config.layers + 1) * self.config.hidden_size;
        self.params.matrices().map(|weight| weight.rows() * weight.cols()).sum::<usize>() + norms
    }

    /// Computes the rows of `batch`: writes their keys and values into `cache`, and leaves what they want in `ws`.
    ///
    /// # Errors
    /// A batch that does not fit the workspace, a token beyond the vocabulary, a position without a page. Nothing was
    /// computed then.
    pub fn forward(&self, ws: &mut Workspace, cache: &mut KvCache, batch: &Batch) -> Result<(), ModelError> {
        self.check(ws, cache, batch)?;
        ws.begin(batch);
        ws.adapted.begin(batch, &self.config, ws.max_rows);
        if batch.is_empty() {
            return Ok(());
        }
        self.embed(ws, batch);
        for (number, layer) in self.params.layers.iter().enumerate() {
            // x += attention(norm(x)); behind the last layer's cache only rows that want something go on.
            let last = number + 1 == self.params.layers.len();
            let rows = self.attention(layer, number, last, ws, cache, batch);
            if rows == 0 {
                break;
            }
            // x += ffn(norm(x))
            match &layer.ffn {
                FeedForward::Dense(network) => self.dense(layer, number, network, ws, rows, batch),
                FeedForward::Sparse { router, experts } => self.sparse(layer, router, experts, ws, rows),
            }
        }
        self.output(ws, batch);
        Ok(())
    }

    /// x = E\[token\]: (T, D), and the angles of each row's position: (T, E/2).
    fn embed(&self, ws: &mut Workspace, batch: &Batch) {
        let (t, d, half) = (batch.rows(), self.config.hidden_size, self.config.head_dim / 2);
        let chunks = [
            (&mut ws.x[..t * d], TASK_ROWS * d),
            (&mut ws.cos[..t * half], TASK_ROWS * half),
            (&mut ws.sin[..t * half], TASK_ROWS * half),
        ];
        ws.pool.chunks(chunks, |chunk, [x, cos, sin]| {
            let first = chunk * TASK_ROWS;
            let angles = cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half));
            for (i, (x, (cos, sin))) in x.chunks_exact_mut(d).zip(angles).enumerate() {
                self.params.embedding.dequantize_row(&self.ops, batch.tokens[first + i] as usize, x);
                self.frequencies.angles(batch.positions[first + i], cos, sin);
            }
        });
    }

    /// Attention of grouped queries, added to `ws.x` (T, D). Returns the rows of it that go on: all, or in the `last` layer
    /// those that want something, moved to the front.
    /// Source: Ainslie et al. 2023; the window: Jiang et al. 2023 (Mistral 7B), § 2.
    fn attention(
        &self,
        layer: &Layer,
        number: usize,
        last: bool,
        ws: &mut Workspace,
        cache: &mut KvCache,
        batch: &Batch,
    ) -> usize {
        let &Config { hidden_size: d, heads, kv_heads, head_dim, .. } = &self.config;
        let (t, half) = (batch.rows(), head_dim / 2);
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);

        // q (T, H, E), k and v (T, K, E)
        let kind = ws.adapted.kind(kind_for([&layer.query, &layer.key, &layer.value]));
        let (x, norm) = (&ws.x[..t * d], &layer.attention_norm);
        ws.activations.set_normed(&self.ops, &ws.pool, x, norm, self.config.norm_eps, t, kind);
        let products = &mut [
            product(&layer.query, &mut ws.query[..t * queries], Then::Store),
            product(&layer.key, &mut ws.key[..t * keys], Then::Store),
            product(&layer.value, &mut ws.value[..t * keys], Then::Store),
        ];
        self.ops.matmul(&ws.pool, &ws.activations, products);
        let outs = [(&mut *ws.query, queries), (&mut *ws.key, keys), (&mut *ws.value, keys)];
        Place { layer: number, part: |layer| layer.attention.as_ref(), adapters: &batch.adapters }.add(
            &self.ops,
            &ws.pool,
            ws.adapted.changed(),
            &ws.activations,
            outs,
            Finally::Nothing,
        );

        // Prompt rows read the keys of their own batch through the cache too, so that chunks and single steps compute alike.
        let mut rows = recycle(std::mem::take(&mut ws.attention_rows));
        batch.attention_rows(&mut rows);
        let mut store = StoreArgs {
            q: &mut ws.query[..t * queries],
            k: &mut ws.key[..t * keys],
            v: &ws.value[..t * keys],
            heads,
            kv_heads,
            head_dim,
            cos: &ws.cos[..t * half],
            sin: &ws.sin[..t * half],
            rope: self.config.rope.layout,
            rows: &rows,
            format: cache.format(),
            pages: cache.layer_mut(number),
        };
        self.ops.rotate_and_store(&ws.pool, &mut store);
        let mut t = t;
        if last && ws.wanted.len() < t {
            t = ws.wanted.len();
            for (to, &from) in ws.wanted.iter().enumerate() {
                ws.x.copy_within(from * d..(from + 1) * d, to * d);
                ws.query.copy_within(from * queries..(from + 1) * queries, to * queries);
                rows.swap(to, from);
            }
            rows.truncate(t);
            ws.adapted.set_rows(batch, ws.wanted.iter().copied());
        }
        if t == 0 {
            ws.attention_rows = recycle(rows);
            return 0;
        }
        let args = AttentionArgs {
            q: &ws.query[..t * queries],
            kv: cache.layer(number),
            heads,
            kv_heads,
            head_dim,
            rows: &rows,
            window: self.config.sliding_window.map(|window| window as u32),
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        self.ops.attention(&ws.pool, &args, &mut ws.attended[..t * queries]);
        ws.attention_rows = recycle(rows);

        // (T, H·E) → (T, D)
        let attended = &ws.attended[..t * queries];
        let kind = ws.adapted.kind(kind_for([&layer.output]));
        ws.activations.set(&self.ops, &ws.pool, attended, t, queries, kind);
        let products = &mut [product(&layer.output, &mut ws.x[..t * d], Then::Add)];
        self.ops.matmul(&ws.pool, &ws.activations, products);
        Place { layer: number, part: |layer| layer.output.as_ref(), adapters: &batch.adapters }.add(
            &self.ops,
            &ws.pool,
            ws.adapted.changed(),
            &ws.activations,
            [(&mut *ws.x, d)],
            Finally::Nothing,
        );
        t
    }

    /// x += down(silu(gate n)·(up n)), n = norm(x), on the first `t` rows of `ws.x`.
    fn dense(&self, layer: &Layer, number: usize, network: &Swiglu, ws: &mut Workspace, t: usize, batch: &Batch) {
        let (d, f) = (self.config.hidden_size, self.config.ffn_size);
        let kind = ws.adapted.kind(kind_for([&network.gate, &network.up]));
        let (x, norm) = (&ws.x[..t * d], &layer.ffn_norm);
        ws.activations.set_normed(&self.ops, &ws.pool, x, norm, self.config.norm_eps, t, kind);
        let inner = &mut ws.inner[..t * f];
        match ws.adapted.changes_gates() {
            false => {
                let gated = Gated { gate: network.gate.view(), up: network.up.view(), rows: 0..t, out: inner };
                self.ops.gated(&ws.pool, &ws.activations, &mut [gated]);
            }
            // The same bits for rows without an adapter, in two steps.
            true => {
                let (rows, up) = ws.adapted.gated();
                let up = &mut up[..t * f];
                let products = &mut [product(&network.gate, inner, Then::Store), product(&network.up, up, Then::Store)];
                self.ops.matmul(&ws.pool, &ws.activations, products);
                Place { layer: number, part: |layer| layer.gates.as_ref(), adapters: &batch.adapters }.add(
                    &self.ops,
                    &ws.pool,
                    rows,
                    &ws.activations,
                    [(inner, f), (up, f)],
                    Finally::Swiglu,
                );
            }
        }
        let kind = ws.adapted.kind(kind_for([&network.down]));
        ws.activations.set(&self.ops, &ws.pool, &ws.inner[..t * f], t, f, kind);
        let products = &mut [product(&network.down, &mut ws.x[..t * d], Then::Add)];
        self.ops.matmul(&ws.pool, &ws.activations, products);
        Place { layer: number, part: |layer| layer.down.as_ref(), adapters: &batch.adapters }.add(
            &self.ops,
            &ws.pool,
            ws.adapted.changed(),
            &ws.activations,
            [(&mut *ws.x, d)],
            Finally::Nothing,
        );
    }

    /// The final norm, and the head, of the rows that want it. `ws.x` (T, D) → `ws.normed` (rows that want, D), logits
    /// rows first → `ws.logits` (n, V).
    fn output(&self, ws: &mut Workspace, batch: &Batch) {
        let d = self.config.hidden_size;
        let (logits, hidden) = (batch.count(Want::Logits), batch.count(Want::Hidden));
        for (i, slot) in ws.wanted.iter().filter_map(|row| ws.slots[*row]).enumerate() {
            let (x, out) = (&ws.x[i * d..][..d], &mut ws.normed[slot * d..][..d]);
            self.ops.rms_norm(x, &self.params.norm, self.config.norm_eps, out);
        }
        debug_assert_eq!(ws.slots.iter().flatten().count(), logits + hidden);
        if logits > 0 {
            let (head, normed) = (self.params.head(), &ws.normed[..logits * d]);
            ws.activations.set(&self.ops, &ws.pool, normed, logits, d, kind_for([head]));
            let out = &mut ws.logits[..logits * head.rows()];
            self.ops.matmul(&ws.pool, &ws.activations, &mut [product(head, out, Then::Store)]);
        }
    }

    /// The head, of rows of the last batch that wanted hidden states: what [`Want::Logits`] would have given each, bit for bit,
    /// a few at a time, so that whole prompts can be scored in the memory of a few rows. Afterwards
    /// [`Workspace::projected`] has them, and the logits of the batch are gone.
    ///
    /// # Errors
    /// More rows than the workspace has places for, a row without a hidden state.
    pub fn project(&self, ws: &mut Workspace, rows: &[usize]) -> Result<(), ModelError> {
        let (count, d, max_outputs) = (rows.len(), self.config.hidden_size, ws.max_outputs);
        ws.logit_rows = 0;
        ws.projected = 0;
        if count > max_outputs.min(ws.max_rows) {
            let max_rows = ws.max_rows;
            return Err(ModelError::BatchTooLarge { rows: count, outputs: count, max_rows, max_outputs });
        }
        for (to, &row) in rows.iter().enumerate() {
            let slot = ws.slots.get(row).copied().flatten().ok_or(ModelError::NoHiddenState { row })?;
            ws.x[to * d..][..d].copy_from_slice(&ws.normed[slot * d..][..d]);
        }
        let head = self.params.head();
        ws.activations.set(&self.ops, &ws.pool, &ws.x[..count * d], count, d, kind_for([head]));
        let out = &mut ws.logits[..count * head.rows()];
        self.ops.matmul(&ws.pool, &ws.activations, &mut [product(head, out, Then::Store)]);
        ws.projected = count;
        Ok(())
    }

    fn check(&self, ws: &Workspace, cache: &KvCache, batch: &Batch) -> Result<(), ModelError> {
        let (rows, outputs) = (batch.rows(), batch.count(Want::Logits));
        if rows > ws.max_rows || outputs > ws.max_outputs {
            let (max_rows, max_outputs) = (ws.max_rows, ws.max_outputs);
            return Err(ModelError::BatchTooLarge { rows, outputs, max_rows, max_outputs });
        }
        if !batch.adapters.iter().all(|adapter| adapter.fits(&self.config)) {
            return Err(ModelError::AdapterMisfit);
        }
        let vocab_size = self.config.vocab_size;
        if let Some(&token) = batch.tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { token, vocab_size });
        }
        for (&position, table) in batch.positions.iter().zip(&batch.tables) {
            // Attention reads every page up to the position, so all of them must exist.
            let pages = batch.pages.get(table.clone()).unwrap_or_default();
            let pages_total = cache.pages();
            let read = pages.get(..position as usize / PAGE_TOKENS + 1);
            if read.is_none_or(|pages| pages.iter().any(|page| *page as usize >= pages_total)) {
                return Err(ModelError::PageMissing { position, pages: pages.len(), pages_total });
            }
        }
        Ok(())
    }
}

/// What the products with all of `weights` need of their activations.
pub(crate) fn kind_for<const N: usize>(weights: [&Weight; N]) -> ActivationKind {
    let kinds = weights.into_iter().map(|weight| ActivationKind::for_format(weight.format()));
    kinds.reduce(|all, kind| all | kind).unwrap_or(ActivationKind::FLOATS)
}

/// Of all rows that `out` has room for.
fn product<'a>(weight: &'a Weight, out: &'a mut [f32], then: Then) -> Product<'a> {
    Product { w: weight.view(), rows: 0..out.len() / weight.rows(), out, then }
}

/// Rows that one thread takes at a time where a row is little work.
pub(crate) const TASK_ROWS: usize = 8;
