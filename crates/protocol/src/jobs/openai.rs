//! Fine-tuning as OpenAI's clients speak it: `/openai/v1/fine_tuning/jobs`.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{JobRequest, JobStatus, Method, WeightedFile, mistral};
use crate::check::{Checker, Fields, Problem, parse};

/// Reads the body of `POST /openai/v1/fine_tuning/jobs`.
///
/// # Errors
/// What is wrong, with its place.
pub fn request(body: &[u8]) -> Result<JobRequest, Vec<Problem>> {
    parse(body, |c, value| {
        let mut fields = c.fields(value)?;
        let model = c.required(&mut fields, "model", Checker::string);
        let training_file = c.required(&mut fields, "training_file", Checker::string);
        let validation_file = c.optional(&mut fields, "validation_file", Checker::string);
        let suffix = c.optional(&mut fields, "suffix", mistral::suffix);
        let seed = c.optional(&mut fields, "seed", |c, v| c.integer(v, 0, i64::MAX));
        let metadata = c.optional(&mut fields, "metadata", metadata);
        if fields.take("integrations").is_some_and(|value| value != Value::Array(Vec::new())) {
            c.field_problem("integrations", "value_error", "not served here; leave it out");
        }
        // The old place of the hyperparameters, and the new one inside of the method.
        let mut hyper = c.optional(&mut fields, "hyperparameters", hyperparameters).unwrap_or_default();
        let mut kind = Method::Supervised;
        c.optional(&mut fields, "method", |c, value| {
            let mut method = c.fields(value)?;
            kind = c.required(&mut method, "type", |c, v| {
                c.word(v, &[("supervised", Method::Supervised), ("dpo", Method::Preference { beta: DEFAULT_BETA })])
            })?;
            let name = if kind == Method::Supervised { "supervised" } else { "dpo" };
            c.optional(&mut method, name, |c, value| {
                let mut inner = c.fields(value)?;
                hyper = c.optional(&mut inner, "hyperparameters", hyperparameters).unwrap_or_default();
                Some(())
            })
        });
        if let (Method::Preference { beta }, Some(asked)) = (&mut kind, hyper.beta) {
            *beta = asked;
        }
        Some(JobRequest {
            model: model?,
            training_files: vec![WeightedFile { file: training_file?, weight: 1.0 }],
            validation_files: validation_file.into_iter().collect(),
            suffix,
            auto_start: true,
            skip_invalid_share: 0.0,
            method: kind,
            steps: None,
            epochs: hyper.epochs,
            learning_rate: None,
            learning_rate_multiplier: hyper.learning_rate_multiplier,
            weight_decay: None,
            warmup_fraction: None,
            length: None,
            batch_rows: hyper.batch_size,
            seed: seed.and_then(|seed| u64::try_from(seed).ok()),
            metadata: metadata.unwrap_or_default(),
        })
    })
}

/// OpenAI documents 0 to 2 and "auto"; this is what the paper's experiments use.
const DEFAULT_BETA: f32 = 0.1;

#[derive(Default)]
struct Asked {
    batch_size: Option<u32>,
    learning_rate_multiplier: Option<f32>,
    epochs: Option<f32>,
    beta: Option<f32>,
}

fn hyperparameters(c: &mut Checker, value: Value) -> Option<Asked> {
    let mut fields = c.fields(value)?;
    Some(Asked {
        batch_size: or_auto(c, &mut fields, "batch_size", |c, v| c.u32(v, 1)),
        learning_rate_multiplier: or_auto(c, &mut fields, "learning_rate_multiplier", |c, v| c.number(v, 1e-4, 1e4)),
        epochs: or_auto(c, &mut fields, "n_epochs", |c, v| c.number(v, 1.0, 1e6)),
        beta: or_auto(c, &mut fields, "beta", |c, v| c.number(v, 1e-3, 2.0)),
    })
}

/// `"auto"` is what is not asked for.
fn or_auto<T>(
    c: &mut Checker,
    fields: &mut Fields,
    name: &str,
    read: impl FnOnce(&mut Checker, Value) -> Option<T>,
) -> Option<T> {
    if fields.peek(name) == Some("auto") {
        return None;
    }
    c.optional(fields, name, read)
}

/// At most 16 pairs of short strings.
fn metadata(c: &mut Checker, value: Value) -> Option<Vec<(String, String)>> {
    let Value::Object(map) = value else {
        return c.wrong("dict_type", "Input should be a valid dictionary", &value);
    };
    let mut pairs = Vec::new();
    for (key, value) in map {
        match value {
            Value::String(text) if key.len() <= 64 && text.len() <= 512 && pairs.len() < 16 => pairs.push((key, text)),
            _ => return c.wrong("value_error", "at most 16 strings of 512 bytes, under names of 64", &value),
        }
    }
    Some(pairs)
}

