//! The table of routes. Everything the server answers is on this page.

use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{get, post};

use crate::app::App;
use crate::operations::{chat, completions, embeddings, fim, messages, models};
use crate::{auth, edge, health};

pub(crate) fn router(app: App) -> Router {
    let api = Router::new()
        // Mistral's and OpenAI's clients
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/fim/completions", post(fim::complete))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        // Anthropic's
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count))
        // OpenAI's, strictly
        .route("/openai/v1/chat/completions", post(chat::complete))
        .route("/openai/v1/completions", post(completions::complete))
        .route("/openai/v1/embeddings", post(embeddings::embed))
        .route("/openai/v1/models", get(models::list))
        .route("/openai/v1/models/{*id}", get(models::retrieve))
        .route_layer(from_fn_with_state(app.clone(), auth::require_key));
    let metrics = Router::new()
        .route("/metrics", get(health::metrics))
        .route_layer(from_fn_with_state(app.clone(), auth::require_key_or_loopback));
    let open = Router::new()
        .route("/", get(health::root))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready));
    api.merge(metrics)
        .merge(open)
        .fallback(edge::unknown_path)
        .method_not_allowed_fallback(edge::wrong_method)
        .layer(from_fn_with_state(app.clone(), edge::edge))
        .layer(map_response(edge::no_sniffing))
        .with_state(app)
}
