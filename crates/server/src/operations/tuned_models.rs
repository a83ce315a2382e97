//! Fine-tuned models: what they are called, putting them away, deleting them. Others are the operator's.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use falaj_protocol::jobs::mistral::{Archived, ModelUpdate, TunedModel};
use falaj_store::ModelChange;
use serde_json::json;

use crate::app::App;
use crate::auth::Caller;
use crate::body::Raw;
use crate::error::ApiError;
use crate::operations::models::capabilities;

pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Raw,
) -> Result<Json<TunedModel>, ApiError> {
    let update = body.parse(ModelUpdate::parse)?.request;
    let change = ModelChange { name: update.name, description: update.description, archived: None };
    let tuned = app.site()?.store.change_model(&caller.workspace, &id, &change).await?;
    let listed = app.registry.describe(&id);
    Ok(Json(TunedModel {
        object: "model",
        created: tuned.created_s,
        owned_by: tuned.workspace.clone(),
        workspace_id: tuned.workspace,
        root: tuned.root,
        root_version: String::new(),
        archived: tuned.archived,
        name: tuned.name,
        description: tuned.description,
        capabilities: listed.as_ref().map(|listed| capabilities(&listed.facts)).unwrap_or_default(),
        max_context_length: listed.map_or(0, |listed| listed.facts.context_tokens as u64),
        aliases: Vec::new(),
        job: tuned.job,
        model_type: "completion",
        id: tuned.id,
    }))
}

pub(crate) async fn archive(app: State<App>, caller: Caller, id: Path<String>) -> Result<Json<Archived>, ApiError> {
    put_away(app, caller, id, true).await
}

pub(crate) async fn unarchive(app: State<App>, caller: Caller, id: Path<String>) -> Result<Json<Archived>, ApiError> {
    put_away(app, caller, id, false).await
}

async fn put_away(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    archived: bool,
) -> Result<Json<Archived>, ApiError> {
    let change = ModelChange { archived: Some(archived), ..ModelChange::default() };
    app.site()?.store.change_model(&caller.workspace, &id, &change).await?;
    app.registry.hide(&id, archived);
    Ok(Json(Archived { id, object: "model", archived }))
}

pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let site = app.site()?;
    site.store.model(&caller.workspace, &id).await?;
    // From now on nobody is served by it; those who are go on.
    app.registry.hide(&id, true);
    app.registry.remove(&id).await?;
    site.store.remove_model(&caller.workspace, &id).await?;
    app.registry.hide(&id, false);
    Ok(Json(json!({ "id": id, "object": "model", "deleted": true })).into_response())
}
