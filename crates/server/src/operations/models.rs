//! Model cards, in each dialect's shape.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use falaj_govern::Action;
use falaj_protocol::Dialect;
use falaj_protocol::models::{AnthropicModel, AnthropicModelList, Capabilities, ModelCard, ModelList, OpenAiModel};

use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::moment::rfc3339;
use crate::registry::{Facts, Listed, ModelState};

pub(crate) async fn list(State(app): State<App>, caller: Caller, Extension(dialect): Extension<Dialect>) -> Response {
    let mut listed = app.registry.list();
    listed.retain(|listed| app.governance.sees(&app.registry, &caller, &listed.facts.id));
    match dialect {
        Dialect::Mistral => Json(ModelList::new(listed.iter().map(card).collect())).into_response(),
        Dialect::OpenAi => {
            Json(ModelList::new(listed.iter().map(|listed| openai(&listed.facts)).collect())).into_response()
        }
        Dialect::Anthropic => {
            let data: Vec<AnthropicModel> = listed.iter().map(|listed| anthropic(&listed.facts)).collect();
            let id = |model: Option<&AnthropicModel>| model.map(|model| model.id.clone());
            let (first_id, last_id) = (id(data.first()), id(data.last()));
            Json(AnthropicModelList { data, has_more: false, first_id, last_id }).into_response()
        }
    }
}

pub(crate) async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    uri: Uri,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    // A path whose escapes are no UTF-8 names nothing.
    let Path(id) = id.map_err(|_| ApiError::UnknownPath { path: uri.path().to_owned() })?;
    let listed = app.registry.describe(&id);
    let read = |id: &str| app.governance.model(&app.registry, &caller, Action::Read, id);
    let listed = listed.filter(|listed| read(&listed.facts.id).is_ok());
    let listed = listed.ok_or(ApiError::UnknownModel { model: id, in_path: true })?;
    Ok(match dialect {
        Dialect::Mistral => Json(card(&listed)).into_response(),
        Dialect::OpenAi => Json(openai(&listed.facts)).into_response(),
        Dialect::Anthropic => Json(anthropic(&listed.facts)).into_response(),
    })
}

fn card(listed: &Listed) -> ModelCard {
    let facts = &listed.facts;
    ModelCard {
        id: facts.id.clone(),
        object: "model",
        created: facts.created_s,
        owned_by: facts.owned_by.clone(),
        capabilities: Capabilities {
            fine_tuning: facts.base.is_none() && listed.state != ModelState::Attached,
            ..capabilities(facts)
        },
        name: Some(facts.id.clone()),
        description: facts.description.clone(),
        max_context_length: facts.context_tokens as u64,
        aliases: facts.aliases.clone(),
        deprecation: None,
        default_model_temperature: facts.default_temperature,
        r#type: "base",
        state: listed.state.name(),
        memory_bytes: listed.memory_bytes,
        base: facts.base.clone(),
    }
}

pub(crate) fn capabilities(facts: &Facts) -> Capabilities {
    Capabilities {
        completion_chat: facts.chat,
        completion_fim: facts.fill_in_the_middle,
        function_calling: facts.tools,
        // Another adapter is made from the base.
        fine_tuning: facts.base.is_none(),
        ..Capabilities::default()
    }
}

fn openai(facts: &Facts) -> OpenAiModel {
    OpenAiModel { id: facts.id.clone(), object: "model", created: facts.created_s, owned_by: facts.owned_by.clone() }
}

fn anthropic(facts: &Facts) -> AnthropicModel {
    let name = facts.description.clone().unwrap_or_else(|| facts.id.clone());
    AnthropicModel { r#type: "model", id: facts.id.clone(), display_name: name, created_at: rfc3339(facts.created_s) }
}
