//! Fine-tuning as Mistral's clients speak it: `/v1/fine_tuning/jobs` and the models that come of them.

use serde::Serialize;
use serde_json::Value;

use super::{JobRequest, Method, WeightedFile};
use crate::check::{Checker, Problem, parse};
use crate::models::Capabilities;

/// Reads the body of `POST /v1/fine_tuning/jobs`.
///
/// # Errors
/// What is wrong, with its place.
pub fn request(body: &[u8]) -> Result<JobRequest, Vec<Problem>> {
    parse(body, |c, value| {
        let mut fields = c.fields(value)?;
        let model = c.required(&mut fields, "model", Checker::string);
        let training_files = c.required(&mut fields, "training_files", |c, v| c.list(v, weighted));
        if training_files.as_ref().is_some_and(Vec::is_empty) {
            c.field_problem("training_files", "too_short", "List should have at least 1 item after validation, not 0");
        }
        let validation_files = c.optional(&mut fields, "validation_files", |c, v| c.list(v, Checker::string));
        let suffix = c.optional(&mut fields, "suffix", suffix);
        let auto_start = c.optional(&mut fields, "auto_start", Checker::boolean);
        let skipped = c.optional(&mut fields, "invalid_sample_skip_percentage", |c, v| c.number(v, 0.0, 0.5));
        c.optional(&mut fields, "job_type", |c, v| c.word(v, &[("completion", ())]));
        for unserved in ["classifier_targets", "repositories", "integrations"] {
            if fields.take(unserved).is_some_and(|value| value != Value::Array(Vec::new())) {
                c.field_problem(unserved, "value_error", "not served here; leave it out");
            }
        }
        let hyper = c.required(&mut fields, "hyperparameters", hyperparameters);
        let hyper = hyper?;
        Some(JobRequest {
            model: model?,
            training_files: training_files?,
            validation_files: validation_files.unwrap_or_default(),
            suffix,
            auto_start: auto_start.unwrap_or(true),
            skip_invalid_share: skipped.unwrap_or(0.0),
            method: Method::Supervised,
            steps: hyper.training_steps,
            epochs: hyper.epochs,
            learning_rate: hyper.learning_rate,
            learning_rate_multiplier: None,
            weight_decay: hyper.weight_decay,
            warmup_fraction: hyper.warmup_fraction,
            length: hyper.seq_len,
            batch_rows: None,
            seed: None,
            metadata: Vec::new(),
        })
    })
}

/// Part of a model's name: what a path and a URL take as it is.
pub(super) fn suffix(c: &mut Checker, value: Value) -> Option<String> {
    let text = c.string(value)?;
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if fits {
        return Some(text);
    }
    c.problem("string_pattern_mismatch", "String should be 1 to 64 letters, digits, `-`, `_` or `.`", None);
    None
}

/// `{"file_id": …, "weight": …}`, or, as the first clients sent it, the id alone.
fn weighted(c: &mut Checker, value: Value) -> Option<WeightedFile> {
    if value.is_string() {
        return Some(WeightedFile { file: c.string(value)?, weight: 1.0 });
    }
    let mut fields = c.fields(value)?;
    let file = c.required(&mut fields, "file_id", Checker::string);
    let weight = c.optional(&mut fields, "weight", |c, v| c.number(v, 1e-6, 1e6));
    Some(WeightedFile { file: file?, weight: weight.unwrap_or(1.0) })
}

