//! `tokenizer.json` or `tokenizer.model` as GGUF metadata, in the keys and numbers that llama.cpp reads. Source: ggml's docs/gguf.md;
//! llama.cpp's list of pre-tokenizers, which stand for regular expressions by name.

use falaj_artifact::gguf::{Array, StringArray, Value as Meta};
use serde_json::Value;

use super::fail;
use crate::model_text::{Folder, read_json, read_sentencepiece, template_of};
use crate::tokenizer::{GPT2, PRETOKENIZERS, Piece, piece_kind, sentencepiece_pieces, takes_whole};
use crate::{ModelText, TextError};

type Metadata = Vec<(String, Meta)>;

pub(super) struct Written {
    pub metadata: Metadata,
    /// The chat template among it.
    pub template: Option<String>,
    /// Whether only one of the two looks whole pieces up before it merges.
    pub looks_otherwise: bool,
}

pub(super) fn written(folder: &Folder, text: &ModelText, vocab_size: usize) -> Result<Written, TextError> {
    let mut words = match read_json(folder, "tokenizer.json")? {
        Some(json) => of_json(&json)?,
        None if folder.has("tekken.json") => {
            return Err(fail(FORM, "it is a tekken.json alone; put the model's tokenizer.json beside it"));
        }
        None => of_sentencepiece(&read_sentencepiece(folder)?.0)?,
    };
    if words.pieces.len() > vocab_size {
        let reason = format!("it has {} tokens and the model {vocab_size}", words.pieces.len());
        return Err(fail(FORM, reason));
    }
    for token in words.pieces.len()..vocab_size {
        words.pieces.push(Piece { text: format!("[PAD{token}]"), score: UNUSED_SCORE, kind: piece_kind::UNUSED });
    }

    let mut list = Metadata::new();
    let mut set = |key: &str, value: Meta| list.push((format!("tokenizer.{key}"), value));
    set("ggml.model", words.model.into());
    if let Some(pre) = words.pre {
        set("ggml.pre", pre.into());
    }
    set("ggml.tokens", words.pieces.iter().map(|piece| piece.text.as_str()).collect::<StringArray>().into());
    let kinds = words.pieces.iter().map(|piece| i32::try_from(piece.kind).unwrap_or(1)).collect();
    set("ggml.token_type", Meta::Array(Box::new(Array::I32(kinds))));
    if words.pre.is_none() {
        set("ggml.scores", words.pieces.iter().map(|piece| piece.score).collect::<Vec<f32>>().into());
        set("ggml.add_space_prefix", Meta::Bool(words.space_prefix));
    }
    if !words.merges.is_empty() {
        set("ggml.merges", words.merges.into());
    }
    let tokenizer = &text.tokenizer;
    let ends = tokenizer.eos_tokens();
    let pad = read_json(folder, "tokenizer_config.json")?.and_then(|config| name_of(config.get("pad_token")?));
    let ids = [
        ("bos_token_id", tokenizer.bos()),
        ("eos_token_id", ends.first().copied()),
        ("eot_token_id", ends.get(1).copied()),
        ("unknown_token_id", words.unknown),
        ("padding_token_id", pad.and_then(|name| tokenizer.named_token(&name))),
    ];
    for (key, token) in ids {
        if let Some(token) = token {
            set(&format!("ggml.{key}"), token.into());
        }
    }
    set("ggml.add_bos_token", Meta::Bool(tokenizer.add_bos()));
    set("ggml.add_eos_token", Meta::Bool(false));
    let template = match folder.read("chat_template.jinja")? {
        Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        None => read_json(folder, "tokenizer_config.json")?.as_ref().and_then(template_of),
    };
    if let Some(template) = &template {
        set("chat_template", template.as_str().into());
    }
    let looks_otherwise = words.pre.is_some_and(|pre| takes_whole(pre) != words.whole_first);
    Ok(Written { metadata: list, template, looks_otherwise })
}

