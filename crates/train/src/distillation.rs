//! Distillation: the model learns a larger one's distribution over every next token, not only the token that came. Source: Hinton et
//! al. 2015, § 2; the divergence is taken at `temperature` and multiplied by its square, so that gradients keep their size.

use std::sync::atomic::{AtomicU32, Ordering};

use falaj_kernels::{Ops, bf16_to_f32, f32_to_bf16, ln};
use falaj_model::{Config, Params};
use serde::{Deserialize, Serialize};

use crate::budget::Budget;
use crate::decoder::{Decoder, Tally};
use crate::lora::Dropout;
use crate::machine::Machine;
use crate::tape::{Scratch, Tape};
use crate::weights::{Frozen, Weights};
use crate::{MicroBatch, StepReport, TrainError, Trainer};

/// How a teacher counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    pub temperature: f32,
    /// Share of the loss that is the teacher's; the rest is the tokens'.
    pub share: f32,
}

/// A frozen model of the same vocabulary.
#[derive(Debug)]
pub struct Teacher {
    pub(crate) decoder: Decoder,
}

impl Teacher {
    /// For micro-batches of `max_tokens`.
    ///
    /// # Errors
    /// A model that the trainer could not compute.
    pub fn new(config: &Config, params: Params, max_tokens: usize, threads: usize) -> Result<Self, TrainError> {
        let mut budget = Budget::taking();
        let weights = Weights::Frozen(Frozen::new(config, params, &mut budget)?);
        let tape = Tape::new(config, max_tokens, true, None, &mut budget);
        let scratch = Scratch::new(config, max_tokens, None, &mut budget);
        let machine = Machine::new(config, Ops::best(), threads, max_tokens.min(config.context_tokens));
        Ok(Self { decoder: Decoder { machine, weights, adapter: None, tape, scratch } })
    }
}

impl Trainer {
    /// Learns from `teacher` what it would say after each token of weight.
    ///
    /// # Errors
    /// As [`Trainer::step`], and a teacher with another vocabulary or a shorter context.
    pub fn step_distillation(
        &mut self,
        batches: &[MicroBatch],
        teacher: &mut Teacher,
        distillation: Distillation,
    ) -> Result<StepReport, TrainError> {
        let (ours, theirs) = (self.config(), teacher.decoder.config());
        if ours.vocab_size != theirs.vocab_size || theirs.context_tokens < ours.context_tokens {
            return Err(TrainError::Setting {
                setting: "teacher",
                value: format!("a model of {} tokens", theirs.vocab_size),
                rule: "it must have the same vocabulary and at least the same context",
            });
        }
        let total = self.total_weight(batches)?;
        self.grads.clear(&self.decoder.machine);
        let mut tally = Tally::default();
        let mut first_token = 0;
        for batch in batches {
            let dropout = Dropout { seed: self.settings().seed, step: self.steps_done(), first_token };
            first_token += batch.len() as u64;
            teacher.decoder.forward(batch, None);
            let Self { decoder, grads, .. } = self;
            decoder.forward(batch, Some(&dropout));
            let teacher = Some((&mut *teacher, distillation));
            decoder.head(batch, &batch.weights, total, Some(grads), &mut tally, teacher);
            decoder.backward(batch, grads, Some(&dropout));
        }
        self.grads.join(&self.decoder.machine);
        self.apply(tally)
    }
}

/// Mixes the teacher's share into losses (n) and d_logits (n, V), which hold the tokens'. logits, theirs: (n, V).
pub(crate) fn mix(
    m: &Machine,
    Distillation { temperature, share }: Distillation,
    logits: &[f32],
    theirs: &[f32],
    weights: &[f32],
    losses: &mut [f32],
    d_logits: &mut [u16],
) {
    let (v, cold) = (m.config.vocab_size, 1.0 / temperature);
    // A sum of its own for each row, so that tasks need no order.
    let divergences: Vec<AtomicU32> = weights.iter().map(|_| AtomicU32::new(0)).collect();
    m.pool.chunks([(d_logits, v)], |row, [d_logits]| {
        let scaled = |values: &[f32]| -> Vec<f32> { values[row * v..][..v].iter().map(|value| value * cold).collect() };
        let (ours, theirs) = (scaled(logits), scaled(theirs));
        let soft = |values: &[f32]| {
            let mut soft = values.to_vec();
            m.ops.softmax(&mut soft);
            let most = m.ops.argmax(values);
            let normaliser = values[most] - ln(soft[most]);
            (soft, normaliser)
        };
        let ((p, ours_normaliser), (q, theirs_normaliser)) = (soft(&ours), soft(&theirs));
        // Σ q (ln q − ln p)
        let divergence = m.ops.dot(&q, &theirs) - m.ops.dot(&q, &ours) - theirs_normaliser + ours_normaliser;
        divergences[row].store((temperature * temperature * divergence).to_bits(), Ordering::Relaxed);
        let soft_scale = share * temperature * weights[row];
        for ((d, p), q) in d_logits.iter_mut().zip(&p).zip(&q) {
            *d = f32_to_bf16((1.0 - share) * bf16_to_f32(*d) + soft_scale * (p - q));
        }
    });
    for (loss, divergence) in losses.iter_mut().zip(divergences) {
        *loss = (1.0 - share) * *loss + share * f32::from_bits(divergence.into_inner());
    }
}
