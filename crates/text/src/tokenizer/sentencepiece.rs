//! SentencePiece `tokenizer.model`: the reader, normalization, and encoding with byte fallback. A GGUF's `llama`
//! vocabulary is the same model in other clothes and comes in through `Parts`.

use std::collections::HashMap;

use super::bpe::{self, NO_TOKEN, Symbol};
use super::charsmap::Charsmap;
use super::protobuf::{Fields, Malformed, Wire};
use super::unigram::Unigram;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Encoder, MAX_VOCABULARY, Tokenizer};
use crate::TextError;
use kind::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};

pub(super) struct SentencePiece {
    unigram: bool,
    pieces: HashMap<Box<str>, u32>,
    scores: Vec<f32>,
    longest_bytes: usize,
    unknown_score: f32,
    /// Text that is always one token, longest first.
    user_defined: Vec<(String, u32)>,
    byte_tokens: Vec<Option<u32>>,
    unknown: Option<u32>,
    charsmap: Option<Charsmap>,
    dummy_prefix: bool,
    remove_extra_spaces: bool,
    escape_spaces: bool,
    suffix_space: bool,
}

/// A vocabulary and its settings, wherever they were written.
pub(super) struct Parts {
    pub pieces: Vec<Piece>,
    pub unigram: bool,
    pub byte_fallback: bool,
    pub dummy_prefix: bool,
    pub remove_extra_spaces: bool,
    pub escape_spaces: bool,
    pub suffix_space: bool,
    pub charsmap: Vec<u8>,
    pub unknown: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

pub(crate) struct Piece {
    pub text: String,
    pub score: f32,
    /// One of [`kind`].
    pub kind: u64,
}

/// How a file's pieces are to be used, beside themselves.
pub(crate) struct PieceSettings {
    pub unigram: bool,
    /// Text is rewritten by a table, or its spaces are.
    pub charsmap: bool,
    pub dummy_prefix: bool,
    pub escape_spaces: bool,
    pub suffix_space: bool,
    pub unknown: Option<u32>,
}

/// What a `tokenizer.model` lists.
pub(crate) fn pieces(bytes: &[u8]) -> Result<(Vec<Piece>, PieceSettings), TextError> {
    let parts = read(bytes)?;
    let settings = PieceSettings {
        unigram: parts.unigram,
        charsmap: !parts.charsmap.is_empty() || parts.remove_extra_spaces,
        dummy_prefix: parts.dummy_prefix,
        escape_spaces: parts.escape_spaces,
        suffix_space: parts.suffix_space,
        unknown: parts.unknown,
    };
    Ok((parts.pieces, settings))
}

pub(super) fn load(bytes: &[u8]) -> Result<Tokenizer, TextError> {
    let parts = read(bytes)?;
    assemble("SentencePiece", parts)
}

pub(super) fn assemble(format: &'static str, parts: Parts) -> Result<Tokenizer, TextError> {
    if parts.pieces.is_empty() {
        return Err(TextError::File { format, reason: "it has no pieces".to_owned() });
    }
    let charsmap = match parts.charsmap.as_slice() {
        [] => None,
        blob => Some(
            Charsmap::parse(blob)
                .ok_or_else(|| TextError::File { format, reason: "its normalization table is malformed".to_owned() })?,
        ),
    };
    let mut encoder = SentencePiece {
        unigram: parts.unigram,
        pieces: HashMap::with_capacity(parts.pieces.len()),
        scores: parts.pieces.iter().map(|piece| piece.score).collect(),
        longest_bytes: 0,
        unknown_score: 0.0,
        user_defined: Vec::new(),
        byte_tokens: vec![None; 256],
        // A setting may name a piece that is not there.
        unknown: parts.unknown.filter(|token| (*token as usize) < parts.pieces.len()),
        charsmap,
        dummy_prefix: parts.dummy_prefix,
        remove_extra_spaces: parts.remove_extra_spaces,
        escape_spaces: parts.escape_spaces,
        suffix_space: parts.suffix_space,
    };
    let (mut lowest, mut highest) = (f32::INFINITY, f32::NEG_INFINITY);
    let mut tokens = Vec::with_capacity(parts.pieces.len());
    for (token, piece) in parts.pieces.iter().enumerate() {
        let token = u32::try_from(token).unwrap_or(NO_TOKEN);
        let text = || piece.text.replace(SPACE, " ").into_bytes();
        tokens.push(match piece.kind {
            UNKNOWN => {
                encoder.unknown.get_or_insert(token);
                (piece.text.clone().into_bytes(), TokenKind::Control)
            }
            CONTROL => (piece.text.clone().into_bytes(), TokenKind::Control),
            USER_DEFINED => (text(), TokenKind::Added),
            UNUSED => (text(), TokenKind::Unused),
            BYTE => {
                let byte = super::huggingface::byte_token(&piece.text)
                    .ok_or_else(|| TextError::File { format, reason: format!("its byte piece {token} has no byte") })?;
                if let Some(slot) = encoder.byte_tokens.get_mut(byte as usize).filter(|_| parts.byte_fallback) {
                    *slot = Some(token);
                }
                (vec![byte], TokenKind::Byte)
            }
            _ => (text(), TokenKind::Normal),
        });
        if matches!(piece.kind, NORMAL | USER_DEFINED) && !piece.text.is_empty() {
            encoder.longest_bytes = encoder.longest_bytes.max(piece.text.len());
            encoder.pieces.entry(piece.text.as_str().into()).or_insert(token);
        }
        if piece.kind == NORMAL {
            (lowest, highest) = (lowest.min(piece.score), highest.max(piece.score));
        }
        if piece.kind == USER_DEFINED && !piece.text.is_empty() {
            encoder.user_defined.push((piece.text.clone(), token));
        }
    }
    encoder.unknown_score = lowest - UNKNOWN_PENALTY;
    for (text, token) in &encoder.user_defined {
        if let Some(score) = encoder.scores.get_mut(*token as usize) {
            *score = text.chars().count() as f32 * highest - 0.1;
        }
    }
    encoder.user_defined.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));

    let vocabulary = Vocabulary::new(tokens)?;
    let known = |token: &u32| (*token as usize) < vocabulary.len();
    let bos = parts.bos.filter(known);
    let eos = parts.eos.filter(known);
    let mut tokenizer = Tokenizer {
        tekken: None,
        drops_first_space: encoder.dummy_prefix && !encoder.suffix_space,
        vocabulary,
        encoder: Encoder::SentencePiece(Box::new(encoder)),
        add_bos: bos.is_some(),
        bos,
        eos: eos.into_iter().collect(),
    };
    tokenizer.add_usual_ends();
    Ok(tokenizer)
}

