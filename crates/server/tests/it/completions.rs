//! Legacy completions, fill-in-the-middle, embeddings.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::fixture::{MODEL, api, byte_token, merge};

fn body(more: Value) -> Value {
    let mut body = json!({"model": MODEL, "prompt": "Hello", "temperature": 0, "max_tokens": 6});
    merge(&mut body, more);
    body
}

#[tokio::test]
async fn prompts_of_every_kind() {
    let api = api();
    let tokens: Vec<u32> = "Hello".bytes().map(byte_token).collect();
    let one = api.ok("/v1/completions", body(json!({}))).await;
    assert_eq!(one["object"], "text_completion");
    assert_eq!(one["usage"]["completion_tokens"], 6);
    let text = &one["choices"][0]["text"];
    for prompt in [json!(["Hello", "Hello"]), json!([tokens, tokens])] {
        let two = api.ok("/openai/v1/completions", body(json!({"prompt": prompt}))).await;
        let choices = two["choices"].as_array().expect("choices");
        assert_eq!(choices.len(), 2);
        assert!(choices.iter().all(|choice| choice["text"] == *text));
        assert_eq!(choices[1]["index"], 1);
    }
    let same = api.ok("/v1/completions", body(json!({"prompt": tokens}))).await;
    assert_eq!(same["choices"], one["choices"]);
}

#[tokio::test]
async fn echo_logprobs_and_default_length() {
    let api = api();
    let echoed = api.ok("/v1/completions", body(json!({"echo": true}))).await;
    assert!(echoed["choices"][0]["text"].as_str().is_some_and(|text| text.starts_with("Hello")));
    let logprobs = api.ok("/v1/completions", body(json!({"logprobs": 2}))).await["choices"][0]["logprobs"].clone();
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().map(Vec::len), Some(6), "{list}");
    }
    let default = api.ok("/v1/completions", body(json!({"max_tokens": null, "logit_bias": {"2": -100}}))).await;
    assert_eq!(default["usage"]["completion_tokens"], 16);
}

#[tokio::test]
async fn streams_end_with_done() {
    let api = api();
    let whole = api.ok("/v1/completions", body(json!({}))).await;
    for path in ["/v1/completions", "/openai/v1/completions"] {
        let chunks = api.post(path, body(json!({"stream": true}))).await.chunks();
        let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        assert_eq!(text, whole["choices"][0]["text"].as_str().expect("text"));
        assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "length");
    }
}

#[tokio::test]
async fn fill_in_the_middle_answers_like_chat() {
    let api = api();
    let asked = body(json!({"prompt": "def f(", "suffix": "return a"}));
    let whole = api.ok("/v1/fim/completions", asked.clone()).await;
    assert_eq!(whole["object"], "chat.completion");
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
    // <s>[SUFFIX]suffix[PREFIX]prefix
    assert!(whole["usage"]["prompt_tokens"].as_u64().is_some_and(|count| count > 10));
    let mut streaming = asked.clone();
    streaming["stream"] = true.into();
    let chunks = api.post("/v1/fim/completions", streaming).await.chunks();
    let streamed: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(streamed, text);
    // OpenAI's `suffix` is the same thing.
    assert_eq!(api.ok("/v1/completions", asked).await["choices"][0]["text"], text);
}

#[tokio::test]
async fn embeddings_in_both_encodings() {
    let api = api();
    let asked = |more: Value| {
        let mut body = json!({"model": MODEL, "input": ["one", "two"]});
        merge(&mut body, more);
        body
    };
    let floats = api.ok("/v1/embeddings", asked(json!({"encoding_format": "float"}))).await;
    assert_eq!(floats["usage"]["prompt_tokens"], 6);
    let data = floats["data"].as_array().expect("data");
    assert_eq!(data.len(), 2);
    let vector: Vec<f32> = serde_json::from_value(data[1]["embedding"].clone()).expect("floats");
    assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    let encoded = api.ok("/openai/v1/embeddings", asked(json!({"encoding_format": "base64"}))).await;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(encoded["data"][1]["embedding"].as_str().expect("text"));
    let decoded: Vec<f32> = bytes
        .expect("base64")
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four")))
        .collect();
    assert_eq!(decoded, vector);
    let short = api.ok("/v1/embeddings", asked(json!({"dimensions": 8, "input": "one"}))).await;
    assert_eq!(short["data"][0]["embedding"].as_array().map(Vec::len), Some(8));
    let long = api.post("/openai/v1/embeddings", asked(json!({"dimensions": 100_000}))).await;
    assert_eq!((long.status.as_u16(), &long.json()["error"]["param"]), (400, &json!("dimensions")));
}
