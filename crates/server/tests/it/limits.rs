//! Bounds: body size, queue, time.

use falaj_engine::EngineOptions;
use falaj_server::Settings;
use serde_json::json;

use crate::fixture::{AUTH, Api, MODEL, api, chat, engine};

#[tokio::test]
async fn bodies_that_are_too_large() {
    let engine = engine(EngineOptions { threads: 1, ..EngineOptions::default() });
    let api = Api::new(Settings { body_limit_bytes: 1000, ..Settings::default() }, engine);
    for size in [1001, 3000, 100_000] {
        let reply = api.request("POST", "/v1/chat/completions", &[AUTH], " ".repeat(size)).await;
        assert_eq!(reply.status, 413);
        assert!(reply.json()["message"].as_str().is_some_and(|message| message.contains("1000 bytes")));
    }
    assert_eq!(api.post("/v1/chat/completions", chat(json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let options = EngineOptions { threads: 1, max_sequences: 1, queue_requests: 2, ..EngineOptions::default() };
    let api = Api::new(Settings::default(), engine(options));
    let reply =
        api.post("/openai/v1/chat/completions", chat(json!({"n": 32, "max_tokens": 400, "temperature": 1}))).await;
    assert_eq!(reply.status, 429, "{}", reply.text);
    assert!(reply.headers["retry-after"].to_str().is_ok_and(|after| after.parse::<u32>().is_ok_and(|after| after > 0)));
    assert_eq!(reply.json()["error"]["code"], "rate_limit_exceeded");
    // The refused request left nothing behind.
    let reply = api.post("/v1/chat/completions", chat(json!({}))).await;
    assert!(reply.status == 200 || reply.status == 429);
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends() {
    let engine = engine(EngineOptions { threads: 1, ..EngineOptions::default() });
    let api = Api::new(Settings { request_timeout_ms: 0, ..Settings::default() }, engine);
    let body = chat(json!({"max_tokens": 400, "logit_bias": {"2": -100}}));
    let whole = api.post("/openai/v1/chat/completions", body.clone()).await;
    assert_eq!((whole.status.as_u16(), &whole.json()["error"]["code"]), (504, &json!("timeout")));
    let mut streaming = body;
    streaming["stream"] = true.into();
    let data = api.post("/openai/v1/chat/completions", streaming).await.data();
    let last: serde_json::Value = serde_json::from_str(data.last().expect("events")).expect("JSON");
    assert_eq!(last["error"]["code"], "timeout");
}

#[tokio::test]
async fn embeddings_that_take_too_long_end() {
    let engine = engine(EngineOptions { threads: 1, ..EngineOptions::default() });
    let api = Api::new(Settings { request_timeout_ms: 0, ..Settings::default() }, engine);
    let input = vec!["many words ".repeat(20); 64];
    let reply = api.post("/openai/v1/embeddings", json!({"model": MODEL, "input": input})).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (504, &json!("timeout")));
}

#[tokio::test]
async fn hostile_numbers_are_refused() {
    let api = api();
    for more in [
        json!({"n": 100_000}),
        json!({"max_tokens": -1}),
        json!({"max_tokens": 1e300}),
        json!({"logit_bias": {"x": 1}}),
        json!({"logit_bias": {"1": 1000}}),
        json!({"top_p": 0}),
        json!({"top_logprobs": 50, "logprobs": true}),
        json!({"stop": [""]}),
    ] {
        assert_eq!(api.post("/v1/chat/completions", chat(more.clone())).await.status, 422, "{more}");
    }
    let huge = chat(json!({"max_tokens": u32::MAX, "logit_bias": {"4000000000": 1}, "stop": "\u{0}"}));
    assert!(api.post("/v1/chat/completions", huge).await.status.as_u16() < 500);
}

#[tokio::test]
async fn bodies_together_are_bounded_and_give_their_memory_back() {
    let engine = engine(EngineOptions { threads: 1, ..EngineOptions::default() });
    let settings = Settings { body_limit_bytes: 8 << 10, bodies_limit_bytes: 8 << 10, ..Settings::default() };
    let api = Api::new(settings, engine);
    let large = |api: &Api| {
        let mut body = chat(json!({})).to_string();
        body.push_str(&" ".repeat((8 << 10) - body.len()));
        let request = axum::http::Request::post("/v1/chat/completions").header(AUTH.0, AUTH.1);
        let router = api.app.router();
        (request, body, router)
    };
    // A body that has come half-way holds its memory while others knock.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<axum::body::Bytes, std::io::Error>>(1);
    let (request, body, router) = large(&api);
    let stream =
        futures_util::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let request = request.body(axum::body::Body::from_stream(stream)).expect("a request");
    let slow = tokio::spawn(tower::ServiceExt::oneshot(router, request));
    sender.send(Ok(body.clone().into())).await.expect("the server reads");
    while sender.capacity() == 0 {
        tokio::task::yield_now().await;
    }
    let mut refused = api.request("POST", "/v1/chat/completions", &[AUTH], body.clone()).await;
    while refused.status == 200 {
        refused = api.request("POST", "/v1/chat/completions", &[AUTH], body.clone()).await;
    }
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (503, &json!("busy")));
    drop(sender);
    assert_eq!(slow.await.expect("no panic").expect("an answer").status(), 200);
    assert_eq!(api.request("POST", "/v1/chat/completions", &[AUTH], body).await.status, 200);
}
