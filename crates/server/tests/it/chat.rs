//! Chat completions in both dialects, whole and streamed.

use serde_json::{Value, json};

use crate::fixture::{MODEL, api, chat};

/// The text of choice `index`, from chunks.
fn streamed(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("choices"));
    choices.filter(|choice| choice["index"] == index).filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn whole_answer() {
    let api = api();
    for path in ["/v1/chat/completions", "/openai/v1/chat/completions"] {
        let body = api.ok(path, chat(json!({}))).await;
        assert_eq!(body["object"], "chat.completion");
        assert_eq!(body["model"], MODEL);
        assert!(body["created"].as_u64().is_some_and(|created| created > 1_700_000_000));
        let choice = &body["choices"][0];
        assert_eq!(choice["message"]["role"], "assistant");
        assert!(choice["message"]["content"].is_string());
        assert_eq!(choice["finish_reason"], "length");
        // <s>[INST]Hello[/INST]
        assert_eq!(body["usage"]["prompt_tokens"], 8);
        assert_eq!(body["usage"]["completion_tokens"], 8);
        assert_eq!(body["usage"]["total_tokens"], 16);
        assert!(body["usage"]["prompt_tokens_details"]["cached_tokens"].is_u64());
    }
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let api = api();
    let whole = api.ok("/v1/chat/completions", chat(json!({"max_tokens": 24}))).await;
    let reply = api.post("/v1/chat/completions", chat(json!({"max_tokens": 24, "stream": true}))).await;
    assert_eq!(reply.headers["cache-control"], "no-cache");
    let chunks = reply.chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
    assert_eq!(streamed(&chunks, 0), whole["choices"][0]["message"]["content"].as_str().expect("text"));
    // Mistral: usage and finish reason share the last chunk.
    let (last, rest) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(last["usage"]["completion_tokens"], 24);
    assert_eq!(last["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    assert!(rest.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"][0]["finish_reason"].is_null()));
}

#[tokio::test]
async fn openai_usage_comes_in_a_chunk_of_its_own_when_asked_for() {
    let api = api();
    let path = "/openai/v1/chat/completions";
    let chunks = api.post(path, chat(json!({"stream": true}))).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let chunks =
        api.post(path, chat(json!({"stream": true, "stream_options": {"include_usage": true}}))).await.chunks();
    let (last, rest) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 8);
    assert!(rest.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
}

