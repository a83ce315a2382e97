//! Adapters over one base: models of their own that share its engine, under the bound of memory. Each adapter says that it takes
//! 100 bytes, each base 1000.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use falaj_engine::{Engine, EngineOptions};
use falaj_model::synthetic::AdapterSample;
use falaj_server::{Facts, LoadError, Loader, Memory, ModelState, Registry, Served};
use serde_json::{Value, json};

use crate::fixture::{Api, CONTEXT_TOKENS, chat, engine, text};

const BASE: u64 = 1000;
const ADAPTER: u64 = 100;

/// Bases by one letter; adapters by their base's letter and a number. `lost` is over a base that is not here, `a0` cannot be read.
#[derive(Default)]
struct Shelf {
    loads: Mutex<Vec<String>>,
    engines: Mutex<Vec<(String, Engine)>>,
}

const NAMES: [&str; 7] = ["a", "a0", "a1", "a2", "b", "b1", "lost"];

fn facts(name: &str) -> Facts {
    let base = match name {
        "lost" => Some("gone".to_owned()),
        name if name.len() > 1 => Some(name[..1].to_owned()),
        _ => None,
    };
    let memory_bytes = if base.is_some() { ADAPTER } else { BASE };
    Facts { memory_bytes, base, created_s: 0, ..Facts::of(name, &text(), CONTEXT_TOKENS) }
}

impl Loader for Shelf {
    fn list(&self) -> Vec<Facts> {
        NAMES.map(facts).into()
    }

    fn load(&self, name: &str, _: &AtomicBool) -> Result<Option<Served>, LoadError> {
        self.loads.lock().unwrap().push(name.to_owned());
        let engine = engine(EngineOptions { threads: 1, cache_bytes: 4 << 20, ..EngineOptions::default() });
        self.engines.lock().unwrap().push((name.to_owned(), engine.clone()));
        Ok(Some(Served::new(facts(name), text(), engine)))
    }

    fn load_over(&self, name: &str, base: &Served, _: &AtomicBool) -> Result<Option<Served>, LoadError> {
        self.loads.lock().unwrap().push(name.to_owned());
        if name == "a0" {
            return Err(LoadError { reason: "it was made for another base".into() });
        }
        let seed = name.bytes().map(u64::from).sum();
        let adapter = AdapterSample::new(base.engine.model().config(), 4, seed).load(base.engine.model()).unwrap();
        let handle = base.engine.load_adapter(adapter).unwrap();
        Ok(Some(Served { memory_bytes: ADAPTER, ..Served::over(base, facts(name), handle) }))
    }
}

fn start(bound_bytes: u64, memory: Memory) -> (Arc<Api>, Arc<Shelf>) {
    let shelf = Arc::new(Shelf::default());
    let memory = Memory { bound_bytes, ..memory };
    (Arc::new(Api::over(Registry::with_loader(Arc::clone(&shelf) as _, memory))), shelf)
}

impl Shelf {
    fn loads(&self) -> Vec<String> {
        self.loads.lock().unwrap().clone()
    }

    fn adapters(&self, base: &str) -> u64 {
        let engines = self.engines.lock().unwrap();
        let (_, engine) = engines.iter().rev().find(|(name, _)| name == base).unwrap();
        engine.stats().adapters.load(std::sync::atomic::Ordering::SeqCst)
    }
}

async fn says(api: &Api, model: &str) -> Value {
    let body = api.ok("/v1/chat/completions", chat(json!({"model": model, "max_tokens": 12}))).await;
    assert_eq!(body["model"], model);
    body["choices"][0]["message"]["content"].clone()
}

async fn state(api: &Api, model: &str) -> ModelState {
    api.app.registry().list().into_iter().find(|listed| listed.facts.id == model).unwrap().state
}

