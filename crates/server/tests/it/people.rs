//! People who sign in, with a provider of a few lines that lies when it is told to. What is believed of a token is tested beside it in
//! `sign_in/id_token.rs`; here the flow: state, nonce, PKCE, invitations, sessions, other sites' pages.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use falaj_artifact::Digest;
use falaj_server::{JobSettings, Registry, SignInSettings, Site};
use falaj_store::{Member, Organisation, Store, User, Workspace};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::fixture::{Api, Reply, engine, served};

/// What the provider knows of one code, and how it lies.
#[derive(Clone, Default)]
struct Wish {
    nonce: String,
    challenge: String,
    /// Claims that are otherwise than they should be.
    lies: HashMap<String, Value>,
    stolen_key: bool,
}

struct Provider {
    url: String,
    keys: Mutex<Vec<(String, EcdsaKeyPair)>>,
    codes: Mutex<HashMap<String, Wish>>,
}

fn pair() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let bytes = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes.as_ref(), &random).unwrap()
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

impl Provider {
    async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys = Mutex::new(vec![("one".to_owned(), pair())]);
        let provider = Arc::new(Self { url, keys, codes: Mutex::default() });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(configuration))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .with_state(Arc::clone(&provider));
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }
}

async fn configuration(State(provider): State<Arc<Provider>>) -> Json<Value> {
    let url = &provider.url;
    Json(
        json!({ "issuer": url, "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/jwks") }),
    )
}

async fn jwks(State(provider): State<Arc<Provider>>) -> Json<Value> {
    let keys = provider.keys.lock().unwrap();
    let shown = keys.iter().map(|(kid, pair)| {
        let point = pair.public_key().as_ref();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": number(&point[1..33]), "y": number(&point[33..]) })
    });
    Json(json!({ "keys": shown.collect::<Vec<_>>() }))
}