/// OpenAI's word for where a job stands.
pub fn status(status: JobStatus, auto_start: bool) -> &'static str {
    match status {
        JobStatus::Queued | JobStatus::Validating => "validating_files",
        JobStatus::Validated if !auto_start => "paused",
        JobStatus::Validated | JobStatus::Started => "queued",
        JobStatus::Running => "running",
        JobStatus::Success => "succeeded",
        JobStatus::FailedValidation | JobStatus::Failed => "failed",
        JobStatus::CancellationRequested | JobStatus::Cancelled => "cancelled",
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Job {
    pub id: String,
    pub object: &'static str,
    pub model: String,
    pub created_at: u64,
    pub finished_at: Option<u64>,
    pub estimated_finish: Option<u64>,
    pub fine_tuned_model: Option<String>,
    pub organization_id: String,
    pub result_files: Vec<String>,
    pub status: &'static str,
    pub training_file: String,
    pub validation_file: Option<String>,
    pub hyperparameters: Hyperparameters,
    pub trained_tokens: Option<u64>,
    pub integrations: Vec<Value>,
    pub seed: u64,
    pub error: Option<JobError>,
    pub metadata: Map<String, Value>,
    /// `{"type": …, "<type>": {"hyperparameters": …}}`
    pub method: Value,
}

#[derive(Clone, Debug, Serialize)]
pub struct Hyperparameters {
    pub batch_size: OrAuto<u32>,
    pub learning_rate_multiplier: OrAuto<f32>,
    pub n_epochs: OrAuto<f32>,
}

/// A number, or `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum OrAuto<T> {
    Number(T),
    Auto(&'static str),
}

impl<T> From<Option<T>> for OrAuto<T> {
    fn from(number: Option<T>) -> Self {
        number.map_or(Self::Auto("auto"), Self::Number)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct JobError {
    pub code: &'static str,
    pub message: String,
    pub param: Option<String>,
}

/// A list of OpenAI's: whoever wants more asks with the last one's id as `after`.
#[derive(Clone, Debug, Serialize)]
pub struct List<T> {
    pub object: &'static str,
    pub data: Vec<T>,
    pub has_more: bool,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
}

impl<T> List<T> {
    pub fn new(data: Vec<T>, has_more: bool, id: impl Fn(&T) -> &str) -> Self {
        let (first_id, last_id) =
            (data.first().map(|row| id(row).to_owned()), data.last().map(|row| id(row).to_owned()));
        Self { object: "list", data, has_more, first_id, last_id }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub id: String,
    pub object: &'static str,
    pub created_at: u64,
    pub level: &'static str,
    pub message: String,
    pub r#type: &'static str,
    pub data: Option<Value>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Checkpoint {
    pub id: String,
    pub object: &'static str,
    pub created_at: u64,
    pub fine_tuning_job_id: String,
    pub fine_tuned_model_checkpoint: String,
    pub step_number: u64,
    pub metrics: Metrics,
}

#[derive(Clone, Debug, Serialize)]
pub struct Metrics {
    pub step: u64,
    pub train_loss: Option<f64>,
    pub valid_loss: Option<f64>,
    pub valid_mean_token_accuracy: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyperparameters_stand_in_two_places_and_may_be_auto() {
        let old = br#"{"model":"m","training_file":"f","hyperparameters":{"n_epochs":3,"batch_size":"auto"}}"#;
        let job = request(old).unwrap();
        assert_eq!((job.epochs, job.batch_rows, job.method), (Some(3.0), None, Method::Supervised));
        let new = br#"{"model":"m","training_file":"f","seed":5,"metadata":{"a":"b"},
            "method":{"type":"dpo","dpo":{"hyperparameters":{"beta":0.2,"learning_rate_multiplier":2}}}}"#;
        let job = request(new).unwrap();
        assert_eq!(
            (job.method, job.learning_rate_multiplier, job.seed),
            (Method::Preference { beta: 0.2 }, Some(2.0), Some(5))
        );
        assert_eq!(job.metadata, [("a".to_owned(), "b".to_owned())]);
        let wrong = br#"{"model":"m","training_file":"f","method":{"type":"reinforcement"}}"#;
        assert_eq!(request(wrong).unwrap_err().first().and_then(Problem::param).unwrap(), "method.type");
    }
}