async fn until(api: &Api, model: &str, wanted: ModelState) {
    while state(api, model).await != wanted {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_base_and_its_adapters_answer_at_once() {
    let (api, shelf) = start(u64::MAX, Memory::default());
    let (first, base, second) = tokio::join!(says(&api, "a1"), says(&api, "a"), says(&api, "a2"));
    assert!(first != base && second != base && first != second, "{first} {base} {second}");
    let loads = shelf.loads();
    assert_eq!(loads.len(), 3);
    assert_eq!((loads[0].as_str(), shelf.adapters("a")), ("a", 2));
    assert_eq!(says(&api, "a1").await, first);
    let card = api.get("/v1/models/a1").await.json();
    assert_eq!(
        (&card["base"], &card["state"], &card["memory_bytes"]),
        (&json!("a"), &json!("loaded"), &json!(ADAPTER))
    );
    assert_eq!(card["capabilities"]["fine_tuning"], false);
    assert_eq!(api.get("/v1/models/a").await.json().get("base"), None);
    assert_eq!(api.app.registry().memory_bytes().1, BASE + 2 * ADAPTER);
    // One engine, counted once.
    let metrics = api.get("/metrics").await.text;
    assert!(metrics.contains("falaj_engine_adapters{model=\"a\"} 2\n"), "{metrics}");
    assert!(!metrics.contains("falaj_engine_running{model=\"a1\"}"));
    let embedding = |model: &'static str| api.ok("/v1/embeddings", json!({"model": model, "input": "water"}));
    assert_ne!(embedding("a").await["data"][0]["embedding"], embedding("a1").await["data"][0]["embedding"]);
}

#[tokio::test]
async fn adapters_leave_before_their_base() {
    let (api, shelf) = start(BASE + ADAPTER, Memory::default());
    let first = says(&api, "a1").await;
    // There is room for one adapter beside the base.
    says(&api, "a2").await;
    assert_eq!([state(&api, "a").await, state(&api, "a1").await], [ModelState::Loaded, ModelState::OnDisk]);
    assert_eq!(shelf.adapters("a"), 1);
    assert_eq!(says(&api, "a1").await, first);
    // Another base needs the room of both.
    says(&api, "b1").await;
    assert_eq!([state(&api, "a").await, state(&api, "a1").await], [ModelState::OnDisk; 2]);
    assert_eq!(shelf.loads(), ["a", "a1", "a2", "a1", "b", "b1"]);
    assert_eq!(says(&api, "a1").await, first);
    assert_eq!(api.app.registry().memory_bytes().1, BASE + ADAPTER);
}

#[tokio::test]
async fn a_busy_adapter_keeps_its_base() {
    let (api, _) = start(BASE + ADAPTER, Memory::default());
    let loan = api.app.registry().find("a1", tokio::time::Instant::now() + Duration::from_secs(60)).await.unwrap();
    let waiting = tokio::spawn({
        let api = Arc::clone(&api);
        async move { says(&api, "b").await }
    });
    until(&api, "a1", ModelState::Leaving).await;
    assert!(!waiting.is_finished());
    drop(loan);
    waiting.await.unwrap();
    assert_eq!([state(&api, "a").await, state(&api, "b").await], [ModelState::OnDisk, ModelState::Loaded]);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_never_the_silent_base() {
    let (api, shelf) = start(u64::MAX, Memory::default());
    for (model, told) in [("lost", "`gone`"), ("a0", "made for another base")] {
        let reply = api.post("/v1/chat/completions", chat(json!({"model": model}))).await;
        assert!(reply.status == 503 && reply.text.contains(told), "{}", reply.text);
    }
    // The base itself is well.
    says(&api, "a").await;
    assert_eq!(shelf.adapters("a"), 0);
    // Too large together, though each alone would fit.
    let (api, _) = start(BASE + ADAPTER - 1, Memory::default());
    assert_eq!(api.post("/v1/chat/completions", chat(json!({"model": "a1"}))).await.status, 507);
    assert_eq!(api.post("/v1/chat/completions", chat(json!({"model": "a"}))).await.status, 200);
}

#[tokio::test]
async fn idle_ones_go_in_order_and_pinned_ones_keep_their_base() {
    let idle = |pinned: &[&str]| Memory {
        unload_after: Some(Duration::ZERO),
        pinned: pinned.iter().map(|name| (*name).to_owned()).collect(),
        ..Memory::default()
    };
    let (api, shelf) = start(u64::MAX, idle(&[]));
    says(&api, "a1").await;
    api.app.registry().unload_idle();
    until(&api, "a1", ModelState::OnDisk).await;
    assert_eq!(shelf.adapters("a"), 0);
    api.app.registry().unload_idle();
    until(&api, "a", ModelState::OnDisk).await;

    let (api, _) = start(BASE + 2 * ADAPTER, idle(&["a1"]));
    says(&api, "a1").await;
    says(&api, "a2").await;
    api.app.registry().unload_idle();
    until(&api, "a2", ModelState::OnDisk).await;
    api.app.registry().unload_idle();
    assert_eq!([state(&api, "a").await, state(&api, "a1").await], [ModelState::Loaded; 2]);
    // And nothing takes their room.
    assert_eq!(api.post("/v1/chat/completions", chat(json!({"model": "b"}))).await.status, 507);
}
