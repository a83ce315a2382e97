//! Jobs as each vendor's clients read them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use falaj_protocol::Dialect;
use falaj_protocol::jobs::{JobRequest, JobStatus, Method, mistral, openai};
use falaj_store::{Checkpoint, Event, Job, Part};
use serde_json::{Map, Value, json};

use super::story;
use crate::error::ApiError;
use crate::site::Site;

pub(super) async fn job(site: &Site, job: &Job, dialect: Dialect, whole: bool) -> Result<Response, ApiError> {
    if dialect == Dialect::OpenAi {
        return Ok(Json(openai_job(job)).into_response());
    }
    let mut shown = mistral_job(job);
    if whole {
        let (events, checkpoints) = story(site, job).await?;
        // Mistral's clients show the newest first.
        shown.events = Some(events.into_iter().rev().map(mistral_event).collect());
        shown.checkpoints = Some(checkpoints.into_iter().rev().map(mistral_checkpoint).collect());
    }
    Ok(Json(shown).into_response())
}

pub(super) fn list(part: &Part<Job>, dialect: Dialect) -> Response {
    if dialect == Dialect::OpenAi {
        let data = part.rows.iter().map(openai_job).collect();
        return Json(openai::List::new(data, part.has_more, |job: &openai::Job| &job.id)).into_response();
    }
    let data = part.rows.iter().map(mistral_job).collect();
    Json(mistral::JobList { data, object: "list", total: part.total }).into_response()
}

pub(super) fn dry_run(estimate: &Value, request: &JobRequest) -> mistral::DryRun {
    let metadata = metadata(estimate);
    let steps = number(estimate, "steps");
    mistral::DryRun {
        details: format!("{} steps of {} tokens", steps.unwrap_or(0), metadata.train_tokens_per_step.unwrap_or(0)),
        metadata,
        deprecated: false,
        epochs: request.epochs,
        training_steps: steps,
        object: "job.metadata",
    }
}

fn number(of: &Value, name: &str) -> Option<u64> {
    of.get(name).and_then(Value::as_u64)
}

fn metadata(estimate: &Value) -> mistral::JobMetadata {
    let (steps, per_step) = (number(estimate, "steps"), number(estimate, "tokens_per_step"));
    mistral::JobMetadata {
        expected_duration_seconds: number(estimate, "expected_seconds"),
        train_tokens_per_step: per_step,
        train_tokens: steps.zip(per_step).map(|(steps, per_step)| steps.saturating_mul(per_step)),
        data_tokens: number(estimate, "data_tokens"),
        ..mistral::JobMetadata::default()
    }
}

/// What was asked for. A row that this version cannot read shows without it.
fn request(job: &Job) -> Option<JobRequest> {
    serde_json::from_value(job.spec.clone()).ok()
}

fn mistral_job(job: &Job) -> mistral::Job {
    let request = request(job);
    let files = |request: &JobRequest| request.training_files.iter().map(|file| file.file.clone()).collect();
    mistral::Job {
        id: job.id.clone(),
        auto_start: job.auto_start,
        hyperparameters: request.as_ref().map(hyperparameters).unwrap_or_default(),
        model: job.model.clone(),
        status: job.status.name(),
        job_type: "completion",
        created_at: job.created_s,
        modified_at: job.modified_s,
        training_files: request.as_ref().map(files).unwrap_or_default(),
        validation_files: request.map(|request| request.validation_files).unwrap_or_default(),
        object: "job",
        fine_tuned_model: job.fine_tuned_model.clone(),
        suffix: job.suffix.clone(),
        integrations: Vec::new(),
        repositories: Vec::new(),
        trained_tokens: job.trained_tokens,
        metadata: job.estimate.as_ref().map(metadata),
        events: None,
        checkpoints: None,
    }
}

fn hyperparameters(request: &JobRequest) -> mistral::Hyperparameters {
    mistral::Hyperparameters {
        training_steps: request.steps,
        learning_rate: request.learning_rate,
        weight_decay: request.weight_decay,
        warmup_fraction: request.warmup_fraction,
        epochs: request.epochs,
        seq_len: request.length,
        fim_ratio: None,
    }
}

fn mistral_event(event: Event) -> mistral::Event {
    mistral::Event { name: event.name, data: event.data, created_at: event.created_s }
}