impl SentencePiece {
    pub fn encode(&self, _vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let text = self.normalize(text);
        let symbols = if self.unigram {
            let model = Unigram {
                pieces: &self.pieces,
                scores: &self.scores,
                longest_bytes: self.longest_bytes,
                unknown_score: self.unknown_score,
            };
            model.segment(&text)
        } else {
            self.merge(&text)
        };
        let mut after_unknown = false;
        for symbol in symbols {
            if symbol.token != NO_TOKEN {
                out.push(symbol.token);
                after_unknown = false;
                continue;
            }
            let bytes = text.as_bytes().get(symbol.start..symbol.end).unwrap_or_default();
            let tokens: Option<Vec<u32>> =
                bytes.iter().map(|byte| self.byte_tokens.get(*byte as usize).copied().flatten()).collect();
            match (tokens, self.unknown) {
                (Some(tokens), _) => out.extend(tokens),
                // Neighbouring unknown characters are one unknown piece.
                (None, Some(unknown)) if !after_unknown => {
                    out.push(unknown);
                    after_unknown = true;
                }
                _ => {}
            }
        }
    }

    fn merge(&self, text: &str) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(text.len());
        let mut frozen = std::collections::HashSet::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let user = self.user_defined_at(rest);
            let len = user.map_or_else(|| rest.chars().next().map_or(1, char::len_utf8), |(len, _)| len);
            let token = rest.get(..len).and_then(|piece| self.pieces.get(piece)).copied().unwrap_or(NO_TOKEN);
            if user.is_some() {
                frozen.insert(at);
            }
            symbols.push(Symbol { start: at, end: at + len, token });
            at += len;
        }
        bpe::merge(symbols, |left, right| {
            if frozen.contains(&left.start) || frozen.contains(&right.start) {
                return None;
            }
            let token = *self.pieces.get(text.get(left.start..right.end)?)?;
            let score = self.scores.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
            Some((descending(score), token))
        })
    }

    fn user_defined_at(&self, text: &str) -> Option<(usize, u32)> {
        let (name, token) = self.user_defined.iter().find(|(name, _)| text.starts_with(name.as_str()))?;
        Some((name.len(), *token))
    }

    /// Source: sentencepiece `normalizer.cc`: mapping, space handling and the dummy prefix, in this order.
    fn normalize(&self, text: &str) -> String {
        let mut mapped = String::with_capacity(text.len() + 3);
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let one = rest.chars().next().map_or(1, char::len_utf8);
            if let Some((len, _)) = self.user_defined_at(rest) {
                mapped.push_str(rest.get(..len).unwrap_or(""));
                at += len;
            } else if let Some((replacement, len)) =
                self.charsmap.as_ref().and_then(|map| map.longest_prefix(rest.as_bytes()))
            {
                mapped.push_str(replacement);
                at += len.max(1);
                while !text.is_char_boundary(at) {
                    at += 1;
                }
            } else {
                mapped.push_str(rest.get(..one).unwrap_or(""));
                at += one;
            }
        }
        if self.remove_extra_spaces {
            mapped = mapped.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        }
        if mapped.is_empty() {
            return mapped;
        }
        if self.dummy_prefix {
            if self.suffix_space {
                mapped.push(' ');
            } else {
                mapped.insert(0, ' ');
            }
        }
        if self.escape_spaces { mapped.replace(' ', SPACE) } else { mapped }
    }
}

