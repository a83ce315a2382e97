//! Direct preference optimisation: the model learns to prefer one of two answers, held to the model it began as. Source: Rafailov et
//! al. 2023, eq. 7, with the label smoothing of Mitchell 2023 (conservative DPO).

use falaj_kernels::{exp, ln};
use serde::{Deserialize, Serialize};

use crate::decoder::{Decoder, Tally};
use crate::lora::Dropout;
use crate::weights::Weights;
use crate::{MicroBatch, StepReport, TrainError, Trainer};

/// How strongly preferences count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// How strongly the model is held to the one it began as.
    pub beta: f32,
    /// Share of the pairs that are taken to be labelled the wrong way round.
    pub label_smoothing: f32,
}

/// What the pairs of a step, or of an evaluation, showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Pairs {
    loss: f64,
    pairs: u64,
    /// Those where the chosen answer gained more than the rejected one.
    right: u64,
    tokens: u64,
}

impl Trainer {
    /// Remembers the weights as they are now as the model that preferences hold to. An adapter needs no copy: without it, the base is
    /// what it began as. To be called before a checkpoint is resumed.
    pub fn keep_reference(&mut self) {
        if let Weights::Trained(arena) = &self.decoder.weights {
            self.reference = Some(arena.values.clone());
        }
    }

    /// Learns from pairs of documents: in each micro-batch the first is chosen over the second, the third over the fourth, and so on;
    /// weights say which tokens are the answer. The report's loss is per pair, its accuracy the share of pairs that are in order.
    ///
    /// # Errors
    /// As [`Trainer::step`], and batches that are no pairs.
    pub fn step_preference(
        &mut self,
        batches: &[MicroBatch],
        preference: Preference,
    ) -> Result<StepReport, TrainError> {
        let total = self.pairs(batches)?;
        let mut sums = Pairs::default();
        self.grads.clear(&self.decoder.machine);
        let mut first_token = 0;
        for batch in batches {
            let dropout = Dropout { seed: self.settings().seed, step: self.steps_done(), first_token };
            first_token += batch.len() as u64;
            let reference = self.reference_losses(batch)?;
            let Self { decoder, grads, .. } = self;
            decoder.forward(batch, Some(&dropout));
            let weights = weigh(decoder, batch, &reference, preference, &mut sums);
            decoder.head(batch, &weights, total as f64, Some(grads), &mut Tally::default(), None);
            decoder.backward(batch, grads, Some(&dropout));
        }
        self.grads.join(&self.decoder.machine);
        let tally =
            Tally { loss: sums.loss, weight: sums.pairs as f64, correct: sums.right as f64, tokens: sums.tokens };
        self.apply(tally)
    }

    /// The mean loss over pairs that are not learnt from.
    ///
    /// # Errors
    /// As [`Trainer::step_preference`].
    pub fn evaluate_preference(
        &mut self,
        batches: &[MicroBatch],
        preference: Preference,
    ) -> Result<crate::Evaluation, TrainError> {
        let total = self.pairs(batches)? as f64;
        let mut sums = Pairs::default();
        for batch in batches {
            let reference = self.reference_losses(batch)?;
            self.decoder.forward(batch, None);
            weigh(&mut self.decoder, batch, &reference, preference, &mut sums);
        }
        Ok(crate::Evaluation { loss: sums.loss / total, accuracy: sums.right as f64 / total, tokens: sums.tokens })
    }

    fn pairs(&self, batches: &[MicroBatch]) -> Result<usize, TrainError> {
        batches.iter().try_for_each(|batch| self.check(batch))?;
        let mut total = 0;
        for batch in batches {
            let count = documents(batch).len();
            if !count.is_multiple_of(2) {
                return Err(TrainError::Batch { problem: "a chosen answer without a rejected one" });
            }
            total += count / 2;
        }
        if total == 0 { Err(TrainError::NothingToLearn { step: self.steps_done() }) } else { Ok(total) }
    }

    /// −ln p of each token by the model that training began with.
    fn reference_losses(&mut self, batch: &MicroBatch) -> Result<Vec<f32>, TrainError> {
        let Self { decoder, reference, .. } = self;
        let mut swap = |decoder: &mut Decoder| match (&mut decoder.weights, &mut *reference) {
            (Weights::Trained(arena), Some(reference)) => {
                std::mem::swap(&mut arena.values, reference);
                true
            }
            (Weights::Trained(_), None) => false,
            (Weights::Frozen(_), _) => true,
        };
        if !swap(decoder) {
            return Err(TrainError::Setting {
                setting: "method",
                value: "a preference".to_owned(),
                rule: "the model it began as was not kept",
            });
        }
        decoder.forward_base(batch);
        decoder.head(batch, &batch.weights, 1.0, None, &mut Tally::default(), None);
        let losses = decoder.losses(batch.len()).to_vec();
        swap(decoder);
        Ok(losses)
    }
}

/// The weight of each token's −ln p in the loss of all pairs, after a forward pass.
fn weigh(
    decoder: &mut Decoder,
    batch: &MicroBatch,
    reference: &[f32],
    Preference { beta, label_smoothing }: Preference,
    sums: &mut Pairs,
) -> Vec<f32> {
    decoder.head(batch, &batch.weights, 1.0, None, &mut Tally::default(), None);
    let losses = decoder.losses(batch.len());
    let mut weights = vec![0.0; batch.len()];
    for pair in documents(batch).chunks_exact(2) {
        // How much more likely than at the beginning, in nats.
        let gain = |document: &std::ops::Range<usize>| -> f64 {
            document
                .clone()
                .map(|t| f64::from(batch.weights[t]) * (f64::from(reference[t]) - f64::from(losses[t])))
                .sum()
        };
        let margin = (f64::from(beta) * (gain(&pair[0]) - gain(&pair[1]))) as f32;
        let smoothing = label_smoothing;
        sums.loss -= f64::from((1.0 - smoothing) * ln_sigmoid(margin) + smoothing * ln_sigmoid(-margin));
        sums.pairs += 1;
        sums.right += u64::from(margin > 0.0);
        let slope = beta * ((1.0 - smoothing) * sigmoid(-margin) - smoothing * sigmoid(margin));
        for (document, sign) in pair.iter().zip([1.0, -1.0]) {
            for t in document.clone() {
                weights[t] = sign * slope * batch.weights[t];
                sums.tokens += u64::from(batch.weights[t] != 0.0);
            }
        }
    }
    weights
}

/// The documents with something to learn, in order.
fn documents(batch: &MicroBatch) -> Vec<std::ops::Range<usize>> {
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    for (t, &start) in batch.starts.iter().enumerate() {
        match found.last_mut() {
            Some(last) if last.start == start as usize => last.end = t + 1,
            _ => found.push(t..t + 1),
        }
    }
    found.retain(|document| batch.weights[document.clone()].iter().any(|weight| *weight != 0.0));
    found
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

fn ln_sigmoid(x: f32) -> f32 {
    x.min(0.0) - ln(1.0 + exp(-x.abs()))
}
