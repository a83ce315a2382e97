//! `falaj witness`: other sites send the heads of their ledgers, and what continues the last head is cosigned. What is judged, and
//! what is remembered, is `falaj_ledger`'s; here are the socket and the protocol's statuses (C2SP tlog-witness).

use crate::args;
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::up;
use crate::words::Word;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use falaj_ledger::{FileKey, Refusal, VerifierKey, Witness};
use serde_json::json;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A checkpoint, its signatures and a proof of 63 hashes are a few kilobytes.
const BODY_LIMIT_BYTES: usize = 64 << 10;

pub fn witness(context: &Context, options: &args::Witness) -> Outcome {
    let mut logs = Vec::new();
    for path in &options.logs {
        let text = std::fs::read_to_string(path).or_fail(|| format!("`{}`", path.display()))?;
        let keys: Vec<VerifierKey> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if keys.is_empty() {
            return Err(Failure::usage(Word::WitnessNoKey.with(&[&path.display().to_string()])));
        }
        logs.extend(keys);
    }
    let folder = context.config.data.join("witness");
    std::fs::create_dir_all(&folder).or_fail(|| format!("`{}`", folder.display()))?;
    let key = folder.join("key");
    let key = if key.exists() { FileKey::read(&key)? } else { FileKey::create(&key)? };
    let origins: std::collections::BTreeSet<String> = logs.iter().map(|key| key.name.clone()).collect();
    let witness = Arc::new(Witness::open(&folder, &options.name, Arc::new(key), Arc::new(now_s), logs)?);
    let own = witness.key()?.to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = up::listen(options.listen).await?;
        let address = listener.local_addr()?;
        let stop = up::stop_signal(context.json)?;
        if context.json {
            output::json(&json!({ "address": format!("http://{address}"), "key": own, "logs": origins }));
        } else {
            output::line(&Word::WitnessReady.with(&[&origins.len().to_string(), &address.to_string()]));
            output::line(&format!("  {own}"));
        }
        Ok(axum::serve(listener, router(witness)).with_graceful_shutdown(stop).await?)
    })
}

fn router(witness: Arc<Witness>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add))
        .route("/{origin}/checkpoint", get(latest))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(witness)
}

async fn add(State(witness): State<Arc<Witness>>, body: String) -> Response {
    // It writes to the disk.
    let answer = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body)).await;
    let refusal = match answer {
        Ok(Ok(line)) => return line.into_response(),
        Ok(Err(refusal)) => refusal,
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let status = match &refusal {
        Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
        Refusal::UnknownLog(_) => StatusCode::NOT_FOUND,
        Refusal::Unsigned(_) => StatusCode::FORBIDDEN,
        Refusal::Conflict { size } => {
            return (StatusCode::CONFLICT, [(header::CONTENT_TYPE, SIZE)], format!("{size}\n")).into_response();
        }
        Refusal::Inconsistent(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    tracing::warn!(%refusal, "not cosigned");
    (status, format!("{refusal}\n")).into_response()
}

/// The protocol's type of a body that is a size.
pub const SIZE: &str = "text/x.tlog.size";

/// The newest cosigned head of a log, for monitors: `origin` is the SHA-256 of its origin, in hexadecimal.
async fn latest(State(witness): State<Arc<Witness>>, Path(origin): Path<String>) -> Response {
    match witness.latest_by_hash(&origin) {
        Ok(Some(note)) => note.to_string().into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => {
            tracing::error!(%error, "the memory of a log cannot be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
