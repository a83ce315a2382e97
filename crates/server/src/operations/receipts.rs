//! What a workspace used, its receipts with the salts that open them, and the erasure of those salts.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use falaj_ledger::Tombstone;
use falaj_store::{By, ReceiptRow, UsageFilter};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::governance::Book;
use crate::ids;
use crate::operations::files::bad_query;

#[derive(Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    by: Whose,
    from_ms: Option<u64>,
    until_ms: Option<u64>,
    after: Option<String>,
    limit: Option<u32>,
    /// Of a key: only its requests.
    key: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Whose {
    #[default]
    Key,
    Model,
}

/// Most that one list shows.
const MOST: u32 = 1000;

pub(crate) async fn usage(
    State(app): State<App>,
    caller: Caller,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let (by, word) = match asked.by {
        Whose::Key => (By::Key, "key"),
        Whose::Model => (By::Model, "model"),
    };
    let filter = UsageFilter {
        workspace: Some(caller.workspace.to_string()),
        key: asked.key,
        from_ms: asked.from_ms,
        until_ms: asked.until_ms,
        ..UsageFilter::default()
    };
    let totals = book(&app)?.meter().totals(&filter, by).await?;
    let line = |(whose, totals): (String, falaj_store::Totals)| {
        // Never a false zero: what nobody measured is not in it, and counted beside it.
        let energy_j = (totals.unmetered < totals.requests).then_some(totals.energy_uj as f64 / 1e6);
        let tokens = totals.prompt_tokens + totals.completion_tokens;
        json!({
            word: whose,
            "requests": totals.requests,
            "prompt_tokens": totals.prompt_tokens,
            "completion_tokens": totals.completion_tokens,
            "cached_tokens": totals.cached_tokens,
            "money": totals.money as f64 / 1e6,
            "energy_j": energy_j,
            "energy_grade": totals.energy_grade.map(String::from),
            "energy_j_per_token": energy_j.filter(|_| totals.unmetered == 0 && tokens > 0).map(|j| j / tokens as f64),
            "co2": energy_j.map(|joules| app.power.co2(joules)),
            "requests_without_energy": totals.unmetered,
        })
    };
    let data: Vec<Value> = totals.into_iter().map(line).collect();
    Ok(Json(json!({ "object": "list", "data": data })).into_response())
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let after = match &asked.after {
        Some(after) => Some(ids::read(after).ok_or_else(|| unknown(after))?),
        None => None,
    };
    let take = asked.limit.unwrap_or(100).clamp(1, MOST);
    let rows = book(&app)?.meter().receipts(&caller.workspace, after, take).await?;
    let has_more = rows.len() == take as usize;
    let data: Vec<Value> = rows.iter().map(|row| shown(&app, row)).collect();
    Ok(Json(json!({ "object": "list", "data": data, "has_more": has_more })).into_response())
}

pub(crate) async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let number = ids::read(&id).ok_or_else(|| unknown(&id))?;
    let found = book(&app)?.meter().receipt(&caller.workspace, &number).await;
    let row = found.map_err(|error| match error {
        falaj_store::StoreError::Unknown { .. } => unknown(&id),
        error => error.into(),
    })?;
    Ok(Json(shown(&app, &row)).into_response())
}

/// Destroys the salts of the workspace's requests, or of one key's, and buries each in the ledger: what its receipt commits to can be
/// shown to nobody any more, and every proof still verifies.
pub(crate) async fn erase(
    State(app): State<App>,
    caller: Caller,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let book = book(&app)?;
    let erased = match asked.key {
        None => book.meter().erase_workspace(&caller.workspace).await?,
        Some(key) => {
            // Only what is the workspace's: a key belongs to one.
            if app.site()?.store.get::<falaj_store::ApiKey>(&key).await?.workspace != *caller.workspace {
                return Err(ApiError::Unknown { what: "key", id: key.chars().take(200).collect() });
            }
            book.meter().erase_key_holder(&[key]).await?
        }
    };
    let mut buried = Vec::with_capacity(erased.len());
    for request_id in &erased {
        let tombstone = Tombstone { request_id: *request_id, time_ms: ids::now_ms(), reason: "erasure".to_owned() };
        buried.push(book.bury(tombstone)?);
    }
    for ticket in buried {
        ticket.await?;
    }
    Ok(Json(json!({ "object": "erasure", "erased": erased.len() })).into_response())
}

fn shown(app: &App, row: &ReceiptRow) -> Value {
    let ReceiptRow { opened, settled } = row;
    let hex = |bytes: &[u8; 32]| falaj_artifact::Digest::from_bytes(*bytes).to_string();
    json!({
        "object": "receipt",
        "id": ids::shown(opened.request_id),
        "time_ms": opened.time_ms,
        "key": opened.key,
        "model": opened.model,
        "prompt_tokens": settled.prompt_tokens,
        "completion_tokens": settled.completion_tokens,
        "cached_tokens": settled.cached_tokens,
        "money": settled.money as f64 / 1e6,
        "energy_j": settled.energy.map(|energy| energy.uj as f64 / 1e6),
        "energy_grade": settled.energy.map(|energy| energy.grade.to_string()),
        "co2": settled.energy.map(|energy| app.power.co2(energy.uj as f64 / 1e6)),
        "decision": hex(&opened.decision),
        "entry": settled.entry,
        "receipt": URL_SAFE_NO_PAD.encode(&settled.receipt),
        "input_salt": opened.input_salt.as_ref().map(hex),
        "output_salt": opened.output_salt.as_ref().map(hex),
    })
}

fn book(app: &App) -> Result<&Book, ApiError> {
    app.governance.book().ok_or(ApiError::NoSite)
}

fn unknown(id: &str) -> ApiError {
    ApiError::Unknown { what: "receipt", id: id.chars().take(200).collect() }
}
