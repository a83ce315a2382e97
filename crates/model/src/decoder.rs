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
use falaj_kernels::{ActivationKind, Activations, AlignedVec, AttentionArgs, Ops, Pool};
use falaj_tensor::Weight;

use crate::cache::{KvCache, PAGE_TOKENS};
use crate::params::{FeedForward, Layer, Swiglu};
use crate::rope::Frequencies;
use crate::workspace::{Chosen, Workspace, recycle};
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

    /// Bytes of all matrices, as the files hold them.
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
        if batch.is_empty() {
            return Ok(());
        }
        let t = batch.rows();
        let (d, half) = (self.config.hidden_size, self.config.head_dim / 2);

        // x = E[token]  (T, D); and the angles of each row's position (T, E/2)
        for (row, (&token, &position)) in batch.tokens.iter().zip(&batch.positions).enumerate() {
            self.params.embedding.dequantize_row(&self.ops, token as usize, &mut ws.x[row * d..][..d]);
            self.frequencies.angles(position, &mut ws.cos[row * half..][..half], &mut ws.sin[row * half..][..half]);
        }
        for (number, layer) in self.params.layers.iter().enumerate() {
            // x += attention(norm(x))
            self.ops.rms_norm(&ws.x[..t * d], &layer.attention_norm, self.config.norm_eps, &mut ws.normed[..t * d]);
            self.attention(layer, number, ws, cache, batch);
            self.ops.add(&mut ws.x[..t * d], &ws.branch[..t * d]);
            // x += ffn(norm(x))
            self.ops.rms_norm(&ws.x[..t * d], &layer.ffn_norm, self.config.norm_eps, &mut ws.normed[..t * d]);
            match &layer.ffn {
                FeedForward::Dense(network) => self.dense(network, ws, t),
                FeedForward::Sparse { router, experts } => self.sparse(router, experts, ws, t),
            }
            self.ops.add(&mut ws.x[..t * d], &ws.branch[..t * d]);
        }
        self.output(ws, batch);
        Ok(())
    }

    /// Attention of grouped queries. `ws.normed` (T, D) → `ws.branch` (T, D).
    /// Source: Ainslie et al. 2023; the window: Jiang et al. 2023 (Mistral 7B), § 2.
    fn attention(&self, layer: &Layer, number: usize, ws: &mut Workspace, cache: &mut KvCache, batch: &Batch) {
        let &Config { hidden_size: d, heads, kv_heads, head_dim, .. } = &self.config;
        let (t, half) = (batch.rows(), head_dim / 2);
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);

        // q (T, H, E), k and v (T, K, E)
        let projections = [(&layer.query, &mut ws.query), (&layer.key, &mut ws.key), (&layer.value, &mut ws.value)];
        self.project(&ws.pool, &mut ws.activations, &ws.normed[..t * d], projections);

        for row in 0..t {
            let (cos, sin) = (&ws.cos[row * half..][..half], &ws.sin[row * half..][..half]);
            let rotated = ws.query[row * queries..][..queries].chunks_exact_mut(head_dim);
            for head in rotated.chain(ws.key[row * keys..][..keys].chunks_exact_mut(head_dim)) {
                self.ops.rope(head, cos, sin, self.config.rope.layout);
            }
            let position = batch.positions[row] as usize;
            let page = batch.pages[batch.tables[row].start + position / PAGE_TOKENS];
            let (key, value) = (&ws.key[row * keys..][..keys], &ws.value[row * keys..][..keys]);
            cache.write(&self.ops, number, page as usize, position % PAGE_TOKENS, key, value);
        }

        // Prompt rows read the keys of their own batch through the cache too, so that chunks and single steps compute alike.
        let mut rows = recycle(std::mem::take(&mut ws.attention_rows));
        batch.attention_rows(&mut rows);
        let (key_pages, value_pages) = cache.layer(number);
        let args = AttentionArgs {
            q: &ws.query[..t * queries],
            keys: key_pages,
            values: value_pages,
            page_tokens: PAGE_TOKENS,
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
        self.project(&ws.pool, &mut ws.activations, attended, [(&layer.output, &mut ws.branch)]);
    }

    /// `ws.normed` (T, D) → `ws.branch` (T, D).
    fn dense(&self, network: &Swiglu, ws: &mut Workspace, t: usize) {
        let (d, f) = (self.config.hidden_size, self.config.ffn_size);
        let inner = [(&network.gate, &mut ws.gate), (&network.up, &mut ws.up)];
        self.project(&ws.pool, &mut ws.activations, &ws.normed[..t * d], inner);
        self.ops.swiglu(&mut ws.gate[..t * f], &ws.up[..t * f]);
        self.project(&ws.pool, &mut ws.activations, &ws.gate[..t * f], [(&network.down, &mut ws.branch)]);
    }

    /// Mixtral's mixture: softmax over all experts, the best of them, weights made to sum to 1. Rows that chose the same
    /// expert go through it together; a row's sum runs over its experts in ascending order, whoever else is there.
    /// `ws.normed` (T, D) → `ws.branch` (T, D). Source: Jiang et al. 2024, § 2.1.
    fn sparse(&self, router: &Weight, experts: &[Swiglu], ws: &mut Workspace, t: usize) {
        let (d, f, x) = (self.config.hidden_size, self.config.ffn_size, experts.len());
        self.project(&ws.pool, &mut ws.activations, &ws.normed[..t * d], [(router, &mut ws.routes)]);
        let used = self.config.experts.map_or(x, |experts| experts.used);
        ws.chosen.clear();
        for row in 0..t {
            let probabilities = &mut ws.routes[row * x..][..x];
            self.ops.softmax(probabilities);
            choose(probabilities, used, row, &mut ws.chosen);
        }
        ws.chosen.sort_unstable_by_key(|chosen| (chosen.expert, chosen.row));

        ws.branch[..t * d].fill(0.0);
        for group in ws.chosen.chunk_by(|a, b| a.expert == b.expert) {
            let Some(network) = group.first().and_then(|first| experts.get(first.expert)) else { continue };
            let n = group.len();
            for (i, chosen) in group.iter().enumerate() {
                ws.gathered[i * d..][..d].copy_from_slice(&ws.normed[chosen.row * d..][..d]);
            }
            let inner = [(&network.gate, &mut ws.gate), (&network.up, &mut ws.up)];
            self.project(&ws.pool, &mut ws.activations, &ws.gathered[..n * d], inner);
            self.ops.swiglu(&mut ws.gate[..n * f], &ws.up[..n * f]);
            self.project(&ws.pool, &mut ws.activations, &ws.gate[..n * f], [(&network.down, &mut ws.gathered)]);
            for (i, chosen) in group.iter().enumerate() {
                let out = &mut ws.branch[chosen.row * d..][..d];
                for (sum, value) in out.iter_mut().zip(&ws.gathered[i * d..][..d]) {
                    *sum += chosen.weight * value;
                }
            }
        }
    }

    /// The final norm, and the head, of the rows that want it. `ws.x` (T, D) → `ws.normed` (rows that want, D), logits
    /// rows first → `ws.logits` (n, V).
    fn output(&self, ws: &mut Workspace, batch: &Batch) {
        let d = self.config.hidden_size;
        let (logits, hidden) = (batch.count(Want::Logits), batch.count(Want::Hidden));
        for (row, slot) in ws.slots.iter().enumerate() {
            if let Some(slot) = slot {
                let (x, out) = (&ws.x[row * d..][..d], &mut ws.normed[slot * d..][..d]);
                self.ops.rms_norm(x, &self.params.norm, self.config.norm_eps, out);
            }
        }
        debug_assert_eq!(ws.slots.iter().flatten().count(), logits + hidden);
        if logits > 0 {
            let head = [(self.params.head(), &mut ws.logits)];
            self.project(&ws.pool, &mut ws.activations, &ws.normed[..logits * d], head);
        }
    }

    /// out (T, rows) = x (T, cols) · weightᵀ for each weight; all read the same rows, brought once into the form they want.
    fn project<const N: usize>(
        &self,
        pool: &Pool,
        activations: &mut Activations,
        x: &[f32],
        weights: [(&Weight, &mut AlignedVec<f32>); N],
    ) {
        let cols = weights.first().map_or(1, |(weight, _)| weight.cols());
        let t = x.len() / cols;
        let kinds = weights.iter().map(|(weight, _)| ActivationKind::for_format(weight.format()));
        let kind = kinds.reduce(|all, kind| all | kind).unwrap_or(ActivationKind::FLOATS);
        activations.set(&self.ops, pool, x, t, cols, kind);
        for (weight, out) in weights {
            self.ops.matmul_rows(pool, &weight.matrix(), activations, &mut out[..t * weight.rows()]);
        }
    }

    fn check(&self, ws: &Workspace, cache: &KvCache, batch: &Batch) -> Result<(), ModelError> {
        let (rows, outputs) = (batch.rows(), batch.count(Want::Logits));
        if rows > ws.max_rows || outputs > ws.max_outputs {
            let (max_rows, max_outputs) = (ws.max_rows, ws.max_outputs);
            return Err(ModelError::BatchTooLarge { rows, outputs, max_rows, max_outputs });
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

/// Appends the `used` largest of `probabilities` (X), the lower expert first among equals, with weights that sum to 1.
fn choose(probabilities: &[f32], used: usize, row: usize, chosen: &mut Vec<Chosen>) {
    let start = chosen.len();
    for _ in 0..used {
        let mut best: Option<(usize, f32)> = None;
        for (expert, &weight) in probabilities.iter().enumerate() {
            let taken = chosen[start..].iter().any(|chosen| chosen.expert == expert);
            if !taken && best.is_none_or(|(_, most)| weight > most) {
                best = Some((expert, weight));
            }
        }
        let Some((expert, weight)) = best else { break };
        chosen.push(Chosen { expert, row, weight });
    }
    let sum: f32 = chosen[start..].iter().map(|chosen| chosen.weight).sum();
    chosen[start..].iter_mut().for_each(|chosen| chosen.weight /= sum);
}
