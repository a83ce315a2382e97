//! The one place that maps errors to HTTP. Handlers return [`ApiError`]; the `edge` middleware, which knows the
//! dialect of the path, asks here for the status and the envelope.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use falaj_engine::SubmitError;
use falaj_govern::Language;
use falaj_ledger::LedgerError;
use falaj_protocol::errors::{
    AnthropicError, AnthropicErrorBody, MistralError, OpenAiError, OpenAiErrorBody, ValidationErrors,
};
use falaj_protocol::{Dialect, Problem};
use falaj_store::StoreError;
use falaj_text::TextError;
use serde::Serialize;

use crate::ids;
use crate::sign_in::SignInError;

/// Everything a request can be answered with instead of what it asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{}", .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<Problem>),
    #[error("no API key; send `Authorization: Bearer <key>` or `x-api-key: <key>`")]
    NoKey,
    #[error("the API key is not known here; check it, or ask this site's operator for one")]
    WrongKey,
    /// In the language of whoever tried.
    #[error("{}", .0.text(*.1))]
    SignIn(SignInError, Language),
    #[error("the header `falaj-data-class` is public, internal, confidential or secret")]
    UnknownClass,
    #[error("the header `falaj-purpose` is a word of at most {limit_bytes} bytes")]
    LongPurpose { limit_bytes: usize },
    /// The gate's no.
    #[error("denied by the policy `{policy}`: {remedy}")]
    Denied { policy: String, remedy: String },
    #[error(
        "this site's ledger takes no entries now ({reason}), and nothing is served that it does not know of; try again later"
    )]
    NoLedger { reason: String },
    #[error("over the limit of {limit}: {remaining} remain{}", retry(*.retry_after_s))]
    OverBudget { limit: String, remaining: f64, retry_after_s: Option<u64> },
    #[error("the site's database cannot be reached; try again in a moment")]
    NoDatabase,
    #[error("the store of this site's files cannot be reached, or does not let the site in; try again in a moment")]
    NoBlobs,
    #[error("this site's disk is full, and this was not kept; try again later")]
    NoSpace,
    #[error("invalid model: `{model}` is not served here; `GET /v1/models` lists what is")]
    UnknownModel { model: String, in_path: bool },
    #[error("no such path: `{path}`")]
    UnknownPath { path: String },
    #[error("`{path}` does not take {method}")]
    WrongMethod { path: String, method: String },
    #[error("the body is larger than {limit_bytes} bytes; send less")]
    BodyTooLarge { limit_bytes: usize },
    #[error("the body did not arrive within {timeout_ms} ms")]
    BodyTooSlow { timeout_ms: u64 },
    #[error("the body could not be read: {reason}")]
    BodyBroken { reason: String },
    // Coding tools look for "prompt is too long", others for "maximum context length", to shorten and try again.
    #[error("prompt is too long: {prompt_tokens} tokens > {context_tokens}, the maximum context length; shorten it")]
    ContextExceeded { prompt_tokens: usize, context_tokens: usize },
    /// The model cannot do what a well-formed request asks for.
    #[error("{reason}")]
    Unsupported { param: &'static str, reason: String },
    /// The chat template or instruct format refused the messages.
    #[error("{reason}")]
    Conversation { reason: String },
    #[error("the queue is full; retry after {retry_after_ms} ms")]
    QueueFull { retry_after_ms: u64 },
    #[error("too many large requests at once; try again in a moment")]
    Busy,
    #[error("this site is shutting down; try again later")]
    Stopping,
    #[error("the model `{model}` could not be loaded: {reason}")]
    LoadFailed { model: String, reason: String },
    #[error(
        "the model `{model}` needs {} of memory, and models may take {} here{}; choose a smaller format of it, or raise the bound",
        megabytes(*.need_bytes), megabytes(*.bound_bytes), pinned(*.pinned_bytes)
    )]
    NoRoomEver { model: String, need_bytes: u64, bound_bytes: u64, pinned_bytes: u64 },
    #[error("there was no room for the model `{model}` in time: all others are busy; try again later")]
    NoRoomYet { model: String },
    #[error("the request took longer than {timeout_ms} ms")]
    TookTooLong { timeout_ms: u64 },
    #[error("the model stopped with an error: {reason}")]
    Engine { reason: String },
    #[error("the attached engine `{engine}` cannot be reached: {reason}; try again later")]
    EngineGone { engine: String, reason: String },
    /// What an attached engine said instead of an answer.
    #[error("the attached engine `{engine}` answered {status}: {message}")]
    EngineRefused { engine: String, status: u16, message: String, retry_after_s: Option<u64> },
    #[error("the attached engine `{engine}` broke off its answer: {reason}")]
    EngineBroke { engine: String, reason: String },
    #[error(
        "the model `{model}` is at the attached engine `{engine}`, which is asked for chat completions, completions and embeddings only"
    )]
    Elsewhere { model: String, engine: String },
    #[error("the answer could not be kept to the grammar or schema of the request: {reason}; send a simpler one")]
    GrammarFailed { reason: String },
    #[error("this server keeps neither files nor jobs; start it with `falaj up`")]
    NoSite,
    #[error("there is no {what} `{id}`")]
    Unknown { what: &'static str, id: String },
    /// What is asked for does not go with the state that something is in.
    #[error("{reason}")]
    Conflict { reason: String },
    #[error("an internal error; the operator finds it in the log under this request's id")]
    Internal,
}

