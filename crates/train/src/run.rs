//! The loop of a job: steps, evaluations, checkpoints and events until the last step, a cancellation or the point where the model
//! gets no better. A job that is killed at any moment goes on from its last checkpoint to the same bits; its events go on too.

mod events;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use falaj_protocol::jobs::{Energy, Progress};
use serde::{Deserialize, Serialize};

use crate::{
    Checkpoints, Distillation, Evaluation, MicroBatch, Preference, Samples, StepReport, Teacher, TrainError, Trainer,
};
pub use events::Events;

/// Where a job's batches come from.
pub trait Steps {
    /// The micro-batches of step number `step`, the first being 0: they depend on nothing else.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn step(&mut self, step: u64) -> Result<Vec<MicroBatch>, TrainError>;

    /// What is held out; empty where nothing is.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn evaluation(&mut self) -> Result<Vec<MicroBatch>, TrainError>;

    /// What the model is asked at each evaluation, for people to read.
    fn samples(&self) -> Option<&Samples> {
        None
    }
}

/// What a step learns from its batches.
#[derive(Debug)]
pub enum Learning<'a> {
    /// The tokens that came.
    Tokens,
    /// Which of two answers is better: batches hold pairs.
    Preferences(Preference),
    /// What a larger model would say.
    Teacher(&'a mut Teacher, Distillation),
}

/// When a job does what.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Steps between evaluations; 0: only at the end.
    pub evaluate_every: u64,
    /// Steps between checkpoints; 0: only at the end.
    pub checkpoint_every: u64,
    /// Checkpoints that stay.
    pub keep: usize,
    /// Evaluations without a better one after which the job ends with the best weights; 0: never.
    pub patience: u64,
    /// By how much the held-out loss must fall to be better.
    pub improvement: f64,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// The trainer holds the weights that are the result.
    Done(Summary),
    /// It was asked to stop, and left a checkpoint.
    Stopped { step: u64 },
}

/// What a finished job knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub steps: u64,
    pub trained_tokens: u64,
    /// Of the first and of the last step.
    pub first_loss: f64,
    pub last_loss: f64,
    /// Of the weights that are the result.
    pub valid_loss: Option<f64>,
    pub valid_accuracy: Option<f64>,
    /// Seconds of all processes that worked on it, up to their last checkpoints.
    pub seconds: f64,
    /// Of the same processes; `None` where nothing is known of it.
    #[serde(default)]
    pub energy: Option<Energy>,
}

/// What the loop carries over a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    summary: Summary,
    best_loss: Option<f64>,
    best_step: u64,
    /// Evaluations since the best.
    waited: u64,
    last_evaluation: Option<(f64, f64)>,
}

/// What the loop needs from outside.
pub struct Surroundings<'a> {
    /// The job's folder: `checkpoints/`, `best/` and `events.jsonl` are made in it.
    pub folder: &'a Path,
    /// Sees every event after it is on disk.
    pub watch: &'a mut dyn FnMut(&Progress),
    /// Asks the loop to stop after the step that is under way.
    pub cancelled: &'a AtomicBool,
    /// Seconds since some moment.
    pub clock: &'a dyn Fn() -> f64,
    /// What this process took so far.
    pub energy: &'a dyn Fn() -> Option<Energy>,
}

impl<'a> Surroundings<'a> {
    /// For one more use.
    pub(crate) fn again(&mut self) -> Surroundings<'_> {
        let Self { folder, cancelled, clock, energy, .. } = *self;
        Surroundings { folder, watch: self.watch, cancelled, clock, energy }
    }
}

