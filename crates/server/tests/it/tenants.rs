//! Several organisations on one site: neither sees what is the other's, and keys open what their roles and scopes say, while they last.

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use falaj_engine::EngineOptions;
use falaj_server::{Facts, JobSettings, Registry, Served, Site};
use falaj_store::{
    ApiKey, ArtifactFacts, GrantTerms, Member, NewKey, Organisation, Role, Secret, ServiceAccount, Store, User,
    Workspace,
};
use serde_json::{Value, json};
use std::time::Duration;

use crate::fixture::{Api, MODEL, Reply, chat, engine, served, text};

/// A server and the store that it reads, as another process would have it.
struct House {
    api: Api,
    store: Store,
    _folder: tempfile::TempDir,
}

/// Fine-tuned by `health`.
const TUNED: &str = "tiny-health";

impl House {
    async fn new() -> Self {
        Self::with(EngineOptions { threads: 1, ..EngineOptions::default() }).await
    }

    async fn with(options: EngineOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new();
        let engine = engine(options);
        registry.insert(served(engine.clone()));
        let facts = Facts { aliases: Vec::new(), ..Facts::of(TUNED, &text(), engine.context_tokens()) };
        registry.insert(Served::new(facts, text(), engine));
        let settings = JobSettings {
            command: vec!["/bin/false".into()],
            dir: folder.path().join("jobs"),
            at_once: 1,
            grace: Duration::from_millis(300),
            memory_bytes: None,
            keep: Duration::from_secs(3600),
        };
        let site = Site::new(Store::open(folder.path()).await.unwrap(), settings, 1 << 20).unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        for name in ["health", "schools"] {
            let id = name.to_owned();
            let organisation =
                Organisation { id: id.clone(), name: id.clone(), country: "MA".into(), created_s: 1, disabled_s: None };
            store.put(&organisation).await.unwrap();
            let workspace = Workspace {
                id: format!("{name}-desk"),
                organisation: id,
                name: "desk".into(),
                class: None,
                purpose: None,
                weight: 100,
                band: 0,
                created_s: 1,
            };
            store.put(&workspace).await.unwrap();
        }
        store.add_model("health-desk", TUNED, "job", MODEL).await.unwrap();
        Self { api: Api::over_site(registry, site), store, _folder: folder }
    }

    /// A key of the organisation's desk, known to the server.
    async fn key(&self, organisation: &str, role: &str, more: NewKey) -> (ApiKey, Secret) {
        let workspace = format!("{organisation}-desk");
        let made = self.store.add_key(NewKey { workspace, name: "k".into(), role: role.into(), ..more }).await.unwrap();
        self.api.app.reload().await.unwrap();
        made
    }

    async fn send(&self, secret: &Secret, method: &str, path: &str, body: impl Into<Body>) -> Reply {
        let bearer = format!("Bearer {}", secret.expose());
        self.api.request(method, path, &[("authorization", &bearer)], body).await
    }

    /// The head of the answer, and the rest as it comes.
    async fn ask(&self, secret: &Secret, path: &str, body: String) -> Response {
        let request = Request::post(path).header("authorization", format!("Bearer {}", secret.expose()));
        self.api.send(request.body(body.into()).unwrap()).await
    }

    async fn chat(&self, secret: &Secret, model: &str) -> Reply {
        self.send(secret, "POST", "/v1/chat/completions", chat(json!({ "model": model })).to_string()).await
    }

