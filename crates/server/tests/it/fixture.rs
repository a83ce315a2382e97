//! A server with a random model of a few thousand weights over a byte-level vocabulary, and ways to talk to it.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use falaj_engine::{Engine, EngineOptions};
use falaj_model::synthetic::{synthetic, tiny_config};
use falaj_server::{App, Book, Facts, Governance, Key, Registry, Served, Settings, Site, SiteFacts};
use falaj_text::{ChatFormat, ModelText, Tokenizer};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

pub const KEY: &str = "a-key-for-tests";
pub const MODEL: &str = "tiny";
pub const CONTEXT_TOKENS: usize = 512;

pub struct Api {
    pub app: App,
    router: axum::Router,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

/// A server shared by tests that change nothing in it.
pub fn api() -> Api {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| engine(EngineOptions { threads: 1, ..EngineOptions::default() }));
    Api::new(Settings::default(), engine.clone())
}

/// The tiny model under its names.
pub fn served(engine: Engine) -> Served {
    let text = text();
    let facts = Facts { aliases: vec!["org/tiny-alias".into()], ..Facts::of(MODEL, &text, engine.context_tokens()) };
    Served::new(facts, text, engine)
}

pub fn engine(options: EngineOptions) -> Engine {
    let model = synthetic(&tiny_config(VOCABULARY, CONTEXT_TOKENS), 7).expect("the tiny configuration is sound");
    Engine::start(Arc::new(model), options).expect("the tiny engine starts")
}

impl Api {
    pub fn new(settings: Settings, engine: Engine) -> Self {
        let registry = Registry::new();
        registry.insert(served(engine));
        Self::with(settings, registry, None)
    }

    /// With a data folder.
    pub fn over_site(registry: Registry, site: Site) -> Self {
        Self::with(Settings::default(), registry, Some(site))
    }

    /// With a price of CPU time that is the same on every machine: 20 W over four threads, in Morocco.
    pub fn measured(self) -> Self {
        let nowhere = std::path::PathBuf::from("/nowhere");
        let (powercap, proc) = (nowhere.clone(), nowhere);
        let settings =
            falaj_energy::Settings { cpu_watts: Some(20.0), threads: 4, meter_file: None, powercap, proc, gpus: false };
        let site = Arc::new(falaj_energy::Site::new(settings));
        let app = self.app.with_energy(site, falaj_energy::Carbon::of("MA", None));
        Self { router: app.router(), app }
    }

    /// With people who sign in.
    pub fn with_people(self, settings: falaj_server::SignInSettings) -> Self {
        let app = self.app.with_sign_in(settings).expect("a good address");
        Self { router: app.router(), app }
    }

    /// With other models than the tiny one.
    pub fn over(registry: Registry) -> Self {
        Self::with(Settings::default(), registry, None)
    }

    /// With a ledger in this folder, and its policies beside it.
    pub async fn governed(folder: &std::path::Path) -> Self {
        let registry = Registry::new();
        registry.insert(served(engine(EngineOptions { threads: 1, ..EngineOptions::default() })));
        let keys = vec![Key::from_secret("test", KEY)];
        let facts = SiteFacts {
            id: "a.example".into(),
            country: "MA".into(),
            operator_country: "FR".into(),
            policies: Some(folder.join("policies")),
            ..SiteFacts::default()
        };
        let book = Book::open(folder, &folder.join("site.key"), &facts.id).await.expect("a new ledger");
        let governance = Governance::new(facts, keys.clone(), Some(book)).expect("sound policies");
        let app = App::governed(Settings { keys, ..Settings::default() }, registry, governance);
        Self { router: app.router(), app }
    }

    fn with(settings: Settings, registry: Registry, site: Option<Site>) -> Self {
        let settings =
            Settings { keys: vec![Key::from_secret("other", "x"), Key::from_secret("test", KEY)], ..settings };
        let app = App::new(settings, registry).expect("sound policies");
        let app = match site {
            Some(site) => app.with_site(site),
            None => app,
        };
        Self { router: app.router(), app }
    }

