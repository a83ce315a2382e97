//! Attached engines: OpenAI-compatible servers whose models are served behind this site's API. A request for one of them passes
//! the same gate and ledger as any other; then its bytes go on as they came, and the answer's come back as they are written. What is
//! read of a request is in `attached/question.rs`, connections in `pool.rs`, streams in `relay.rs` and `events.rs`, the rest of
//! an answer in `answer.rs`. Who writes engines down is the caller's business.

mod answer;
mod events;
mod pool;
mod question;
mod relay;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::uri::{PathAndQuery, Scheme};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response as HttpResponse, Uri, header};
use axum::response::Response;
use falaj_artifact::Digest;
use falaj_govern::Action;
use falaj_protocol::Dialect;
use http_body_util::Full;

use crate::app::App;
use crate::auth::Caller;
use crate::body::Raw;
use crate::edge::RequestId;
use crate::error::ApiError;
use crate::governance::{Admitted, Outcome, Passage, Running};
use crate::ids;
use crate::metrics::Counter;
use crate::registry::{Facts, Identity, Listed, ModelState};
use crate::sse;
use answer::Usage;
use pool::{Answer, Pool};
use question::Question;
use relay::Relay;

/// A server to pass requests on to.
#[derive(Clone, PartialEq, Eq)]
pub struct AttachedEngine {
    name: String,
    host: String,
    port: u16,
    /// Before `/chat/completions`: `/v1`, or something that ends so.
    path: String,
    key: Option<HeaderValue>,
    models: Vec<String>,
    country: Option<String>,
}

/// Why an engine cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("`{url}` is no address of a server; write it like `http://127.0.0.1:8000`")]
    Address { url: String },
    #[error(
        "`{url}` asks for TLS, which engines are not spoken to with; put a local proxy in front of it, and attach that"
    )]
    Tls { url: String },
    #[error("the engine's key holds characters that no header can carry")]
    Key,
}

impl AttachedEngine {
    /// `url` with or without `/v1` at its end; `country` of ISO 3166 where it is not the site's.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn new(
        name: &str,
        url: &str,
        key: Option<&str>,
        models: Vec<String>,
        country: Option<String>,
    ) -> Result<Self, AttachError> {
        let address = || AttachError::Address { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| address())?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => return Err(AttachError::Tls { url: url.to_owned() }),
            _ => return Err(address()),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(address)?;
        let path = uri.path().trim_end_matches('/');
        let path = if path.ends_with("/v1") { path.to_owned() } else { format!("{path}/v1") };
        let key = key.map(|key| HeaderValue::from_str(&format!("Bearer {key}"))).transpose();
        let mut key = key.map_err(|_| AttachError::Key)?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        let (host, port) = (host.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(80));
        Ok(Self { name: name.to_owned(), host, port, path, key, models, country })
    }
}

/// Without the key.
impl fmt::Debug for AttachedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}:{}{} with {:?}", self.name, self.host, self.port, self.path, self.models)
    }
}

/// An engine in use.
pub(crate) struct Engine {
    settings: AttachedEngine,
    pool: Arc<Pool>,
    /// Of every request to it.
    headers: HeaderMap,
    paths: [PathAndQuery; 3],
    since_s: u64,
    pub asked: Counter,
    pub failed: Counter,
}

/// What of an engine's API is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Chat,
    Completion,
    Embedding,
}

