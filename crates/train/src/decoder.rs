//! The decoder for training: forward with all that the backward pass needs saved, and the gradients by hand. The same mathematics
//! as `falaj_model`'s decoder, with inputs of products in bf16 and everything else in f32. The head is in `decoder/head.rs`, experts
//! are in `decoder/mixture.rs`, a text that is gone on with in `decoder/reading.rs`.
//!
//! Letters: T tokens of the micro-batch, D hidden size, H query heads, K key and value heads, E head size, F feed-forward size.

mod head;
mod mixture;
mod reading;

use std::ops::Range;

use falaj_kernels::{AlignedVec, Operand, OutMut, Then, Values};
use falaj_model::{Config, Slot};

use crate::MicroBatch;
use crate::arena::{Group, Index};
use crate::budget::Budget;
use crate::lora::{Adapter, Dropout};
use crate::machine::Machine;
use crate::tape::{BlockTape, LoraScratch, Scratch, Tape};
use crate::weights::Weights;

pub(crate) use head::Tally;
pub(crate) use mixture::{MixtureScratch, MixtureTape, places};
pub use reading::Reading;

/// A decoder with room for one micro-batch.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub machine: Machine,
    pub weights: Weights,
    pub adapter: Option<Adapter>,
    pub tape: Tape,
    pub scratch: Scratch,
}

/// Sums over the micro-batches of a step.
#[derive(Debug)]
pub(crate) struct Grads {
    /// Of the arena, or of the adapter.
    pub values: AlignedVec<f32>,
    /// Of the embedding as a table where it is the head too: two sums that only meet at the end of a step, so that the cut into
    /// micro-batches does not matter.
    tied: AlignedVec<f32>,
    /// Of a frozen norm, which nobody wants.
    unwanted: AlignedVec<f32>,
    /// What is added to, row by row: all but the trained matrices, whose first micro-batch stores its products.
    added: Vec<Range<usize>>,
    /// No micro-batch of this step has been through.
    is_first: bool,
}

impl Grads {
    /// Of all parameters where `trained` says how they lie, else of the adapter.
    pub fn new(config: &Config, trained: Option<&Index>, adapter: Option<&Adapter>, budget: &mut Budget) -> Self {
        let tied = trained.filter(|_| config.tied_head).map_or(0, |index| index.range(Slot::Embedding).len());
        let len = trained.map_or(adapter.map_or(0, |adapter| adapter.values.len()), |index| index.len);
        let added = match trained {
            Some(index) => index
                .places
                .iter()
                .filter(|place| match place.slot {
                    Slot::Norm | Slot::AttentionNorm { .. } | Slot::FfnNorm { .. } => true,
                    Slot::Embedding => !config.tied_head,
                    _ => false,
                })
                .map(|place| place.range.clone())
                .collect(),
            None => std::iter::once(0..len).collect(),
        };
        Self {
            added,
            is_first: true,
            values: budget.buffer("gradients", len),
            tied: budget.buffer("gradients", tied),
            unwanted: budget.buffer("gradients", config.hidden_size),
        }
    }

    /// Before the first micro-batch.
    pub fn clear(&mut self, m: &Machine) {
        for range in &self.added {
            m.fill(&mut self.values[range.clone()], 0.0);
        }
        m.fill(&mut self.tied, 0.0);
        self.is_first = true;
    }

    /// What the product that makes a trained matrix's gradient does with what is there.
    fn then(&self) -> Then {
        if self.is_first { Then::Store } else { Then::Add }
    }

    /// A matrix from which this micro-batch learns nothing.
    fn nothing(&mut self, m: &Machine, range: Range<usize>) {
        if self.is_first {
            m.fill(&mut self.values[range], 0.0);
        }
    }

    /// After the last micro-batch.
    pub fn join(&mut self, m: &Machine) {
        if !self.tied.is_empty() {
            // The embedding is the first parameter.
            let len = self.tied.len();
            m.add(&mut self.values[..len], &self.tied);
        }
    }

    fn norm(&mut self, weights: &Weights, slot: Slot) -> &mut [f32] {
        match weights {
            Weights::Trained(arena) => &mut self.values[arena.index.range(slot)],
            Weights::Frozen(_) => &mut self.unwanted,
        }
    }
}

impl Decoder {
    pub fn config(&self) -> &Config {
        &self.machine.config
    }

    /// What the optimiser changes.
    pub fn trained_mut(&mut self) -> &mut [f32] {
        self.update_parts().1
    }

