//! [`Trainer`]: a decoder, its gradients and its optimiser. Takes a step for each list of micro-batches it is given; knows nothing
//! of data, files or time. The loop of a job is in `run.rs`.

use falaj_artifact::Digest;
use falaj_kernels::{AlignedVec, Ops};
use falaj_model::{Config, Params};

use crate::arena::{Arena, Index};
use crate::budget::{Budget, Memory};
use crate::decoder::{Decoder, Grads, Reading, Tally};
use crate::lora::{Adapter, Dropout, Lora};
use crate::machine::Machine;
use crate::optimizer::{Optimization, Optimizer};
use crate::weights::{Frozen, Weights};
use crate::{MicroBatch, TrainError};

/// How to train, as opposed to what.
#[derive(Clone, Debug)]
pub struct Settings {
    pub threads: usize,
    /// Of one micro-batch, at most; even.
    pub max_tokens: usize,
    /// Decides the adapter's beginning and its dropout.
    pub seed: u64,
    /// Compute each block's activations again in the backward pass instead of keeping them (activation checkpointing).
    pub recompute: bool,
    pub optimization: Optimization,
}

/// What a job begins with.
#[derive(Debug)]
pub enum Start {
    /// Every parameter is trained.
    Full(Arena),
    /// An adapter is trained over a base that stays, in whatever format it is.
    Lora { config: Config, base: Params, lora: Lora },
}

/// One job's model in training.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) decoder: Decoder,
    pub(crate) grads: Grads,
    pub(crate) optimizer: Optimizer,
    pub(crate) step: u64,
    /// The weights that preferences hold to.
    pub(crate) reference: Option<AlignedVec<f32>>,
    settings: Settings,
    /// Of the experts' even use; nothing in a dense model.
    balance: f32,
    memory: Memory,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Nats per token of weight 1, before the step.
    pub loss: f64,
    /// Tokens that were learnt from.
    pub tokens: u64,
    /// Of the gradients, before clipping.
    pub grad_norm: f64,
    pub learning_rate: f32,
    /// Share of the predictions whose most likely token was right.
    pub accuracy: f64,
}

/// What the model knows of data that it was not trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Nats per token.
    pub loss: f64,
    pub accuracy: f64,
    pub tokens: u64,
}

impl Trainer {
    /// # Errors
    /// Settings that make no sense, and models that cannot be trained.
    pub fn new(start: Start, settings: Settings) -> Result<Self, TrainError> {
        Self::with_ops(start, settings, Ops::best())
    }