/// A vocabulary as a GGUF lists it.
struct Words {
    model: &'static str,
    /// `None`: pieces have scores and no regular expression cuts the text.
    pre: Option<&'static str>,
    pieces: Vec<Piece>,
    merges: StringArray,
    /// A whole piece that is in the vocabulary is taken as one (`ignore_merges`).
    whole_first: bool,
    space_prefix: bool,
    unknown: Option<u32>,
}

fn of_json(json: &Value) -> Result<Words, TextError> {
    let Some(model) = json.get("model") else { return Err(fail(FORM, "its file has no model")) };
    // The oldest files name no type.
    if model.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "BPE") {
        return Err(fail(FORM, "only vocabularies of byte pairs have a form there, and this is another kind"));
    }
    let bytes = model.get("byte_fallback").and_then(Value::as_bool) == Some(true);
    let pre = if bytes { None } else { Some(pretokenizer(json)?) };
    let mut pieces: Vec<Option<Piece>> = Vec::new();
    let mut put = |id: Option<u64>, text: &str, kind: u64| -> Result<(), TextError> {
        let id = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < MOST_TOKENS);
        let Some(id) = id else { return Err(fail(FORM, "a token's number is no number of a token")) };
        if id >= pieces.len() {
            pieces.resize_with(id + 1, || None);
        }
        if let Some(slot) = pieces.get_mut(id) {
            *slot = Some(Piece { text: text.to_owned(), score: UNUSED_SCORE, kind });
        }
        Ok(())
    };
    let unknown = model.get("unk_token").and_then(Value::as_str);
    for (word, id) in model.get("vocab").and_then(Value::as_object).into_iter().flatten() {
        let kind = match word {
            word if bytes && word.len() == 6 && word.starts_with("<0x") && word.ends_with('>') => piece_kind::BYTE,
            word if bytes && Some(word.as_str()) == unknown => piece_kind::UNKNOWN,
            _ => piece_kind::NORMAL,
        };
        put(id.as_u64(), word, kind)?;
    }
    for token in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
        let special = token.get("special").and_then(Value::as_bool) == Some(true);
        let kind = match special {
            true if bytes && Some(content) == unknown => piece_kind::UNKNOWN,
            true => piece_kind::CONTROL,
            false => piece_kind::USER_DEFINED,
        };
        put(token.get("id").and_then(Value::as_u64), content, kind)?;
    }
    let hole = |(id, piece): (usize, Option<Piece>)| {
        piece.unwrap_or_else(|| Piece { text: format!("[PAD{id}]"), score: UNUSED_SCORE, kind: piece_kind::UNUSED })
    };
    let mut pieces: Vec<Piece> = pieces.into_iter().enumerate().map(hole).collect();
    let mut merges = StringArray::default();
    for merge in model.get("merges").and_then(Value::as_array).into_iter().flatten() {
        match merge {
            Value::String(pair) => merges.push(pair),
            pair => match (pair.get(0).and_then(Value::as_str), pair.get(1).and_then(Value::as_str)) {
                (Some(a), Some(b)) if !a.contains(' ') && !b.contains(' ') => merges.push(&format!("{a} {b}")),
                _ => return Err(fail(FORM, "a merge is no pair of words without spaces")),
            },
        }
    }
    let unknown = pieces.iter().position(|piece| Some(piece.text.as_str()) == unknown);
    if bytes {
        score(&mut pieces, &merges);
        merges = StringArray::default();
    }
    Ok(Words {
        model: if bytes { "llama" } else { "gpt2" },
        pre,
        pieces,
        merges,
        whole_first: model.get("ignore_merges").and_then(Value::as_bool) == Some(true),
        space_prefix: bytes && prefixes(json),
        unknown: unknown.and_then(|token| u32::try_from(token).ok()),
    })
}