#[tokio::test]
async fn several_choices() {
    let api = api();
    let more = json!({"n": 3, "temperature": 1.0, "seed": 5, "max_tokens": 12});
    let whole = api.ok("/v1/chat/completions", chat(more.clone())).await;
    let choices = whole["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 3);
    assert_ne!(choices[0]["message"]["content"], choices[1]["message"]["content"]);
    assert!(whole["usage"]["completion_tokens"].as_u64().expect("a count") > 12);
    let mut streaming = chat(more);
    streaming["stream"] = true.into();
    let chunks = api.post("/v1/chat/completions", streaming).await.chunks();
    for index in 0..3 {
        let content = choices[index as usize]["message"]["content"].as_str().expect("text");
        assert_eq!(streamed(&chunks, index), content);
    }
    assert_eq!(chunks.iter().filter(|chunk| chunk.get("usage").is_some()).count(), 1);
}

#[tokio::test]
async fn the_seed_decides_and_either_name_will_do() {
    let api = api();
    let mut answers = Vec::new();
    for more in [json!({"seed": 11}), json!({"random_seed": 11}), json!({"seed": 12})] {
        let mut body = chat(json!({"temperature": 1.0, "max_tokens": 16}));
        crate::fixture::merge(&mut body, more);
        answers.push(api.ok("/v1/chat/completions", body).await["choices"][0]["message"]["content"].clone());
    }
    assert_eq!(answers[0], answers[1]);
    assert_ne!(answers[0], answers[2]);
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_before_itself() {
    let api = api();
    // Regular text, whatever the weights: the stop string is then known to come.
    let format = json!({"type": "regex", "regex": "(ab cd ){6}"});
    let body = chat(json!({"response_format": format, "max_tokens": 60}));
    let whole = api.ok("/v1/chat/completions", body.clone()).await;
    assert_eq!(whole["choices"][0]["message"]["content"], "ab cd ab cd ab cd ab cd ab cd ab cd ");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    for stop in [json!("d ab cd ab"), json!(["zz", "d ab cd ab"])] {
        let mut body = body.clone();
        body["stop"] = stop;
        let stopped = api.ok("/v1/chat/completions", body.clone()).await;
        assert_eq!(stopped["choices"][0]["message"]["content"], "ab c");
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
        // One token a byte: all that were generated count, the stop string's too.
        assert_eq!(stopped["usage"]["completion_tokens"], 14);
        body["stream"] = true.into();
        let chunks = api.post("/v1/chat/completions", body).await.chunks();
        assert_eq!(streamed(&chunks, 0), "ab c");
        assert_eq!(chunks.last().expect("chunks")["usage"], stopped["usage"]);
    }
}

#[tokio::test]
async fn json_object_and_schema_bind_the_answer() {
    let api = api();
    let schema = json!({"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}, "n": {"enum": [1, 2, 3]}},
        "required": ["mood", "n"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "m", "schema": schema, "strict": true}});
    for path in ["/v1/chat/completions", "/openai/v1/chat/completions"] {
        for temperature in [0.0, 1.0] {
            let body = chat(json!({"response_format": format, "max_tokens": 80, "temperature": temperature}));
            let body = api.ok(path, body).await;
            let text = body["choices"][0]["message"]["content"].as_str().expect("text");
            let answer: Value = serde_json::from_str(text).expect("JSON");
            assert!(["good", "bad"].contains(&answer["mood"].as_str().expect("a string")));
            assert_eq!(body["choices"][0]["finish_reason"], "stop");
        }
    }
    let body = api.ok("/v1/chat/completions", chat(json!({"response_format": {"type": "json_object"}}))).await;
    assert!(body["choices"][0]["message"]["content"].as_str().expect("text").starts_with('{'));
}

#[tokio::test]
async fn an_answer_goes_on_from_a_prefix() {
    let api = api();
    let messages =
        json!([{"role": "user", "content": "Say"}, {"role": "assistant", "content": "Once ", "prefix": true}]);
    let body = chat(json!({"messages": messages}));
    let whole = api.ok("/v1/chat/completions", body.clone()).await;
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert!(text.starts_with("Once "));
    // <s>[INST]Say[/INST]Once_ and no end-of-sequence
    assert_eq!(whole["usage"]["prompt_tokens"], 11);
    let mut streaming = body;
    streaming["stream"] = true.into();
    assert_eq!(streamed(&api.post("/v1/chat/completions", streaming).await.chunks(), 0), text);
}

#[tokio::test]
async fn logprobs_cover_every_token() {
    let api = api();
    let body =
        chat(json!({"logprobs": true, "top_logprobs": 3, "response_format": {"type": "regex", "regex": "abcd"}}));
    let whole = api.ok("/openai/v1/chat/completions", body.clone()).await;
    let content = whole["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    assert_eq!(content.len(), 4);
    assert_eq!(content.iter().map(|token| token["token"].as_str().expect("text")).collect::<String>(), "abcd");
    assert!(
        content.iter().all(|token| token["top_logprobs"].as_array().is_some_and(|top| (1..=3).contains(&top.len())))
    );
    assert!(content.iter().all(|token| token["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0)));
    assert_eq!(content[0]["bytes"], json!([97]));
    let free = chat(json!({"logprobs": true, "top_logprobs": 3}));
    let free = api.ok("/v1/chat/completions", free).await["choices"][0]["logprobs"]["content"].clone();
    assert!(
        free.as_array().expect("a list").iter().all(|token| token["top_logprobs"].as_array().map(Vec::len) == Some(3))
    );
    let mut streaming = body;
    streaming["stream"] = true.into();
    let chunks = api.post("/openai/v1/chat/completions", streaming).await.chunks();
    let streamed: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(streamed, content.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn the_end_of_the_context_has_a_name_of_its_own_in_mistrals_dialect() {
    let api = api();
    let body = chat(json!({"max_tokens": null, "logit_bias": {"2": -100}}));
    let mistral = api.ok("/v1/chat/completions", body.clone()).await;
    assert_eq!(mistral["choices"][0]["finish_reason"], "model_length");
    assert_eq!(mistral["usage"]["total_tokens"], crate::fixture::CONTEXT_TOKENS);
    assert_eq!(api.ok("/openai/v1/chat/completions", body).await["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_repeated_prompt_is_cached_and_says_so() {
    let api = api();
    let long = "channel of water ".repeat(12);
    let body = chat(json!({"messages": [{"role": "user", "content": long}], "max_tokens": 1}));
    api.ok("/v1/chat/completions", body.clone()).await;
    let second = api.ok("/v1/chat/completions", body.clone()).await;
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    assert!(cached > 100, "{cached}");
    // Another key's prompts are another tenant's.
    let other = api.request("POST", "/v1/chat/completions", &[("x-api-key", "x")], body.to_string()).await;
    assert_eq!(other.json()["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn zero_max_tokens_only_counts() {
    let api = api();
    let body = api.ok("/v1/chat/completions", chat(json!({"max_tokens": 0}))).await;
    assert_eq!(body["usage"]["completion_tokens"], 0);
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn sixty_four_at_once_say_what_each_says_alone() {
    let api = std::sync::Arc::new(api());
    let body = |index: usize| {
        let words = format!("Question {index}");
        chat(
            json!({"messages": [{"role": "user", "content": words}], "temperature": 0.9, "seed": index, "stream": true}),
        )
    };
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..64 {
        let api = std::sync::Arc::clone(&api);
        tasks.spawn(async move {
            let chunks = api.post("/v1/chat/completions", body(index)).await.chunks();
            (index, streamed(&chunks, 0))
        });
    }
    let together = tasks.join_all().await;
    assert_eq!(together.len(), 64);
    for (index, text) in together.into_iter().filter(|(index, _)| index % 16 == 0) {
        let alone = api.post("/v1/chat/completions", body(index)).await.chunks();
        assert_eq!(streamed(&alone, 0), text);
    }
}