    /// The machine beside it.
    pub fn update_parts(&mut self) -> (&Machine, &mut [f32]) {
        let values = match (&mut self.weights, &mut self.adapter) {
            (_, Some(adapter)) => &mut adapter.values[..],
            (Weights::Trained(arena), None) => &mut arena.values[..],
            (Weights::Frozen(_), None) => &mut [],
        };
        (&self.machine, values)
    }

    /// Up to the norm before the head.
    pub fn forward(&mut self, batch: &MicroBatch, dropout: Option<&Dropout>) {
        self.forward_with(batch, dropout, true, None);
    }

    /// As if there were no adapter.
    pub fn forward_base(&mut self, batch: &MicroBatch) {
        self.forward_with(batch, None, false, None);
    }

    fn forward_with(
        &mut self,
        batch: &MicroBatch,
        dropout: Option<&Dropout>,
        adapted: bool,
        mut reading: Option<&mut Reading>,
    ) {
        let Self { machine: m, weights, adapter, tape, scratch } = self;
        let adapter = adapter.as_ref().filter(|_| adapted);
        let (t, d) = (batch.len(), m.config.hidden_size);
        weights.embed(m, &batch.tokens, &mut tape.residual[0][..t * d]);
        for layer in 0..m.config.layers {
            let number = tape.block(layer);
            let (before, after) = tape.residual.split_at_mut(layer + 1);
            let (x, out) = (&before[layer][..t * d], &mut after[0][..t * d]);
            let mut block = Block { m, weights, adapter, layer, tape: &mut tape.blocks[number], batch, dropout };
            block.forward(x, Some(out), scratch, reading.as_deref_mut());
        }
        let x = &tape.residual[m.config.layers][..t * d];
        m.norm(x, weights.norm(Slot::Norm), &mut tape.normed[..t * d], &mut tape.rstd[..t]);
    }

    /// From the gradient behind the last norm, which `head` left, down to the embedding.
    pub fn backward(&mut self, batch: &MicroBatch, grads: &mut Grads, dropout: Option<&Dropout>) {
        let Self { machine: m, weights, adapter, tape, scratch } = self;
        let adapter = adapter.as_ref();
        let (t, d) = (batch.len(), m.config.hidden_size);
        let x = &tape.residual[m.config.layers][..t * d];
        m.fill(&mut scratch.d_x[..t * d], 0.0);
        let d_x = (&mut scratch.d_x[..t * d], &mut scratch.d_x_bits[..t * d]);
        let d_norm = grads.norm(weights, Slot::Norm);
        let before = (x, &tape.rstd[..t]);
        m.norm_backward(&scratch.d_normed[..t * d], before, weights.norm(Slot::Norm), d_x, d_norm);
        for layer in (0..m.config.layers).rev() {
            let (number, again) = (tape.block(layer), tape.recomputes());
            let x = &tape.residual[layer][..t * d];
            let mut block = Block { m, weights, adapter, layer, tape: &mut tape.blocks[number], batch, dropout };
            if again && layer + 1 < m.config.layers {
                block.forward(x, None, scratch, None);
            }
            block.backward(x, grads, scratch);
        }
        if let Weights::Trained(arena) = weights {
            let table = match m.config.tied_head {
                true => &mut grads.tied[..],
                false => &mut grads.values[arena.index.range(Slot::Embedding)],
            };
            embedding_backward(m, &batch.tokens, &scratch.d_x[..t * d], table);
        }
        grads.is_first = false;
    }
}

/// table (V, D) += the gradient of each token's row, in the order of the tokens.
fn embedding_backward(m: &Machine, tokens: &[u32], d_x: &[f32], table: &mut [f32]) {
    let d = m.config.hidden_size;
    let rows = m.config.vocab_size.div_ceil(4 * m.pool.threads());
    m.pool.chunks([(table, rows * d)], |chunk, [table]| {
        let mine = chunk * rows..chunk * rows + table.len() / d;
        for (token, d_x) in tokens.iter().zip(d_x.chunks_exact(d)) {
            if mine.contains(&(*token as usize)) {
                m.ops.add(&mut table[(*token as usize - mine.start) * d..][..d], d_x);
            }
        }
    });
}

/// One block of the decoder at work.
struct Block<'a> {
    m: &'a Machine,
    weights: &'a mut Weights,
    adapter: Option<&'a Adapter>,
    layer: usize,
    tape: &'a mut BlockTape,
    batch: &'a MicroBatch,
    dropout: Option<&'a Dropout>,
}

