//! The end of the decoder: logits, loss and their gradient in pieces that fit the cache, so that the logits of a whole batch never
//! exist. Only tokens that count are computed.

use std::ops::Range;

use falaj_kernels::{AlignedVec, Operand, OutMut, Then, Values};

use super::{Decoder, Grads};
use crate::MicroBatch;
use crate::arena::Group;
use crate::distillation::{self, Distillation, Teacher};
use crate::tape::HeadScratch;
use crate::weights::Weights;

/// What a loss is made of, over the micro-batches of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// Σ weight · −ln p(target), in f64, in the order of the tokens.
    pub loss: f64,
    /// Σ weight
    pub weight: f64,
    /// Σ weight where the target was the most likely token.
    pub correct: f64,
    /// Those that count.
    pub tokens: u64,
}

impl Decoder {
    /// Logits, loss and, with `grads`, the gradient behind the last norm. `weights` (T) are divided by `total` for the gradient.
    pub fn head(
        &mut self,
        batch: &MicroBatch,
        weights: &[f32],
        total: f64,
        mut grads: Option<&mut Grads>,
        tally: &mut Tally,
        mut teacher: Option<(&mut Teacher, Distillation)>,
    ) {
        let Self { machine: m, weights: params, tape, scratch, .. } = self;
        let (t, d, v) = (batch.len(), m.config.hidden_size, m.config.vocab_size);
        let s = &mut scratch.head;
        s.keep(weights, total);
        let d_normed = &mut scratch.d_normed[..t * d];
        s.all_losses[..t].fill(0.0);
        let trained = match params {
            Weights::Trained(arena) => Some(arena.index.group(&m.config, Group::Head)),
            Weights::Frozen(_) => None,
        };
        let w = params.group(m, Group::Head);
        let panels = m.pack(Operand::rows(w, v, d), &mut s.panels);
        let kept = std::mem::take(&mut s.kept);
        let across = grads.is_some().then(|| m.pack(Operand::transposed(w, d, v), &mut s.across));
        if let Some(grads) = grads.as_deref_mut() {
            if kept.len() < t {
                d_normed.fill(0);
            }
            if let (true, Some(range)) = (kept.is_empty(), &trained) {
                grads.nothing(m, range.clone());
            }
        }
        // As equal as whole pairs can be: a short last one would cost as much traffic as a long one.
        let each = kept.len().div_ceil(kept.len().div_ceil(s.rows).max(1)).next_multiple_of(2).max(2);
        for tokens in kept.chunks(each) {
            let n = tokens.len();
            // Where no token between them is left out, all is read and written in place.
            let first = tokens[0] as usize;
            let in_place = tokens[n - 1] as usize + 1 == first + n;
            let normed = if in_place {
                &tape.normed[first * d..][..n * d]
            } else {
                let normed = &mut s.normed[..n * d];
                for (row, &token) in normed.chunks_exact_mut(d).zip(tokens) {
                    row.copy_from_slice(&tape.normed[token as usize * d..][..d]);
                }
                normed
            };
            let logits = &mut s.logits[..n * v];
            m.product(Operand::rows(Values::Bf16(normed), n, d), panels, OutMut::f32(logits), Then::Store);
            s.targets.clear();
            s.targets.extend(tokens.iter().map(|token| batch.targets[*token as usize]));
            s.weights.clear();
            s.weights.extend(tokens.iter().map(|token| s.shares[*token as usize]));
            let (losses, correct, d_logits) = (&mut s.losses[..n], &mut s.correct[..n], &mut s.d_logits[..n * v]);
            m.cross_entropy(logits, &s.targets, &s.weights, losses, correct, d_logits);
            if let Some((teacher, distillation)) = &mut teacher {
                let theirs = teacher.logits(tokens);
                distillation::mix(m, *distillation, logits, theirs, &s.weights, losses, d_logits);
            }
            for ((&token, loss), correct) in tokens.iter().zip(&*losses).zip(&*correct) {
                let weight = f64::from(weights[token as usize]);
                s.all_losses[token as usize] = *loss;
                tally.loss += weight * f64::from(*loss);
                tally.weight += weight;
                tally.correct += weight * f64::from(*correct);
                tally.tokens += u64::from(weight != 0.0);
            }
            let (Some(grads), Some(across)) = (grads.as_deref_mut(), across) else { continue };
            let d_logits = Values::Bf16(d_logits);
            if let Some(range) = &trained {
                let x = Operand::transposed(Values::Bf16(normed), d, n);
                let then = if tokens.as_ptr() == kept.as_ptr() { grads.then() } else { Then::Add };
                let out = OutMut::f32(&mut grads.values[range.clone()]);
                m.product(Operand::transposed(d_logits, v, n), x, out, then);
            }
            let d_logits = Operand::rows(d_logits, n, v);
            if in_place {
                m.product(d_logits, across, OutMut::bf16(&mut d_normed[first * d..][..n * d]), Then::Store);
            } else {
                let rows = &mut s.d_normed[..n * d];
                m.product(d_logits, across, OutMut::bf16(rows), Then::Store);
                for (row, &token) in rows.chunks_exact(d).zip(tokens) {
                    d_normed[token as usize * d..][..d].copy_from_slice(row);
                }
            }
        }
        s.kept = kept;
    }

