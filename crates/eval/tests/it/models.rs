//! A model of a few thousand random weights over single bytes, with a chat format that knows tools.

use std::sync::Arc;

use falaj_engine::{Engine, EngineOptions};
use falaj_eval::Suite;
use falaj_model::synthetic::{synthetic, tiny_config};
use falaj_text::{ChatFormat, ModelText, Tokenizer};
use serde_json::{Value, json};

pub const EXAMPLE: &[u8] = include_bytes!("../../../../docs/evaluation-example.jsonl");

pub fn example() -> Suite {
    Suite::parse("example", EXAMPLE).expect("the example is a suite")
}

pub fn engine(seed: u64) -> Engine {
    engine_with(seed, EngineOptions::default().queue_requests)
}

/// A shorter queue lets fewer rows be asked at once.
pub fn engine_with(seed: u64, queue_requests: usize) -> Engine {
    let model = synthetic(&tiny_config(256 + SPECIALS.len(), 2048), seed).expect("the tiny configuration is sound");
    let options = EngineOptions { threads: 1, max_sequences: 8, queue_requests, ..EngineOptions::default() };
    Engine::start(Arc::new(model), options).expect("the tiny engine starts")
}

pub fn text() -> ModelText {
    let mut tokenizer = Tokenizer::from_tokenizer_json(tokenizer_json().to_string().as_bytes()).expect("a tokenizer");
    tokenizer.set_bos(0);
    tokenizer.set_eos(&[1]);
    let tokenizer = Arc::new(tokenizer);
    let chat = ChatFormat::jinja(TEMPLATE, &tokenizer).expect("a template");
    ModelText { tokenizer, chat: Some(chat) }
}

const SPECIALS: [&str; 4] = ["<s>", "</s>", "[INST]", "[TOOL_CALLS]"];

const TEMPLATE: &str = "{{- bos_token -}}
{%- for message in messages -%}
{{- '[INST]' + message.content + (tools | tojson if tools else '') -}}
{%- for call in message.tool_calls or [] -%}{{- '[TOOL_CALLS][{\"name\": \"' + call.function.name + '\"}]' -}}{%- endfor -%}
{%- endfor -%}";

/// A byte is a token; nothing merges.
fn tokenizer_json() -> Value {
    let mut vocabulary = serde_json::Map::new();
    let names = SPECIALS.iter().map(|name| (*name).to_owned());
    let mut unprintable = 256;
    let bytes = (0..=255_u8).map(|byte| {
        // GPT-2's table: printable bytes are themselves, the others follow at U+0100.
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte).to_string();
        }
        unprintable += 1;
        char::from_u32(unprintable - 1).expect("a letter").to_string()
    });
    for (id, name) in names.chain(bytes).enumerate() {
        vocabulary.insert(name, id.into());
    }
    let special = |(id, content): (usize, &&str)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    json!({
        "version": "1.0",
        "added_tokens": SPECIALS.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    })
}