fn hyperparameters(c: &mut Checker, value: Value) -> Option<Hyperparameters> {
    let mut fields = c.fields(value)?;
    Some(Hyperparameters {
        training_steps: c.optional(&mut fields, "training_steps", |c, v| c.u32(v, 1)),
        learning_rate: c.optional(&mut fields, "learning_rate", |c, v| c.number(v, 1e-8, 1.0)),
        weight_decay: c.optional(&mut fields, "weight_decay", |c, v| c.number(v, 0.0, 1.0)),
        warmup_fraction: c.optional(&mut fields, "warmup_fraction", |c, v| c.number(v, 0.0, 1.0)),
        epochs: c.optional(&mut fields, "epochs", |c, v| c.number(v, 0.01, 1e6)),
        seq_len: c.optional(&mut fields, "seq_len", |c, v| c.u32(v, 16)),
        fim_ratio: None,
    })
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hyperparameters {
    pub training_steps: Option<u32>,
    pub learning_rate: Option<f32>,
    pub weight_decay: Option<f32>,
    pub warmup_fraction: Option<f32>,
    pub epochs: Option<f32>,
    pub seq_len: Option<u32>,
    pub fim_ratio: Option<f32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Job {
    pub id: String,
    pub auto_start: bool,
    pub hyperparameters: Hyperparameters,
    pub model: String,
    pub status: &'static str,
    pub job_type: &'static str,
    pub created_at: u64,
    pub modified_at: u64,
    pub training_files: Vec<String>,
    pub validation_files: Vec<String>,
    pub object: &'static str,
    pub fine_tuned_model: Option<String>,
    pub suffix: Option<String>,
    pub integrations: Vec<Value>,
    pub repositories: Vec<Value>,
    pub trained_tokens: Option<u64>,
    pub metadata: Option<JobMetadata>,
    /// Only where one job is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<Event>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<Vec<Checkpoint>>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct JobMetadata {
    pub expected_duration_seconds: Option<u64>,
    pub cost: Option<f64>,
    pub cost_currency: Option<String>,
    pub train_tokens_per_step: Option<u64>,
    pub train_tokens: Option<u64>,
    pub data_tokens: Option<u64>,
    pub estimated_start_time: Option<u64>,
}

/// The answer to `dry_run`: what a job would be.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    #[serde(flatten)]
    pub metadata: JobMetadata,
    pub deprecated: bool,
    pub details: String,
    pub epochs: Option<f32>,
    pub training_steps: Option<u64>,
    pub object: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub struct JobList {
    pub data: Vec<Job>,
    pub object: &'static str,
    pub total: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub name: String,
    pub data: Option<Value>,
    pub created_at: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Checkpoint {
    pub metrics: Metrics,
    pub step_number: u64,
    pub created_at: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Metrics {
    pub train_loss: Option<f64>,
    pub valid_loss: Option<f64>,
    pub valid_mean_token_accuracy: Option<f64>,
}

/// A fine-tuned model as `PATCH /v1/fine_tuning/models/{id}` gives it back.
#[derive(Clone, Debug, Serialize)]
pub struct TunedModel {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub owned_by: String,
    pub workspace_id: String,
    pub root: String,
    pub root_version: String,
    pub archived: bool,
    pub name: Option<String>,
    pub description: Option<String>,
    pub capabilities: Capabilities,
    pub max_context_length: u64,
    pub aliases: Vec<String>,
    pub job: String,
    pub model_type: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub struct Archived {
    pub id: String,
    pub object: &'static str,
    pub archived: bool,
}

/// The body of `PATCH /v1/fine_tuning/models/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelUpdate {
    pub name: Option<String>,
    pub description: Option<String>,
}

impl ModelUpdate {
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            let mut text = |name: &str| {
                c.optional(&mut fields, name, |c, v| {
                    let text = c.string(v)?;
                    if text.len() > 2048 {
                        c.problem("string_too_long", "String should have at most 2048 bytes", None);
                        return None;
                    }
                    Some(text)
                })
            };
            Some(Self { name: text("name"), description: text("description") })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_as_the_client_sends_it() {
        let body =
            br#"{"model":"falaj-seed","training_files":[{"file_id":"a","weight":2},"b"],"validation_files":["c"],
            "suffix":"hotel-1","auto_start":false,"integrations":[],"invalid_sample_skip_percentage":0.1,
            "hyperparameters":{"training_steps":10,"learning_rate":0.0001}}"#;
        let job = request(body).unwrap();
        assert_eq!(job.training_files.iter().map(|file| file.weight).collect::<Vec<_>>(), [2.0, 1.0]);
        assert_eq!((job.steps, job.learning_rate, job.auto_start), (Some(10), Some(0.0001), false));
        assert_eq!((job.epochs, job.skip_invalid_share), (None, 0.1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let body = br#"{"training_files":[],"suffix":"../x","repositories":[1],"hyperparameters":{"learning_rate":3}}"#;
        let problems = request(body).unwrap_err();
        let places: Vec<String> = problems.iter().filter_map(Problem::param).collect();
        assert_eq!(places, ["model", "training_files", "suffix", "repositories", "hyperparameters.learning_rate"]);
    }
}