    /// −ln p(target) of each token of the last micro-batch, 0 where it had no weight.
    pub fn losses(&self, tokens: usize) -> &[f32] {
        &self.scratch.head.all_losses[..tokens]
    }

    /// The logits of these tokens of the last forward pass: (T, V). For tests, samples and round trips of exports; it takes room for
    /// all of them.
    pub fn logits(&mut self, tokens: Range<usize>) -> Vec<f32> {
        let Self { machine: m, weights, tape, .. } = self;
        let (t, d, v) = (tokens.len(), m.config.hidden_size, m.config.vocab_size);
        let mut out = vec![0.0; t * v];
        let x = Operand::rows(Values::Bf16(&tape.normed[tokens.start * d..tokens.end * d]), t, d);
        m.product(x, Operand::rows(weights.group(m, Group::Head), v, d), OutMut::f32(&mut out), Then::Store);
        out
    }
}

impl Teacher {
    /// After the chosen tokens of the last forward pass: (n, V).
    fn logits(&mut self, tokens: &[u32]) -> &[f32] {
        let Decoder { machine: m, weights, tape, scratch, .. } = &mut self.decoder;
        let (n, d, v) = (tokens.len(), m.config.hidden_size, m.config.vocab_size);
        let (normed, logits) = (&mut scratch.head.normed, &mut scratch.head.logits);
        if normed.len() < n * d {
            (*normed, *logits) = (AlignedVec::new(n * d), AlignedVec::new(n * v));
        }
        let (normed, logits) = (&mut normed[..n * d], &mut logits[..n * v]);
        for (row, &token) in normed.chunks_exact_mut(d).zip(tokens) {
            row.copy_from_slice(&tape.normed[token as usize * d..][..d]);
        }
        let w = Operand::rows(weights.group(m, Group::Head), v, d);
        m.product(Operand::rows(Values::Bf16(normed), n, d), w, OutMut::f32(logits), Then::Store);
        logits
    }
}

impl HeadScratch {
    /// Whole pairs of tokens: a product adds in pairs, so which tokens are left out must not change who is paired with whom.
    fn keep(&mut self, weights: &[f32], total: f64) {
        self.kept.clear();
        self.shares.clear();
        self.shares.extend(weights.iter().map(|weight| (f64::from(*weight) / total) as f32));
        for (pair, weights) in weights.chunks(2).enumerate() {
            if weights.iter().any(|weight| *weight != 0.0) {
                self.kept.extend((0..weights.len()).map(|i| (2 * pair + i) as u32));
            }
        }
    }
}
