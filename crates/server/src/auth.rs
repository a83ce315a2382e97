//! Who is calling. Keys are known by their SHA-256 only and compared in constant time; the key that matched names the
//! tenant whose cache entries a request may share.

use std::net::SocketAddr;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use falaj_artifact::Digest;

use crate::app::App;
use crate::error::ApiError;

/// A key that opens the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Shown in logs; never the secret.
    pub name: String,
    /// SHA-256 of the secret's bytes.
    pub digest: [u8; 32],
}

impl Key {
    pub fn from_secret(name: impl Into<String>, secret: &str) -> Self {
        Self { name: name.into(), digest: sha256(secret.as_bytes()) }
    }
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Prompts of different keys never share cache pages, so that timing tells nothing across tenants.
    pub cache_salt: u64,
    /// Whose files, jobs and fine-tuned models it sees.
    pub workspace: String,
}

/// The address at the other end, put there by [`crate::serve`]; absent when the router is driven directly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub SocketAddr);

/// Middleware: refuses requests without a known key and leaves the [`Caller`] for handlers.
pub(crate) async fn require_key(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = authenticate(&app, request.headers())?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Middleware of `/metrics`: a scraper on this machine needs no key. Behind a proxy on this machine everybody looks
/// local, so a forwarded request needs one.
pub(crate) async fn require_key_or_loopback(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let local = request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().is_loopback());
    let forwarded = request.headers().contains_key("x-forwarded-for") || request.headers().contains_key("forwarded");
    if !local || forwarded {
        authenticate(&app, request.headers())?;
    }
    Ok(next.run(request).await)
}

fn authenticate(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let secret = secret(headers).ok_or(ApiError::NoKey)?;
    let digest = sha256(secret.as_bytes());
    let known =
        app.settings.keys.iter().fold(None, |known, key| if equal(&key.digest, &digest) { Some(key) } else { known });
    let key = known.ok_or(ApiError::WrongKey)?;
    let salt = key.digest.iter().take(8).fold(0, |salt: u64, byte| salt << 8 | u64::from(*byte));
    // Every key of a site belongs to its one workspace, until there are several.
    Ok(Caller { cache_salt: salt, workspace: "default".to_owned() })
}

/// `Authorization: Bearer` (Mistral, OpenAI) or `x-api-key` (Anthropic).
fn secret(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    bearer
        .or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))
        .filter(|secret| !secret.is_empty())
}

/// Looks at every byte whatever it finds.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    *Digest::of(bytes).as_bytes()
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Missing only if a route forgot its middleware: refuse rather than serve.
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::NoKey)
    }
}
