//! The vocabulary in a GGUF's metadata: byte-level BPE (`gpt2`), SentencePiece by scores (`llama`), or a whole
//! `tokenizer.json` (`tokenizer.huggingface.json`), which wins where it is present.

use std::collections::HashMap;

use falaj_artifact::ArtifactError;
use falaj_artifact::gguf::{FromValue, Gguf};

use super::bpe::{ByteLevelBpe, Ranks, byte_of_char};
use super::pretokenize::{Pretokenizer, takes_whole};
use super::sentencepiece::{self, Parts, Piece};
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Encoder, MAX_VOCABULARY, Tokenizer, huggingface};
use crate::TextError;

pub(super) fn load(gguf: &Gguf) -> Result<Tokenizer, TextError> {
    let mut tokenizer = match optional::<&str>(gguf, "tokenizer.huggingface.json")? {
        Some(json) => huggingface::load(json.as_bytes())?,
        None => match gguf.str("tokenizer.ggml.model").map_err(fail)? {
            "gpt2" => load_gpt2(gguf)?,
            "llama" => load_llama(gguf)?,
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(reason(format!("its vocabulary is of type `{other}`; known ones are gpt2 and llama")));
            }
        },
    };
    if let Some(token) = optional::<u32>(gguf, "tokenizer.ggml.bos_token_id")? {
        tokenizer.set_bos(token);
    }
    let mut ends = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ends.extend(optional::<u32>(gguf, &format!("tokenizer.ggml.{key}"))?);
    }
    let usual = std::mem::take(&mut tokenizer.eos);
    ends.extend(usual);
    let mut seen = Vec::new();
    ends.retain(|token| {
        !seen.contains(token) && {
            seen.push(*token);
            true
        }
    });
    tokenizer.set_eos(&ends);
    if let Some(add) = optional::<bool>(gguf, "tokenizer.ggml.add_bos_token")? {
        tokenizer.add_bos = add;
    }
    Ok(tokenizer)
}

fn load_gpt2(gguf: &Gguf) -> Result<Tokenizer, TextError> {
    let words: Vec<&str> = words(gguf)?;
    let kinds = kinds(gguf, words.len())?;
    let pre = optional::<&str>(gguf, "tokenizer.ggml.pre")?.unwrap_or("default");

    let mut tokens = Vec::with_capacity(words.len());
    let mut by_word: HashMap<&str, u32> = HashMap::with_capacity(words.len());
    let mut by_bytes = HashMap::with_capacity(words.len());
    let mut byte_tokens = vec![None; 256];
    let mut added = Vec::new();
    for (token, (word, kind)) in (0u32..).zip(words.iter().zip(&kinds)) {
        let (bytes, kind) = match kind {
            2 | 3 => (word.as_bytes().to_vec(), TokenKind::Control),
            4 => {
                added.push(((*word).to_owned(), token));
                (word.as_bytes().to_vec(), TokenKind::Added)
            }
            5 => (word.as_bytes().to_vec(), TokenKind::Unused),
            _ => {
                let bytes: Option<Vec<u8>> = word.chars().map(byte_of_char).collect();
                (bytes.unwrap_or_else(|| word.as_bytes().to_vec()), TokenKind::Normal)
            }
        };
        if kind == TokenKind::Normal {
            by_word.entry(word).or_insert(token);
            if let [byte] = bytes.as_slice()
                && let Some(slot) = byte_tokens.get_mut(*byte as usize)
            {
                *slot = Some(token);
            }
            by_bytes.insert(bytes.clone().into_boxed_slice(), token);
        }
        tokens.push((bytes, kind));
    }
    added.sort_by_key(|(text, _): &(String, u32)| std::cmp::Reverse(text.len()));

    let mut pairs = HashMap::new();
    let merges = gguf.strings("tokenizer.ggml.merges").map_err(fail)?;
    for (rank, merge) in (0u32..).zip(merges.iter()) {
        // The first character is never the separator: a lone space is written `Ġ`.
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(reason(format!("merge {rank} is no pair")));
        };
        let joined = format!("{left}{right}");
        if let (Some(a), Some(b), Some(c)) = (by_word.get(left), by_word.get(right), by_word.get(joined.as_str())) {
            pairs.entry((*a, *b)).or_insert((rank, *c));
        }
    }
    let vocabulary = Vocabulary::new(tokens)?;
    let encoder = ByteLevelBpe {
        pretokenizer: Pretokenizer::named(pre)?,
        ranks: Ranks::Pairs(pairs),
        byte_tokens,
        added,
        whole_first: takes_whole(pre),
        by_bytes,
        unknown: None,
    };
    let mut tokenizer = Tokenizer {
        tekken: None,
        vocabulary,
        encoder: Encoder::ByteLevel(Box::new(encoder)),
        bos: None,
        eos: Vec::new(),
        add_bos: takes_whole(pre),
        drops_first_space: false,
    };
    tokenizer.add_usual_ends();
    Ok(tokenizer)
}

