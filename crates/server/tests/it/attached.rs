//! Attached engines: what reaches them, what comes back and when, however either side ends.

use std::collections::HashMap;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use falaj_server::{AttachedEngine, Registry, Settings, serve};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::fixture::{AUTH, Api, KEY, MODEL, api, chat};
use crate::governance::receipt;

/// An engine whose every word a test says itself.
struct Upstream {
    url: String,
    connections: mpsc::UnboundedReceiver<TcpStream>,
}

struct Heard {
    line: String,
    headers: HashMap<String, String>,
    body: Value,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, connections) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if sender.send(stream).is_err() {
                    break;
                }
            }
        });
        Self { url, connections }
    }

    async fn connection(&mut self) -> TcpStream {
        self.connections.recv().await.expect("a connection")
    }

    fn engine(&self, models: &[&str]) -> AttachedEngine {
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        AttachedEngine::new("gpu", &self.url, Some("its-own-key"), models, None).unwrap()
    }

    /// A site that has it.
    async fn behind(settings: Settings) -> (Self, Api) {
        let upstream = Self::start().await;
        let api = Api::new(settings, crate::fixture::engine(Default::default()));
        api.app.attach(vec![upstream.engine(&["far", MODEL])]);
        (upstream, api)
    }
}

async fn hear(stream: &mut TcpStream) -> Heard {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.expect("a request"));
    }
    let text = String::from_utf8(text).unwrap();
    let mut lines = text.lines();
    let line = lines.next().unwrap().to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    Heard { line, headers, body: serde_json::from_slice(&body).unwrap() }
}

async fn say(stream: &mut TcpStream, status: &str, more: &str, body: &str) {
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).await.unwrap();
}

async fn begin(stream: &mut TcpStream) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
}

async fn piece(stream: &mut TcpStream, data: &str) {
    stream.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).await.unwrap();
}

fn token(text: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
}

fn usage(completion: u64) -> String {
    let usage = json!({"prompt_tokens": 12, "completion_tokens": completion, "total_tokens": 12 + completion});
    format!("data: {}\n\n", json!({"choices": [], "usage": usage}))
}

const DONE: &str = "data: [DONE]\n\n";

fn far(more: Value) -> Value {
    let mut body = chat(more);
    body["model"] = "far".into();
    body
}

/// A stream that has begun.
async fn stream(api: &Api, body: Value) -> BodyDataStream {
    let request = Request::post("/openai/v1/chat/completions").header(AUTH.0, AUTH.1);
    let response = api.send(request.body(Body::from(body.to_string())).unwrap()).await;
    assert_eq!(response.status(), 200);
    response.into_body().into_data_stream()
}

async fn next(stream: &mut BodyDataStream) -> String {
    String::from_utf8(stream.next().await.expect("more").expect("no error").to_vec()).unwrap()
}

async fn rest(mut stream: BodyDataStream) -> String {
    let mut all = String::new();
    while let Some(data) = stream.next().await {
        all.push_str(std::str::from_utf8(&data.unwrap()).unwrap());
    }
    all
}

#[tokio::test]
async fn its_models_are_listed_and_the_sites_own_come_first() {
    let (_upstream, api) = Upstream::behind(Settings::default()).await;
    let list = api.get("/v1/models").await.json();
    let cards: Vec<(&str, &str, bool)> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| {
            let tunes = card["capabilities"]["fine_tuning"].as_bool().unwrap();
            (card["id"].as_str().unwrap(), card["state"].as_str().unwrap(), tunes)
        })
        .collect();
    assert_eq!(cards, [("far", "attached", false), (MODEL, "loaded", true)]);
    assert_eq!(api.get("/openai/v1/models/far").await.json()["owned_by"], "gpu");
    let ours = api.post("/v1/chat/completions", chat(json!({"max_tokens": 1}))).await;
    assert_eq!(ours.status, 200, "nobody was asked: {}", ours.text);
    let reply = api.request("POST", "/v1/messages", &[AUTH], far(json!({"max_tokens": 1})).to_string()).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text.contains("attached engine `gpu`"), "{}", reply.text);
    api.app.attach(Vec::new());
    assert_eq!(api.get("/openai/v1/models/far").await.status, 404);
    assert_eq!(api.post("/openai/v1/chat/completions", far(json!({}))).await.status, 404);
}

