//! The table of routes. Everything the server answers is on this page.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{get, patch, post};

use crate::app::App;
use crate::operations::{
    chat, completions, embeddings, files, fim, fine_tuning, messages, models, people, receipts, tokenize, tuned_models,
};
use crate::{auth, edge, health, openapi};

pub(crate) fn router(app: App) -> Router {
    let api = Router::new()
        // Mistral's and OpenAI's clients
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/fim/completions", post(fim::complete))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve).delete(tuned_models::delete))
        // Anthropic's
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count))
        // OpenAI's, strictly
        .route("/openai/v1/chat/completions", post(chat::complete))
        .route("/openai/v1/completions", post(completions::complete))
        .route("/openai/v1/embeddings", post(embeddings::embed))
        .route("/openai/v1/models", get(models::list))
        .route("/openai/v1/models/{*id}", get(models::retrieve).delete(tuned_models::delete))
        // vLLM's, which programs that measure models look for
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/tokenizer_info", get(tokenize::info))
        // What was used, and its proofs
        .route("/v1/usage", get(receipts::usage))
        .route("/v1/receipts", get(receipts::list).delete(receipts::erase))
        .route("/v1/receipts/{id}", get(receipts::retrieve))
        // People
        .route("/auth/me", get(people::me))
        .route("/auth/logout", post(people::logout))
        // Files and jobs, which both vendors keep under the same names
        .nest("/v1", kept(&app))
        .nest("/openai/v1", kept(&app))
        .route("/v1/files/{id}/url", get(files::signed_url))
        .route("/v1/fine_tuning/jobs/{id}/start", post(fine_tuning::start))
        .route("/v1/fine_tuning/models/{id}", patch(tuned_models::update))
        .route("/v1/fine_tuning/models/{id}/archive", post(tuned_models::archive).delete(tuned_models::unarchive))
        .route("/openai/v1/fine_tuning/jobs/{id}/pause", post(fine_tuning::pause))
        .route("/openai/v1/fine_tuning/jobs/{id}/resume", post(fine_tuning::start))
        .route("/openai/v1/fine_tuning/jobs/{id}/events", get(fine_tuning::events))
        .route("/openai/v1/fine_tuning/jobs/{id}/checkpoints", get(fine_tuning::checkpoints))
        .route_layer(from_fn_with_state(app.clone(), auth::require_key));
    let metrics = Router::new()
        .route("/metrics", get(health::metrics))
        .route_layer(from_fn_with_state(app.clone(), auth::require_key_or_loopback));
    let open = Router::new()
        .route("/", get(health::root))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/openapi.json", get(openapi::publish))
        // To the provider and back: who comes back passes the gate there
        .route("/auth/login", get(people::login))
        .route("/auth/callback", get(people::callback))
        // The link itself is the key.
        .route("/signed/files/{workspace}/{id}", get(files::signed));
    api.merge(metrics)
        .merge(open)
        .fallback(edge::unknown_path)
        .method_not_allowed_fallback(edge::wrong_method)
        .layer(from_fn_with_state(app.clone(), edge::edge))
        .layer(map_response(edge::no_sniffing))
        .with_state(app)
}

/// What is the same in both dialects but for the shapes.
fn kept(app: &App) -> Router<App> {
    // A form carries more than its file: the fields beside it and their borders.
    let most_bytes = app.site().map_or(0, |site| site.file_limit_bytes).saturating_add(64 << 10);
    let upload = post(files::upload).layer(DefaultBodyLimit::max(usize::try_from(most_bytes).unwrap_or(usize::MAX)));
    Router::new()
        .route("/files", upload.get(files::list))
        .route("/files/{id}", get(files::retrieve).delete(files::delete))
        .route("/files/{id}/content", get(files::content))
        .route("/fine_tuning/jobs", post(fine_tuning::create).get(fine_tuning::list))
        .route("/fine_tuning/jobs/{id}", get(fine_tuning::retrieve))
        .route("/fine_tuning/jobs/{id}/cancel", post(fine_tuning::cancel))
}