impl Block<'_> {
    /// x (T, D) → out (T, D), which may be left out where only the tape is wanted.
    fn forward(&mut self, x: &[f32], out: Option<&mut [f32]>, s: &mut Scratch, reading: Option<&mut Reading>) {
        let Self { m, weights, adapter, layer, tape, batch, dropout } = self;
        let (layer, dropout) = (*layer, *dropout);
        let &Config { hidden_size: d, heads, kv_heads, head_dim: e, ffn_size: f, .. } = &m.config;
        let (t, columns, attended) = (batch.len(), (heads + 2 * kv_heads) * e, heads * e);

        // middle = x + output(attention(norm(x)))
        let normed = &mut tape.attention_normed[..t * d];
        m.norm(x, weights.norm(Slot::AttentionNorm { layer }), normed, &mut tape.attention_rstd[..t]);
        let qkv = &mut tape.qkv[..t * columns];
        match adapter.filter(|adapter| adapter.width(0) > 0) {
            None => linear(m, weights, Group::Attention { layer }, normed, OutMut::bf16(qkv), Then::Store),
            Some(adapter) => {
                let sums = &mut s.wide[..t * columns];
                linear(m, weights, Group::Attention { layer }, normed, OutMut::f32(sums), Then::Store);
                adapter.forward(m, (layer, 0), normed, sums, &mut tape.adapted[0], &mut s.lora, dropout);
                m.round(sums, qkv);
            }
        }
        m.rotate(qkv, batch);
        let attended = &mut tape.attended[..t * attended];
        match reading {
            None => m.attention(qkv, &batch.starts, attended, &mut tape.lse[..t * heads]),
            Some(reading) => reading.attention(m, layer, qkv, attended),
        }
        let middle = &mut tape.middle[..t * d];
        linear(m, weights, Group::Output { layer }, attended, OutMut::f32(middle).onto(x), Then::Store);
        if let Some(adapter) = adapter {
            adapter.forward(m, (layer, 1), attended, middle, &mut tape.adapted[1], &mut s.lora, dropout);
        }

        // out = middle + down(silu(gate) · up)
        let normed = &mut tape.ffn_normed[..t * d];
        m.norm(middle, weights.norm(Slot::FfnNorm { layer }), normed, &mut tape.ffn_rstd[..t]);
        if let Some(experts) = m.config.experts {
            let mut out = out;
            if let Some(out) = &mut out {
                out.copy_from_slice(middle);
            }
            mixture::forward(m, weights, (layer, experts), tape, t, out, &mut s.mixture);
            return;
        }
        let gate_up = &mut tape.gate_up[..t * 2 * f];
        match adapter.filter(|adapter| adapter.width(2) > 0) {
            None => {
                linear(m, weights, Group::GateUp { layer, expert: None }, normed, OutMut::bf16(gate_up), Then::Store)
            }
            Some(adapter) => {
                let sums = &mut s.wide[..t * 2 * f];
                linear(m, weights, Group::GateUp { layer, expert: None }, normed, OutMut::f32(sums), Then::Store);
                adapter.forward(m, (layer, 2), normed, sums, &mut tape.adapted[2], &mut s.lora, dropout);
                m.round(sums, gate_up);
            }
        }
        let inner = &mut tape.inner[..t * f];
        m.swiglu(gate_up, inner);
        let out = match out {
            Some(out) => {
                linear(
                    m,
                    weights,
                    Group::Down { layer, expert: None },
                    inner,
                    OutMut::f32(out).onto(middle),
                    Then::Store,
                );
                out
            }
            // Only what the adapter leaves on the tape is wanted.
            None => &mut s.wide[..if adapter.is_some() { t * d } else { 0 }],
        };
        if let Some(adapter) = adapter {
            adapter.forward(m, (layer, 3), inner, out, &mut tape.adapted[3], &mut s.lora, dropout);
        }
    }

    /// s.d_x (T, D): from the gradient behind the block to the one before it.
    fn backward(&mut self, x: &[f32], grads: &mut Grads, s: &mut Scratch) {
        let layer = self.layer;
        let &Config { hidden_size: d, heads, kv_heads, head_dim: e, ffn_size: f, .. } = &self.m.config;
        let (t, columns, attended) = (self.batch.len(), (heads + 2 * kv_heads) * e, heads * e);
        let Scratch { d_x, d_x_bits, d_normed, d_inner, wide, d_attended, bits, lora, mixture, .. } = s;
        let (d_x, d_x_bits) = (&mut d_x[..t * d], &mut d_x_bits[..t * d]);
        let d_normed = &mut d_normed[..t * d];
        let mut room = (&mut wide[..], lora);

        if let Some(experts) = self.m.config.experts {
            let (place, room) = ((layer, experts), (&mut room.0[..], &mut d_inner[..], &mut bits[..]));
            mixture::backward(self.m, self.weights, place, self.tape, d_x, d_normed, room, grads, mixture);
        } else {
            let d_inner = &mut d_inner[..t * f];
            self.linear_backward(3, d_x_bits, |tape| &tape.inner[..t * f], d_inner, grads, &mut room);
            let d_gate_up = &mut bits[..t * 2 * f];
            self.m.swiglu_backward(&self.tape.gate_up[..t * 2 * f], d_inner, d_gate_up);
            self.linear_backward(2, d_gate_up, |tape| &tape.ffn_normed[..t * d], d_normed, grads, &mut room);
        }
        let (slot, before) = (Slot::FfnNorm { layer }, (&self.tape.middle[..t * d], &self.tape.ffn_rstd[..t]));
        let d_norm = grads.norm(self.weights, slot);
        self.m.norm_backward(d_normed, before, self.weights.norm(slot), (d_x, d_x_bits), d_norm);

        let d_attended = &mut d_attended[..t * attended];
        self.linear_backward(1, d_x_bits, |tape| &tape.attended[..t * attended], d_attended, grads, &mut room);
        let (qkv, d_qkv) = (&self.tape.qkv[..t * columns], &mut bits[..t * columns]);
        let attended = (&self.tape.attended[..t * attended], &self.tape.lse[..t * heads]);
        self.m.attention_backward(qkv, self.batch, attended, d_attended, d_qkv);
        self.linear_backward(0, d_qkv, |tape| &tape.attention_normed[..t * d], d_normed, grads, &mut room);
        let (slot, before) = (Slot::AttentionNorm { layer }, (x, &self.tape.attention_rstd[..t]));
        let d_norm = grads.norm(self.weights, slot);
        self.m.norm_backward(d_normed, before, self.weights.norm(slot), (d_x, d_x_bits), d_norm);
    }

    /// d_x (T, inputs) = dy W and what the adapter adds, rounded once; and the gradient of what is trained there.
    fn linear_backward(
        &mut self,
        kind: usize,
        dy: &[u16],
        x: impl Fn(&BlockTape) -> &[u16],
        d_x: &mut [u16],
        grads: &mut Grads,
        (wide, lora): &mut (&mut [f32], &mut LoraScratch),
    ) {
        let (group, x) = (crate::lora::groups(self.layer)[kind], x(self.tape));
        let Some(adapter) = self.adapter.filter(|adapter| adapter.width(kind) > 0) else {
            linear_backward(self.m, self.weights, group, Values::Bf16(dy), x, OutMut::bf16(d_x), grads);
            return;
        };
        let sums = &mut wide[..d_x.len()];
        linear_backward(self.m, self.weights, group, Values::Bf16(dy), x, OutMut::f32(sums), grads);
        let (place, low) = ((self.layer, kind), &self.tape.adapted[kind]);
        adapter.backward(self.m, place, Values::Bf16(dy), x, low, sums, &mut grads.values, lora, self.dropout);
        self.m.round(sums, d_x);
    }
}

