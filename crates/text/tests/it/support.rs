//! What the tests share: golden files, tokenizers made from them, conversations from JSON.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use falaj_artifact::gguf::{Array, Gguf, GgufWriter, StringArray, Value as Meta};
use falaj_text::{Conversation, Message, Part, Role, Tokenizer, Tool, ToolCall};
use serde_json::Value;

pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(golden_dir().join(name)).unwrap()
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&read(name)).unwrap()
}

pub fn byte_level() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let mut tokenizer = Tokenizer::from_tokenizer_json(&read("bytelevel.json")).unwrap();
        tokenizer.set_bos(tokenizer.special_id("<s>").unwrap());
        tokenizer.set_eos(&[tokenizer.special_id("</s>").unwrap()]);
        Arc::new(tokenizer)
    });
    TOKENIZER.clone()
}

/// The cut tekken vocabulary as the given version has it.
pub fn tekken(version: &str) -> Arc<Tokenizer> {
    let facts = &json("golden.json")["tekken"][version];
    Arc::new(Tokenizer::from_tekken(&tekken_file(read("tekken.json"), version, facts)).unwrap())
}

pub fn tekken_file(base: Vec<u8>, version: &str, facts: &Value) -> Vec<u8> {
    let mut file: Value = serde_json::from_slice(&base).unwrap();
    file["config"]["version"] = version.into();
    if let Value::Array(names) = &facts["specials"] {
        let list = names.iter().enumerate();
        file["special_tokens"] =
            list.map(|(rank, name)| serde_json::json!({"rank": rank, "token_str": name, "is_control": true})).collect();
    }
    if !facts["settings"].is_null() {
        file["model_settings_builder"] = facts["settings"].clone();
    }
    serde_json::to_vec(&file).unwrap()
}

/// The `tokenizer.json` that an entry of `variants.json` describes.
pub fn variant(facts: &Value) -> Vec<u8> {
    let mut file = json(facts["base"].as_str().unwrap());
    for (pointer, value) in facts["changes"].as_object().unwrap() {
        *file.pointer_mut(pointer).unwrap() = value.clone();
    }
    let step = facts["merges_step"].as_u64().unwrap() as usize;
    let merges: Vec<Value> = file["model"]["merges"].as_array().unwrap().iter().step_by(step).cloned().collect();
    file["model"]["merges"] = merges.into();
    serde_json::to_vec(&file).unwrap()
}

/// The byte-level vocabulary as llama.cpp's converter writes it.
pub fn gguf_gpt2(pre: &str) -> Gguf {
    let file = json("bytelevel.json");
    let mut words: Vec<(u64, String, i32)> = file["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(word, id)| (id.as_u64().unwrap(), word.clone(), 1))
        .collect();
    for token in file["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap();
        let kind = if token["special"].as_bool().unwrap() { 3 } else { 4 };
        words.retain(|(other, ..)| *other != id);
        words.push((id, token["content"].as_str().unwrap().to_owned(), kind));
    }
    words.sort();
    let merges: StringArray = file["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| match pair {
            Value::String(pair) => pair.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    let tokens: StringArray = words.iter().map(|(_, word, _)| word).collect();
    let kinds = words.iter().map(|(.., kind)| *kind).collect();
    parse(
        GgufWriter::new("llama")
            .set("tokenizer.ggml.model", "gpt2")
            .set("tokenizer.ggml.pre", pre)
            .set("tokenizer.ggml.tokens", tokens)
            .set("tokenizer.ggml.merges", merges)
            .set("tokenizer.ggml.token_type", Meta::Array(Box::new(Array::I32(kinds))))
            .set("tokenizer.ggml.bos_token_id", 1u32)
            .set("tokenizer.ggml.eos_token_id", 2u32),
    )
}

/// The SentencePiece v1 vocabulary as llama.cpp's converter writes it.
pub fn gguf_llama() -> Gguf {
    let file = json("llama.json");
    let vocab = file["model"]["vocab"].as_object().unwrap();
    let mut words: Vec<(u64, &str)> = vocab.iter().map(|(word, id)| (id.as_u64().unwrap(), word.as_str())).collect();
    words.sort();
    let kind = |(id, word): &(u64, &str)| match id {
        0 => 2,
        1 | 2 => 3,
        _ if word.starts_with("<0x") => 6,
        _ => 1,
    };
    let kinds: Vec<i32> = words.iter().map(kind).collect();
    let scores = &json("golden.json")["sentencepiece"]["v1"]["scores"];
    let scores: Vec<f32> = scores.as_array().unwrap().iter().map(|score| score.as_f64().unwrap() as f32).collect();
    let tokens: StringArray = words.iter().map(|(_, word)| word).collect();
    parse(
        GgufWriter::new("llama")
            .set("tokenizer.ggml.model", "llama")
            .set("tokenizer.ggml.tokens", tokens)
            .set("tokenizer.ggml.scores", Meta::Array(Box::new(Array::F32(scores))))
            .set("tokenizer.ggml.token_type", Meta::Array(Box::new(Array::I32(kinds)))),
    )
}

pub fn parse(writer: GgufWriter) -> Gguf {
    let bytes = writer.write(Vec::new(), Vec::<Vec<u8>>::new()).unwrap();
    Gguf::parse(&bytes).unwrap()
}

/// A case of `cases.json`; its `tools` counts the first of the golden tools.
pub fn conversation(case: &Value, tools: &Value) -> Conversation {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let messages = case["messages"].as_array().unwrap().iter().map(|message| Message {
        role: match message["role"].as_str().unwrap() {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            _ => Role::Tool,
        },
        content: match &message["content"] {
            Value::Array(parts) => parts
                .iter()
                .map(|part| match part["type"].as_str().unwrap() {
                    "thinking" => Part::Thinking {
                        text: text(&part["thinking"]),
                        closed: part["closed"].as_bool().unwrap_or(true),
                    },
                    _ => Part::Text(text(&part["text"])),
                })
                .collect(),
            content => vec![Part::Text(text(content))],
        },
        tool_calls: message["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        tool_call_id: message["tool_call_id"].as_str().map(str::to_owned),
        name: message["name"].as_str().map(str::to_owned),
        prefix: message["prefix"].as_bool().unwrap_or(false),
    });
    let count = case["tools"].as_u64().unwrap_or(0) as usize;
    Conversation {
        messages: messages.collect(),
        tools: tools.as_array().unwrap().iter().take(count).map(tool).collect(),
        reasoning_effort: case["reasoning_effort"].as_str().map(str::to_owned),
        response_schema: case.get("response_schema").cloned(),
        now_s: Some(1_732_291_200),
    }
}

fn call(call: &Value) -> ToolCall {
    ToolCall {
        id: call["id"].as_str().unwrap().to_owned(),
        name: call["function"]["name"].as_str().unwrap().to_owned(),
        arguments: call["function"]["arguments"].as_str().unwrap().to_owned(),
    }
}

pub fn tool(tool: &Value) -> Tool {
    let function = &tool["function"];
    Tool {
        name: function["name"].as_str().unwrap().to_owned(),
        description: function["description"].as_str().unwrap().to_owned(),
        parameters: function["parameters"].clone(),
        strict: false,
    }
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