fn load_llama(gguf: &Gguf) -> Result<Tokenizer, TextError> {
    let words = words(gguf)?;
    let kinds = kinds(gguf, words.len())?;
    let scores = gguf.f32s("tokenizer.ggml.scores").map_err(fail)?;
    if scores.len() != words.len() {
        return Err(reason(format!("it has {} tokens and {} scores", words.len(), scores.len())));
    }
    let pieces = words
        .iter()
        .zip(kinds)
        .zip(scores)
        .map(|((word, kind), score)| Piece { text: (*word).to_owned(), score: *score, kind })
        .collect();
    let parts = Parts {
        pieces,
        unigram: false,
        byte_fallback: true,
        dummy_prefix: optional::<bool>(gguf, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        remove_extra_spaces: false,
        escape_spaces: true,
        suffix_space: false,
        charsmap: Vec::new(),
        unknown: Some(optional::<u32>(gguf, "tokenizer.ggml.unknown_token_id")?.unwrap_or(0)),
        bos: Some(optional::<u32>(gguf, "tokenizer.ggml.bos_token_id")?.unwrap_or(1)),
        eos: Some(optional::<u32>(gguf, "tokenizer.ggml.eos_token_id")?.unwrap_or(2)),
    };
    sentencepiece::assemble("GGUF", parts)
}

fn words(gguf: &Gguf) -> Result<Vec<&str>, TextError> {
    let words = gguf.strings("tokenizer.ggml.tokens").map_err(fail)?;
    if words.len() > MAX_VOCABULARY {
        return Err(TextError::TooLarge { what: "the vocabulary", got: words.len(), max: MAX_VOCABULARY });
    }
    if words.is_empty() {
        return Err(reason("it has no tokens".to_owned()));
    }
    Ok(words.iter().collect())
}

/// The kind of each token, as SentencePiece numbers them; all normal when the file does not say.
fn kinds(gguf: &Gguf, count: usize) -> Result<Vec<u64>, TextError> {
    if !gguf.metadata.contains_key("tokenizer.ggml.token_type") {
        return Ok(vec![sentencepiece::kind::NORMAL; count]);
    }
    let kinds = gguf.i32s("tokenizer.ggml.token_type").map_err(fail)?;
    if kinds.len() != count {
        return Err(reason(format!("it has {count} tokens and {} token types", kinds.len())));
    }
    Ok(kinds.iter().map(|kind| u64::try_from(*kind).unwrap_or(sentencepiece::kind::NORMAL)).collect())
}

fn optional<'a, T: FromValue<'a>>(gguf: &'a Gguf, key: &str) -> Result<Option<T>, TextError> {
    gguf.get(key).map_err(fail)
}

fn fail(error: ArtifactError) -> TextError {
    reason(error.to_string())
}

fn reason(reason: String) -> TextError {
    TextError::File { format: "GGUF", reason }
}
