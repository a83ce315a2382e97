//! Hugging Face `tokenizer.json`, through the `tokenizers` crate. Control tokens in a prompt reach it as private
//! aliases made of noncharacters, so that text which only looks like a control token stays text.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::bpe::byte_of_char;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Encoder, MAX_VOCABULARY, Segment, Tokenizer};
use crate::TextError;

pub(super) struct HuggingFace {
    inner: Inner,
    /// The crate's number of an alias, and the control token it stands for.
    aliases: HashMap<u32, u32>,
    /// Control tokens that a model may spell out of plain text, since they stand in its vocabulary like any other.
    forbidden: HashSet<u32>,
}

impl HuggingFace {
    /// Encodes the whole prompt at once, since some tokenizers treat its first piece differently.
    pub fn encode(&self, segments: &[Segment]) -> Vec<u32> {
        let mut text = String::new();
        for segment in segments {
            match segment {
                Segment::Text(part) => text.extend(part.chars().map(|c| if is_reserved(c) { '\u{FFFD}' } else { c })),
                Segment::Control(token) => text.push_str(&alias(*token)),
            }
        }
        let mut tokens = Vec::new();
        let cuts = self.encode_text(&text, &mut tokens);
        if cuts.is_empty() {
            return tokens;
        }
        // Some text spelled a control token. Cut inside it, it can't; what still can is left out.
        tokens.clear();
        let mut from = 0;
        for cut in cuts.into_iter().chain([text.len()]) {
            if let Some(piece) = text.get(from..cut) {
                from = cut;
                self.encode_text(piece, &mut tokens);
            }
        }
        tokens.retain(|token| !self.forbidden.contains(token) || segments.contains(&Segment::Control(*token)));
        tokens
    }

