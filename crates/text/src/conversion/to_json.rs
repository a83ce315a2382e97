//! A GGUF's vocabulary as `tokenizer.json`, with `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`, as
//! `tokenizers` and `transformers` read them. Source: the crate's own serialisation; SentencePiece pieces become merges by score, as
//! `transformers` converts them.

use std::collections::{BTreeMap, HashMap};

use falaj_artifact::ArtifactError;
use falaj_artifact::gguf::Gguf;
use serde_json::{Map, Value, json};

use super::fail;
use crate::tokenizer::{PRETOKENIZERS, SPACE, piece_kind, takes_whole};
use crate::{ModelText, TextError};

pub(super) fn files(gguf: &Gguf, text: &ModelText) -> Result<Vec<(&'static str, Vec<u8>)>, TextError> {
    let tokenizer = &text.tokenizer;
    let whole: Option<&str> = gguf.get("tokenizer.huggingface.json").map_err(broken)?;
    let vocabulary = match whole {
        Some(json) => {
            let mut whole: Value = serde_json::from_str(json).map_err(|error| fail(FORM, error.to_string()))?;
            // Whether texts begin with a token is what the GGUF says, whatever the file inside it does.
            if let Some(whole) = whole.as_object_mut() {
                whole.insert("post_processor".to_owned(), post_processor(text));
            }
            bytes(&whole)
        }
        None => bytes(&tokenizer_json(gguf, text)?),
    };
    let name =
        |token: Option<u32>| token.map(|token| String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned());
    let id = |key: &str| gguf.get::<u32>(&format!("tokenizer.ggml.{key}")).map_err(broken);
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name(tokenizer.bos()),
        "eos_token": name(tokenizer.eos()),
        "clean_up_tokenization_spaces": false,
    });
    for (key, token) in [("unk_token", id("unknown_token_id")?), ("pad_token", id("padding_token_id")?)] {
        if let (Some(name), Some(config)) = (name(token), config.as_object_mut()) {
            config.insert(key.to_owned(), name.into());
        }
    }
    let generation = json!({ "bos_token_id": tokenizer.bos(), "eos_token_id": tokenizer.eos_tokens() });
    let mut files = vec![
        ("tokenizer.json", vocabulary),
        ("tokenizer_config.json", bytes(&config)),
        ("generation_config.json", bytes(&generation)),
    ];
    if let Some(template) = gguf.get::<&str>("tokenizer.chat_template").map_err(broken)? {
        files.push(("chat_template.jinja", template.as_bytes().to_vec()));
    }
    Ok(files)
}

fn tokenizer_json(gguf: &Gguf, text: &ModelText) -> Result<Value, TextError> {
    let words: Vec<&str> = gguf.strings("tokenizer.ggml.tokens").map_err(broken)?.iter().collect();
    let kinds = match gguf.metadata.contains_key("tokenizer.ggml.token_type") {
        true => gguf.i32s("tokenizer.ggml.token_type").map_err(broken)?.to_vec(),
        false => vec![1; words.len()],
    };
    let kind = |token: usize| kinds.get(token).and_then(|kind| u64::try_from(*kind).ok()).unwrap_or(piece_kind::NORMAL);
    let scored = gguf.str("tokenizer.ggml.model").map_err(broken)? == "llama";

    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (token, word) in words.iter().enumerate() {
        let kind = kind(token);
        let special = matches!(kind, piece_kind::CONTROL | piece_kind::UNKNOWN);
        let word = match kind {
            piece_kind::USER_DEFINED if scored => word.replace(SPACE, " "),
            _ => (*word).to_owned(),
        };
        if special || kind == piece_kind::USER_DEFINED {
            added.push(json!({
                "id": token, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }));
        }
        if vocab.insert(word, token.into()).is_some() {
            return Err(fail(FORM, format!("two of its tokens are the same word, the second is {token}")));
        }
    }
    let unknown: Option<u32> = gguf.get("tokenizer.ggml.unknown_token_id").map_err(broken)?;
    let unknown = unknown.unwrap_or(0) as usize;
    let unknown = words.get(unknown).filter(|_| scored && kind(unknown) == piece_kind::UNKNOWN);
    let pre: &str = gguf.get("tokenizer.ggml.pre").map_err(broken)?.unwrap_or("default");
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": scored,
        "byte_fallback": scored,
        "ignore_merges": !scored && takes_whole(pre),
        "vocab": vocab,
        "merges": if scored { merges_by_score(gguf, &words, kind)? } else { merges(gguf)? },
    });
    let (normalizer, pre_tokenizer, decoder) = match scored {
        true => {
            let prefix: Option<bool> = gguf.get("tokenizer.ggml.add_space_prefix").map_err(broken)?;
            around_pieces(prefix.unwrap_or(true))
        }
        false => (Value::Null, around_bytes(pre)?, byte_level()),
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(text),
        "decoder": decoder,
        "model": model,
    }))
}