async fn token(State(provider): State<Arc<Provider>>, body: String) -> (axum::http::StatusCode, Json<Value>) {
    let no = || (axum::http::StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" })));
    let field =
        |name: &str| body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap_or_default();
    let Some(wish) = provider.codes.lock().unwrap().remove(field("code")) else { return no() };
    let challenge = URL_SAFE_NO_PAD.encode(Digest::of(field("code_verifier").as_bytes()).as_bytes());
    if challenge != wish.challenge {
        return no();
    }
    let mut claims = json!({ "iss": provider.url, "aud": "falaj", "sub": "s-amal", "iat": now_s(), "exp": now_s() + 300, "nonce": wish.nonce,
        "email": "Amal@health.example", "email_verified": true, "name": "Amal" });
    for (name, value) in wish.lies {
        claims[name] = value;
    }
    let thief = pair();
    let keys = provider.keys.lock().unwrap();
    let (kid, own) = keys.last().unwrap();
    let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", text(&json!({ "alg": "ES256", "kid": kid })), text(&claims));
    let signer = if wish.stolen_key { &thief } else { own };
    let signature = signer.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    (axum::http::StatusCode::OK, Json(json!({ "access_token": "x", "token_type": "Bearer", "id_token": token })))
}

struct House {
    api: Api,
    store: Store,
    provider: Arc<Provider>,
    _folder: tempfile::TempDir,
}

const URL: &str = "http://127.0.0.1:8080";

impl House {
    async fn new(newcomers: Option<&str>) -> Self {
        let provider = Provider::start().await;
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new();
        registry.insert(served(engine(falaj_engine::EngineOptions { threads: 1, ..Default::default() })));
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
        let (id, country) = ("health".to_owned(), "MA".to_owned());
        store.put(&Organisation { name: id.clone(), id, country, created_s: 1, disabled_s: None }).await.unwrap();
        for (created_s, name) in [(1, "desk"), (2, "lab")] {
            let workspace = Workspace {
                id: format!("health-{name}"),
                organisation: "health".into(),
                name: name.into(),
                class: None,
                purpose: None,
                weight: 100,
                band: 0,
                created_s,
            };
            store.put(&workspace).await.unwrap();
        }
        let settings = SignInSettings {
            issuer: provider.url.clone(),
            client_id: "falaj".into(),
            client_secret: Some("between us".into()),
            ca_pem: None,
            url: URL.into(),
            organisation: Some("health".into()),
            newcomers: newcomers.map(str::to_owned),
            session_s: 3600,
        };
        Self { api: Api::over_site(registry, site).with_people(settings), store, provider, _folder: folder }
    }

    async fn invite(&self, role: &str, workspace: Option<&str>) -> (User, Member) {
        let user = User {
            id: "amal".into(),
            organisation: "health".into(),
            issuer: String::new(),
            subject: String::new(),
            email: "amal@health.example".into(),
            name: "amal@health.example".into(),
            created_s: 1,
            disabled_s: None,
        };
        let member = Member {
            id: "amal-health".into(),
            organisation: "health".into(),
            workspace: workspace.map(str::to_owned),
            holder: "amal".into(),
            role: role.into(),
        };
        self.store.put(&user).await.unwrap();
        self.store.put(&member).await.unwrap();
        (user, member)
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.api.request("GET", path, headers, "").await
    }

    /// A browser goes to the provider: its cookie, the state, and a code that the provider gives for it.
    async fn begin(&self, lies: Value, stolen_key: bool) -> (String, String, String) {
        let begun = self.get("/auth/login?return_to=/console", &[]).await;
        assert_eq!(begun.status, 303, "{}", begun.text);
        let location = begun.headers["location"].to_str().unwrap();
        let field = |name: &str| {
            let found = location.split(['?', '&']).find_map(|pair| pair.strip_prefix(&format!("{name}=")));
            found.unwrap_or_else(|| panic!("{name} is not in {location}")).to_owned()
        };
        assert!(location.starts_with(&format!("{}/authorize?response_type=code", self.provider.url)));
        assert_eq!(field("redirect_uri"), "http%3A%2F%2F127.0.0.1%3A8080%2Fauth%2Fcallback");
        assert_eq!(field("code_challenge_method"), "S256");
        let lies = lies.as_object().unwrap().clone().into_iter().collect();
        let wish = Wish { nonce: field("nonce"), challenge: field("code_challenge"), lies, stolen_key };
        let code = format!("code-{}", field("state"));
        self.provider.codes.lock().unwrap().insert(code.clone(), wish);
        (cookie_of(&begun, "falaj-sign-in"), field("state"), code)
    }

    async fn callback(&self, cookie: &str, state: &str, code: &str) -> Reply {
        self.get(&format!("/auth/callback?state={state}&code={code}"), &[("cookie", cookie)]).await
    }

    /// The cookie of a session.
    async fn sign_in(&self) -> String {
        let (begun, state, code) = self.begin(json!({}), false).await;
        let reply = self.callback(&begun, &state, &code).await;
        assert_eq!(reply.status, 303, "{}", reply.text);
        assert_eq!(reply.headers["location"], "/console");
        cookie_of(&reply, "falaj-session")
    }

    async fn me(&self, session: &str) -> Reply {
        self.get("/auth/me", &[("cookie", session)]).await
    }
}

/// `NAME=VALUE` of what is set.
fn cookie_of(reply: &Reply, name: &str) -> String {
    let all = reply.headers.get_all("set-cookie").into_iter().map(|value| value.to_str().unwrap());
    let set = all.into_iter().find(|text| text.starts_with(&format!("{name}="))).unwrap();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax") && set.contains("Path=/"), "{set}");
    set.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn an_invited_person_signs_in_works_and_leaves() {
    let house = House::new(None).await;
    let (_, member) = house.invite("member", None).await;
    let session = house.sign_in().await;
    let me = house.me(&session).await.json();
    assert_eq!(
        (me["id"].as_str(), me["name"].as_str(), me["workspace"].as_str()),
        (Some("amal"), Some("Amal"), Some("health-desk"))
    );
    assert_eq!(me["workspaces"].as_array().unwrap().len(), 2);
    let lab = house.get("/auth/me", &[("cookie", &session), ("falaj-workspace", "lab")]).await.json();
    assert_eq!(lab["workspace"], "health-lab");
    assert_eq!(house.get("/v1/files", &[("cookie", &session), ("falaj-workspace", "default")]).await.status, 403);
    assert_eq!(house.get("/v1/files", &[("cookie", &session)]).await.status, 200);
    // The secret of a session is no key.
    let bearer = format!("Bearer {}", session.split_once('=').unwrap().1);
    assert_eq!(house.get("/v1/files", &[("authorization", &bearer)]).await.status, 401);
    // A page of another site cannot do anything in their name.
    let delete =
        async |headers: &[(&str, &str)]| house.api.request("DELETE", "/v1/files/x", headers, "").await.status.as_u16();
    let cookie = ("cookie", session.as_str());
    assert_eq!(delete(&[cookie]).await, 403);
    assert_eq!(delete(&[cookie, ("origin", "http://127.0.0.1:8081")]).await, 403);
    assert_eq!(delete(&[cookie, ("origin", "null")]).await, 403);
    assert_eq!(delete(&[cookie, ("origin", URL)]).await, 404);
    assert_eq!(house.api.request("POST", "/auth/logout", &[cookie], "").await.status, 403);
    assert_eq!(house.me(&session).await.status, 200);
    let left = house.api.request("POST", "/auth/logout", &[cookie, ("origin", URL)], "").await;
    assert_eq!(left.status, 200, "{}", left.text);
    let over = house.get("/auth/me", &[cookie, ("accept-language", "fr")]).await;
    assert_eq!(over.status, 401);
    assert!(over.text.contains("session est terminée"), "{}", over.text);
    // Known by their subject from now on, whatever address they have.
    let (begun, state, code) =
        house.begin(json!({ "email": "new@health.example", "email_verified": false }), false).await;
    let session = cookie_of(&house.callback(&begun, &state, &code).await, "falaj-session");
    assert_eq!(house.me(&session).await.status, 200);
    house.store.take_away::<Member>(&member.id).await.unwrap();
    house.api.app.reload().await.unwrap();
    assert_eq!(house.me(&session).await.status, 403, "no member any more");
}

#[tokio::test]
async fn nobody_signs_in_as_somebody_else() {
    let house = House::new(None).await;
    house.invite("member", None).await;
    let refused = async |lies: Value, stolen: bool, status: u16| {
        let (begun, state, code) = house.begin(lies.clone(), stolen).await;
        let reply = house.callback(&begun, &state, &code).await;
        assert_eq!(reply.status.as_u16(), status, "{lies} {}", reply.text);
        assert!(reply.headers.get("set-cookie").is_none(), "{lies}");
    };
    refused(json!({ "nonce": "of-another" }), false, 403).await;
    refused(json!({ "exp": now_s() - 120 }), false, 403).await;
    refused(json!({ "aud": "another" }), false, 403).await;
    refused(json!({ "iss": "https://other.example" }), false, 403).await;
    refused(json!({}), true, 403).await;
    refused(json!({ "email_verified": false }), false, 403).await;
    refused(json!({ "email": "stranger@health.example" }), false, 403).await;
    // Another browser's sign-in, one with a changed cookie, one without.
    let (mine, state, code) = house.begin(json!({}), false).await;
    let (other, ..) = house.begin(json!({}), false).await;
    assert_eq!(house.callback(&other, &state, &code).await.status, 400);
    assert_eq!(house.callback(&mine.replacen('.', ".9", 1), &state, &code).await.status, 400);
    assert_eq!(house.callback("", &state, &code).await.status, 400);
    // A code counts once, and only with the verifier of its own sign-in.
    let (again, state_2, code_2) = house.begin(json!({}), false).await;
    assert_eq!(house.callback(&again, &state_2, &code).await.status, 400, "of another sign-in");
    assert_eq!(house.callback(&again, &state_2, &code_2).await.status, 303);
    assert_eq!(house.callback(&again, &state_2, &code_2).await.status, 400, "used");
    let denied = house.get("/auth/callback?error=access_denied&state=x", &[("accept-language", "ar")]).await;
    assert_eq!(denied.status, 400);
    assert!(denied.text.contains("مزود الهوية"), "{}", denied.text);
}

#[tokio::test]
async fn newcomers_come_in_where_the_site_says_so_and_keys_change() {
    let house = House::new(Some("auditor")).await;
    let session = house.sign_in().await;
    let me = house.me(&session).await.json();
    assert_eq!(
        (me["email"].as_str(), me["workspaces"][0]["roles"][0].as_str()),
        (Some("Amal@health.example"), Some("auditor"))
    );
    let headers = [("cookie", session.as_str()), ("origin", URL)];
    assert_eq!(house.api.request("DELETE", "/v1/files/x", &headers, "").await.status, 403, "an auditor");
    // The provider has a new key, and none of the old ones.
    *house.provider.keys.lock().unwrap() = vec![("two".to_owned(), pair())];
    house.sign_in().await;
    let user = house.store.directory().await.unwrap().users[0].clone();
    house.store.put(&User { disabled_s: Some(1), ..user.clone() }).await.unwrap();
    house.api.app.reload().await.unwrap();
    assert_eq!(house.me(&session).await.status, 403);
    let (begun, state, code) = house.begin(json!({}), false).await;
    assert_eq!(house.callback(&begun, &state, &code).await.status, 403, "disabled, not new");
    assert_eq!(house.store.end_sessions(&user.id).await.unwrap(), 2);
    assert_eq!(house.me(&session).await.status, 401);
}
