//! Mistral's `tekken.json`: a tiktoken-style vocabulary, its special tokens in front of it.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::bpe::{ByteLevelBpe, Ranks};
use super::pretokenize::Pretokenizer;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Encoder, MAX_VOCABULARY, Tokenizer};
use crate::TextError;

/// What a tekken file says about the model's instruct format.
#[derive(Debug, Clone)]
pub(crate) struct TekkenFacts {
    /// Such as `v3`.
    pub version: Option<String>,
    /// v15: which settings the model takes.
    pub settings: Option<ModelSettings>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ModelSettings {
    pub reasoning_effort: Option<EffortSetting>,
    pub json_schema: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct EffortSetting {
    pub values: Vec<String>,
    pub default: Option<String>,
}

#[derive(Deserialize)]
struct File<'a> {
    config: Config,
    #[serde(borrow)]
    vocab: Vec<Token<'a>>,
    special_tokens: Option<Vec<SpecialToken>>,
    model_settings_builder: Option<ModelSettings>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Token<'a> {
    #[serde(borrow)]
    token_bytes: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct SpecialToken {
    rank: usize,
    token_str: String,
}

pub(super) fn load(bytes: &[u8]) -> Result<Tokenizer, TextError> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| fail(&error.to_string()))?;
    let specials = file.config.default_num_special_tokens;
    let size = file.config.default_vocab_size;
    if size > MAX_VOCABULARY || specials > MAX_VOCABULARY {
        return Err(TextError::TooLarge { what: "the vocabulary", got: size.max(specials), max: MAX_VOCABULARY });
    }
    let texts = size.checked_sub(specials).ok_or_else(|| fail("it has more special tokens than tokens"))?;
    if file.vocab.len() < texts {
        return Err(fail(&format!("it promises {texts} tokens and has {}", file.vocab.len())));
    }
    let mut names: Vec<String> = (0..specials).map(|rank| format!("<SPECIAL_{rank}>")).collect();
    let given = file.special_tokens.unwrap_or_else(old_special_tokens);
    for special in given {
        let slot = names.get_mut(special.rank).ok_or_else(|| {
            fail(&format!("the special token `{}` is beyond the {specials} it has", short(&special.token_str)))
        })?;
        *slot = special.token_str;
    }

    let mut tokens: Vec<(Vec<u8>, TokenKind)> =
        names.into_iter().map(|name| (name.into_bytes(), TokenKind::Control)).collect();
    let mut by_bytes = HashMap::with_capacity(texts);
    let mut byte_tokens = vec![None; 256];
    for (rank, token) in file.vocab.iter().take(texts).enumerate() {
        let bytes = STANDARD
            .decode(token.token_bytes.as_bytes())
            .map_err(|_| fail(&format!("the bytes of token {rank} are no base64")))?;
        let id = u32::try_from(specials + rank).map_err(|_| fail("it has too many tokens"))?;
        if let [byte] = bytes.as_slice()
            && let Some(slot) = byte_tokens.get_mut(*byte as usize)
        {
            *slot = Some(id);
        }
        by_bytes.insert(bytes.clone().into_boxed_slice(), id);
        tokens.push((bytes, TokenKind::Normal));
    }
    if byte_tokens.contains(&None) {
        return Err(fail("some bytes have no token"));
    }
    let pretokenizer = Pretokenizer::new("tekken", &[&file.config.pattern])?;
    let vocabulary = Vocabulary::new(tokens)?;
    let encoder = ByteLevelBpe {
        pretokenizer,
        ranks: Ranks::Joined,
        byte_tokens,
        added: Vec::new(),
        whole_first: true,
        by_bytes,
        unknown: None,
    };
    let bos = vocabulary.control("<s>");
    let eos = vocabulary.control("</s>").into_iter().collect();
    Ok(Tokenizer {
        vocabulary,
        encoder: Encoder::ByteLevel(Box::new(encoder)),
        bos,
        eos,
        add_bos: bos.is_some(),
        drops_first_space: false,
        tekken: Some(TekkenFacts { version: file.config.version, settings: file.model_settings_builder }),
    })
}

/// Files before version 11 may leave the list out. Source: mistral-common, `Tekkenizer.DEPRECATED_SPECIAL_TOKENS`.
fn old_special_tokens() -> Vec<SpecialToken> {
    let names = [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
        "[TOOL_CALLS]",
        "[IMG]",
        "<pad>",
        "[IMG_BREAK]",
        "[IMG_END]",
        "[PREFIX]",
        "[MIDDLE]",
        "[SUFFIX]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[TOOL_CONTENT]",
    ];
    names.iter().enumerate().map(|(rank, name)| SpecialToken { rank, token_str: (*name).to_owned() }).collect()
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

fn fail(reason: &str) -> TextError {
    TextError::File { format: "tekken", reason: reason.chars().take(300).collect() }
}