/// Trains `trainer` to its last step, from the last checkpoint in the folder or from its beginning.
///
/// # Errors
/// Those of data, disk and numbers; the last good checkpoint stays, and a `failed` event was written where that was possible.
pub fn run(
    trainer: &mut Trainer,
    steps: &mut dyn Steps,
    learning: Learning<'_>,
    plan: &Plan,
    surroundings: Surroundings<'_>,
) -> Result<Outcome, TrainError> {
    if matches!(learning, Learning::Preferences(_)) {
        trainer.keep_reference();
    }
    let Surroundings { folder, watch, cancelled, clock, energy } = surroundings;
    let checkpoints = Checkpoints::new(folder.join("checkpoints"), plan.keep);
    let memory = match checkpoints.resume(trainer)? {
        Some(state) => serde_json::from_value(state.run).unwrap_or_default(),
        None => Memory::default(),
    };
    let events = Events::resume(&folder.join("events.jsonl"), trainer.steps_done())?;
    let best = Checkpoints::new(folder.join("best"), 1);
    let meter =
        Meter { clock, energy, began_s: clock(), spent_s: memory.summary.seconds, spent: memory.summary.energy };
    let mut run = Run { trainer, learning, plan, checkpoints, best, events, watch, memory, meter };
    let outcome = run.all_steps(steps, cancelled);
    if let Err(error) = &outcome {
        // The disk may be what failed.
        let _ = run.tell(Progress::Failed { reason: error.to_string(), validation: false });
    }
    outcome
}

struct Run<'a> {
    trainer: &'a mut Trainer,
    learning: Learning<'a>,
    plan: &'a Plan,
    checkpoints: Checkpoints,
    best: Checkpoints,
    events: Events,
    watch: &'a mut dyn FnMut(&Progress),
    memory: Memory,
    meter: Meter<'a>,
}

/// What this process takes, behind what earlier ones of the job took.
struct Meter<'a> {
    clock: &'a dyn Fn() -> f64,
    energy: &'a dyn Fn() -> Option<Energy>,
    began_s: f64,
    spent_s: f64,
    spent: Option<Energy>,
}

impl Meter<'_> {
    /// Seconds and joules of the whole job. Joules are known where all of its processes know theirs.
    fn read(&self) -> (f64, Option<Energy>) {
        let now = (self.energy)();
        let energy = if self.spent_s > 0.0 { self.spent.zip(now).map(|(before, now)| before.and(now)) } else { now };
        (self.spent_s + ((self.clock)() - self.began_s), energy)
    }
}