/// What the envelopes say about an error, per dialect.
struct Shape {
    status: StatusCode,
    mistral: &'static str,
    openai: &'static str,
    code: Option<&'static str>,
    anthropic: &'static str,
}

impl ApiError {
    fn shape(&self, dialect: Dialect) -> Shape {
        const INVALID: &str = "invalid_request_error";
        let of = |status, mistral, openai, code, anthropic| Shape { status, mistral, openai, code, anthropic };
        let mistral_here = dialect == Dialect::Mistral;
        match self {
            Self::Invalid(_) if mistral_here => of(StatusCode::UNPROCESSABLE_ENTITY, INVALID, INVALID, None, INVALID),
            Self::Invalid(_) => of(StatusCode::BAD_REQUEST, INVALID, INVALID, None, INVALID),
            Self::NoKey | Self::WrongKey => {
                of(StatusCode::UNAUTHORIZED, "unauthorized", INVALID, Some("invalid_api_key"), "authentication_error")
            }
            Self::SignIn(error, _) => match error {
                SignInError::Address(_) | SignInError::Off => {
                    of(StatusCode::NOT_FOUND, "not_found", INVALID, Some("no_sign_in"), "not_found_error")
                }
                SignInError::Provider(_) => {
                    of(StatusCode::BAD_GATEWAY, "bad_gateway", "server_error", Some("provider_failed"), "api_error")
                }
                SignInError::State | SignInError::Refused | SignInError::Code => {
                    of(StatusCode::BAD_REQUEST, INVALID, INVALID, Some("sign_in_failed"), INVALID)
                }
                SignInError::Ended => {
                    of(StatusCode::UNAUTHORIZED, "unauthorized", INVALID, Some("session_ended"), "authentication_error")
                }
                SignInError::Token(_) | SignInError::Stranger | SignInError::Nowhere | SignInError::Origin => of(
                    StatusCode::FORBIDDEN,
                    "forbidden",
                    "permission_error",
                    Some("sign_in_denied"),
                    "permission_error",
                ),
            },
            Self::UnknownClass | Self::LongPurpose { .. } => {
                of(StatusCode::BAD_REQUEST, INVALID, INVALID, None, INVALID)
            }
            Self::Denied { .. } => {
                of(StatusCode::FORBIDDEN, "forbidden", "permission_error", Some("denied"), "permission_error")
            }
            Self::OverBudget { .. } => of(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "insufficient_quota",
                Some("insufficient_quota"),
                "rate_limit_error",
            ),
            Self::NoLedger { .. } => of(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "server_error",
                Some("no_ledger"),
                "overloaded_error",
            ),
            Self::NoDatabase => of(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "server_error",
                Some("no_database"),
                "overloaded_error",
            ),
            Self::NoBlobs => of(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "server_error",
                Some("no_blobs"),
                "overloaded_error",
            ),
            Self::NoSpace => of(
                StatusCode::INSUFFICIENT_STORAGE,
                "insufficient_storage",
                "server_error",
                Some("no_space"),
                "overloaded_error",
            ),
            // Mistral answers 400 with code 1500 where a body names the model, 404 where the path does.
            Self::UnknownModel { in_path: false, .. } if mistral_here => {
                of(StatusCode::BAD_REQUEST, "invalid_model", INVALID, Some("1500"), "not_found_error")
            }
            Self::UnknownModel { .. } => {
                of(StatusCode::NOT_FOUND, "invalid_model", INVALID, Some("model_not_found"), "not_found_error")
            }
            Self::UnknownPath { .. } => {
                of(StatusCode::NOT_FOUND, "not_found", INVALID, Some("unknown_url"), "not_found_error")
            }
            Self::NoSite | Self::Unknown { .. } => {
                of(StatusCode::NOT_FOUND, "not_found", INVALID, Some("not_found"), "not_found_error")
            }
            Self::Conflict { .. } => of(StatusCode::CONFLICT, "conflict", INVALID, Some("conflict"), INVALID),
            Self::WrongMethod { .. } => {
                of(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", INVALID, Some("method_not_allowed"), INVALID)
            }
            Self::BodyTooLarge { .. } => {
                of(StatusCode::PAYLOAD_TOO_LARGE, INVALID, INVALID, Some("request_too_large"), "request_too_large")
            }
            Self::BodyTooSlow { .. } => {
                of(StatusCode::REQUEST_TIMEOUT, INVALID, INVALID, Some("request_timeout"), INVALID)
            }
            Self::BodyBroken { .. } => of(StatusCode::BAD_REQUEST, INVALID, INVALID, None, INVALID),
            Self::ContextExceeded { .. } => {
                of(StatusCode::BAD_REQUEST, INVALID, INVALID, Some("context_length_exceeded"), INVALID)
            }
            Self::Unsupported { .. } | Self::GrammarFailed { .. } | Self::Elsewhere { .. } => {
                of(StatusCode::BAD_REQUEST, INVALID, INVALID, Some("unsupported"), INVALID)
            }
            Self::Conversation { .. } => {
                of(StatusCode::BAD_REQUEST, "invalid_request_message_order", INVALID, Some("invalid_messages"), INVALID)
            }
            Self::QueueFull { .. } => of(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "rate_limit_error",
                Some("rate_limit_exceeded"),
                "rate_limit_error",
            ),
            Self::Busy => of(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "server_error",
                Some("busy"),
                "overloaded_error",
            ),
            Self::Stopping => of(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "server_error",
                Some("stopping"),
                "overloaded_error",
            ),
            Self::LoadFailed { .. } => of(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "server_error",
                Some("load_failed"),
                "api_error",
            ),
            Self::NoRoomEver { .. } => of(
                StatusCode::INSUFFICIENT_STORAGE,
                "insufficient_memory",
                "server_error",
                Some("insufficient_memory"),
                "api_error",
            ),
            Self::NoRoomYet { .. } => of(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "server_error",
                Some("no_room"),
                "overloaded_error",
            ),
            Self::TookTooLong { .. } => {
                of(StatusCode::GATEWAY_TIMEOUT, "timeout", "server_error", Some("timeout"), "timeout_error")
            }
            Self::EngineGone { .. } => of(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "server_error",
                Some("engine_unreachable"),
                "overloaded_error",
            ),
            Self::EngineRefused { status: 429, .. } => of(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "rate_limit_error",
                Some("rate_limit_exceeded"),
                "rate_limit_error",
            ),
            // That this site's key is not taken there is not the caller's fault.
            Self::EngineRefused { status: status @ (400 | 402 | 404..=499), .. } => {
                of(StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST), INVALID, INVALID, None, INVALID)
            }
            Self::EngineRefused { .. } | Self::EngineBroke { .. } => {
                of(StatusCode::BAD_GATEWAY, "bad_gateway", "server_error", Some("engine_failed"), "api_error")
            }
            Self::Engine { .. } | Self::Internal => {
                of(StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error", "server_error", None, "api_error")
            }
        }
    }

    /// With the words of this language, where it has them.
    pub(crate) fn spoken(self, language: Language) -> Self {
        match self {
            Self::SignIn(error, _) => Self::SignIn(error, language),
            other => other,
        }
    }

    /// The field to blame, as OpenAI writes paths.
    fn param(&self) -> Option<String> {
        match self {
            Self::Invalid(problems) => problems.first().and_then(Problem::param),
            Self::UnknownModel { .. } | Self::NoRoomEver { .. } | Self::Elsewhere { .. } => Some("model".to_owned()),
            Self::Unsupported { param, .. } => Some((*param).to_owned()),
            Self::Conversation { .. } => Some("messages".to_owned()),
            _ => None,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Invalid(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            other => other.to_string(),
        }
    }

    /// The envelope as JSON text; streams that fail half-way send it as their last event.
    pub(crate) fn envelope(&self, dialect: Dialect, request_id: &str) -> String {
        let shape = self.shape(dialect);
        let (message, param) = (self.message(), self.param());
        let (message, param) = (message.as_str(), param.as_deref());
        let flat =
            MistralError { object: "error", message, r#type: shape.mistral, param, code: shape.code, request_id };
        match (dialect, self) {
            (Dialect::Mistral, Self::Invalid(problems)) => json(&ValidationErrors { detail: problems, error: flat }),
            (Dialect::Mistral, _) => json(&flat),
            (Dialect::OpenAi, _) => {
                json(&OpenAiError { error: OpenAiErrorBody { message, r#type: shape.openai, param, code: shape.code } })
            }
            (Dialect::Anthropic, _) => json(&AnthropicError {
                r#type: "error",
                error: AnthropicErrorBody { r#type: shape.anthropic, message },
                request_id,
            }),
        }
    }

    /// The whole response.
    pub(crate) fn response(&self, dialect: Dialect, request_id: &str) -> Response {
        let mut response = Response::new(Body::from(self.envelope(dialect, request_id)));
        *response.status_mut() = self.shape(dialect).status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self {
            Self::QueueFull { retry_after_ms } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000).max(1)));
            }
            Self::EngineRefused { retry_after_s: Some(after_s), .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*after_s));
            }
            Self::OverBudget { retry_after_s, .. } => {
                match retry_after_s {
                    Some(seconds) => headers.insert(header::RETRY_AFTER, HeaderValue::from((*seconds).max(1))),
                    // No waiting helps: it asks for more than a whole window holds.
                    None => headers.insert("x-should-retry", HeaderValue::from_static("false")),
                };
            }
            Self::Busy
            | Self::Stopping
            | Self::NoRoomYet { .. }
            | Self::NoLedger { .. }
            | Self::NoDatabase
            | Self::NoBlobs
            | Self::EngineGone { .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(1));
            }
            // The official clients would try a 5xx again by themselves.
            Self::NoRoomEver { .. } => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            Self::NoKey | Self::WrongKey => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

/// Carries the error to the `edge` middleware, which knows the dialect and writes the body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.shape(Dialect::Mistral).status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Vec<Problem>> for ApiError {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Invalid(problems)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::QueueFull { retry_after_ms, .. } => Self::QueueFull { retry_after_ms },
            SubmitError::PromptTooLong { prompt_tokens, context_tokens } => {
                Self::ContextExceeded { prompt_tokens, context_tokens }
            }
            SubmitError::EmptyPrompt | SubmitError::TokenOutOfRange { .. } => {
                Self::Unsupported { param: "prompt", reason: error.to_string() }
            }
            SubmitError::NoAdapter => Self::Engine { reason: error.to_string() },
            SubmitError::Stopped => Self::Stopping,
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unknown { what, id } => Self::Unknown { what, id: id.chars().take(200).collect() },
            StoreError::WrongStatus { .. } | StoreError::Refused { .. } => Self::Conflict { reason: error.to_string() },
            StoreError::TooLarge { limit_bytes } => {
                Self::BodyTooLarge { limit_bytes: usize::try_from(limit_bytes).unwrap_or(usize::MAX) }
            }
            StoreError::Busy => Self::Busy,
            StoreError::NotWritten { .. } | StoreError::Stopped => {
                no_ledger(&error);
                Self::NoLedger { reason: "what is used cannot be written".to_owned() }
            }
            full if full.is_full_disk() => {
                tracing::error!(error = %full, "the disk is full");
                Self::NoSpace
            }
            StoreError::Unreachable(_) => {
                tracing::error!(%error, "no database");
                Self::NoDatabase
            }
            StoreError::BlobsAway { .. } => {
                tracing::error!(%error, "no blobs");
                Self::NoBlobs
            }
            error => {
                tracing::error!(%error, "the store failed");
                Self::Internal
            }
        }
    }
}

