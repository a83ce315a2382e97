//! Several models under one bound: who is loaded, who leaves, who waits. Every model says that it takes 1000 bytes; whether
//! memory is really given back is seen by weak references to the models' weights.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use falaj_engine::{Engine, EngineOptions};
use falaj_model::Model;
use falaj_model::synthetic::{synthetic, tiny_config};
use falaj_server::{Facts, LoadError, Loader, Memory, ModelState, Registry, Served};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fixture::{AUTH, Api, CONTEXT_TOKENS, Reply, VOCABULARY, chat, text};

const SIZE: u64 = 1000;

/// Makes any of its models, and watches how many live.
#[derive(Default)]
struct Shelf {
    names: Vec<&'static str>,
    /// (estimate, measured) where it is not `SIZE`.
    sizes: Vec<(&'static str, u64, u64)>,
    broken: Mutex<BTreeSet<&'static str>>,
    loads: Mutex<Vec<String>>,
    alive: Mutex<Vec<Weak<Model>>>,
    most_alive: AtomicUsize,
}

impl Shelf {
    fn of(names: &[&'static str]) -> Self {
        Self { names: names.to_vec(), ..Self::default() }
    }

    fn loads(&self) -> Vec<String> {
        self.loads.lock().expect("no panic").clone()
    }

    fn alive(&self) -> usize {
        self.alive.lock().expect("no panic").iter().filter(|model| model.strong_count() > 0).count()
    }

    fn sizes(&self, name: &str) -> (u64, u64) {
        self.sizes.iter().find(|size| size.0 == name).map_or((SIZE, SIZE), |size| (size.1, size.2))
    }
}

impl Loader for Shelf {
    fn list(&self) -> Vec<Facts> {
        let facts = |name: &&str| Facts {
            memory_bytes: self.sizes(name).0,
            created_s: 0,
            ..Facts::of(*name, &text(), CONTEXT_TOKENS)
        };
        self.names.iter().map(facts).collect()
    }

    fn load(&self, name: &str, _: &AtomicBool) -> Result<Option<Served>, LoadError> {
        self.loads.lock().expect("no panic").push(name.to_owned());
        if self.broken.lock().expect("no panic").contains(name) {
            if name == "bug" {
                panic!("a bug in the loader");
            }
            return Err(LoadError { reason: "the file is cut short".into() });
        }
        let seed = name.bytes().map(u64::from).sum();
        let model = Arc::new(synthetic(&tiny_config(VOCABULARY, CONTEXT_TOKENS), seed).expect("a sound configuration"));
        self.alive.lock().expect("no panic").push(Arc::downgrade(&model));
        self.most_alive.fetch_max(self.alive(), Ordering::SeqCst);
        let options = EngineOptions { threads: 1, cache_bytes: 4 << 20, ..EngineOptions::default() };
        let engine = Engine::start(model, options).expect("the tiny engine starts");
        let mut served = Served::new(Facts::of(name, &text(), CONTEXT_TOKENS), text(), engine);
        served.memory_bytes = self.sizes(name).1;
        Ok(Some(served))
    }
}

fn start(shelf: Shelf, memory: Memory) -> (Arc<Api>, Arc<Shelf>) {
    let shelf = Arc::new(shelf);
    (Arc::new(Api::over(Registry::with_loader(Arc::clone(&shelf) as _, memory))), shelf)
}

fn room_for(models: u64) -> Memory {
    Memory { bound_bytes: models * SIZE, ..Memory::default() }
}

impl Api {
    async fn ask(&self, model: &str) -> Reply {
        self.post("/v1/chat/completions", chat(json!({"model": model}))).await
    }

    /// An answer that goes on for as long as its body is held.
    async fn hold(&self, model: &str) -> Body {
        let body = chat(json!({"model": model, "stream": true, "max_tokens": 400, "logit_bias": {"2": -100}}));
        let request = Request::post("/openai/v1/chat/completions").header(AUTH.0, AUTH.1).body(body.to_string().into());
        let response = self.send(request.expect("a good request")).await;
        assert_eq!(response.status(), 200);
        response.into_body()
    }

    fn state(&self, model: &str) -> ModelState {
        let listed = self.app.registry().list().into_iter().find(|listed| listed.facts.id == model);
        listed.expect("the model is known").state
    }