#[tokio::test]
async fn a_whole_answer_comes_back_as_it_was_over_a_kept_connection() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let answer =
        r#"{"id":"x","choices":[{"message":{"content":"salam"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    let engine = tokio::spawn(async move {
        let mut stream = upstream.connection().await;
        let first = hear(&mut stream).await;
        say(&mut stream, "200 OK", "set-cookie: a=b\r\nserver: vllm\r\n", answer).await;
        let second = hear(&mut stream).await;
        say(&mut stream, "200 OK", "", answer).await;
        assert!(upstream.connections.try_recv().is_err(), "one connection is enough");
        (first, second)
    });
    let body = far(json!({"temperature": 0.5, "unknown": {"deep": [1]}}));
    let reply = api.post("/v1/chat/completions", body.clone()).await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, answer));
    assert!(!reply.headers.contains_key("set-cookie") && !reply.headers.contains_key("server"));
    assert!(!reply.headers.contains_key("falaj-usage"), "the engine counted");
    api.ok("/v1/embeddings", json!({"model": "far", "input": "x"})).await;
    let (first, second) = engine.await.unwrap();
    assert_eq!(first.line, "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(second.line, "POST /v1/embeddings HTTP/1.1");
    assert_eq!(first.body, body);
    assert_eq!(first.headers["authorization"], "Bearer its-own-key");
    assert!(!first.headers.values().any(|value| value.contains(KEY)), "the caller's key stays here");
    let metrics = api.get("/metrics").await.text;
    for line in ["falaj_generated_tokens_total 4", r#"falaj_attached_requests_total{engine="gpu"} 2"#] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn an_engine_that_does_not_count_is_estimated_and_the_answer_says_so() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let engine = tokio::spawn(async move {
        let mut stream = upstream.connection().await;
        hear(&mut stream).await;
        say(&mut stream, "200 OK", "", r#"{"choices":[{"text":"eight by"}]}"#).await;
    });
    let reply = api.post("/v1/completions", json!({"model": "far", "prompt": "x"})).await;
    assert_eq!((reply.status.as_u16(), &reply.headers["falaj-usage"]), (200, &"estimated".parse().unwrap()));
    engine.await.unwrap();
}

#[tokio::test]
async fn each_event_is_there_before_the_next_is_written() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let body = far(json!({"stream": true}));
    let (mut seen, mut engine) = tokio::join!(stream(&api, body), async {
        let mut engine = upstream.connection().await;
        let heard = hear(&mut engine).await;
        assert_eq!(heard.body["stream_options"], json!({"include_usage": true}));
        begin(&mut engine).await;
        engine
    });
    for text in ["one", "two", "three"] {
        piece(&mut engine, &token(text)).await;
        assert_eq!(next(&mut seen).await, token(text));
    }
    // Cut anywhere, and several at once.
    let pair = token("four") + &token("five");
    piece(&mut engine, &pair[..70]).await;
    piece(&mut engine, &pair[70..]).await;
    piece(&mut engine, &(usage(7) + DONE)).await;
    engine.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(rest(seen).await, pair + DONE, "usage was not asked for");
    let metrics = api.get("/metrics").await.text;
    assert!(metrics.contains("falaj_generated_tokens_total 7"), "{metrics}");
    assert!(metrics.contains("falaj_cancelled_total 0"), "{metrics}");
}

#[tokio::test]
async fn usage_that_was_asked_for_is_passed_on_and_the_last_counts() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = far(json!({"stream": true, "stream_options": options}));
    let (seen, heard) = tokio::join!(async { rest(stream(&api, body).await).await }, async {
        let mut engine = upstream.connection().await;
        let heard = hear(&mut engine).await;
        begin(&mut engine).await;
        for text in [usage(1), token("a"), usage(2), DONE.to_owned()] {
            piece(&mut engine, &text).await;
        }
        engine.write_all(b"0\r\n\r\n").await.unwrap();
        heard
    });
    assert_eq!(heard.body["stream_options"], options);
    assert_eq!(seen, usage(1) + &token("a") + &usage(2) + DONE);
    let metrics = api.get("/metrics").await.text;
    assert!(metrics.contains("falaj_generated_tokens_total 2"), "{metrics}");
}

#[tokio::test]
async fn a_client_that_leaves_is_told_to_the_engine() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let body = far(json!({"stream": true}));
    let (mut seen, mut engine) = tokio::join!(stream(&api, body), async {
        let mut engine = upstream.connection().await;
        hear(&mut engine).await;
        begin(&mut engine).await;
        piece(&mut engine, &token("one")).await;
        engine
    });
    assert_eq!(next(&mut seen).await, token("one"));
    drop(seen);
    let mut nothing = [0; 1];
    assert!(matches!(engine.read(&mut nothing).await, Ok(0) | Err(_)), "the connection is closed");
    assert!(api.get("/metrics").await.text.contains("falaj_cancelled_total 1"));
    // Before the answer has begun, too.
    let request = api.post("/v1/chat/completions", far(json!({})));
    tokio::select! {
        reply = request => panic!("nobody answered: {}", reply.text),
        engine = async { let mut engine = upstream.connection().await; hear(&mut engine).await; engine } => {
            let mut engine = engine;
            assert_eq!(engine.read(&mut nothing).await.unwrap_or(0), 0);
        }
    }
}