impl From<SignInError> for ApiError {
    fn from(error: SignInError) -> Self {
        Self::SignIn(error, Language::English)
    }
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        no_ledger(&error);
        let reason = match &error {
            full if full.is_full_disk() => "its disk is full".to_owned(),
            // Paths and tokens are the operator's to know.
            LedgerError::Io { .. } => "its disk fails".to_owned(),
            LedgerError::Signer { .. } => "its key cannot sign".to_owned(),
            other => other.to_string(),
        };
        Self::NoLedger { reason }
    }
}

/// A word in the log once a second: while it lasts every request would say so.
fn no_ledger(error: &dyn std::fmt::Display) {
    static TOLD_S: AtomicU64 = AtomicU64::new(0);
    let now_s = ids::now_s();
    if TOLD_S.swap(now_s, Ordering::Relaxed) != now_s {
        tracing::error!(%error, "nobody is let in: it could not be written down");
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        let reason = error.to_string();
        match error {
            TextError::Refused { .. } | TextError::Conversation { .. } | TextError::TooLarge { .. } => {
                Self::Conversation { reason }
            }
            TextError::Grammar { what: "tools", .. } => Self::Unsupported { param: "tools", reason },
            TextError::Grammar { .. } => Self::Unsupported { param: "response_format", reason },
            TextError::MissingToken { .. } | TextError::NoChatFormat => Self::Unsupported { param: "model", reason },
            TextError::File { .. }
            | TextError::Conversion { .. }
            | TextError::Template { .. }
            | TextError::Constraint { .. } => Self::Engine { reason },
        }
    }
}

fn retry(after_s: Option<u64>) -> String {
    match after_s {
        Some(seconds) => format!("; try again in {seconds} s"),
        None => "; ask for less, or for a higher limit".to_owned(),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

fn pinned(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(", {} of it by models that stay", megabytes(bytes)) }
}

/// Envelopes are plain data, so that writing them cannot fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
