//! Model cards, health, readiness, metrics.

use axum::body::Body;
use serde_json::json;

use crate::fixture::{AUTH, MODEL, api, chat};

#[tokio::test]
async fn cards_in_each_dialect() {
    let api = api();
    let list = api.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let card = &list["data"][0];
    assert_eq!((&card["id"], &card["object"], &card["type"]), (&json!(MODEL), &json!("model"), &json!("base")));
    assert_eq!(card["max_context_length"], 512);
    assert_eq!(card["capabilities"]["completion_chat"], true);
    assert_eq!(card["capabilities"]["function_calling"], true);
    assert_eq!(card["capabilities"]["completion_fim"], true);
    let openai = api.get("/openai/v1/models/tiny").await.json();
    assert_eq!(openai.as_object().map(|card| card.len()), Some(4));
    let anthropic =
        api.request("GET", "/v1/models", &[AUTH, ("anthropic-version", "2023-06-01")], Body::empty()).await.json();
    assert_eq!(anthropic["data"][0]["type"], "model");
    assert_eq!(anthropic["has_more"], false);
}

#[tokio::test]
async fn names_may_hold_slashes_and_aliases_count() {
    let api = api();
    assert_eq!(api.get("/v1/models/org/tiny-alias").await.json()["id"], MODEL);
    assert_eq!(api.get("/v1/models/org%2Ftiny-alias").await.json()["id"], MODEL);
    let body = api.ok("/v1/chat/completions", chat(json!({"model": "org/tiny-alias"}))).await;
    assert_eq!(body["model"], "org/tiny-alias");
    assert_eq!(api.get("/openai/v1/models/nobody").await.json()["error"]["code"], "model_not_found");
    assert_eq!(api.get("/v1/models/nobody").await.status, 404);
}

#[tokio::test]
async fn watchers_need_no_key_but_scrapers_from_afar_do() {
    let api = api();
    for path in ["/health", "/ready", "/"] {
        assert_eq!(api.request("GET", path, &[], Body::empty()).await.status, 200, "{path}");
    }
    assert_eq!(api.request("GET", "/metrics", &[], Body::empty()).await.status, 401);
    api.ok("/v1/chat/completions", chat(json!({}))).await;
    let metrics = api.get("/metrics").await.text;
    for name in [
        r#"falaj_http_requests_total{route="/v1/chat/completions",method="POST",status="200"} 1"#,
        "falaj_time_to_first_token_seconds_count 1",
        "falaj_generated_tokens_total 8",
        r#"falaj_engine_pages{model="tiny"}"#,
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    api.app.begin_stopping();
    assert_eq!(api.get("/ready").await.status, 503);
}
