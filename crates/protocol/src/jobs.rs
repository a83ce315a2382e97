//! Fine-tuning jobs: what a client asks for, in either dialect, as one [`JobRequest`]; their life cycle; what the process that
//! runs one says while it does. What the dialects answer is in `jobs/mistral.rs` and `jobs/openai.rs`.

mod energy;
pub mod mistral;
pub mod openai;

use serde::{Deserialize, Serialize};

pub use energy::{Energy, Grade, Metering};

/// Where a job stands. The words are Mistral's; OpenAI's are made from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStatus {
    Queued,
    Validating,
    /// Its data is good. It waits to be started, or stands still.
    Validated,
    /// Its process was started, no step is done.
    Started,
    Running,
    FailedValidation,
    Failed,
    Success,
    CancellationRequested,
    Cancelled,
}

impl JobStatus {
    const NAMES: &[(JobStatus, &str)] = &[
        (Self::Queued, "QUEUED"),
        (Self::Validating, "VALIDATING"),
        (Self::Validated, "VALIDATED"),
        (Self::Started, "STARTED"),
        (Self::Running, "RUNNING"),
        (Self::FailedValidation, "FAILED_VALIDATION"),
        (Self::Failed, "FAILED"),
        (Self::Success, "SUCCESS"),
        (Self::CancellationRequested, "CANCELLATION_REQUESTED"),
        (Self::Cancelled, "CANCELLED"),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(status, _)| *status == self).map_or("", |(_, name)| name)
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(status, _)| *status)
    }

    /// Nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, Self::FailedValidation | Self::Failed | Self::Success | Self::Cancelled)
    }

    /// Whether a job may go from here to `next`. Back to `Validated` goes a job that is paused, or whose site stopped.
    pub fn leads_to(self, next: Self) -> bool {
        use JobStatus::{
            CancellationRequested, Cancelled, Failed, FailedValidation, Queued, Running, Started, Success, Validated,
            Validating,
        };
        match self {
            Queued => matches!(next, Validating | CancellationRequested | Cancelled | Failed),
            Validating => {
                matches!(next, Queued | Validated | FailedValidation | Failed | CancellationRequested | Cancelled)
            }
            Validated => matches!(next, Started | CancellationRequested | Cancelled | Failed),
            Started => matches!(next, Running | Validated | Failed | CancellationRequested | Cancelled),
            Running => matches!(next, Success | Validated | Failed | CancellationRequested | Cancelled),
            CancellationRequested => matches!(next, Cancelled | Failed),
            FailedValidation | Failed | Success | Cancelled => false,
        }
    }
}

/// What to train, whichever client asked. `None`: the trainer's own default, which depends on the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRequest {
    pub model: String,
    pub training_files: Vec<WeightedFile>,
    pub validation_files: Vec<String>,
    /// Part of the new model's name.
    pub suffix: Option<String>,
    /// Begin when the data is found good; otherwise wait for `start`.
    pub auto_start: bool,
    /// Go on when no more than this share of the lines is bad, without them.
    pub skip_invalid_share: f32,
    pub method: Method,
    pub steps: Option<u32>,
    pub epochs: Option<f32>,
    pub learning_rate: Option<f32>,
    /// On the trainer's own default rate.
    pub learning_rate_multiplier: Option<f32>,
    pub weight_decay: Option<f32>,
    /// Share of the steps over which the rate rises.
    pub warmup_fraction: Option<f32>,
    /// Tokens in a row.
    pub length: Option<u32>,
    /// Rows in a step.
    pub batch_rows: Option<u32>,
    pub seed: Option<u64>,
    /// The client's own words, given back as they came: key, value.
    pub metadata: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightedFile {
    pub file: String,
    /// How often its rows come, against those of the other files.
    pub weight: f32,
}

/// What is learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Supervised,
    /// Direct preference optimisation. Source: Rafailov et al. 2023; `beta` as in eq. 7.
    Preference {
        beta: f32,
    },
}

/// What the process of a job is told: `job.json` in the job's folder. Paths are relative to that folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    pub id: String,
    /// Of the model that is to be made.
    pub name: String,
    pub request: JobRequest,
    /// In the order of `request.training_files`.
    pub training: Vec<String>,
    pub validation: Vec<String>,
}

/// The name of [`JobSpec`]'s file.
pub const SPEC_FILE: &str = "job.json";

/// A line that the process of a job writes to its standard output, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// The data is good.
    Validated {
        rows: u64,
        /// Learnt in one pass over the data.
        data_tokens: u64,
        tokens_per_step: u64,
        steps: u64,
        /// By a rate that was measured on this machine; `None` where none was.
        expected_seconds: Option<u64>,
    },
    Step {
        step: u64,
        steps: u64,
        /// nats per token
        loss: f64,
        learning_rate: f64,
        grad_norm: f64,
        tokens: u64,
        tokens_per_second: f64,
        seconds_left: f64,
        /// Share of the tokens that were the most likely one; unknown in files of before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accuracy: Option<f64>,
    },
    Evaluation {
        step: u64,
        /// nats per token
        loss: f64,
        /// Share of the tokens that were the most likely one.
        accuracy: f64,
    },
    /// What the model answers by now: the likeliest token each time.
    Sample {
        step: u64,
        prompt: String,
        answer: String,
    },
    Checkpoint {
        step: u64,
        train_loss: Option<f64>,
        valid_loss: Option<f64>,
        valid_accuracy: Option<f64>,
    },
    /// The weights lie in the folder `model`, relative to the job's.
    Done {
        model: String,
        trained_tokens: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        energy: Option<Energy>,
    },
    /// It stopped because it was asked to, with a checkpoint.
    Stopped {
        step: u64,
    },
    Failed {
        reason: String,
        validation: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_final_statuses_lead_nowhere() {
        for (status, name) in JobStatus::NAMES {
            assert_eq!(JobStatus::parse(name), Some(*status));
            assert_eq!(status.name(), *name);
            let leads = JobStatus::NAMES.iter().any(|(next, _)| status.leads_to(*next));
            assert_eq!(leads, !status.is_final(), "{name}");
            assert!(!status.leads_to(*status), "{name}");
        }
        assert_eq!(JobStatus::parse("queued"), None);
    }

    #[test]
    fn progress_is_lines_of_json() {
        let line = serde_json::to_string(&Progress::Stopped { step: 7 }).unwrap();
        assert_eq!(line, r#"{"event":"stopped","step":7}"#);
        assert_eq!(serde_json::from_str::<Progress>(&line).unwrap(), Progress::Stopped { step: 7 });
    }
}
