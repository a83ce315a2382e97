//! The outermost middleware: gives each request its id and dialect, turns panics and [`ApiError`]s into the dialect's
//! envelope, and counts the outcome.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use falaj_protocol::Dialect;
use futures_util::FutureExt;

use crate::app::App;
use crate::error::ApiError;
use crate::ids;

/// The request's id, for handlers that put it into a stream.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub String, pub [u8; 16]);

pub(crate) async fn edge(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let number = ids::request();
    let id = ids::shown(number);
    let started = Instant::now();
    let dialect = dialect(request.uri(), request.headers());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("other", MatchedPath::as_str);
    let method = request.method().clone();
    request.extensions_mut().insert(RequestId(id.clone(), number));
    request.extensions_mut().insert(dialect);
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(request_id = id, route, "a handler panicked");
            ApiError::Internal.response(dialect, &id)
        }
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let for_the_operator = matches!(
            error,
            ApiError::Engine { .. }
                | ApiError::Internal
                | ApiError::LoadFailed { .. }
                | ApiError::EngineGone { .. }
                | ApiError::EngineBroke { .. }
                | ApiError::EngineRefused { status: 401 | 403 | 500.., .. }
        );
        if for_the_operator {
            tracing::error!(request_id = id, route, %error, "request failed");
        }
        let told = std::mem::take(response.headers_mut());
        response = error.response(dialect, &id);
        // What is left of limits. What the error says itself goes first.
        for (name, value) in &told {
            response.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
    }
    app.metrics.request(route, &method, response.status());
    let status = response.status().as_u16();
    tracing::info!(request_id = id, %method, route, status, elapsed_ms = started.elapsed().as_millis() as u64, "answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        // OpenAI's clients show `x-request-id`, Anthropic's `request-id`.
        response.headers_mut().insert("x-request-id", value.clone());
        response.headers_mut().insert("request-id", value);
    }
    response
}

pub(crate) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::UnknownPath { path: uri.path().to_owned() }
}

pub(crate) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::WrongMethod { path: uri.path().to_owned(), method: method.to_string() }
}

fn dialect(uri: &Uri, headers: &HeaderMap) -> Dialect {
    let path = uri.path();
    if path.starts_with("/openai/") {
        Dialect::OpenAi
    } else if path == "/v1/messages" || path.starts_with("/v1/messages/") {
        Dialect::Anthropic
    } else if path.starts_with("/v1/models") && headers.contains_key("anthropic-version") {
        // The one path that Anthropic's API shares with the others.
        Dialect::Anthropic
    } else {
        Dialect::Mistral
    }
}

/// Answers are data, whatever a browser makes of them.
pub(crate) async fn no_sniffing(mut response: Response) -> Response {
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