    async fn until(&self, model: &str, state: ModelState) {
        while self.state(model) != state {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn the_least_recently_used_leaves() {
    let (api, shelf) = start(Shelf::of(&["a", "b", "c"]), room_for(2));
    for model in ["a", "b", "a", "c", "a", "b"] {
        assert_eq!(api.ask(model).await.status, 200, "{model}");
    }
    assert_eq!(shelf.loads(), ["a", "b", "c", "b"]);
    assert_eq!([api.state("a"), api.state("c")], [ModelState::Loaded, ModelState::OnDisk]);
    assert_eq!((shelf.alive(), shelf.most_alive.load(Ordering::SeqCst)), (2, 2));
    let cards = api.get("/v1/models").await.json();
    let states: Vec<&Value> = cards["data"].as_array().expect("a list").iter().map(|card| &card["state"]).collect();
    assert_eq!(states, ["loaded", "loaded", "on_disk"]);
    assert_eq!(cards["data"][0]["memory_bytes"], SIZE);
    let metrics = api.get("/metrics").await.text;
    for line in [
        "falaj_models_memory_bound_bytes 2000",
        "falaj_models_memory_bytes 2000",
        "falaj_model_loads_total 4",
        "falaj_model_unloads_total 2",
        r#"falaj_model_memory_bytes{model="a",state="loaded"} 1000"#,
    ] {
        assert!(metrics.lines().any(|written| written == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_running_request_keeps_its_model() {
    let (api, shelf) = start(Shelf::of(&["a", "b", "c"]), room_for(2));
    let busy = api.hold("a").await;
    assert_eq!(api.ask("b").await.status, 200);
    assert_eq!(api.ask("c").await.status, 200);
    assert_eq!([api.state("a"), api.state("b"), api.state("c")].map(ModelState::name), ["loaded", "on_disk", "loaded"]);
    drop(busy);
    assert_eq!(shelf.loads(), ["a", "b", "c"]);
}

/// Where only busy models could make room, the least recently used one drains and takes turns with the newcomer.
#[tokio::test]
async fn busy_models_drain_and_come_back() {
    let (api, shelf) = start(Shelf::of(&["a", "b", "c"]), room_for(2));
    let (first, second) = (api.hold("a").await, api.hold("b").await);
    let ask = |model: &'static str| {
        let api = Arc::clone(&api);
        tokio::spawn(async move { api.ask(model).await.status.as_u16() })
    };
    let newcomer = ask("c");
    api.until("a", ModelState::Leaving).await;
    let behind = ask("a");
    assert_eq!(api.ask("b").await.status, 200, "the other goes on");
    assert!(!newcomer.is_finished() && !behind.is_finished());
    assert_eq!(shelf.alive(), 2);
    // What is under way is not cut.
    let whole = first.collect().await.expect("a whole body").to_bytes();
    assert!(whole.ends_with(b"data: [DONE]\n\n"));
    assert_eq!((newcomer.await.expect("no panic"), behind.await.expect("no panic")), (200, 200));
    assert_eq!(shelf.loads(), ["a", "b", "c", "a"]);
    assert_eq!(shelf.most_alive.load(Ordering::SeqCst), 2);
    drop(second);
}

#[tokio::test]
async fn a_newcomer_that_gives_up_leaves_everything_as_it_was() {
    let (api, shelf) = start(Shelf::of(&["a", "b"]), room_for(1));
    let busy = api.hold("a").await;
    let newcomer = tokio::spawn({
        let api = Arc::clone(&api);
        async move { api.ask("b").await }
    });
    api.until("a", ModelState::Leaving).await;
    newcomer.abort();
    assert!(newcomer.await.is_err());
    assert_eq!(api.ask("a").await.status, 200);
    assert_eq!(shelf.loads(), ["a"]);
    let now = Instant::now();
    let error = api.app.registry().find("b", now).await.err().expect("there is no room");
    assert_eq!(error.to_string(), "there was no room for the model `b` in time: all others are busy; try again later");
    drop(busy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_first_requests_load_once() {
    let (api, shelf) = start(Shelf::of(&["a"]), room_for(1));
    let asking: Vec<_> = (0..16)
        .map(|_| {
            let api = Arc::clone(&api);
            tokio::spawn(async move { api.ask("a").await.status.as_u16() })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.expect("no panic"), 200);
    }
    assert_eq!(shelf.loads(), ["a"]);
}

#[tokio::test]
async fn a_load_that_fails_poisons_nothing() {
    let (api, shelf) = start(Shelf::of(&["a", "bug"]), room_for(1));
    shelf.broken.lock().expect("no panic").extend(["a", "bug"]);
    let reply = api.ask("a").await;
    assert_eq!(reply.status, 503);
    assert!(reply.text.contains("the file is cut short"), "{}", reply.text);
    let reply = api.ask("bug").await;
    assert_eq!(reply.status, 503);
    assert!(reply.text.contains("panicked"), "{}", reply.text);
    shelf.broken.lock().expect("no panic").clear();
    assert_eq!(api.ask("a").await.status, 200);
    assert_eq!(api.ask("bug").await.status, 200);
    assert!(api.get("/metrics").await.text.contains("falaj_model_load_failures_total 2\n"));
}

#[tokio::test]
async fn what_can_never_fit_says_so() {
    let mut shelf = Shelf::of(&["a", "huge", "liar", "pinned"]);
    shelf.sizes = vec![("huge", 5 * SIZE, 5 * SIZE), ("liar", SIZE, 3 * SIZE)];
    let memory = Memory { pinned: ["pinned".to_owned()].into(), ..room_for(2) };
    let (api, shelf) = start(shelf, memory);
    assert_eq!(api.ask("a").await.status, 200);
    let body = chat(json!({"model": "huge"}));
    let reply = api.post("/openai/v1/chat/completions", body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (507, &json!("insufficient_memory")));
    assert_eq!(reply.headers["x-should-retry"], "false");
    // One that only shows its size when it is there.
    assert_eq!(api.ask("liar").await.status, 507);
    assert_eq!(api.ask("pinned").await.status, 200);
    assert_eq!(api.ask("a").await.status, 200);
    assert_eq!(api.state("pinned"), ModelState::Loaded);
    assert_eq!(shelf.loads(), ["a", "liar", "pinned", "a"][..shelf.loads().len()]);
}

#[tokio::test]
async fn a_model_larger_than_thought_sends_others_away() {
    let mut shelf = Shelf::of(&["a", "b", "large"]);
    shelf.sizes = vec![("large", SIZE, 2 * SIZE)];
    let (api, _) = start(shelf, room_for(3));
    for model in ["a", "b", "large"] {
        assert_eq!(api.ask(model).await.status, 200);
    }
    api.until("a", ModelState::OnDisk).await;
    assert_eq!([api.state("b"), api.state("large")], [ModelState::Loaded; 2]);
    assert_eq!(api.app.registry().memory_bytes(), (3 * SIZE, 3 * SIZE));
}

#[tokio::test]
async fn pinned_models_stay() {
    let memory = Memory { pinned: ["a".to_owned()].into(), unload_after: Some(Duration::ZERO), ..room_for(2) };
    let (api, shelf) = start(Shelf::of(&["a", "b", "c"]), memory);
    for model in ["a", "b", "c", "b", "c"] {
        assert_eq!(api.ask(model).await.status, 200);
    }
    assert_eq!(shelf.loads(), ["a", "b", "c", "b", "c"]);
    assert_eq!(api.app.registry().unload_idle(), Some(Duration::ZERO));
    api.until("c", ModelState::OnDisk).await;
    assert_eq!(api.state("a"), ModelState::Loaded);
    assert_eq!(shelf.alive(), 1);
}

#[tokio::test]
async fn idle_models_go_and_come_back() {
    let memory = Memory { unload_after: Some(Duration::ZERO), ..room_for(2) };
    let (api, shelf) = start(Shelf::of(&["a", "b"]), memory);
    let busy = api.hold("a").await;
    assert_eq!(api.ask("b").await.status, 200);
    api.app.registry().unload_idle();
    api.until("b", ModelState::OnDisk).await;
    assert_eq!(api.state("a"), ModelState::Loaded, "it is busy");
    drop(busy);
    api.app.registry().unload_idle();
    api.until("a", ModelState::OnDisk).await;
    assert_eq!(shelf.alive(), 0);
    assert_eq!(api.ask("a").await.status, 200);
    let never = Registry::with_loader(shelf, room_for(2));
    assert_eq!(never.unload_idle(), None);
}

/// Many clients, more models than room, some clients that leave early: the bound holds, and every answer is the one that
/// the model gives when it is alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_stays_within_the_bound() {
    const NAMES: [&str; 5] = ["v", "w", "x", "y", "z"];
    let (alone, _) = start(Shelf::of(&NAMES), Memory::default());
    let mut expected = Vec::new();
    for name in NAMES {
        expected.push(alone.ask(name).await.json()["choices"][0]["message"]["content"].clone());
    }
    let expected = Arc::new(expected);
    let (api, shelf) = start(Shelf::of(&NAMES), Memory { loads_at_once: 2, ..room_for(2) });
    let clients: Vec<_> = (0..12u64)
        .map(|client| {
            let (api, expected) = (Arc::clone(&api), Arc::clone(&expected));
            tokio::spawn(async move {
                let mut random = client * 0x9E37_79B9 + 1;
                for _ in 0..6 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let which = (random >> 33) as usize % NAMES.len();
                    match random >> 60 {
                        0..3 => drop(api.hold(NAMES[which]).await),
                        3 => {
                            // Leaves before there is an answer.
                            let api = Arc::clone(&api);
                            let asked = tokio::spawn(async move { api.ask(NAMES[which]).await });
                            tokio::task::yield_now().await;
                            asked.abort();
                        }
                        _ => {
                            let reply = api.ask(NAMES[which]).await;
                            assert_eq!(reply.status, 200, "{}", reply.text);
                            assert_eq!(reply.json()["choices"][0]["message"]["content"], expected[which]);
                        }
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("no panic");
    }
    assert!(shelf.most_alive.load(Ordering::SeqCst) <= 2);
    let (bound_bytes, taken_bytes) = api.app.registry().memory_bytes();
    assert!(taken_bytes <= bound_bytes);
}