fn mistral_checkpoint(checkpoint: Checkpoint) -> mistral::Checkpoint {
    mistral::Checkpoint {
        metrics: mistral::Metrics {
            train_loss: checkpoint.train_loss,
            valid_loss: checkpoint.valid_loss,
            valid_mean_token_accuracy: checkpoint.valid_accuracy,
        },
        step_number: checkpoint.step,
        created_at: checkpoint.created_s,
    }
}

fn openai_job(job: &Job) -> openai::Job {
    let request = request(job);
    let of = |read: fn(&JobRequest) -> Option<f32>| request.as_ref().and_then(read);
    let hyperparameters = openai::Hyperparameters {
        batch_size: request.as_ref().and_then(|request| request.batch_rows).into(),
        learning_rate_multiplier: of(|request| request.learning_rate_multiplier).into(),
        n_epochs: of(|request| request.epochs).into(),
    };
    let failed = matches!(job.status, JobStatus::Failed | JobStatus::FailedValidation);
    let error = openai::JobError {
        code: if job.status == JobStatus::FailedValidation { "invalid_training_file" } else { "training_failed" },
        message: job.error.clone().unwrap_or_default(),
        param: (job.status == JobStatus::FailedValidation).then(|| "training_file".to_owned()),
    };
    let metadata = request.as_ref().map_or_else(Map::new, |request| {
        request.metadata.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect()
    });
    let expected_seconds = job.estimate.as_ref().and_then(|estimate| number(estimate, "expected_seconds"));
    let runs = matches!(job.status, JobStatus::Started | JobStatus::Running);
    openai::Job {
        id: job.id.clone(),
        object: "fine_tuning.job",
        model: job.model.clone(),
        created_at: job.created_s,
        finished_at: job.finished_s,
        estimated_finish: expected_seconds.filter(|_| runs).map(|seconds| job.modified_s.saturating_add(seconds)),
        fine_tuned_model: job.fine_tuned_model.clone(),
        organization_id: job.workspace.clone(),
        result_files: job.result_file.iter().cloned().collect(),
        status: openai::status(job.status, job.auto_start),
        training_file: request
            .as_ref()
            .and_then(|request| request.training_files.first())
            .map(|file| file.file.clone())
            .unwrap_or_default(),
        validation_file: request.as_ref().and_then(|request| request.validation_files.first().cloned()),
        method: method(request.as_ref(), &hyperparameters),
        hyperparameters,
        trained_tokens: job.trained_tokens,
        integrations: Vec::new(),
        seed: request.as_ref().and_then(|request| request.seed).unwrap_or(0),
        error: failed.then_some(error),
        metadata,
    }
}

fn method(request: Option<&JobRequest>, hyperparameters: &openai::Hyperparameters) -> Value {
    let mut all = serde_json::to_value(hyperparameters).unwrap_or_default();
    match request.map(|request| request.method) {
        Some(Method::Preference { beta }) => {
            if let Some(all) = all.as_object_mut() {
                all.insert("beta".to_owned(), json!(beta));
            }
            json!({ "type": "dpo", "dpo": { "hyperparameters": all } })
        }
        _ => json!({ "type": "supervised", "supervised": { "hyperparameters": all } }),
    }
}

pub(super) fn openai_event(event: Event) -> openai::Event {
    let bad = event.data.as_ref().is_some_and(|data| data.get("error").is_some());
    openai::Event {
        id: event.id,
        object: "fine_tuning.job.event",
        created_at: event.created_s,
        level: if bad { "error" } else { "info" },
        message: event.message,
        r#type: if event.name == "metrics" { "metrics" } else { "message" },
        data: event.data,
    }
}

pub(super) fn openai_checkpoint(job: &Job, checkpoint: Checkpoint) -> openai::Checkpoint {
    let model = job.fine_tuned_model.as_deref().unwrap_or(&job.model);
    openai::Checkpoint {
        id: checkpoint.id,
        object: "fine_tuning.job.checkpoint",
        created_at: checkpoint.created_s,
        fine_tuning_job_id: job.id.clone(),
        fine_tuned_model_checkpoint: format!("{model}:step-{}", checkpoint.step),
        step_number: checkpoint.step,
        metrics: openai::Metrics {
            step: checkpoint.step,
            train_loss: checkpoint.train_loss,
            valid_loss: checkpoint.valid_loss,
            valid_mean_token_accuracy: checkpoint.valid_accuracy,
        },
    }
}