    /// As [`Trainer::new`], on the instructions of `ops`.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_ops(start: Start, settings: Settings, ops: Ops) -> Result<Self, TrainError> {
        let mut budget = Budget::taking();
        let (weights, adapter) = match start {
            Start::Full(arena) => {
                budget.add("weights", (arena.values.len() * 4) as u64);
                (Weights::Trained(arena), None)
            }
            Start::Lora { config, base, lora } => {
                budget.add("weights", base.matrices().map(|weight| weight.size_bytes() as u64).sum());
                let adapter = Adapter::new(&config, &lora, settings.seed)?;
                (Weights::Frozen(Frozen::new(&config, base, &mut budget)?), Some(adapter))
            }
        };
        let config = weights.config().clone();
        let trained = match &weights {
            Weights::Trained(arena) => Some(arena.index.clone()),
            Weights::Frozen(_) => None,
        };
        let rooms = Rooms::new(&config, trained.as_ref(), adapter.as_ref(), &settings, &mut budget)?;
        let positions = settings.max_tokens.min(config.context_tokens);
        let machine = Machine::new(&config, ops, settings.threads, positions);
        let decoder = Decoder { machine, weights, adapter, tape: rooms.tape, scratch: rooms.scratch };
        let (grads, optimizer) = (rooms.grads, rooms.optimizer);
        Ok(Self {
            decoder,
            grads,
            optimizer,
            step: 0,
            reference: None,
            settings,
            balance: BALANCE,
            memory: budget.memory(),
        })
    }

    /// By how much the even use of experts counts beside the loss, in every layer; 0: not at all. As it begins it is what Fedus et
    /// al. 2021, § 2.2 found (0.01). The reported losses are without it.
    #[must_use]
    pub fn with_balance(self, balance: f32) -> Self {
        Self { balance, ..self }
    }

    /// What a trainer of `config` would take, without taking it; `base_bytes` are those of a frozen base's files.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn memory_of(config: &Config, lora: Option<(&Lora, u64)>, settings: &Settings) -> Result<Memory, TrainError> {
        let mut budget = Budget::counting();
        let index = Index::new(config)?;
        let adapter = match lora {
            Some((lora, base_bytes)) => {
                budget.add("weights", base_bytes);
                Frozen::count(config, &mut budget);
                Some(Adapter::new(config, lora, settings.seed)?)
            }
            None => {
                budget.add("weights", (index.len * 4) as u64);
                None
            }
        };
        let trained = Some(&index).filter(|_| lora.is_none());
        Rooms::new(config, trained, adapter.as_ref(), settings, &mut budget)?;
        Ok(budget.memory())
    }

    /// What this one has taken.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn config(&self) -> &Config {
        self.decoder.config()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The trained parameters; `None` where an adapter is trained.
    pub fn arena(&self) -> Option<&Arena> {
        match &self.decoder.weights {
            Weights::Trained(arena) => Some(arena),
            Weights::Frozen(_) => None,
        }
    }

    /// Of the last step, before clipping; as [`Trainer::arena`] lies, or as the adapter does.
    pub fn last_gradients(&self) -> &[f32] {
        &self.grads.values
    }

    /// The trained value number `at`, and what it becomes: for checks of gradients.
    ///
    /// # Panics
    /// Where there is none.
    pub fn replace(&mut self, at: usize, by: Option<f32>) -> f32 {
        let value = &mut self.decoder.trained_mut()[at];
        let before = *value;
        *value = by.unwrap_or(before);
        before
    }

    /// All that a step changes, by name: what a checkpoint holds.
    pub(crate) fn numbers(&self) -> [(&'static str, &[f32]); 3] {
        let values = match (&self.decoder.weights, &self.decoder.adapter) {
            (_, Some(adapter)) => &adapter.values[..],
            (Weights::Trained(arena), None) => &arena.values[..],
            (Weights::Frozen(_), None) => &[],
        };
        [("values", values), ("first", &self.optimizer.first), ("second", &self.optimizer.second)]
    }

    pub(crate) fn numbers_mut(&mut self) -> [(&'static str, &mut [f32]); 3] {
        let Self { decoder, optimizer, .. } = self;
        [("values", decoder.trained_mut()), ("first", &mut optimizer.first), ("second", &mut optimizer.second)]
    }

    /// Of what must be equal for a checkpoint to mean the same. Threads and the cut into micro-batches change no bit.
    pub(crate) fn fingerprint(&self) -> Digest {
        let Settings { seed, optimization, .. } = &self.settings;
        let lora = self.decoder.adapter.as_ref().map(|adapter| &adapter.settings);
        let balance = self.config().experts.map(|_| format!(" {}", self.balance)).unwrap_or_default();
        Digest::of(format!("{:?} {lora:?} {seed} {optimization:?}{balance}", self.config()).as_bytes())
    }

    /// The operations' numerics: where they differ, so do the bits.
    pub fn numerics(&self) -> String {
        self.decoder.machine.ops.numerics_version().to_owned()
    }

    /// Learns from all micro-batches together: the same bits as from one that holds them all.
    ///
    /// # Errors
    /// Batches that do not fit, and a loss or gradient that is not finite; nothing was changed then.
    pub fn step(&mut self, batches: &[MicroBatch]) -> Result<StepReport, TrainError> {
        let total = self.total_weight(batches)?;
        let tally = self.gradients(batches, total)?;
        self.apply(tally)
    }

    /// The gradients of the mean loss over `batches`, without a step; as [`Trainer::arena`] lies.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn gradients_of(&mut self, batches: &[MicroBatch]) -> Result<(f64, &[f32]), TrainError> {
        let total = self.total_weight(batches)?;
        let tally = self.gradients(batches, total)?;
        Ok((tally.loss / tally.weight, &self.grads.values))
    }

    fn gradients(&mut self, batches: &[MicroBatch], total: f64) -> Result<Tally, TrainError> {
        let Self { decoder, grads, step, settings, balance, .. } = self;
        grads.clear(&decoder.machine);
        let mut tally = Tally::default();
        let mut first_token = 0;
        for batch in batches {
            let dropout = Dropout { seed: settings.seed, step: *step, first_token };
            decoder.forward(batch, Some(&dropout));
            decoder.head(batch, &batch.weights, total, Some(grads), &mut tally, None);
            decoder.scratch.mixture.balance = *balance * (batch.weight() / total) as f32;
            decoder.backward(batch, grads, Some(&dropout));
            first_token += batch.len() as u64;
        }
        grads.join(&decoder.machine);
        Ok(tally)
    }

    /// Clips, and updates the weights.
    pub(crate) fn apply(&mut self, tally: Tally) -> Result<StepReport, TrainError> {
        let Self { decoder, grads, optimizer, step, .. } = self;
        let loss = tally.loss / tally.weight;
        if !loss.is_finite() {
            return Err(TrainError::NotFinite { what: "loss", step: *step });
        }
        let grad_norm = decoder.machine.sum_squares(&grads.values).sqrt();
        if !grad_norm.is_finite() {
            return Err(TrainError::NotFinite { what: "gradient", step: *step });
        }
        let most = f64::from(optimizer.settings.clip);
        let clip = if most > 0.0 { (most / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        let learning_rate = optimizer.settings.rate(*step);
        let (m, values) = decoder.update_parts();
        optimizer.update(m, values, &grads.values, *step, clip as f32);
        *step += 1;
        let accuracy = tally.correct / tally.weight;
        Ok(StepReport { loss, tokens: tally.tokens, grad_norm, learning_rate, accuracy })
    }

    /// The mean loss over `batches`, without dropout and without learning.
    ///
    /// # Errors
    /// Batches that do not fit.
    pub fn evaluate(&mut self, batches: &[MicroBatch]) -> Result<Evaluation, TrainError> {
        let total = self.total_weight(batches)?;
        let mut tally = Tally::default();
        for batch in batches {
            self.decoder.forward(batch, None);
            self.decoder.head(batch, &batch.weights, total, None, &mut tally, None);
        }
        let (loss, accuracy) = (tally.loss / tally.weight, tally.correct / tally.weight);
        Ok(Evaluation { loss, accuracy, tokens: tally.tokens })
    }

    /// The logits after each token: (T, V). Takes room for all of them.
    ///
    /// # Errors
    /// A batch that does not fit.
    pub fn logits(&mut self, batch: &MicroBatch) -> Result<Vec<f32>, TrainError> {
        self.check(batch)?;
        self.decoder.forward(batch, None);
        Ok(self.decoder.logits(0..batch.len()))
    }

    /// The most likely token behind `tokens`, as [`Trainer::logits_behind`] reads them.
    ///
    /// # Errors
    /// Too many tokens, or such as the model does not know.
    pub fn most_likely(&mut self, reading: &mut Reading, tokens: &[u32]) -> Result<u32, TrainError> {
        let logits = self.logits_behind(reading, tokens)?;
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        Ok(best.map_or(0, |(token, _)| token as u32))
    }

    /// The logits behind the last of `tokens`, (V): those of [`Trainer::logits`], to the bit. What `reading` has read of them with the
    /// same weights is not read again.
    ///
    /// # Errors
    /// As [`Trainer::most_likely`].
    pub fn logits_behind(&mut self, reading: &mut Reading, tokens: &[u32]) -> Result<Vec<f32>, TrainError> {
        let (mut padded, count) = (tokens.to_vec(), tokens.len());
        // A document of its own, which the last token does not see.
        padded.resize(count.next_multiple_of(2), 0);
        let batch = MicroBatch::plain(padded.clone(), padded, count);
        self.check(&batch)?;
        let rest = reading.rest(&batch, self.step, self.config().layers);
        self.decoder.read_on(&rest, reading);
        // Whole pairs of tokens, as everywhere.
        let mut logits = self.decoder.logits(rest.len() - 2..rest.len());
        match count.is_multiple_of(2) {
            true => Ok(logits.split_off(logits.len() / 2)),
            false => {
                logits.truncate(logits.len() / 2);
                Ok(logits)
            }
        }
    }

    pub(crate) fn check(&self, batch: &MicroBatch) -> Result<(), TrainError> {
        let config = self.config();
        let positions = self.settings.max_tokens.min(config.context_tokens);
        batch.check(self.settings.max_tokens, config.vocab_size, positions)
    }

    pub(crate) fn total_weight(&self, batches: &[MicroBatch]) -> Result<f64, TrainError> {
        batches.iter().try_for_each(|batch| self.check(batch))?;
        let total: f64 = batches.iter().map(MicroBatch::weight).sum();
        if total > 0.0 { Ok(total) } else { Err(TrainError::NothingToLearn { step: self.step }) }
    }
}

/// Source: Fedus et al. 2021, § 2.2.
const BALANCE: f32 = 0.01;

/// All buffers but the weights.
struct Rooms {
    tape: crate::tape::Tape,
    scratch: crate::tape::Scratch,
    grads: Grads,
    optimizer: Optimizer,
}

impl Rooms {
    fn new(
        config: &Config,
        trained: Option<&Index>,
        adapter: Option<&Adapter>,
        settings: &Settings,
        budget: &mut Budget,
    ) -> Result<Self, TrainError> {
        settings.optimization.check()?;
        let t = settings.max_tokens;
        if t == 0 || !t.is_multiple_of(2) || u32::try_from(t).is_err() {
            let rule = "a micro-batch has an even number of tokens";
            return Err(TrainError::Setting { setting: "max_tokens", value: t.to_string(), rule });
        }
        if let Some(adapter) = adapter {
            budget.add("weights", (adapter.values.len() * 4) as u64);
        }
        Ok(Self {
            tape: crate::tape::Tape::new(config, t, settings.recompute, adapter, budget),
            scratch: crate::tape::Scratch::new(config, t, adapter, budget),
            grads: Grads::new(config, trained, adapter, budget),
            optimizer: Optimizer::new(&settings.optimization, trained, adapter, budget),
        })
    }
}
