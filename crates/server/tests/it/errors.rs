//! Every refusal: its status and its envelope in each dialect.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::body::Body;
use falaj_server::{Facts, Memory, Registry};
use serde_json::{Value, json};

use crate::fixture::{AUTH, Api, api, chat};

#[tokio::test]
async fn without_a_key_nothing_is_served() {
    let api = api();
    let none = api.request("POST", "/v1/chat/completions", &[], "{}").await;
    assert_eq!(none.status, 401);
    assert_eq!(none.headers["www-authenticate"], "Bearer");
    assert_eq!(none.json()["object"], "error");
    let wrong = api.request("GET", "/openai/v1/models", &[("authorization", "Bearer nope")], Body::empty()).await;
    assert_eq!((wrong.status.as_u16(), &wrong.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    let anthropic = api.request("POST", "/v1/messages", &[("x-api-key", "nope")], "{}").await;
    assert_eq!((anthropic.status.as_u16(), &anthropic.json()["error"]["type"]), (401, &json!("authentication_error")));
    assert_eq!(
        api.request("GET", "/v1/models", &[("authorization", "bearer a-key-for-tests")], Body::empty()).await.status,
        200
    );
    assert_eq!(api.request("GET", "/v1/models", &[("x-api-key", "a-key-for-tests")], Body::empty()).await.status, 200);
}

#[tokio::test]
async fn wrong_fields_are_422_with_detail_or_400_with_param() {
    let api = api();
    let body = chat(json!({"messages": [{"role": "user", "content": 7}], "temperature": "hot"}));
    let mistral = api.post("/v1/chat/completions", body.clone()).await;
    assert_eq!(mistral.status, 422);
    assert_eq!(
        mistral.json()["detail"],
        json!([
            {"type": "string_type", "loc": ["body", "messages", 0, "content"],
                "msg": "Input should be a valid string or a list of content parts", "input": 7},
            {"type": "float_type", "loc": ["body", "temperature"], "msg": "Input should be a valid number", "input": "hot"},
        ])
    );
    // OpenAI's client shows nothing but `message`.
    assert!(mistral.json()["message"].as_str().is_some_and(|message| message.contains("temperature")));
    let openai = api.post("/openai/v1/chat/completions", body).await;
    assert_eq!(openai.status, 400);
    let error = &openai.json()["error"];
    assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &json!("messages[0].content")));
}

#[tokio::test]
async fn bodies_that_are_no_json() {
    let api = api();
    for body in [
        b"".to_vec(),
        b"{".to_vec(),
        b"[]".to_vec(),
        b"\xff\xfe".to_vec(),
        "[".repeat(9999).into_bytes(),
        b"{\"model\":\"\\ud800\"}".to_vec(),
    ] {
        let mistral = api.request("POST", "/v1/chat/completions", &[AUTH], body.clone()).await;
        assert_eq!(mistral.status, 422, "{}", mistral.text);
        let problem = mistral.json()["detail"][0].clone();
        assert!(problem["loc"].is_array() && problem["msg"].is_string() && problem["type"].is_string());
        assert_eq!(api.request("POST", "/openai/v1/chat/completions", &[AUTH], body.clone()).await.status, 400);
        assert_eq!(api.request("POST", "/v1/messages", &[AUTH], body).await.status, 400);
    }
}

#[tokio::test]
async fn unknown_models_paths_and_methods() {
    let api = api();
    let mistral = api.post("/v1/chat/completions", chat(json!({"model": "nobody"}))).await;
    assert_eq!((mistral.status.as_u16(), &mistral.json()["code"]), (400, &json!("1500")));
    assert!(mistral.json()["message"].as_str().is_some_and(|message| message.contains("`nobody`")));
    let openai = api.post("/openai/v1/chat/completions", chat(json!({"model": "nobody"}))).await;
    assert_eq!((openai.status.as_u16(), &openai.json()["error"]["code"]), (404, &json!("model_not_found")));
    let path = api.get("/v1/nothing").await;
    assert_eq!((path.status.as_u16(), &path.json()["object"]), (404, &json!("error")));
    let method = api.get("/openai/v1/chat/completions").await;
    assert_eq!((method.status.as_u16(), method.json()["error"]["message"].is_string()), (405, true));
}

