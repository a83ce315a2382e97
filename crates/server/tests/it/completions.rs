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

/// What programs that measure models ask for: the prompt's tokens with their log-probabilities, as generating them would
/// report them.
#[tokio::test]
async fn log_probabilities_of_the_prompt() {
    let api = api();
    let list = |reply: &Value, choice: usize| reply["choices"][choice]["logprobs"].clone();
    let generated = api.ok("/v1/completions", body(json!({"logprobs": 20, "max_tokens": 1}))).await;
    let top = &list(&generated, 0)["top_logprobs"][0];
    let known = top.as_object().expect("a map").iter().find(|(token, _)| token.is_ascii() && token.len() == 1);
    let (next, logprob) = known.expect("one of twenty is a letter");
    // The same, given.
    let tokens: Vec<u32> = format!("Hello{next}").bytes().map(byte_token).collect();
    for (most, path) in [(0, "/v1/completions"), (1, "/openai/v1/completions")] {
        let asked = json!({"prompt": [tokens, [1]], "echo": true, "logprobs": 19, "max_tokens": most});
        let reply = api.ok(path, body(asked.clone())).await;
        assert!(reply["choices"][0]["text"].as_str().is_some_and(|text| text.starts_with(&format!("Hello{next}"))));
        let whole = list(&reply, 0);
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(whole[name].as_array().map(Vec::len), Some(6 + most), "{name}");
        }
        assert_eq!((&whole["token_logprobs"][0], &whole["top_logprobs"][0]), (&Value::Null, &Value::Null));
        assert_eq!((&whole["tokens"][0], &whole["tokens"][5]), (&json!("H"), &json!(next)));
        assert_eq!(&whole["token_logprobs"][5], logprob);
        let given = whole["top_logprobs"][5].as_object().expect("a map");
        assert!(given.len() > 1 && given.iter().all(|(token, logprob)| top[token] == *logprob), "{given:?}");
        let offsets = whole["text_offset"].as_array().expect("offsets");
        assert!(offsets.iter().zip(0..).all(|(offset, place)| *offset == place), "{offsets:?}");
        // A prompt of one token has nothing to report but itself.
        assert_eq!(list(&reply, 1)["tokens"][0], "<s>");
        assert_eq!(list(&reply, 1)["token_logprobs"][0], Value::Null);
        // Streamed, the prompt comes first.
        let mut streaming = body(asked);
        streaming["stream"] = true.into();
        let chunks = api.post(path, streaming).await.chunks();
        assert_eq!(chunks[0]["choices"][0]["logprobs"]["tokens"].as_array().map(Vec::len), Some(6));
    }
    // Characters of several tokens; several choices; a text.
    let reply = api.ok("/v1/completions", body(json!({"prompt": "é!", "echo": true, "logprobs": 0, "n": 2}))).await;
    for choice in 0..2 {
        let list = list(&reply, choice);
        assert_eq!(
            list["text_offset"].as_array().expect("offsets")[..3],
            json!([0, 1, 1]).as_array().expect("a list")[..]
        );
        assert_eq!(list["top_logprobs"][1].as_object().map(serde_json::Map::len), Some(1));
    }
    let many = body(json!({"prompt": vec!["a".repeat(400); 130], "echo": true, "logprobs": 20}));
    let refused = api.post("/openai/v1/completions", many).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]["param"]),
        (400, &json!("logprobs")),
        "{}",
        refused.text
    );
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

/// The routes by which lm-evaluation-harness cuts choices from contexts.
#[tokio::test]
async fn tokens_of_a_text_and_back() {
    let api = api();
    let tokens: Vec<u32> = "é!".bytes().map(byte_token).collect();
    for body in [json!({"prompt": "é!", "add_special_tokens": false}), json!({"model": MODEL, "prompt": "é!"})] {
        let reply = api.ok("/tokenize", body).await;
        assert_eq!(
            (&reply["tokens"], &reply["count"], &reply["max_model_len"]),
            (&json!(tokens), &json!(3), &json!(512))
        );
    }
    assert_eq!(api.ok("/detokenize", json!({"tokens": tokens})).await["prompt"], "é!");
    let info = api.get("/tokenizer_info").await.json();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("<s>"), &json!("</s>")));
    assert_eq!(api.ok("/tokenize", json!({"prompt": "</s>"})).await["tokens"], json!([2]));
    assert_eq!(api.ok("/tokenize", json!({"prompt": "<s>a</s>"})).await["tokens"], json!([1, byte_token(b'a'), 2]));
    assert_eq!(api.post("/tokenize", json!({"model": "none", "prompt": "a"})).await.status.as_u16(), 400);
    let registry = falaj_server::Registry::new();
    let nobody = crate::fixture::Api::over(registry).post("/tokenize", json!({"prompt": "a"})).await;
    assert_eq!((nobody.status.as_u16(), nobody.text.contains("one must be named")), (400, true), "{}", nobody.text);
}