impl Engine {
    fn new(settings: AttachedEngine) -> Option<Self> {
        let authority = match settings.host.contains(':') {
            true => format!("[{}]:{}", settings.host, settings.port),
            false => format!("{}:{}", settings.host, settings.port),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(&authority).ok()?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &settings.key {
            headers.insert(header::AUTHORIZATION, key.clone());
        }
        let path = |call: &str| PathAndQuery::try_from(format!("{}/{call}", settings.path)).ok();
        let paths = [path("chat/completions")?, path("completions")?, path("embeddings")?];
        let pool = Arc::new(Pool::new(settings.host.clone(), settings.port));
        let (asked, failed) = (Counter::default(), Counter::default());
        Some(Self { settings, pool, headers, paths, since_s: ids::now_s(), asked, failed })
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    fn request(&self, call: Call, id: &str, body: Bytes) -> Request<Full<Bytes>> {
        let [chat, completion, embedding] = &self.paths;
        let path = match call {
            Call::Chat => chat,
            Call::Completion => completion,
            Call::Embedding => embedding,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(path.clone());
        request.headers_mut().clone_from(&self.headers);
        if let Ok(id) = HeaderValue::from_str(id) {
            request.headers_mut().insert("x-request-id", id);
        }
        request
    }

    async fn ask(&self, call: Call, id: &str, body: Bytes) -> Result<Answer, ApiError> {
        let asked = self.pool.ask(|| self.request(call, id, body.clone())).await;
        asked.map_err(|reason| ApiError::EngineGone { engine: self.name().to_owned(), reason })
    }
}

/// A model and where it is.
#[derive(Clone)]
pub(crate) struct Place {
    pub engine: Arc<Engine>,
    model: Arc<str>,
    identity: Identity,
}

/// All attached engines, and their models by name.
#[derive(Clone, Default)]
pub(crate) struct Engines {
    pub all: Vec<Arc<Engine>>,
    places: HashMap<Arc<str>, Place>,
}

impl Engines {
    /// These instead of those before. Whoever is the same keeps its connections.
    pub(crate) fn replaced(&self, engines: Vec<AttachedEngine>, local: &BTreeSet<String>) -> Self {
        let known = |settings: AttachedEngine| match self.all.iter().find(|engine| engine.settings == settings) {
            Some(engine) => Some(Arc::clone(engine)),
            None => Engine::new(settings).map(Arc::new),
        };
        Self::of(engines.into_iter().filter_map(known).collect(), local)
    }

    /// What this site has itself under a name, it answers itself; of two engines with one name, the first does.
    pub(crate) fn of(all: Vec<Arc<Engine>>, local: &BTreeSet<String>) -> Self {
        let mut places = HashMap::new();
        for engine in &all {
            for model in engine.settings.models.iter().filter(|model| !local.contains(*model)) {
                let model: Arc<str> = model.as_str().into();
                let place = || Place {
                    engine: Arc::clone(engine),
                    identity: identity(engine.name(), &model),
                    model: Arc::clone(&model),
                };
                places.entry(Arc::clone(&model)).or_insert_with(place);
            }
        }
        Self { all, places }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn place(&self, model: &str) -> Option<&Place> {
        self.places.get(model)
    }

    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.places.keys().map(AsRef::as_ref).collect()
    }

    pub(crate) fn listed(&self) -> impl Iterator<Item = Listed> {
        self.places.values().map(|place| {
            let Engine { settings, since_s, .. } = &*place.engine;
            let facts = Facts {
                id: place.model.to_string(),
                aliases: Vec::new(),
                description: Some(format!("by the attached engine `{}`", settings.name)),
                owned_by: settings.name.clone(),
                created_s: *since_s,
                context_tokens: 0,
                default_temperature: None,
                chat: true,
                tools: true,
                fill_in_the_middle: false,
                memory_bytes: 0,
                base: None,
            };
            Listed { facts, state: ModelState::Attached, memory_bytes: 0, country: settings.country.clone() }
        })
    }
}

/// Nobody here has seen the weights: the name stands for them, and receipts say so.
fn identity(engine: &str, model: &str) -> Identity {
    let digest = Digest::of(format!("attached\n{engine}\n{model}").as_bytes());
    Identity { model: *digest.as_bytes(), adapter: None, tokenizer: [0; 32], numerics: "attached".into() }
}

/// A request for an attached model.
pub(crate) struct Errand {
    place: Place,
    question: Question,
}

/// What is the same for everything that becomes of an errand.
pub(crate) struct Way {
    pub app: App,
    pub dialect: Dialect,
    pub request_id: String,
    pub engine: Arc<Engine>,
    pub started: Instant,
    pub deadline: tokio::time::Instant,
}

impl Errand {
    /// `None`: the body names no attached model, or nothing at all.
    pub(crate) fn of(app: &App, body: &Raw) -> Option<Self> {
        let engines = app.registry.engines();
        if engines.is_empty() {
            return None;
        }
        let (place, question) = Question::read(body.bytes(), |model| engines.place(model).cloned())?;
        Some(Self { place, question })
    }

    pub(crate) async fn run(
        self,
        app: App,
        caller: Caller,
        dialect: Dialect,
        request_id: RequestId,
        call: Call,
        body: Raw,
    ) -> Result<Response, ApiError> {
        let Self { place: Place { engine, model, identity }, question } = self;
        let permit = app.governance.model(&app.registry, &caller, Action::Infer, &model)?;
        let passage = Passage { caller, permit, input: *Digest::of(body.bytes()).as_bytes() };
        let prompt_tokens = answer::estimated(body.bytes().len());
        let sampling = falaj_ledger::Sampling::default();
        let completion_tokens = match call {
            Call::Embedding => 0,
            _ => question.most_tokens.unwrap_or(UNBOUNDED_TOKENS).saturating_mul(question.choices),
        };
        let running = Running { identity, seed: 0, sampling, prompt_tokens, completion_tokens, energy_uj: 0 };
        // It runs on a machine that nothing here counts.
        app.power.unknown(&model);
        let mut admitted = app.governance.admit(passage, running)?;
        admitted.so_far(Outcome::default());
        let (started, deadline) = (body.arrived(), app.deadline(body.arrived()));
        let way = Way { app, dialect, request_id: request_id.0, engine, started, deadline };
        way.engine.asked.add(1);
        let asked = async {
            // The engine reads the request while the ledger is being written; a request that is not noted takes it back.
            let asking = way.engine.ask(call, &way.request_id, question.body(body.bytes()));
            let (noted, answer) = futures_util::future::join(admitted.durable(), asking).await;
            noted?;
            answer
        };
        let answer = match tokio::time::timeout_at(way.deadline, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(way.too_long()),
        };
        drop(body);
        let answer = answer.inspect_err(|_| way.engine.failed.add(1))?;
        if !answer.head.status.is_success() {
            way.engine.failed.add(1);
            return Err(answer::refusal(answer, &way).await);
        }
        if is_stream(&answer.head.headers) {
            let relay = Relay::new(way, answer, admitted, question.hides_usage(), prompt_tokens);
            return Ok(relay.response());
        }
        way.whole(answer, admitted, prompt_tokens).await
    }
}

impl Way {
    fn too_long(&self) -> ApiError {
        ApiError::TookTooLong { timeout_ms: self.app.settings.request_timeout_ms }
    }

    fn broken(&self, error: &hyper::Error) -> ApiError {
        ApiError::EngineBroke { engine: self.engine.name().to_owned(), reason: error.to_string() }
    }

    /// An answer that comes in one piece.
    async fn whole(self, answer: Answer, mut admitted: Admitted, prompt_tokens: u64) -> Result<Response, ApiError> {
        let kind = answer.head.headers.get(header::CONTENT_TYPE).cloned();
        let status = answer.head.status;
        let bytes = answer::read(answer, ANSWER_BYTES, &self).await.inspect_err(|_| self.engine.failed.add(1))?;
        let (usage, estimated) = match answer::usage(&bytes) {
            Some(usage) => (usage, false),
            None => (Usage::estimate(prompt_tokens, answer::text_tokens(&bytes)), true),
        };
        admitted.output(&bytes);
        let receipt = match admitted.finish(usage.outcome()) {
            Some(signed) => signed.ready().await,
            None => None,
        };
        self.count(&usage);
        let mut response = HttpResponse::new(Body::from(bytes));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("application/json")));
        if estimated {
            headers.insert(USAGE, HeaderValue::from_static(ESTIMATED));
        }
        Ok(sse::with_receipt(response, receipt))
    }

    fn count(&self, usage: &Usage) {
        let metrics = &self.app.metrics;
        metrics.prompt_tokens.add(usage.prompt);
        metrics.cached_tokens.add(usage.cached);
        metrics.generated_tokens.add(usage.completion);
        metrics.request_time.observe(self.started.elapsed());
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    kind.get(..STREAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(STREAM))
}

const STREAM: &[u8] = b"text/event-stream";
/// The header, or the comment of a stream, that says that token counts are not the engine's.
const USAGE: &str = "falaj-usage";
const ESTIMATED: &str = "estimated";
/// What is set aside for an answer that the caller does not bound.
const UNBOUNDED_TOKENS: u64 = 4096;
/// Of an answer in one piece: two thousand embeddings.
const ANSWER_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_their_version() {
        let engine = |url| AttachedEngine::new("e", url, None, Vec::new(), None);
        let read = |url| engine(url).map(|engine| (engine.host, engine.port, engine.path)).ok();
        let at = |host: &str, port, path: &str| Some((host.to_owned(), port, path.to_owned()));
        assert_eq!(read("http://127.0.0.1:8000"), at("127.0.0.1", 8000, "/v1"));
        assert_eq!(read("http://gpu/v1/"), at("gpu", 80, "/v1"));
        assert_eq!(read("http://[::1]:9/openai/v1"), at("::1", 9, "/openai/v1"));
        assert!(matches!(engine("https://gpu"), Err(AttachError::Tls { .. })));
        assert!(engine("gpu:8000").is_err() && engine("/v1").is_err());
    }

    #[test]
    fn the_first_engine_with_a_name_answers_to_it_and_the_site_itself_before() {
        let engine = |name: &str, models: &[&str]| {
            let models = models.iter().map(|model| (*model).to_owned()).collect();
            AttachedEngine::new(name, "http://127.0.0.1:1", Some("s3cret"), models, None).expect("an engine")
        };
        let both = vec![engine("a", &["x", "tiny"]), engine("b", &["x", "y"])];
        assert!(!format!("{both:?}").contains("s3cret"));
        let engines = Engines::default().replaced(both.clone(), &["tiny".to_owned()].into());
        let at = |model| engines.place(model).map(|place| place.engine.name().to_owned());
        assert_eq!([at("x"), at("y"), at("tiny")], [Some("a".into()), Some("b".into()), None]);
        let again = engines.replaced(both.into_iter().take(1).collect(), &BTreeSet::new());
        assert!(again.all.iter().zip(&engines.all).all(|(new, old)| Arc::ptr_eq(new, old)), "it keeps its connections");
        assert_eq!(again.names().into_iter().collect::<Vec<_>>(), ["tiny", "x"]);
    }
}