#[tokio::test]
async fn what_the_engine_refuses_is_refused_in_the_callers_dialect() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let engine = tokio::spawn(async move {
        let mut stream = upstream.connection().await;
        let error = r#"{"error":{"message":"temperature is odd","type":"BadRequestError","code":400}}"#;
        for (status, more) in [
            ("400 Bad Request", ""),
            ("422 Unprocessable Entity", ""),
            ("429 Too Many Requests", "retry-after: 7\r\n"),
            ("401 Unauthorized", ""),
            ("500 Internal Server Error", ""),
        ] {
            hear(&mut stream).await;
            say(&mut stream, status, more, error).await;
        }
    });
    let openai = api.post("/openai/v1/chat/completions", far(json!({"stream": true}))).await;
    let error = openai.json()["error"].clone();
    assert_eq!((openai.status.as_u16(), &error["type"]), (400, &json!("invalid_request_error")));
    assert!(error["message"].as_str().unwrap().contains("temperature is odd"), "{error}");
    let mistral = api.post("/v1/chat/completions", far(json!({}))).await;
    assert_eq!((mistral.status.as_u16(), &mistral.json()["object"]), (422, &json!("error")));
    let limited = api.post("/v1/chat/completions", far(json!({}))).await;
    assert_eq!((limited.status.as_u16(), &limited.headers["retry-after"]), (429, &"7".parse().unwrap()));
    for _ in 0..2 {
        let ours = api.post("/openai/v1/chat/completions", far(json!({}))).await;
        assert_eq!((ours.status.as_u16(), &ours.json()["error"]["code"]), (502, &json!("engine_failed")));
    }
    engine.await.unwrap();
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_503_and_one_that_dies_is_an_error_in_the_stream() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let body = far(json!({"stream": true}));
    let (seen, ()) = tokio::join!(async { rest(stream(&api, body).await).await }, async {
        let mut engine = upstream.connection().await;
        hear(&mut engine).await;
        begin(&mut engine).await;
        piece(&mut engine, &token("one")).await;
    });
    let (first, last) = seen.split_once("\n\n").unwrap();
    assert_eq!(first, token("one").trim_end());
    assert!(last.starts_with(": falaj-usage estimated\n\n"), "{last}");
    let error: Value = serde_json::from_str(last.trim().rsplit_once("data: ").unwrap().1).unwrap();
    assert_eq!(error["error"]["code"], "engine_failed");
    assert!(!seen.contains("[DONE]"));
    let metrics = api.get("/metrics").await.text;
    for line in ["falaj_stream_errors_total 1", "falaj_generated_tokens_total 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // A whole answer that is cut.
    let (cut, ()) = tokio::join!(api.post("/openai/v1/chat/completions", far(json!({}))), async {
        let mut engine = upstream.connection().await;
        hear(&mut engine).await;
        engine.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    });
    assert_eq!((cut.status.as_u16(), &cut.json()["error"]["code"]), (502, &json!("engine_failed")));
    let nobody = AttachedEngine::new("gone", "http://127.0.0.1:9", None, vec!["far".into()], None).unwrap();
    api.app.attach(vec![nobody]);
    let gone = api.post("/openai/v1/chat/completions", far(json!({}))).await;
    assert_eq!((gone.status.as_u16(), &gone.json()["error"]["code"]), (503, &json!("engine_unreachable")));
    assert!(gone.text.contains("`gone`") && gone.headers.contains_key("retry-after"), "{}", gone.text);
}