fn merges(gguf: &Gguf) -> Result<Vec<Value>, TextError> {
    let merges = gguf.strings("tokenizer.ggml.merges").map_err(broken)?;
    // As texts, which every version reads: no word of such a vocabulary has a space.
    Ok(merges.iter().map(Value::from).collect())
}

/// Every way to put a piece together from two others; pieces of higher score first, then by the numbers of the two.
fn merges_by_score(gguf: &Gguf, words: &[&str], kind: impl Fn(usize) -> u64) -> Result<Vec<Value>, TextError> {
    let scores = gguf.f32s("tokenizer.ggml.scores").map_err(broken)?;
    let normal = |(token, _): &(usize, &&str)| kind(*token) == piece_kind::NORMAL;
    let known: HashMap<&str, usize> =
        words.iter().enumerate().filter(normal).map(|(token, word)| (*word, token)).rev().collect();
    let mut found: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
    for (word, token) in &known {
        let score = scores.get(*token).copied().unwrap_or(f32::NEG_INFINITY);
        for (at, _) in word.char_indices().skip(1) {
            let (left, right) = word.split_at(at);
            if let (Some(a), Some(b)) = (known.get(left), known.get(right)) {
                found.push((score, *a, *b, left, right));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    Ok(found.into_iter().map(|(_, _, _, left, right)| Value::from(format!("{left} {right}"))).collect())
}

/// Normalizer, pre-tokenizer and decoder of SentencePiece's spaces.
fn around_pieces(prefix: bool) -> (Value, Value, Value) {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let before = prefix.then(|| json!({"type": "Prepend", "prepend": SPACE}));
    let normalizers: Vec<Value> = before.into_iter().chain([spaces]).collect();
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
    (normalizer, Value::Null, json!({"type": "Sequence", "decoders": decoders}))
}

fn around_bytes(pre: &str) -> Result<Value, TextError> {
    let known = PRETOKENIZERS.iter().find(|(names, _)| names.contains(&pre));
    let Some((_, patterns)) = known else { return Err(fail(FORM, "the way in which it cuts text is unknown")) };
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let parts: Vec<Value> = patterns.iter().map(split).chain([byte_level()]).collect();
    Ok(json!({"type": "Sequence", "pretokenizers": parts}))
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// Puts BOS before the text, where the model wants that.
fn post_processor(text: &ModelText) -> Value {
    let Some(bos) = text.tokenizer.bos().filter(|_| text.tokenizer.add_bos()) else { return Value::Null };
    let name = String::from_utf8_lossy(text.tokenizer.token_bytes(bos)).into_owned();
    let begin = json!({"SpecialToken": {"id": name, "type_id": 0}});
    let part = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let special: BTreeMap<&str, Value> = [(name.as_str(), json!({"id": name, "ids": [bos], "tokens": [name]}))].into();
    json!({
        "type": "TemplateProcessing",
        "single": [begin, part("A")],
        "pair": [begin, part("A"), part("B")],
        "special_tokens": special,
    })
}

fn bytes(json: &Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

fn broken(error: ArtifactError) -> TextError {
    TextError::File { format: "GGUF", reason: error.to_string() }
}

const FORM: &str = "a tokenizer.json";