#[tokio::test]
async fn prompts_beyond_the_context() {
    let api = api();
    let long = chat(json!({"messages": [{"role": "user", "content": "x".repeat(5000)}]}));
    for stream in [false, true] {
        let mut long = long.clone();
        long["stream"] = stream.into();
        let reply = api.post("/openai/v1/chat/completions", long).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
        assert!(
            reply.json()["error"]["message"]
                .as_str()
                .is_some_and(|message| message.contains("5003") && message.contains("512"))
        );
    }
    assert_eq!(api.post("/v1/chat/completions", long).await.status, 400);
}

#[tokio::test]
async fn grammars_that_cannot_be() {
    let api = api();
    for format in [
        json!({"type": "regex", "regex": "("}),
        json!({"type": "lark", "grammar": "start: ("}),
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}),
    ] {
        let reply = api.post("/openai/v1/chat/completions", chat(json!({"response_format": format}))).await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        assert_eq!(reply.json()["error"]["param"], "response_format");
    }
}

#[tokio::test]
async fn tokens_outside_the_vocabulary() {
    let api = api();
    let reply = api.post("/openai/v1/completions", json!({"model": "tiny", "prompt": [999_999]})).await;
    assert_eq!(reply.status, 400);
    assert!(reply.json()["error"]["message"].as_str().is_some_and(|message| message.contains("999999")));
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let api = api();
    let mut seen = std::collections::HashSet::new();
    for path in ["/v1/models", "/nothing", "/health"] {
        let reply = api.get(path).await;
        assert!(seen.insert(reply.headers["x-request-id"].clone()));
    }
    let error: Value = api.get("/nothing").await.json();
    assert!(error["request_id"].is_string());
}

/// Panics when it is asked what there is, as a bug might.
struct Broken;

impl falaj_server::Loader for Broken {
    fn list(&self) -> Vec<falaj_server::Facts> {
        panic!("a bug")
    }

    fn load(&self, _: &str, _: &AtomicBool) -> Result<Option<falaj_server::Served>, falaj_server::LoadError> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_bug_in_a_handler_is_500_and_the_server_goes_on() {
    let api = Api::over(Registry::with_loader(Arc::new(Broken), Memory::default()));
    let reply = api.get("/openai/v1/models").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["type"]), (500, &json!("server_error")));
    assert!(reply.headers.contains_key("x-request-id"));
    assert_eq!(api.get("/health").await.status, 200);
}

/// Knows one model, which cannot be loaded, and counts the attempts.
struct Cold(Facts);

impl falaj_server::Loader for Cold {
    fn list(&self) -> Vec<Facts> {
        vec![self.0.clone()]
    }

    fn load(&self, _: &str, _: &AtomicBool) -> Result<Option<falaj_server::Served>, falaj_server::LoadError> {
        Err(falaj_server::LoadError { reason: "the file is cut short".into() })
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_503_with_the_cause() {
    let facts = api().app.registry().list().remove(0).facts;
    let cold = Cold(Facts { id: "cold".into(), aliases: vec![], ..facts });
    let api = Api::over(Registry::with_loader(Arc::new(cold), Memory::default()));
    assert_eq!(api.get("/v1/models/cold").await.json()["id"], "cold");
    let reply = api.post("/v1/chat/completions", chat(json!({"model": "cold"}))).await;
    assert_eq!(reply.status, 503);
    assert!(reply.json()["message"].as_str().is_some_and(|message| message.contains("the file is cut short")));
    assert_eq!(api.post("/v1/chat/completions", chat(json!({"model": "nobody"}))).await.status, 400);
}

#[tokio::test]
async fn a_path_that_is_no_utf8_gets_the_envelope() {
    let api = api();
    for (path, at) in [("/v1/models/%FF", "/message"), ("/openai/v1/models/%FF", "/error/message")] {
        let reply = api.get(path).await;
        assert_eq!(reply.status, 404, "{}", reply.text);
        assert!(reply.json().pointer(at).is_some_and(Value::is_string), "{}", reply.text);
    }
}