/// Higher scores first: a rank that grows as the score falls.
fn descending(score: f32) -> u64 {
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!ascending)
}

fn read(bytes: &[u8]) -> Result<Parts, TextError> {
    let malformed = |_: Malformed| fail("it is cut short or no SentencePiece model");
    let mut parts = Parts {
        pieces: Vec::new(),
        unigram: true,
        byte_fallback: false,
        dummy_prefix: true,
        remove_extra_spaces: true,
        escape_spaces: true,
        suffix_space: false,
        charsmap: Vec::new(),
        unknown: Some(0),
        bos: Some(1),
        eos: Some(2),
    };
    for field in Fields::new(bytes) {
        match field.map_err(malformed)? {
            (1, Wire::Bytes(message)) => {
                if parts.pieces.len() >= MAX_VOCABULARY {
                    let got = parts.pieces.len() + 1;
                    return Err(TextError::TooLarge { what: "the vocabulary", got, max: MAX_VOCABULARY });
                }
                parts.pieces.push(read_piece(message)?);
            }
            (2, Wire::Bytes(message)) => read_trainer(message, &mut parts)?,
            (3, Wire::Bytes(message)) => {
                for field in Fields::new(message) {
                    match field.map_err(malformed)? {
                        (2, Wire::Bytes(blob)) => parts.charsmap = blob.to_vec(),
                        (3, Wire::Varint(on)) => parts.dummy_prefix = on != 0,
                        (4, Wire::Varint(on)) => parts.remove_extra_spaces = on != 0,
                        (5, Wire::Varint(on)) => parts.escape_spaces = on != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(parts)
}

fn read_trainer(message: &[u8], parts: &mut Parts) -> Result<(), TextError> {
    // Negative numbers mean "none"; as a varint they are huge.
    let id = |value: u64| u32::try_from(value).ok();
    for field in Fields::new(message) {
        match field.map_err(|_| fail("its settings are malformed"))? {
            (3, Wire::Varint(1)) => parts.unigram = true,
            (3, Wire::Varint(2)) => parts.unigram = false,
            (3, Wire::Varint(_)) => return Err(fail("it is neither a BPE nor a unigram model")),
            (24, Wire::Varint(on)) => parts.suffix_space = on != 0,
            (35, Wire::Varint(on)) => parts.byte_fallback = on != 0,
            (40, Wire::Varint(value)) => parts.unknown = id(value),
            (41, Wire::Varint(value)) => parts.bos = id(value),
            (42, Wire::Varint(value)) => parts.eos = id(value),
            _ => {}
        }
    }
    Ok(())
}

fn read_piece(message: &[u8]) -> Result<Piece, TextError> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: NORMAL };
    for field in Fields::new(message) {
        match field.map_err(|_| fail("a piece is malformed"))? {
            (1, Wire::Bytes(text)) => {
                piece.text = std::str::from_utf8(text).map_err(|_| fail("a piece is no UTF-8"))?.to_owned();
            }
            (2, Wire::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Varint(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    Ok(piece)
}

fn fail(reason: &str) -> TextError {
    TextError::File { format: "SentencePiece", reason: reason.to_owned() }
}

/// What a piece is, as SentencePiece and GGUF number it.
pub(crate) mod kind {
    pub(crate) const NORMAL: u64 = 1;
    pub(crate) const UNKNOWN: u64 = 2;
    pub(crate) const CONTROL: u64 = 3;
    pub(crate) const USER_DEFINED: u64 = 4;
    pub(crate) const UNUSED: u64 = 5;
    pub(crate) const BYTE: u64 = 6;
}

/// SentencePiece's visible space.
pub(crate) const SPACE: &str = "\u{2581}";
const UNKNOWN_PENALTY: f32 = 10.0;