    async fn upload(&self, secret: &Secret) -> String {
        let body = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--b\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"secret.jsonl\"\r\n\r\n{\"messages\": []}\r\n--b--\r\n";
        let bearer = format!("Bearer {}", secret.expose());
        let headers = [("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=b")];
        let reply = self.api.request("POST", "/v1/files", &headers, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()["id"].as_str().unwrap().to_owned()
    }
}

/// The answer without what is new in each: ids of requests, and the id that was asked for.
fn bare(reply: &Reply, id: &str) -> (u16, String) {
    let request = reply.headers["x-request-id"].to_str().unwrap();
    (reply.status.as_u16(), reply.text.replace(request, "").replace(id, ""))
}

/// One organisation's requests fill its queue: it is told to wait, and nobody else is.
#[tokio::test]
async fn a_full_queue_is_the_organisations_own() {
    let options = EngineOptions { threads: 1, max_sequences: 1, queue_requests: 34, ..EngineOptions::default() };
    let house = House::with(options).await;
    let (_, health) = house.key("health", "owner", NewKey::default()).await;
    let (_, schools) = house.key("schools", "owner", NewKey::default()).await;
    let ask = |secret, tokens: u32, stream: bool| {
        let body = chat(json!({ "model": MODEL, "n": 32, "max_tokens": tokens, "temperature": 1, "stream": stream }));
        house.ask(secret, "/openai/v1/chat/completions", body.to_string())
    };
    // It runs as long as it is held, which is longer than the others take to be refused.
    let held = ask(&health, 200, true).await;
    assert_eq!(held.status(), 200);
    for _ in 0..2 {
        assert_eq!(ask(&health, 2, false).await.status(), 429);
    }
    assert_eq!(ask(&schools, 2, false).await.status(), 200);
    drop(held);
}

#[tokio::test]
async fn nobody_sees_or_guesses_what_is_anothers() {
    let house = House::new().await;
    let (_, health) = house.key("health", "owner", NewKey::default()).await;
    let (_, schools) = house.key("schools", "owner", NewKey::default()).await;
    let file = house.upload(&health).await;
    let job =
        json!({ "model": MODEL, "training_files": [{ "file_id": file }], "hyperparameters": {}, "auto_start": false });
    let job = house.send(&health, "POST", "/v1/fine_tuning/jobs", job.to_string()).await;
    assert_eq!(job.status, 200, "{}", job.text);
    let job = job.json()["id"].as_str().unwrap().to_owned();
    // Every route that takes an id, in both dialects, asked with the other's id and with one that nobody has.
    let routes = [
        ("GET", "/v1/files/{file}", ""),
        ("GET", "/v1/files/{file}/content", ""),
        ("GET", "/v1/files/{file}/url", ""),
        ("DELETE", "/v1/files/{file}", ""),
        ("GET", "/v1/fine_tuning/jobs/{job}", ""),
        ("POST", "/v1/fine_tuning/jobs/{job}/cancel", ""),
        ("POST", "/v1/fine_tuning/jobs/{job}/start", ""),
        ("GET", "/v1/models/{model}", ""),
        ("DELETE", "/v1/models/{model}", ""),
        ("PATCH", "/v1/fine_tuning/models/{model}", "{\"name\": \"x\"}"),
        ("POST", "/v1/fine_tuning/models/{model}/archive", ""),
        ("DELETE", "/v1/fine_tuning/models/{model}/archive", ""),
        ("GET", "/openai/v1/files/{file}", ""),
        ("GET", "/openai/v1/files/{file}/content", ""),
        ("DELETE", "/openai/v1/files/{file}", ""),
        ("GET", "/openai/v1/fine_tuning/jobs/{job}", ""),
        ("GET", "/openai/v1/fine_tuning/jobs/{job}/events", ""),
        ("GET", "/openai/v1/fine_tuning/jobs/{job}/checkpoints", ""),
        ("POST", "/openai/v1/fine_tuning/jobs/{job}/cancel", ""),
        ("POST", "/openai/v1/fine_tuning/jobs/{job}/pause", ""),
        ("POST", "/openai/v1/fine_tuning/jobs/{job}/resume", ""),
        ("GET", "/openai/v1/models/{model}", ""),
        ("DELETE", "/openai/v1/models/{model}", ""),
        (
            "POST",
            "/v1/chat/completions",
            "{\"model\": \"{model}\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
        ),
        ("POST", "/v1/completions", "{\"model\": \"{model}\", \"prompt\": \"a\"}"),
        ("POST", "/v1/fim/completions", "{\"model\": \"{model}\", \"prompt\": \"a\"}"),
        ("POST", "/v1/embeddings", "{\"model\": \"{model}\", \"input\": \"a\"}"),
        (
            "POST",
            "/v1/messages",
            "{\"model\": \"{model}\", \"max_tokens\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
        ),
        (
            "POST",
            "/v1/messages/count_tokens",
            "{\"model\": \"{model}\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
        ),
        ("POST", "/tokenize", "{\"model\": \"{model}\", \"prompt\": \"a\"}"),
        ("POST", "/detokenize", "{\"model\": \"{model}\", \"tokens\": [20]}"),
        (
            "POST",
            "/v1/fine_tuning/jobs",
            "{\"model\": \"{model}\", \"training_files\": [{\"file_id\": \"{file}\"}], \"hyperparameters\": {}}",
        ),
        (
            "POST",
            "/v1/fine_tuning/jobs",
            "{\"model\": \"tiny\", \"training_files\": [{\"file_id\": \"{file}\"}], \"hyperparameters\": {}}",
        ),
    ];
    let nobodys = "00000000-0000-4000-8000-000000000000";
    let filled = |text: &str, file: &str, job: &str, model: &str| {
        text.replace("{file}", file).replace("{job}", job).replace("{model}", model)
    };
    for (method, path, body) in routes {
        let ask = async |secret: &Secret, file: &str, job: &str, model: &str| {
            let (path, body) = (filled(path, file, job, model), filled(body, file, job, model));
            house.send(secret, method, &path, body).await
        };
        let theirs = ask(&schools, &file, &job, TUNED).await;
        let none = ask(&schools, nobodys, nobodys, nobodys).await;
        assert!(theirs.status.is_client_error(), "{method} {path}: {} {}", theirs.status, theirs.text);
        let id = [("{file}", file.as_str()), ("{job}", job.as_str()), ("{model}", TUNED)];
        let asked = id.iter().fold(theirs.text.clone(), |text, (_, id)| text.replace(id, nobodys));
        let theirs = Reply { text: asked, ..theirs };
        assert_eq!(bare(&theirs, nobodys), bare(&none, nobodys), "{method} {path}");
    }
    for path in ["/v1/files", "/openai/v1/files", "/v1/fine_tuning/jobs", "/openai/v1/fine_tuning/jobs"] {
        let list = house.send(&schools, "GET", path, "").await.json();
        assert_eq!(list["data"].as_array().map(Vec::len), Some(0), "{path}: {list}");
    }
    for path in ["/v1/models", "/openai/v1/models"] {
        let ids =
            |list: Value| list["data"].as_array().unwrap().iter().map(|it| it["id"].to_string()).collect::<Vec<_>>();
        assert_eq!(ids(house.send(&schools, "GET", path, "").await.json()), [format!("\"{MODEL}\"")]);
        assert_eq!(ids(house.send(&health, "GET", path, "").await.json()).len(), 2);
    }
    // And what is one's own is there.
    assert_eq!(house.send(&health, "GET", &format!("/v1/files/{file}/content"), "").await.status, 200);
    assert_eq!(house.chat(&health, TUNED).await.status, 200);
    assert_eq!(house.chat(&schools, MODEL).await.status, 200);
}

/// Prompts of other tenants, which the prefix cache holds, are as unknown as if nobody had sent them.
#[tokio::test]
async fn the_prefix_cache_tells_nothing_across_tenants() {
    let house = House::new().await;
    let (_, health) = house.key("health", "member", NewKey::default()).await;
    let (_, schools) = house.key("schools", "member", NewKey::default()).await;
    let body = chat(json!({ "messages": [{ "role": "user", "content": "a secret ".repeat(20) }] })).to_string();
    let cached = async |secret: &Secret| {
        let reply = house.send(secret, "POST", "/v1/chat/completions", body.clone()).await.json();
        reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached(&health).await, 0);
    assert!(cached(&health).await > 0, "the cache works");
    assert_eq!(cached(&schools).await, 0, "and not for others");
}

#[tokio::test]
async fn roles_scopes_and_time_bound_a_key() {
    let house = House::new().await;
    let (_, auditor) = house.key("health", "auditor", NewKey::default()).await;
    let denied = house.chat(&auditor, MODEL).await;
    assert_eq!((denied.status.as_u16(), denied.json()["type"].as_str()), (403, Some("forbidden")));
    assert!(denied.text.contains("`role`"), "{}", denied.text);
    assert_eq!(house.send(&auditor, "GET", "/v1/models", "").await.status, 200);
    let scopes = Some(vec!["infer".to_owned()]);
    let (_, narrow) = house.key("health", "owner", NewKey { scopes, ..NewKey::default() }).await;
    assert_eq!(house.chat(&narrow, MODEL).await.status, 200);
    assert_eq!(house.send(&narrow, "GET", "/v1/files", "").await.status, 403);
    let role =
        Role { id: "r".into(), organisation: "health".into(), name: "asker".into(), actions: vec!["infer".into()] };
    house.store.put(&role).await.unwrap();
    let (key, asker) = house.key("health", "asker", NewKey::default()).await;
    assert_eq!(house.chat(&asker, MODEL).await.status, 200);
    assert_eq!(house.chat(&house.key("schools", "asker", NewKey::default()).await.1, MODEL).await.status, 403);

    house.api.app.reload().await.unwrap();
    assert!(house.store.key_used_s(&key.id).await.unwrap().is_some());
    house.store.revoke_key(&key.id).await.unwrap();
    house.api.app.reload().await.unwrap();
    assert_eq!(house.chat(&asker, MODEL).await.status, 401);
    let (_, old) = house.key("health", "member", NewKey { expires_s: Some(1_000), ..NewKey::default() }).await;
    assert_eq!(house.chat(&old, MODEL).await.status, 401);
    let (_, gone) = house.key("schools", "member", NewKey::default()).await;
    let schools: Organisation = house.store.get("schools").await.unwrap();
    house.store.put(&Organisation { disabled_s: Some(1), ..schools }).await.unwrap();
    house.api.app.reload().await.unwrap();
    assert_eq!(house.chat(&gone, MODEL).await.status, 401);
    // A class is raised, never lowered.
    let class = Some("confidential".to_owned());
    let (_, private) = house.key("health", "member", NewKey { class, ..NewKey::default() }).await;
    let bearer = format!("Bearer {}", private.expose());
    let ask = async |class: &str| {
        let headers = [("authorization", bearer.as_str()), ("falaj-data-class", class)];
        house.api.request("POST", "/v1/chat/completions", &headers, chat(json!({})).to_string()).await
    };
    assert_eq!(ask("secret").await.status, 200);
    let lowered = ask("public").await;
    assert_eq!(lowered.status, 403);
    assert!(lowered.text.contains("class-lowered"), "{}", lowered.text);
}

#[tokio::test]
async fn a_grant_opens_anothers_model_for_what_it_says() {
    let house = House::new().await;
    let (_, schools) = house.key("schools", "member", NewKey::default()).await;
    let terms = json!({ "organisations": ["schools"], "artifacts": [TUNED, MODEL], "actions": ["infer", "read"],
        "purposes": ["lessons"] });
    let grant = |owner: &str| GrantTerms { id: "g".into(), owner: owner.into(), terms: terms.clone(), revoked_s: None };
    // Nobody grants what is another's.
    house.store.put(&grant("schools")).await.unwrap();
    house.api.app.reload().await.unwrap();
    assert_eq!(house.chat(&schools, TUNED).await.status, 400);
    house.store.put(&grant("health")).await.unwrap();
    house.api.app.reload().await.unwrap();
    let bearer = format!("Bearer {}", schools.expose());
    let ask = async |purpose: &str| {
        let headers = [("authorization", bearer.as_str()), ("falaj-purpose", purpose)];
        house.api.request("POST", "/v1/chat/completions", &headers, chat(json!({ "model": TUNED })).to_string()).await
    };
    assert_eq!(ask("lessons").await.status, 200);
    let denied = ask("games").await;
    assert!(denied.status.is_client_error(), "{}", denied.text);
    // Cleared for less than what is sent.
    let facts = ArtifactFacts {
        id: TUNED.into(),
        owner: "health".into(),
        kind: "model".into(),
        class: None,
        clearance: Some("public".into()),
        country: None,
    };
    house.store.put(&facts).await.unwrap();
    house.api.app.reload().await.unwrap();
    let denied = ask("lessons").await;
    assert_eq!(denied.status, 403);
    assert!(denied.text.contains("`clearance`"), "{}", denied.text);
    let grant = GrantTerms { revoked_s: Some(1), ..grant("health") };
    house.store.put(&grant).await.unwrap();
    house.api.app.reload().await.unwrap();
    assert_eq!(ask("lessons").await.status, 400);
}

/// Joules are reserved by what the model's tokens took until now, and settled by what was counted.
#[tokio::test]
async fn joules_are_a_budget() {
    let mut house = House::new().await;
    house.api = house.api.measured();
    let (_, secret) = house.key("health", "member", NewKey::default()).await;
    let set = async |amount| {
        let limit = falaj_store::LimitOf {
            id: "joules".into(),
            scope: "workspace".into(),
            scope_id: "health-desk".into(),
            what: "joules".into(),
            per: "month".into(),
            amount,
        };
        house.store.put(&limit).await.unwrap();
        house.api.app.reload().await.unwrap();
    };
    set(1_000_000_000).await;
    assert_eq!(house.chat(&secret, MODEL).await.status, 200, "nobody knows yet what a token takes");
    assert_eq!(house.chat(&secret, MODEL).await.status, 200);
    set(1).await;
    let over = house.chat(&secret, MODEL).await;
    assert_eq!((over.status.as_u16(), over.json()["code"].as_str()), (429, Some("insufficient_quota")));
    assert!(over.text.contains("0.000001 joules per month of this workspace: 0 remain"), "{}", over.text);
    // Another organisation's are its own.
    let (_, other) = house.key("schools", "member", NewKey::default()).await;
    assert_eq!(house.chat(&other, MODEL).await.status, 200);
}

/// Reserved before, settled after: a limit stops what would go over it, at every level, and says when to come back.
#[tokio::test]
async fn limits_hold_at_every_level() {
    let house = House::new().await;
    let (key, secret) = house.key("health", "member", NewKey::default()).await;
    let limit = |scope: &str, scope_id: &str, what: &str, amount| falaj_store::LimitOf {
        id: format!("{scope}-{what}"),
        scope: scope.into(),
        scope_id: scope_id.into(),
        what: what.into(),
        per: "month".into(),
        amount,
    };
    let set = async |limit: falaj_store::LimitOf| {
        house.store.put(&limit).await.unwrap();
        house.api.app.reload().await.unwrap();
    };
    set(limit("key", &key.id, "requests", 2)).await;
    for left in ["1", "0"] {
        let served = house.chat(&secret, MODEL).await;
        assert_eq!(
            (served.status.as_u16(), served.headers["x-ratelimit-remaining-requests"].to_str().ok()),
            (200, Some(left))
        );
    }
    let over = house.chat(&secret, MODEL).await;
    assert_eq!((over.status.as_u16(), over.json()["code"].as_str()), (429, Some("insufficient_quota")));
    assert!(over.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(
        (&over.headers["x-ratelimit-limit-requests"], &over.headers["x-ratelimit-remaining-requests"]),
        (&"2".parse().unwrap(), &"0".parse().unwrap())
    );
    assert!(over.text.contains("2 requests per month of this key: 0 remain"), "{}", over.text);
    // Another key of the workspace has none, until the organisation has.
    let (_, other) = house.key("health", "member", NewKey::default()).await;
    let used = house.chat(&other, MODEL).await;
    assert_eq!((used.status.as_u16(), used.headers.get("x-ratelimit-limit-requests")), (200, None));
    let each = used.json()["usage"]["total_tokens"].as_u64().unwrap();
    // Three answers were given: there is room for what they took and one token more, and a request reserves several.
    set(limit("organisation", "health", "tokens", 3 * each + 1)).await;
    let over = house.chat(&other, MODEL).await;
    assert_eq!(over.status, 429);
    assert!(over.text.contains("tokens per month of this organisation: 1 remain"), "{}", over.text);
    // A raised limit keeps its counts; a price makes tokens money.
    set(limit("organisation", "health", "tokens", 1_000_000)).await;
    assert_eq!(house.chat(&other, MODEL).await.status, 200);
    let price =
        falaj_store::Price { id: MODEL.into(), prompt: 3_000_000, completion: 5_000_000, currency: "EUR".into() };
    house.store.put(&price).await.unwrap();
    set(limit("workspace", "health-desk", "money", 10)).await;
    let over = house.chat(&other, MODEL).await;
    assert_eq!(over.status, 429);
    assert_eq!(over.headers["x-should-retry"], "false", "no month holds it: {}", over.text);
}

/// Somebody of `health` with a role in the whole organisation, or in its desk only.
fn amal(role: &str, workspace: Option<&str>) -> (User, Member) {
    let user = User {
        id: "amal".into(),
        organisation: "health".into(),
        issuer: String::new(),
        subject: String::new(),
        email: "amal@health.example".into(),
        name: "Amal".into(),
        created_s: 1,
        disabled_s: None,
    };
    let member = Member {
        id: format!("amal-{}", workspace.unwrap_or("health")),
        organisation: "health".into(),
        workspace: workspace.map(str::to_owned),
        holder: "amal".into(),
        role: role.into(),
    };
    (user, member)
}

#[tokio::test]
async fn a_held_key_does_what_its_holder_may_and_stops_with_them() {
    let house = House::new().await;
    let (user, member) = amal("member", None);
    house.store.put(&user).await.unwrap();
    let held = NewKey { holder: Some("amal".into()), ..NewKey::default() };
    let (_, secret) = house.key("health", "owner", held.clone()).await;
    let (_, elsewhere) = house.key("schools", "owner", held).await;
    let status = async |secret: &Secret, method: &str, path: &str| {
        house.api.app.reload().await.unwrap();
        house.send(secret, method, path, "").await.status.as_u16()
    };
    assert_eq!(status(&secret, "GET", "/v1/files").await, 401, "no member yet");
    house.store.put(&member).await.unwrap();
    assert_eq!(status(&secret, "GET", "/v1/files").await, 200);
    assert_eq!(status(&elsewhere, "GET", "/v1/files").await, 401, "a member of another organisation");
    assert_eq!(status(&secret, "DELETE", "/v1/receipts").await, 403, "an owner's key in the hands of a member");
    house.store.put(&Member { role: "auditor".into(), ..member.clone() }).await.unwrap();
    assert_eq!(status(&secret, "GET", "/v1/files").await, 200);
    assert_eq!(status(&secret, "DELETE", "/v1/files/x").await, 403);
    house.store.put(&User { disabled_s: Some(1), ..user.clone() }).await.unwrap();
    assert_eq!(status(&secret, "GET", "/v1/files").await, 401, "disabled");
    house.store.put(&user).await.unwrap();
    assert_eq!(status(&secret, "GET", "/v1/files").await, 200);
    house.store.take_away::<Member>(&member.id).await.unwrap();
    assert_eq!(status(&secret, "GET", "/v1/files").await, 401, "removed");
    // The same of a program, which is a member of one workspace.
    let account = ServiceAccount {
        id: "triage".into(),
        workspace: "health-desk".into(),
        name: "triage".into(),
        created_s: 1,
        disabled_s: None,
    };
    house.store.put(&account).await.unwrap();
    let (_, desk) = amal("member", Some("health-desk"));
    house.store.put(&Member { holder: "triage".into(), ..desk }).await.unwrap();
    let held = NewKey { holder: Some("triage".into()), ..NewKey::default() };
    let (_, secret) = house.key("health", "member", held).await;
    assert_eq!(status(&secret, "GET", "/v1/files").await, 200);
    house.store.take_away::<ServiceAccount>("triage").await.unwrap();
    assert_eq!(status(&secret, "GET", "/v1/files").await, 401);
}

#[tokio::test]
async fn an_auditor_reads_and_changes_nothing() {
    let house = House::new().await;
    let (_, owner) = house.key("health", "owner", NewKey::default()).await;
    let (_, auditor) = house.key("health", "auditor", NewKey::default()).await;
    let file = house.upload(&owner).await;
    // Every operation of the published document.
    let document = house.api.get("/openapi.json").await.json();
    let mut refused = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let asked = path.replace("{id}", &file).replace("{path}", "x");
            // Whatever asks a model is refused once it is known which.
            let body = match path.rsplit('/').next() {
                _ if method == "get" => String::new(),
                Some("completions") if !path.contains("chat") => json!({ "model": MODEL, "prompt": "a" }).to_string(),
                Some("embeddings") => json!({ "model": MODEL, "input": "a" }).to_string(),
                Some("messages") => chat(json!({ "max_tokens": 1 })).to_string(),
                _ => chat(json!({})).to_string(),
            };
            let reply = house.send(&auditor, &method.to_uppercase(), &asked, body).await;
            // To leave is anybody's right.
            let reads = method == "get" || path.contains("tokenize") || path == "/auth/logout";
            // What is not there is not there; nothing that changes anything gets that far.
            assert_eq!(reply.status == 403, !reads, "{method} {path}: {} {}", reply.status, reply.text);
            refused += u32::from(reply.status == 403);
        }
    }
    assert!(refused > 15, "{refused}");
    assert_eq!(house.send(&auditor, "GET", &format!("/v1/files/{file}"), "").await.status, 200, "still there");
    let (_, member) = house.key("health", "member", NewKey::default()).await;
    assert_eq!(house.send(&member, "GET", "/v1/usage", "").await.status, 403, "a member is no auditor");
}
