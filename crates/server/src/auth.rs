//! Who is calling: the holder of a key, or somebody whose browser has a session. Keys are known by their SHA-256 only and compared in constant time; the key that matched names the
//! tenant whose cache entries a request may share. What is done with a workspace passes the gate here; what is done with a model
//! passes it in the handler, which knows the model.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use falaj_artifact::Digest;
use falaj_engine::Tenant;
use falaj_govern::{Action, Class, Language, Target};
use falaj_protocol::Dialect;
use falaj_store::{DEFAULT_WORKSPACE, OPERATOR};

use crate::app::App;
use crate::edge::RequestId;
use crate::error::ApiError;
use crate::governance::{self, Kind, Known, Person};
use crate::sign_in::SignInError;
use crate::{ids, limits};

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
    /// The actor that the gate knows.
    pub id: Arc<str>,
    /// Of this request; its receipt carries it.
    pub request: [u8; 16],
    /// What the request is for, in a word of the caller's.
    pub purpose: Arc<str>,
    /// Of the data that it sends.
    pub class: Class,
    /// Of denials.
    pub language: Language,
    /// Prompts of different keys never share cache pages, so that timing tells nothing across tenants.
    pub cache_salt: u64,
    /// The workspace, as engines know it.
    pub tenant: Tenant,
    /// Whose files, jobs and fine-tuned models it sees.
    pub workspace: Arc<str>,
    pub organisation: Arc<str>,
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
    let (mut caller, signed_in) = authenticate(&app, request.method(), request.headers()).await?;
    if let Some(RequestId(_, number)) = request.extensions().get::<RequestId>() {
        caller.request = *number;
    }
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let what = governance::of_route(request.method(), path);
    let (action, kind) = what.ok_or_else(|| ApiError::UnknownPath { path: request.uri().path().to_owned() })?;
    let target = match kind {
        Kind::Model => None,
        Kind::Workspace => Some(Target::Workspace(Arc::clone(&caller.workspace))),
        Kind::Site => Some(Target::Site),
    };
    if let Some(target) = target {
        let permit = app.governance.decide(&caller, action, target)?;
        if governance::changes(action) {
            app.governance.note(&caller, &permit).await?;
        }
    }
    // Whoever generates is told what is left, refused or not.
    let limited = (action == Action::Infer).then(|| caller.clone());
    let dialect = request.extensions().get::<Dialect>().copied().unwrap_or(Dialect::Mistral);
    request.extensions_mut().insert(caller);
    if let Some(signed_in) = signed_in {
        request.extensions_mut().insert(signed_in);
    }
    let mut response = next.run(request).await;
    if let Some(caller) = limited {
        limits::tell(response.headers_mut(), dialect, &app.governance.remaining(&caller), ids::now_s());
    }
    Ok(response)
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
        authenticate(&app, request.method(), request.headers()).await?;
    }
    Ok(next.run(request).await)
}

/// A key goes before a session: a browser sends its cookie with everything.
async fn authenticate(app: &App, method: &Method, headers: &HeaderMap) -> Result<(Caller, Option<SignedIn>), ApiError> {
    if let Some(secret) = secret(headers) {
        return Ok((by_key(app, headers, secret)?, None));
    }
    let session = app.sign_in().ok().and_then(|sign_in| Some((sign_in, sign_in.session(headers)?)));
    let (sign_in, secret) = session.ok_or(ApiError::NoKey)?;
    let failed = |error| ApiError::SignIn(error, spoken(headers));
    // The store is asked each time: a session that was ended is over at once, whoever ended it.
    let session = app.site()?.store.session(secret).await?;
    // By this site's time: the store goes by a clock that may have been set back.
    let session = session.filter(|session| session.expires_s > ids::now_s());
    let session = session.ok_or_else(|| failed(SignInError::Ended))?;
    if !sign_in.asks_itself(method, headers) {
        return Err(failed(SignInError::Origin));
    }
    let workspace = headers.get("falaj-workspace").and_then(|value| value.to_str().ok());
    let person = app.governance.person(&session.holder, workspace).ok_or_else(|| failed(SignInError::Nowhere))?;
    let caller = caller_of(&person, headers)?;
    Ok((caller, Some(SignedIn { person: Arc::new(person), expires_s: session.expires_s })))
}