    /// Adds the tokens of a text; returns where to cut it so that it spells no control token.
    fn encode_text(&self, text: &str, tokens: &mut Vec<u32>) -> Vec<usize> {
        // The crate panics on some inputs that a lying file makes possible; such a file gets no tokens, not a crash.
        let Ok(Ok(encoding)) = catch_unwind(AssertUnwindSafe(|| self.inner.encode(text, false))) else {
            return Vec::new();
        };
        let mut cuts = Vec::new();
        for (id, (start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if self.forbidden.contains(id) {
                let span = text.get(*start..*end).unwrap_or("");
                let first =
                    span.char_indices().filter(|(_, c)| !c.is_whitespace()).map(|(at, c)| at + c.len_utf8()).next();
                cuts.push(start + first.unwrap_or(0));
            }
            tokens.push(self.aliases.get(id).copied().unwrap_or(*id));
        }
        cuts
    }
}

pub(super) fn load(bytes: &[u8]) -> Result<Tokenizer, TextError> {
    let json: Value = serde_json::from_slice(bytes).map_err(|error| fail(&error.to_string()))?;
    check_growth(&json)?;
    let parsed = catch_unwind(AssertUnwindSafe(|| Inner::from_bytes(bytes)));
    let Ok(parsed) = parsed else { return Err(fail("its parts contradict each other")) };
    let mut inner = parsed.map_err(|error| fail(&error.to_string()))?;
    let _ = inner.with_truncation(None);
    inner.with_padding(None);

    let (vocabulary, byte_level) = read_vocabulary(&inner, &json)?;
    let begin = first_added(&inner);
    let aliases = add_aliases(&mut inner, &vocabulary)?;
    let unknown = unknown_token(&json, &inner);
    let forbidden = vocabulary.controls().map(|(_, token)| token).filter(|token| Some(*token) != unknown).collect();

    let mut tokenizer = Tokenizer {
        tekken: None,
        vocabulary,
        encoder: Encoder::HuggingFace(Box::new(HuggingFace { inner, aliases, forbidden })),
        bos: begin,
        eos: Vec::new(),
        add_bos: begin.is_some(),
        drops_first_space: !byte_level && strips_first_space(&json),
    };
    if tokenizer.bos.is_none() {
        tokenizer.bos = ["<s>", "<|begin_of_text|>"].iter().find_map(|name| tokenizer.special_id(name));
    }
    tokenizer.add_usual_ends();
    Ok(tokenizer)
}

/// What the model writes for text it has no token for; not a control token in that place.
fn unknown_token(json: &Value, inner: &Inner) -> Option<u32> {
    let model = json.get("model")?;
    let named = model.get("unk_token").and_then(Value::as_str).and_then(|name| inner.token_to_id(name));
    named.or_else(|| model.get("unk_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()))
}

/// The token that the post-processor puts before an empty text, if it is a special one.
fn first_added(inner: &Inner) -> Option<u32> {
    let encoding = catch_unwind(AssertUnwindSafe(|| inner.encode_fast("", true))).ok()?.ok()?;
    let first = *encoding.get_ids().first()?;
    let special = inner.get_added_tokens_decoder().get(&first).is_some_and(|token| token.special);
    // A lone EOS after the text is first as well when the text is empty.
    let single_end = encoding.get_ids().len() == 1
        && inner.id_to_token(first).is_some_and(|name| super::USUAL_ENDS.contains(&name.as_str()));
    (special && !single_end).then_some(first)
}

/// Adds one alias per control token. The crate matches them in text; the control tokens themselves it no longer does.
fn add_aliases(inner: &mut Inner, vocabulary: &Vocabulary) -> Result<HashMap<u32, u32>, TextError> {
    let added = inner.get_added_tokens_decoder();
    let tokens: Vec<(u32, AddedToken)> = vocabulary
        .controls()
        .map(|(_, token)| {
            let (lstrip, rstrip) = added.get(&token).map_or((false, false), |t| (t.lstrip, t.rstrip));
            (token, AddedToken::from(alias(token), false).normalized(false).lstrip(lstrip).rstrip(rstrip))
        })
        .collect();
    let list: Vec<AddedToken> = tokens.iter().map(|(_, token)| token.clone()).collect();
    let done = catch_unwind(AssertUnwindSafe(|| {
        inner.add_tokens(&list);
        inner.set_encode_special_tokens(true);
    }));
    if done.is_err() {
        return Err(fail("its added tokens contradict each other"));
    }
    let mut aliases = HashMap::new();
    for (token, alias) in tokens {
        let id = inner.token_to_id(&alias.content).ok_or_else(|| fail("its added tokens contradict each other"))?;
        if (id as usize) < vocabulary.len() {
            return Err(fail("its token numbers have gaps"));
        }
        aliases.insert(id, token);
    }
    Ok(aliases)
}

fn read_vocabulary(inner: &Inner, json: &Value) -> Result<(Vocabulary, bool), TextError> {
    let words = inner.get_vocab(true);
    let size = words.values().map(|id| *id as usize + 1).max().unwrap_or(0);
    if size > MAX_VOCABULARY {
        return Err(TextError::TooLarge { what: "the vocabulary", got: size, max: MAX_VOCABULARY });
    }
    if size == 0 {
        return Err(fail("it has no tokens"));
    }
    let byte_level = mentions(json.get("decoder"), "ByteLevel")
        || (mentions(json.get("pre_tokenizer"), "ByteLevel") && json.get("decoder").is_none_or(Value::is_null));
    let byte_fallback = mentions(json.get("decoder"), "ByteFallback");
    let underscore = !byte_level;
    let added = inner.get_added_tokens_decoder();

    let mut tokens = vec![(Vec::new(), TokenKind::Unused); size];
    for (word, id) in words {
        let Some(slot) = tokens.get_mut(id as usize) else { continue };
        *slot = match added.get(&id) {
            Some(token) if token.special => (word.into_bytes(), TokenKind::Control),
            Some(_) => (word.into_bytes(), TokenKind::Added),
            None if byte_level => (byte_level_bytes(&word), TokenKind::Normal),
            None => match byte_token(&word).filter(|_| byte_fallback) {
                Some(byte) => (vec![byte], TokenKind::Byte),
                None if underscore => (word.replace('\u{2581}', " ").into_bytes(), TokenKind::Normal),
                None => (word.into_bytes(), TokenKind::Normal),
            },
        };
    }
    Ok((Vocabulary::new(tokens)?, byte_level))
}

/// `<0x0A>` is the byte 10.
pub(super) fn byte_token(word: &str) -> Option<u8> {
    let hex = word.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

fn byte_level_bytes(word: &str) -> Vec<u8> {
    word.chars().map(byte_of_char).collect::<Option<Vec<u8>>>().unwrap_or_else(|| word.as_bytes().to_vec())
}

/// Whether this part of the file, or one inside it, has the type.
fn mentions(part: Option<&Value>, kind: &str) -> bool {
    match part {
        Some(Value::Object(map)) => {
            map.get("type").and_then(Value::as_str) == Some(kind) || map.values().any(|v| mentions(Some(v), kind))
        }
        Some(Value::Array(list)) => list.iter().any(|v| mentions(Some(v), kind)),
        _ => false,
    }
}

/// Whether decoding takes a space from the beginning.
fn strips_first_space(json: &Value) -> bool {
    let Some(decoder) = json.get("decoder") else { return false };
    let steps = decoder.get("decoders").and_then(Value::as_array).map_or(std::slice::from_ref(decoder), Vec::as_slice);
    steps.iter().any(|step| match step.get("type").and_then(Value::as_str) {
        Some("Strip") => {
            step.get("start").and_then(Value::as_u64) != Some(0) && step.get("content").is_none_or(|what| what == " ")
        }
        // Older files say it in the one way, newer ones in the other.
        Some("Metaspace") => match step.get("prepend_scheme").and_then(Value::as_str) {
            Some(scheme) => scheme != "never",
            None => step.get("add_prefix_space").and_then(Value::as_bool) != Some(false),
        },
        _ => false,
    })
}

/// Normalizers that replace text may grow it; a chain of them is an exponential that a small file could hide.
fn check_growth(json: &Value) -> Result<(), TextError> {
    fn growth(part: &Value) -> usize {
        match part {
            Value::Object(map) => {
                let own = match map.get("type").and_then(Value::as_str) {
                    Some("Replace") => map.get("content").and_then(Value::as_str).map_or(1, |c| c.len().max(1)),
                    Some("Prepend") => map.get("prepend").and_then(Value::as_str).map_or(1, |c| c.len().max(1)),
                    _ => 1,
                };
                map.values().fold(own, |product, part| product.saturating_mul(growth(part)))
            }
            Value::Array(list) => list.iter().fold(1, |product: usize, part| product.saturating_mul(growth(part))),
            _ => 1,
        }
    }
    let parts = ["normalizer", "pre_tokenizer"].iter().filter_map(|name| json.get(name));
    let got = parts.fold(1, |product: usize, part| product.saturating_mul(growth(part)));
    if got > MAX_GROWTH {
        return Err(TextError::TooLarge { what: "the growth of normalized text", got, max: MAX_GROWTH });
    }
    Ok(())
}

/// The name under which the crate knows a control token; no text holds it, since `encode` replaces these characters.
fn alias(token: u32) -> String {
    let mut name = String::from(OPEN);
    let _ = write!(name, "{token}");
    name.push(CLOSE);
    name
}

fn is_reserved(c: char) -> bool {
    matches!(c, OPEN | CLOSE)
}

fn fail(reason: &str) -> TextError {
    TextError::File { format: "Hugging Face", reason: reason.chars().take(300).collect() }
}

/// Noncharacters: Unicode keeps them for private use inside a program.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
const MAX_GROWTH: usize = 4096;