/// What merges earlier scores higher: each piece the rank of its first merge, negative, as SentencePiece has it.
fn score(pieces: &mut [Piece], merges: &StringArray) {
    let mut ranks = std::collections::HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
    }
    for piece in pieces {
        piece.score = match (piece.kind, ranks.get(&piece.text)) {
            (piece_kind::NORMAL, Some(rank)) => -(*rank as f32),
            (piece_kind::NORMAL, None) => -(merges.len() as f32),
            _ => 0.0,
        };
    }
}

/// Whether a space is put before the text.
fn prefixes(json: &Value) -> bool {
    let says = |part: &Value| match part.get("type").and_then(Value::as_str) {
        Some("Prepend") => true,
        Some("Metaspace") => match part.get("prepend_scheme").and_then(Value::as_str) {
            Some(scheme) => scheme != "never",
            None => part.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true),
        },
        _ => false,
    };
    parts(json.get("normalizer"), "normalizers").chain(parts(json.get("pre_tokenizer"), "pretokenizers")).any(says)
}

/// The members of a sequence, or the part itself.
fn parts<'a>(part: Option<&'a Value>, list: &'static str) -> impl Iterator<Item = &'a Value> {
    let part = part.filter(|part| !part.is_null());
    let members = part.and_then(|part| part.get(list)).and_then(Value::as_array);
    let alone = part.filter(|_| members.is_none());
    members.into_iter().flatten().chain(alone)
}

/// Under which name llama.cpp knows the way in which this tokenizer cuts text.
fn pretokenizer(json: &Value) -> Result<&'static str, TextError> {
    for part in parts(json.get("normalizer"), "normalizers") {
        // Text that people type is in that form, and llama.cpp has no other.
        if part.get("type").and_then(Value::as_str) != Some("NFC") {
            return Err(fail(FORM, "it rewrites text before it cuts it, and byte-level vocabularies there do not"));
        }
    }
    let mut patterns: Vec<&str> = Vec::new();
    let flag = |part: &Value, name: &str| part.get(name).and_then(Value::as_bool);
    for part in parts(json.get("pre_tokenizer"), "pretokenizers") {
        let pattern = match part.get("type").and_then(Value::as_str) {
            Some("ByteLevel") if flag(part, "add_prefix_space") == Some(true) => None,
            Some("ByteLevel") if flag(part, "use_regex") == Some(false) => continue,
            Some("ByteLevel") => Some(GPT2),
            Some("Digits") if flag(part, "individual_digits") == Some(true) => Some(r"\p{N}"),
            Some("Split") if part.get("behavior").and_then(Value::as_str) == Some("Isolated") => {
                part.pointer("/pattern/Regex").and_then(Value::as_str)
            }
            _ => None,
        };
        let Some(pattern) = pattern else { return Err(fail(FORM, "llama.cpp has no name for the way it cuts text")) };
        patterns.push(pattern);
    }
    PRETOKENIZERS
        .iter()
        .find(|(_, known)| *known == patterns)
        .and_then(|(names, _)| names.first().copied())
        .ok_or_else(|| fail(FORM, "llama.cpp has no name for the pattern by which it cuts text"))
}

fn of_sentencepiece(bytes: &[u8]) -> Result<Words, TextError> {
    let (pieces, settings) = sentencepiece_pieces(bytes)?;
    if settings.unigram || settings.charsmap || settings.suffix_space || !settings.escape_spaces {
        return Err(fail(
            FORM,
            "only SentencePiece vocabularies of byte pairs that leave text as it is have a form there",
        ));
    }
    Ok(Words {
        model: "llama",
        pre: None,
        pieces,
        merges: StringArray::default(),
        whole_first: false,
        space_prefix: settings.dummy_prefix,
        unknown: settings.unknown,
    })
}

fn name_of(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str)).map(str::to_owned)
}

const FORM: &str = "a GGUF";
const UNUSED_SCORE: f32 = -10_000.0;
const MOST_TOKENS: usize = 1 << 20;