/// Left for handlers beside the [`Caller`], where it is a person.
#[derive(Clone, Debug)]
pub(crate) struct SignedIn {
    pub person: Arc<Person>,
    /// Seconds since 1970.
    pub expires_s: u64,
}

/// # Errors
/// Headers that say what cannot be.
pub(crate) fn caller_of(person: &Person, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let who = Who {
        id: Arc::clone(&person.actor),
        workspace: Arc::clone(&person.workspace),
        organisation: person.user.organisation.as_str().into(),
        class: person.class,
        purpose: person.purpose.clone(),
        cache_salt: salt(&sha256(person.actor.as_bytes())),
        tenant: person.tenant,
    };
    who.calls(headers)
}

fn by_key(app: &App, headers: &HeaderMap, secret: &str) -> Result<Caller, ApiError> {
    let digest = sha256(secret.as_bytes());
    let mut operator = None;
    for key in app.governance.keys() {
        // Looks at all of them, whichever it is.
        operator = if equal(&key.digest, &digest) { Some(key) } else { operator };
    }
    let who = match operator {
        Some(key) => Who::operator(key),
        None => Who::from(app.governance.key(secret).ok_or(ApiError::WrongKey)?),
    };
    who.calls(headers)
}

impl Who {
    fn calls(self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let who = self;
        let word = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let class = match word("falaj-data-class") {
            Some(class) => governance::class_named(class).ok_or(ApiError::UnknownClass)?,
            None => who.class.max(Class::Internal),
        };
        let purpose = match (word("falaj-purpose"), who.purpose) {
            (Some(purpose), _) if purpose.len() > PURPOSE_BYTES => {
                return Err(ApiError::LongPurpose { limit_bytes: PURPOSE_BYTES });
            }
            (Some(purpose), _) => purpose.into(),
            (None, Some(usual)) => usual,
            (None, None) => "general".into(),
        };
        Ok(Caller {
            id: who.id,
            request: [0; 16],
            purpose,
            class,
            language: spoken(headers),
            cache_salt: who.cache_salt,
            tenant: who.tenant,
            workspace: who.workspace,
            organisation: who.organisation,
        })
    }
}

/// The holder of a key, before what the request says of itself.
struct Who {
    id: Arc<str>,
    workspace: Arc<str>,
    organisation: Arc<str>,
    /// Of its data, at least.
    class: Class,
    /// Of requests that name none.
    purpose: Option<Arc<str>>,
    cache_salt: u64,
    tenant: Tenant,
}

impl Who {
    fn operator(key: &Key) -> Self {
        Self {
            id: key.name.as_str().into(),
            workspace: DEFAULT_WORKSPACE.into(),
            organisation: OPERATOR.into(),
            class: Class::Public,
            purpose: None,
            cache_salt: salt(&key.digest),
            tenant: Tenant::default(),
        }
    }
}

impl From<Known> for Who {
    fn from(known: Known) -> Self {
        let cache_salt = salt(&known.hash);
        let Known { id, workspace, organisation, class, purpose, tenant, .. } = known;
        Self { id, workspace, organisation, class, purpose, cache_salt, tenant }
    }
}

fn salt(digest: &[u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |salt: u64, byte| salt << 8 | u64::from(*byte))
}

/// It goes into every receipt.
const PURPOSE_BYTES: usize = 64;

/// What the caller reads.
pub(crate) fn spoken(headers: &HeaderMap) -> Language {
    language(headers.get("accept-language").and_then(|value| value.to_str().ok()).unwrap_or_default())
}

/// The first that we speak.
fn language(accepted: &str) -> Language {
    let spoken = accepted.split(',').find_map(|language| match language.trim().get(..2)? {
        "en" => Some(Language::English),
        "fr" => Some(Language::French),
        "ar" => Some(Language::Arabic),
        _ => None,
    });
    spoken.unwrap_or(Language::English)
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