    pub async fn send(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.expect("the router answers everything")
    }

    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(body.into()).expect("a good request")).await;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        Reply { status, headers, text: String::from_utf8(bytes.to_vec()).expect("UTF-8") }
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.request("POST", path, &[AUTH], body.to_string()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[AUTH], Body::empty()).await
    }

    /// A successful JSON answer.
    pub async fn ok(&self, path: &str, body: Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()
    }
}

pub const AUTH: (&str, &str) = ("authorization", "Bearer a-key-for-tests");

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    /// The `data:` of every event, JSON or not; comments are dropped.
    pub fn data(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.text);
        assert!(self.headers["content-type"].to_str().expect("ASCII").starts_with("text/event-stream"));
        assert!(self.text.ends_with("\n\n"), "the last event is whole");
        self.text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// The JSON of every event before the `[DONE]` that must end the stream.
    pub fn chunks(&self) -> Vec<Value> {
        let mut data = self.data();
        assert_eq!(data.pop().as_deref(), Some("[DONE]"));
        data.iter().map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }

    /// (event, data)
    pub fn events(&self) -> Vec<(String, Value)> {
        let names = self.text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned);
        let data = self.data();
        names.zip(data.iter().map(|data| serde_json::from_str(data).expect("JSON"))).collect()
    }
}

/// A chat request that is greedy and short; `more` is merged in.
pub fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0,
        "max_tokens": 8,
    });
    merge(&mut body, more);
    body
}

pub fn merge(body: &mut Value, more: Value) {
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
}

pub fn weather_tool() -> Value {
    json!({"type": "function", "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Tunis", "Paris"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": false,
        },
    }})
}

const SPECIALS: [&str; 14] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[PREFIX]",
    "[SUFFIX]",
];
pub const VOCABULARY: usize = 256 + SPECIALS.len();
/// Of text "a": bytes follow the specials.
pub fn byte_token(byte: u8) -> u32 {
    u32::from(byte) + SPECIALS.len() as u32
}

pub fn text() -> ModelText {
    let mut tokenizer =
        Tokenizer::from_tokenizer_json(tokenizer_json().to_string().as_bytes()).expect("a sound tokenizer");
    tokenizer.set_bos(1);
    tokenizer.set_eos(&[2]);
    let tokenizer = Arc::new(tokenizer);
    let chat = ChatFormat::jinja(TEMPLATE, &tokenizer).expect("a sound template");
    ModelText { tokenizer, chat: Some(chat) }
}

/// A byte is a token; nothing merges.
fn tokenizer_json() -> Value {
    let mut vocabulary = serde_json::Map::new();
    for (id, name) in SPECIALS.iter().enumerate() {
        vocabulary.insert((*name).to_owned(), id.into());
    }
    let mut next = 256;
    for byte in 0..=255u8 {
        // GPT-2's table: printable bytes are themselves, the others follow at U+0100.
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let c = if printable {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).expect("a letter")
        };
        vocabulary.insert(c.to_string(), byte_token(byte).into());
    }
    let added: Vec<Value> = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, name)| {
            json!({"id": id, "content": name, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false})
        })
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    })
}

const TEMPLATE: &str = "{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{{- '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' -}}
  {%- elif message.role == 'user' -%}
    {%- if tools and loop.last -%}{{- '[AVAILABLE_TOOLS]' -}}{{- tools | tojson -}}{{- '[/AVAILABLE_TOOLS]' -}}{%- endif -%}
    {{- '[INST]' + message.content + '[/INST]' -}}
  {%- elif message.role == 'assistant' -%}
    {{- message.content or '' -}}
    {%- for call in message.tool_calls or [] -%}
      {{- '[TOOL_CALLS][{\"name\": \"' + call.function.name + '\"}]' -}}
    {%- endfor -%}
    {%- if not (loop.last and message.prefix) -%}{{- eos_token -}}{%- endif -%}
  {%- elif message.role == 'tool' -%}{{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' -}}
  {%- endif -%}
{%- endfor -%}";
