//! What the process of a job says, written into the store.

use std::time::Duration;

use falaj_protocol::jobs::{JobStatus, Progress};
use falaj_store::{Checkpoint, Job, JobChange, StoreError};
use serde_json::json;

use super::Jobs;

/// Writes what a process says into the store. Steps are many: of them only one in a while becomes an event.
pub(super) struct News<'a> {
    jobs: &'a Jobs,
    job: &'a Job,
    is_running: bool,
    last_event: Option<tokio::time::Instant>,
    /// Its model, and the tokens that it learnt from.
    pub(super) done: Option<(String, u64)>,
}

/// Between two events about steps.
const EVENT_EVERY: Duration = Duration::from_secs(10);

impl<'a> News<'a> {
    pub(super) fn new(jobs: &'a Jobs, job: &'a Job) -> Self {
        Self { jobs, job, is_running: false, last_event: None, done: None }
    }

    /// The first step is the moment from which a job runs.
    pub(super) async fn running(&mut self) {
        if !self.is_running {
            self.is_running = true;
            let moved = self.jobs.shared.store.move_job(&self.job.id, JobStatus::Running, &JobChange::default()).await;
            if let Err(error) = moved {
                tracing::debug!(job = self.job.id, %error, "not running");
            }
        }
    }

    pub(super) async fn tell(&mut self, progress: Progress) {
        if let Err(error) = self.write(progress).await {
            tracing::error!(job = self.job.id, %error, "progress of a job could not be written");
        }
    }

    async fn write(&mut self, progress: Progress) -> Result<(), StoreError> {
        let store = &self.jobs.shared.store;
        let id = &self.job.id;
        match progress {
            Progress::Step { step, steps, loss, learning_rate, tokens_per_second, .. } => {
                self.running().await;
                let last = step == steps;
                if last || self.last_event.is_none_or(|at| at.elapsed() >= EVENT_EVERY) {
                    self.last_event = Some(tokio::time::Instant::now());
                    let data = json!({
                        "step": step, "total_steps": steps, "train_loss": loss,
                        "learning_rate": learning_rate, "tokens_per_second": tokens_per_second,
                    });
                    let message = format!("step {step} of {steps}: training loss {loss:.4}");
                    store.add_event(id, "metrics", &message, Some(&data)).await?;
                }
            }
            Progress::Evaluation { step, loss, accuracy } => {
                let data = json!({ "step": step, "valid_loss": loss, "valid_mean_token_accuracy": accuracy });
                let message = format!("step {step}: validation loss {loss:.4}, accuracy {accuracy:.4}");
                store.add_event(id, "metrics", &message, Some(&data)).await?;
            }
            Progress::Checkpoint { step, train_loss, valid_loss, valid_accuracy } => {
                let checkpoint = Checkpoint { step, train_loss, valid_loss, valid_accuracy, ..Checkpoint::default() };
                store.add_checkpoint(id, &checkpoint).await?;
            }
            Progress::Sample { step, prompt, answer } => {
                let data = json!({ "step": step, "prompt": prompt, "answer": answer });
                store.add_event(id, "sample", &format!("step {step}: {prompt} → {answer}"), Some(&data)).await?;
            }
            Progress::Done { model, trained_tokens, energy } => {
                if let Some(energy) = energy {
                    let message = format!("energy: {}", energy.in_words());
                    let mut data = json!(energy);
                    if let Some(power) = self.jobs.shared.power.get() {
                        power.job(&energy);
                        if let Some(data) = data.as_object_mut() {
                            data.insert("co2".to_owned(), power.co2(energy.joules));
                        }
                    }
                    store.add_event(id, "energy", &message, Some(&data)).await?;
                }
                self.done = Some((model, trained_tokens));
            }
            Progress::Validated { .. } | Progress::Stopped { .. } | Progress::Failed { .. } => {}
        }
        Ok(())
    }
}