/// out (T, N) = x (T, K) Wᵀ.
fn linear(m: &Machine, weights: &mut Weights, group: Group, x: &[u16], out: OutMut, then: Then) {
    let (rows, cols) = group.shape(&m.config);
    let w = Operand::rows(weights.group(m, group), rows, cols);
    m.product(Operand::rows(Values::Bf16(x), x.len() / cols, cols), w, out, then);
}

/// d_x (T, K) = dy (T, N) W; dW (N, K) += dyᵀ x where the weights are trained.
fn linear_backward(
    m: &Machine,
    weights: &mut Weights,
    group: Group,
    dy: Values<'_>,
    x: &[u16],
    d_x: OutMut,
    grads: &mut Grads,
) {
    let (rows, cols) = group.shape(&m.config);
    let (t, then) = (x.len() / cols, grads.then());
    if let Weights::Trained(arena) = weights {
        let d_w = &mut grads.values[arena.index.group(&m.config, group)];
        let x = Operand::transposed(Values::Bf16(x), cols, t);
        m.product(Operand::transposed(dy, rows, t), x, OutMut::f32(d_w), then);
    }
    let w = Operand::transposed(weights.group(m, group), cols, rows);
    m.product(Operand::rows(dy, t, rows), w, d_x, Then::Store);
}