impl Run<'_> {
    fn all_steps(&mut self, steps: &mut dyn Steps, cancelled: &AtomicBool) -> Result<Outcome, TrainError> {
        let held_out = steps.evaluation()?;
        let total = self.trainer.settings().optimization.steps;
        let (clock, began) = (self.meter.clock, self.meter.began_s);
        let first = self.trainer.steps_done();
        let mut ended_early = false;
        while self.trainer.steps_done() < total && !ended_early {
            let at = self.trainer.steps_done();
            if cancelled.load(Ordering::Relaxed) {
                if at > first {
                    self.checkpoint()?;
                }
                self.tell(Progress::Stopped { step: at })?;
                return Ok(Outcome::Stopped { step: at });
            }
            let batches = steps.step(at)?;
            let start = clock();
            let report = match &mut self.learning {
                Learning::Tokens => self.trainer.step(&batches),
                Learning::Preferences(preference) => self.trainer.step_preference(&batches, *preference),
                Learning::Teacher(teacher, how) => self.trainer.step_distillation(&batches, teacher, *how),
            }?;
            let now = clock();
            self.note(at, &report);
            (self.memory.summary.seconds, self.memory.summary.energy) = self.meter.read();
            let done = at + 1;
            self.tell(Progress::Step {
                step: done,
                steps: total,
                loss: report.loss,
                learning_rate: f64::from(report.learning_rate),
                grad_norm: report.grad_norm,
                tokens: report.tokens,
                tokens_per_second: rate(report.tokens as f64, now - start),
                seconds_left: (now - began) / (done - first) as f64 * (total - done) as f64,
                accuracy: Some(report.accuracy),
            })?;
            let last = done == total;
            if last || due(done, self.plan.evaluate_every) {
                if !held_out.is_empty() {
                    ended_early = self.evaluate(&held_out)? && !last;
                }
                if let Some(samples) = steps.samples() {
                    self.ask(samples, cancelled)?;
                }
            }
            if last || ended_early || due(done, self.plan.checkpoint_every) {
                self.checkpoint()?;
            }
        }
        if self.plan.patience > 0 && self.memory.best_loss.is_some() {
            self.best.resume(self.trainer)?;
        }
        let Memory { best_loss, last_evaluation, .. } = &self.memory;
        let valid_loss = if self.plan.patience > 0 { *best_loss } else { last_evaluation.map(|(loss, _)| loss) };
        let mut summary = self.memory.summary;
        summary.steps = self.trainer.steps_done();
        (summary.seconds, summary.energy) = self.meter.read();
        summary.valid_loss = valid_loss;
        summary.valid_accuracy = last_evaluation.map(|(_, accuracy)| accuracy);
        Ok(Outcome::Done(summary))
    }

    fn note(&mut self, at: u64, report: &StepReport) {
        let summary = &mut self.memory.summary;
        if at == 0 {
            summary.first_loss = report.loss;
        }
        summary.last_loss = report.loss;
        summary.trained_tokens += report.tokens;
    }

    /// Lets the model answer for people to read; not for longer than they would wait.
    fn ask(&mut self, samples: &Samples, cancelled: &AtomicBool) -> Result<(), TrainError> {
        let (clock, step) = (self.meter.clock, self.trainer.steps_done());
        let began = clock();
        let go_on = || !cancelled.load(Ordering::Relaxed) && clock() - began < SAMPLE_SECONDS;
        for (prompt, tokens) in samples.prompts() {
            if !go_on() {
                break;
            }
            let answer = samples.answer(self.trainer, tokens, &go_on)?;
            self.tell(Progress::Sample { step, prompt: prompt.clone(), answer })?;
        }
        Ok(())
    }

    /// Returns whether it is time to end.
    fn evaluate(&mut self, held_out: &[MicroBatch]) -> Result<bool, TrainError> {
        let Evaluation { loss, accuracy, .. } = match self.learning {
            Learning::Preferences(preference) => self.trainer.evaluate_preference(held_out, preference),
            Learning::Tokens | Learning::Teacher(..) => self.trainer.evaluate(held_out),
        }?;
        let step = self.trainer.steps_done();
        if !loss.is_finite() {
            return Err(TrainError::NotFinite { what: "evaluation loss", step });
        }
        self.memory.last_evaluation = Some((loss, accuracy));
        self.tell(Progress::Evaluation { step, loss, accuracy })?;
        if self.memory.best_loss.is_none_or(|best| loss < best - self.plan.improvement) {
            self.memory.best_loss = Some(loss);
            self.memory.best_step = step;
            self.memory.waited = 0;
            if self.plan.patience > 0 {
                self.best.save(self.trainer, serde_json::Value::Null)?;
            }
            return Ok(false);
        }
        self.memory.waited += 1;
        Ok(self.plan.patience > 0 && self.memory.waited >= self.plan.patience)
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        let memory = serde_json::to_value(&self.memory).unwrap_or_default();
        self.checkpoints.save(self.trainer, memory)?;
        let (valid_loss, valid_accuracy) = self.memory.last_evaluation.unzip();
        let train_loss = Some(self.memory.summary.last_loss);
        self.tell(Progress::Checkpoint { step: self.trainer.steps_done(), train_loss, valid_loss, valid_accuracy })
    }

    fn tell(&mut self, event: Progress) -> Result<(), TrainError> {
        self.events.write(&event)?;
        (self.watch)(&event);
        Ok(())
    }
}

/// For all samples of an evaluation together.
const SAMPLE_SECONDS: f64 = 10.0;

fn due(done: u64, every: u64) -> bool {
    every > 0 && done.is_multiple_of(every)
}

fn rate(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}
