//! `/v1/messages` and `/v1/messages/count_tokens`.

use serde_json::{Value, json};

use crate::fixture::{MODEL, api, merge};

fn body(more: Value) -> Value {
    let mut body =
        json!({"model": MODEL, "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "Hello"}]});
    merge(&mut body, more);
    body
}

fn tool() -> Value {
    json!({"name": "weather", "description": "d", "input_schema": {"type": "object",
        "properties": {"city": {"enum": ["Tunis", "Paris"]}}, "required": ["city"], "additionalProperties": false}})
}

#[tokio::test]
async fn whole_message() {
    let api = api();
    let message = api.ok("/v1/messages", body(json!({"system": "Be brief"}))).await;
    assert_eq!(
        (&message["type"], &message["role"], &message["model"]),
        (&json!("message"), &json!("assistant"), &json!(MODEL))
    );
    assert!(message["id"].as_str().is_some_and(|id| id.starts_with("msg_")));
    assert_eq!(message["content"][0]["type"], "text");
    assert_eq!(message["stop_reason"], "max_tokens");
    assert_eq!(message["stop_sequence"], Value::Null);
    assert_eq!(message["usage"]["output_tokens"], 8);
}

#[tokio::test]
async fn counted_tokens_are_those_of_the_message() {
    let api = api();
    let asked = json!({"system": [{"type": "text", "text": "Be brief"}], "tools": [tool()]});
    let message = api.ok("/v1/messages", body(asked.clone())).await;
    let mut count = body(asked);
    count.as_object_mut().expect("an object").remove("max_tokens");
    let counted = api.ok("/v1/messages/count_tokens", count).await;
    let usage = &message["usage"];
    let input = usage["input_tokens"].as_u64().zip(usage["cache_read_input_tokens"].as_u64());
    assert_eq!(counted["input_tokens"].as_u64(), input.map(|(fresh, cached)| fresh + cached));
}

#[tokio::test]
async fn events_come_in_their_order() {
    let api = api();
    let whole = api.ok("/v1/messages", body(json!({}))).await;
    let reply = api.post("/v1/messages", body(json!({"stream": true}))).await;
    assert!(!reply.text.contains("[DONE]"));
    let events = reply.events();
    assert!(events.iter().all(|(name, data)| data["type"] == name.as_str()));
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    let expected = [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    let text: String = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().expect("text"));
    let delta = &events[events.len() - 2].1;
    assert_eq!(delta["delta"]["stop_reason"], "max_tokens");
    assert_eq!(delta["usage"]["output_tokens"], 8);
}

#[tokio::test]
async fn tool_use_whole_and_streamed() {
    let api = api();
    let choice = json!({"type": "any", "disable_parallel_tool_use": true});
    let asked = json!({"tools": [tool()], "tool_choice": choice, "max_tokens": 120});
    let message = api.ok("/v1/messages", body(asked.clone())).await;
    assert_eq!(message["stop_reason"], "tool_use");
    let block = &message["content"][0];
    assert_eq!((&block["type"], &block["name"]), (&json!("tool_use"), &json!("weather")));
    let mut streaming = body(asked);
    streaming["stream"] = true.into();
    let events = api.post("/v1/messages", streaming).await.events();
    let pieces: String = events.iter().filter_map(|(_, data)| data["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&pieces).expect("JSON"), block["input"]);
    let start = events.iter().find(|(name, _)| name == "content_block_start").expect("a block");
    assert_eq!(start.1["content_block"]["input"], json!({}));
}

#[tokio::test]
async fn a_stop_sequence_is_named() {
    let api = api();
    // The answer is unknown but its bytes are few: stopping at any letter of it must be told.
    let whole = api.ok("/v1/messages", body(json!({"max_tokens": 40}))).await;
    let text = whole["content"][0]["text"].as_str().expect("text");
    let stop: String = text.chars().filter(char::is_ascii_graphic).take(1).collect();
    let stopped = api.ok("/v1/messages", body(json!({"max_tokens": 40, "stop_sequences": [stop]}))).await;
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], stop);
}

#[tokio::test]
async fn errors_have_anthropics_envelope() {
    let api = api();
    let reply = api.post("/v1/messages", json!({"model": MODEL, "messages": []})).await;
    assert_eq!(reply.status, 400);
    let error = reply.json();
    assert_eq!(error["type"], "error");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    assert!(error["error"]["message"].as_str().is_some_and(|message| message.contains("max_tokens: Field required")));
    assert_eq!(error["request_id"], reply.headers["request-id"].to_str().expect("ASCII"));
    let mut unknown = body(json!({}));
    unknown["model"] = "nobody".into();
    let reply = api.post("/v1/messages", unknown).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["type"]), (404, &json!("not_found_error")));
}

/// The fields of a coding agent's second turn, in its way of writing them.
#[tokio::test]
async fn what_coding_tools_send() {
    let api = api();
    let cached = json!({"type": "ephemeral"});
    let schema = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {
        "path": {"type": "string", "description": "a file"}, "env": {"type": "object", "propertyNames": {"type": "string"},
        "additionalProperties": {"type": "string"}}}, "required": ["path"], "additionalProperties": false});
    let request = json!({
        "model": MODEL,
        "max_tokens": 32000,
        "stop_sequences": ["\n\nHuman:"],
        "system": [{"type": "text", "text": "You", "cache_control": cached}, {"type": "text", "text": "code"}],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {"edits": []},
        "tools": [{"name": "Read", "description": "reads", "input_schema": schema, "cache_control": cached}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "fix it", "cache_control": cached}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Look"},
                {"type": "tool_use", "id": "toolu_01A09q90qw90lq917835lq9", "name": "Read", "input": {"path": "a.rs"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01A09q90qw90lq917835lq9",
                "content": [{"type": "text", "text": "fn a()"}], "is_error": false, "cache_control": cached}]},
        ],
        "stream": true,
        "temperature": 1,
    });
    let mut short = request.clone();
    short["max_tokens"] = 4.into();
    let headers =
        [("x-api-key", crate::fixture::KEY), ("anthropic-version", "2023-06-01"), ("anthropic-beta", "x-2025-01-01")];
    let reply = api.request("POST", "/v1/messages?beta=true", &headers, short.to_string()).await;
    assert_eq!(reply.events().last().map(|(name, _)| name.clone()).as_deref(), Some("message_stop"));
    let counted = api.ok("/v1/messages/count_tokens?beta=true", request).await;
    assert!(counted["input_tokens"].as_u64().is_some_and(|count| count > 20));
}
