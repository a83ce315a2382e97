//! Tool calls: forced, named, forbidden, streamed, and their results.

use serde_json::{Value, json};

use crate::fixture::{api, chat, weather_tool};

fn check_arguments(text: &str) {
    let arguments: Value = serde_json::from_str(text).expect("JSON");
    assert!(["Tunis", "Paris"].contains(&arguments["city"].as_str().expect("a city")), "{text}");
    assert!([1, 2].contains(&arguments["days"].as_i64().expect("a number")), "{text}");
}

#[tokio::test]
async fn a_demanded_call_comes_and_fits_its_schema() {
    let api = api();
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for choice in [json!("any"), json!("required"), named] {
        for path in ["/v1/chat/completions", "/openai/v1/chat/completions"] {
            let more = json!({"tools": [weather_tool()], "tool_choice": choice, "parallel_tool_calls": false, "max_tokens": 120});
            let body = api.ok(path, chat(more)).await;
            let choice = &body["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls");
            let calls = choice["message"]["tool_calls"].as_array().expect("calls");
            assert_eq!(calls.len(), 1);
            assert_eq!(calls[0]["type"], "function");
            assert_eq!(calls[0]["function"]["name"], "weather");
            let id = calls[0]["id"].as_str().expect("an id");
            assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
            check_arguments(calls[0]["function"]["arguments"].as_str().expect("text"));
            let openai = path.starts_with("/openai");
            assert_eq!(choice["message"]["content"], if openai { Value::Null } else { "".into() });
        }
    }
}

#[tokio::test]
async fn mistrals_stream_has_whole_calls() {
    let api = api();
    let more = json!({"tools": [weather_tool()], "tool_choice": "any", "parallel_tool_calls": false, "max_tokens": 120, "stream": true});
    let chunks = api.post("/v1/chat/completions", chat(more)).await.chunks();
    let calls: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["index"], 0);
    assert_eq!(calls[0]["function"]["name"], "weather");
    check_arguments(calls[0]["function"]["arguments"].as_str().expect("text"));
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn openais_stream_has_arguments_in_pieces() {
    let api = api();
    let more = json!({"tools": [weather_tool()], "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 120, "stream": true});
    let chunks = api.post("/openai/v1/chat/completions", chat(more)).await.chunks();
    let calls: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
    assert!(calls.len() > 2);
    assert_eq!(calls[0]["function"], json!({"name": "weather", "arguments": ""}));
    assert!(calls[0]["id"].is_string() && calls[1..].iter().all(|call| call.get("id").is_none() && call["index"] == 0));
    check_arguments(&calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect::<String>());
}

#[tokio::test]
async fn none_forbids_calls_and_hides_the_tools() {
    let api = api();
    let plain = api.ok("/v1/chat/completions", chat(json!({}))).await;
    let body = api.ok("/v1/chat/completions", chat(json!({"tools": [weather_tool()], "tool_choice": "none"}))).await;
    assert_eq!(body["choices"], plain["choices"]);
    let auto = api.ok("/v1/chat/completions", chat(json!({"tools": [weather_tool()]}))).await;
    assert!(auto["usage"]["prompt_tokens"].as_u64() > plain["usage"]["prompt_tokens"].as_u64());
}

#[tokio::test]
async fn results_of_calls_are_taken_with_any_id() {
    let api = api();
    for id in ["call_KxnWqvzLrCQ8vGkdqg3cMpzV", "a1B2c3D4e", ""] {
        let messages = json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": id, "type": "function", "function": {"name": "weather", "arguments": {"city": "Tunis"}}}]},
            {"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": "sun"}]},
        ]);
        let body = api.ok("/v1/chat/completions", chat(json!({"messages": messages, "tools": [weather_tool()]}))).await;
        assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    }
}

/// Schemas as generators write them: zod, pydantic, MCP servers. Whatever they say, a request with them is served.
#[tokio::test]
async fn schemas_of_the_wild_are_taken() {
    let api = api();
    for parameters in [
        json!({}),
        json!({"type": "object"}),
        json!({"type": "object", "properties": {}}),
        json!({"type": "object", "properties": {}, "required": [], "additionalProperties": false, "$schema": "http://json-schema.org/draft-07/schema#"}),
        json!({"type": "object", "properties": {"url": {"type": "string", "format": "uri", "description": "x"},
            "at": {"type": "string", "format": "date-time"}, "mail": {"type": "string", "format": "email"}}}),
        json!({"type": "object", "properties": {"n": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991i64}}}),
        json!({"type": "object", "properties": {"s": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1, "maxLength": 5}}}),
        json!({"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": null, "title": "A"}}}),
        json!({"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"type": "object",
            "properties": {"x": {"type": "number"}}, "required": ["x"]}}, "required": ["p"]}),
        json!({"type": "object", "properties": {"c": {"const": "fixed"}, "l": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3, "uniqueItems": true}}}),
        json!({"type": "object", "properties": {"m": {"type": "object", "additionalProperties": {"type": "string"}, "propertyNames": {"type": "string"}}}}),
        json!({"type": "object", "properties": {"t": {"type": ["string", "null"], "enum": ["a", null]}}}),
        json!({"type": "object", "properties": {"o": {"oneOf": [{"type": "string"}, {"type": "integer"}]}, "any": {}}}),
        json!({"type": "object", "properties": {"x": {"type": "string", "contentEncoding": "base64", "examples": ["a"], "readOnly": true}}}),
        json!({"type": "object", "properties": {"i": {"if": {"type": "string"}, "then": {"minLength": 2}, "not": {"type": "null"}}}}),
        json!({"type": "object", "properties": {"d": {"type": "string", "pattern": "^(?!bad).*$"}}, "dependentRequired": {"d": ["e"]}}),
    ] {
        let tools =
            json!([{"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}}]);
        for choice in ["auto", "required"] {
            let body = chat(json!({"tools": tools, "tool_choice": choice, "max_tokens": 4}));
            let reply = api.post("/v1/chat/completions", body).await;
            assert_eq!(reply.status, 200, "{choice} {parameters}: {}", reply.text);
        }
    }
}

#[tokio::test]
async fn a_strict_schema_that_cannot_be_enforced_is_refused() {
    let api = api();
    let parameters = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": true}}});
    let tool = json!({"type": "function", "function": {"name": "f", "strict": true, "parameters": parameters}});
    let reply = api.post("/openai/v1/chat/completions", chat(json!({"tools": [tool]}))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("tools")));
    assert!(
        reply.json()["error"]["message"].as_str().is_some_and(|message| message.contains("uniqueItems")),
        "{}",
        reply.text
    );
}

#[tokio::test]
async fn only_allowed_tools_are_called() {
    let api = api();
    let other = json!({"type": "function", "function": {"name": "other"}});
    let allowed = |names: &[&str]| {
        let tools: Vec<Value> =
            names.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect();
        json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools}})
    };
    let more = json!({"tools": [other, weather_tool()], "parallel_tool_calls": false, "max_tokens": 120});
    for seed in 0..4 {
        let mut body = chat(more.clone());
        body["tool_choice"] = allowed(&["weather"]);
        body["temperature"] = 1.into();
        body["seed"] = seed.into();
        let body = api.ok("/openai/v1/chat/completions", body).await;
        assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "weather");
    }
    for names in [&["nobody"][..], &[]] {
        let mut body = chat(more.clone());
        body["tool_choice"] = allowed(names);
        assert_eq!(api.post("/openai/v1/chat/completions", body).await.status, 400);
    }
}
