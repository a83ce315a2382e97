//! Model cards, in each dialect's shape.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use falaj_protocol::Dialect;
use falaj_protocol::models::{AnthropicModel, AnthropicModelList, Capabilities, ModelCard, ModelList, OpenAiModel};

use crate::app::App;
use crate::error::ApiError;
use crate::registry::{Facts, Listed};

pub(crate) async fn list(State(app): State<App>, Extension(dialect): Extension<Dialect>) -> Response {
    let listed = app.registry.list();
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
    Extension(dialect): Extension<Dialect>,
    uri: Uri,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    // A path whose escapes are no UTF-8 names nothing.
    let Path(id) = id.map_err(|_| ApiError::UnknownPath { path: uri.path().to_owned() })?;
    let listed = app.registry.describe(&id).ok_or(ApiError::UnknownModel { model: id, in_path: true })?;
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
        capabilities: capabilities(facts),
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

/// UTC. Days to civil date: Howard Hinnant, "chrono-compatible low-level date algorithms".
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_763_834_399), "2025-11-22T17:59:59Z");
    }
}
