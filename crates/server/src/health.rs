//! For machines that watch: is the process up, does it take requests, and its numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use falaj_engine::Stats;
use serde_json::{Value, json};

use crate::app::App;
use crate::attached::Engine;
use crate::metrics::Exposition;
use crate::registry::ModelState;

pub(crate) async fn root() -> Json<Value> {
    Json(json!({"name": "falaj", "version": env!("CARGO_PKG_VERSION"), "apis": ["/v1", "/openai/v1", "/v1/messages"]}))
}

/// Up. Says nothing about models.
pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// 200 when requests are taken, 503 while the server is stopping, has no model, or a ledger that nobody can sign.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let models: Vec<String> = app.registry.list().into_iter().map(|listed| listed.facts.id).collect();
    let status = if app.is_stopping() {
        "stopping"
    } else if app.governance.hindrance().is_some() {
        "no ledger"
    } else if models.is_empty() {
        "no model"
    } else {
        return Json(json!({"status": "ready", "models": models})).into_response();
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": status, "models": models}))).into_response()
}

pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let mut out = Exposition::default();
    app.metrics.write(&mut out);
    app.power.write(&mut out);
    app.governance.write_condition(&mut out);
    memory(&app, &mut out);
    engines(&app, &mut out);
    attached(&app, &mut out);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out.0).into_response()
}

/// What models take, and how often they came and went.
fn memory(app: &App, out: &mut Exposition) {
    let (bound_bytes, taken_bytes) = app.registry.memory_bytes();
    let mut single = |name: &str, kind: &str, help: &str, value: f64| {
        out.family(name, kind, help);
        out.sample(name, &[], value);
    };
    single("falaj_models_memory_bound_bytes", "gauge", "Most that models may take together.", bound_bytes as f64);
    single("falaj_models_memory_bytes", "gauge", "What models take, or have reserved.", taken_bytes as f64);
    let counts = app.registry.counts();
    for (name, help, value) in [
        ("falaj_model_loads_total", "Models brought into memory on request.", &counts.loads),
        ("falaj_model_unloads_total", "Models whose memory was given back.", &counts.unloads),
        ("falaj_model_load_failures_total", "Models that could not be loaded.", &counts.failures),
    ] {
        single(name, "counter", help, value.load(Ordering::Relaxed) as f64);
    }
    let name = "falaj_model_memory_bytes";
    out.family(name, "gauge", "What each model takes, or has reserved, by state.");
    for listed in
        app.registry.list().iter().filter(|listed| !matches!(listed.state, ModelState::OnDisk | ModelState::Attached))
    {
        out.sample(name, &[("model", &listed.facts.id), ("state", listed.state.name())], listed.memory_bytes as f64);
    }
}

/// Totals of each attached engine.
fn attached(app: &App, out: &mut Exposition) {
    let engines = app.registry.engines();
    let mut family = |name: &str, help: &str, value: fn(&Engine) -> u64| {
        out.family(name, "counter", help);
        for engine in &engines.all {
            out.sample(name, &[("engine", engine.name())], value(engine) as f64);
        }
    };
    family("falaj_attached_requests_total", "Requests passed on to an attached engine.", |engine| engine.asked.get());
    family("falaj_attached_failures_total", "Of these, refused, unanswered or broken off.", |engine| {
        engine.failed.get()
    });
}

/// Gauges and totals of each engine, labelled with its model.
fn engines(app: &App, out: &mut Exposition) {
    let loaded = app.registry.loaded();
    let mut family = |name: &str, kind: &str, help: &str, value: fn(&Stats) -> &AtomicU64| {
        out.family(name, kind, help);
        for served in &loaded {
            let value = value(served.engine.stats()).load(Ordering::Relaxed);
            out.sample(name, &[("model", &served.facts.id)], value as f64);
        }
    };
    family("falaj_engine_waiting", "gauge", "Requests in the queue.", |stats| &stats.waiting);
    family("falaj_engine_running", "gauge", "Sequences in the batch.", |stats| &stats.running);
    family("falaj_engine_pages_used", "gauge", "Cache pages that sequences hold.", |stats| &stats.pages_used);
    family("falaj_engine_pages", "gauge", "Cache pages there are.", |stats| &stats.pages_total);
    family(
        "falaj_engine_prefix_query_tokens_total",
        "counter",
        "Prompt tokens looked for in the prefix cache.",
        |stats| &stats.prefix_query_tokens,
    );
    family("falaj_engine_prefix_hit_tokens_total", "counter", "Prompt tokens found there.", |stats| {
        &stats.prefix_hit_tokens
    });
    family("falaj_engine_steps_total", "counter", "Forward passes.", |stats| &stats.steps);
    family("falaj_engine_batch_rows_total", "counter", "Rows of all forward passes.", |stats| &stats.batch_rows);
    family("falaj_engine_prompt_rows_total", "counter", "Of these, rows that continued prompts.", |stats| {
        &stats.prompt_rows
    });
    family("falaj_engine_proposed_rows_total", "counter", "Rows computed to check guessed tokens.", |stats| {
        &stats.proposed_rows
    });
    family("falaj_engine_accepted_rows_total", "counter", "Of these, rows whose guess was right.", |stats| {
        &stats.accepted_rows
    });
    family("falaj_engine_draft_rows_total", "counter", "Rows computed to check the draft model's guesses.", |stats| {
        &stats.draft_rows
    });
    family("falaj_engine_draft_accepted_rows_total", "counter", "Of these, rows whose guess was right.", |stats| {
        &stats.draft_accepted_rows
    });
    family("falaj_engine_draft_microseconds_total", "counter", "Time of the draft model.", |stats| &stats.draft_us);
    family("falaj_engine_step_microseconds_total", "counter", "Time of all forward passes.", |stats| &stats.step_us);
    family("falaj_engine_adapters", "gauge", "Adapters that mix in its batches.", |stats| &stats.adapters);
    family("falaj_engine_pages_pinned", "gauge", "Cache pages that were asked to stay.", |stats| &stats.pages_pinned);
    family("falaj_engine_disk_pages_written_total", "counter", "Cache pages written to disk.", |stats| {
        &stats.disk_pages_written
    });
    family("falaj_engine_disk_pages_read_total", "counter", "Cache pages read from disk.", |stats| {
        &stats.disk_pages_read
    });
    family("falaj_engine_disk_files_damaged_total", "counter", "Files of cache pages that were damaged.", |stats| {
        &stats.disk_files_damaged
    });
    family("falaj_engine_prompt_tokens_total", "counter", "Prompt tokens of accepted requests.", |stats| {
        &stats.prompt_tokens
    });
    family("falaj_engine_generated_tokens_total", "counter", "Tokens sampled.", |stats| &stats.generated_tokens);
    family("falaj_engine_finished_total", "counter", "Sequences that ended by themselves.", |stats| &stats.finished);
    family("falaj_engine_cancelled_total", "counter", "Sequences whose receiver left.", |stats| &stats.cancelled);
    family("falaj_engine_failed_total", "counter", "Sequences that ended with an error.", |stats| &stats.failed);
    family("falaj_engine_refused_total", "counter", "Requests refused because the queue was full.", |stats| {
        &stats.refused
    });
    family(
        "falaj_engine_preemptions_total",
        "counter",
        "Sequences sent back to the queue for want of pages.",
        |stats| &stats.preemptions,
    );
}