#[tokio::test]
async fn a_kept_connection_that_the_engine_closed_costs_nobody_an_answer() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let engine = tokio::spawn(async move {
        for _ in 0..3 {
            let mut stream = upstream.connection().await;
            hear(&mut stream).await;
            say(&mut stream, "200 OK", "", r#"{"choices":[]}"#).await;
        }
    });
    for _ in 0..3 {
        assert_eq!(api.post("/v1/chat/completions", far(json!({}))).await.status, 200);
    }
    engine.await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_slows_the_engine() {
    let (mut upstream, api) = Upstream::behind(Settings::default()).await;
    let body = far(json!({"stream": true}));
    let (mut seen, mut engine) = tokio::join!(stream(&api, body), async {
        let mut engine = upstream.connection().await;
        hear(&mut engine).await;
        begin(&mut engine).await;
        engine
    });
    // More than any socket holds.
    let writer = tokio::spawn(async move {
        let large = token(&"x".repeat(1 << 20));
        for _ in 0..64 {
            piece(&mut engine, &large).await;
        }
        engine.write_all(b"0\r\n\r\n").await.unwrap();
    });
    let first = next(&mut seen).await;
    assert!(!writer.is_finished(), "somebody reads what nobody takes");
    assert_eq!(
        first.len() + rest(seen).await.len(),
        64 * token(&"x".repeat(1 << 20)).len() + ": falaj-usage estimated\n\n".len()
    );
    writer.await.unwrap();
}

#[tokio::test]
async fn an_engine_that_takes_too_long_is_given_up() {
    let (mut upstream, api) = Upstream::behind(Settings { request_timeout_ms: 50, ..Settings::default() }).await;
    let reply = api.post("/openai/v1/chat/completions", far(json!({}))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (504, &json!("timeout")));
    let mut engine = upstream.connection().await;
    hear(&mut engine).await;
    assert_eq!(engine.read(&mut [0; 1]).await.unwrap_or(0), 0, "it is told");
}

#[tokio::test]
async fn a_silent_engine_is_covered_for() {
    let (mut upstream, api) = Upstream::behind(Settings { keep_alive_ms: 5, ..Settings::default() }).await;
    let (mut seen, mut engine) = tokio::join!(stream(&api, far(json!({"stream": true}))), async {
        let mut engine = upstream.connection().await;
        hear(&mut engine).await;
        begin(&mut engine).await;
        engine
    });
    assert_eq!(next(&mut seen).await, ": waiting\n\n");
    piece(&mut engine, &(token("a") + DONE)).await;
    while next(&mut seen).await != token("a") + ": falaj-usage estimated\n\n" + DONE {}
}

#[tokio::test]
async fn answers_of_attached_engines_have_receipts() {
    let folder = tempfile::tempdir().unwrap();
    let mut upstream = Upstream::start().await;
    let api = Api::governed(folder.path()).await;
    api.app.attach(vec![upstream.engine(&["far"])]);
    let engine = tokio::spawn(async move {
        let mut stream = upstream.connection().await;
        hear(&mut stream).await;
        let answer = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
        say(&mut stream, "200 OK", "", answer).await;
        hear(&mut stream).await;
        begin(&mut stream).await;
        piece(&mut stream, &(token("a") + &usage(9) + DONE)).await;
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    });
    let reply = api.post("/v1/chat/completions", far(json!({}))).await;
    let told = receipt(&api, folder.path(), reply.headers["falaj-receipt"].to_str().unwrap()).await;
    assert_eq!((told.claims.prompt_tokens, told.claims.completion_tokens), (3, 2));
    assert_eq!(told.claims.numerics, "attached");
    let seen = rest(stream(&api, far(json!({"stream": true}))).await).await;
    let (before, after) = seen.split_once(": falaj-receipt ").expect("a comment");
    let (text, end) = after.split_once("\n\n").unwrap();
    assert_eq!((before, end), (token("a").as_str(), DONE));
    let again = receipt(&api, folder.path(), text).await;
    assert_eq!((again.claims.prompt_tokens, again.claims.completion_tokens), (12, 9));
    assert_eq!((again.claims.model, again.sequence), (told.claims.model, told.sequence + 1));
    engine.await.unwrap();
}

#[tokio::test]
async fn one_falaj_behind_another() {
    let far = api();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/openai/v1", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, far.app.clone(), std::future::pending()));
    let near = Api::over(Registry::new());
    near.app.attach(vec![AttachedEngine::new("far", &url, Some(KEY), vec![MODEL.into()], None).unwrap()]);
    for stream in [false, true] {
        let body = chat(json!({"stream": stream, "max_tokens": 8, "temperature": 0}));
        let (here, there) = tokio::join!(
            near.post("/openai/v1/chat/completions", body.clone()),
            far.post("/openai/v1/chat/completions", body)
        );
        assert_eq!(here.status, 200, "{}", here.text);
        let texts = |text: &str| -> String {
            let parts = text.split("\"content\":\"").skip(1);
            parts.map(|part| part.split('"').next().unwrap()).collect()
        };
        assert_eq!(texts(&here.text), texts(&there.text));
        assert_eq!(here.text.contains("[DONE]"), stream);
    }
    let vector = |reply: Value| reply["data"][0]["embedding"].clone();
    let body = json!({"model": MODEL, "input": "salam"});
    let here = vector(near.ok("/v1/embeddings", body.clone()).await);
    assert!(here.is_array());
    assert_eq!(here, vector(far.ok("/openai/v1/embeddings", body).await));
}
