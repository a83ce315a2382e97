//! The vocabulary of a model: text to tokens and token to bytes, whatever file it came from. Each file format has a
//! module below; they all end in one `Tokenizer`. Streaming text is `Detokenizer`'s work.

mod bpe;
mod charsmap;
mod cut;
mod gguf;
mod huggingface;
mod learn;
mod pretokenize;
mod protobuf;
mod sentencepiece;
mod tekken;
mod unigram;
mod vocabulary;

use falaj_artifact::gguf::Gguf;

pub(crate) use cut::{Crossed, Cut};
pub use learn::learn_vocabulary;
pub(crate) use pretokenize::{GPT2, PRETOKENIZERS, takes_whole};
pub(crate) use sentencepiece::{Piece, SPACE, kind as piece_kind, pieces as sentencepiece_pieces};
pub(crate) use tekken::TekkenFacts;
pub use vocabulary::TokenKind;
use vocabulary::Vocabulary;

use crate::{InstructVersion, TextError};

/// Text to tokens and back. Immutable; share it with `Arc`.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    encoder: Encoder,
    bos: Option<u32>,
    /// The first is the model's EOS; the others end a turn as well.
    eos: Vec<u32>,
    /// Whether plain prompts (not chat templates) begin with BOS.
    add_bos: bool,
    /// The first token's leading space is an artefact of encoding.
    drops_first_space: bool,
    tekken: Option<TekkenFacts>,
}

/// How control tokens written out in the text are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// As text: no input can produce a control token.
    Plain,
    /// As the control tokens they name. For text whose author is trusted, never for messages.
    Parse,
}

/// Text in which control tokens are already told apart from what looks like them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Text(String),
    Control(u32),
}

enum Encoder {
    HuggingFace(Box<huggingface::HuggingFace>),
    ByteLevel(Box<bpe::ByteLevelBpe>),
    SentencePiece(Box<sentencepiece::SentencePiece>),
}

impl Tokenizer {
    /// Hugging Face `tokenizer.json`. BOS and EOS are guessed from its post-processor and usual names: see
    /// [`Tokenizer::set_bos`] and [`Tokenizer::set_eos`] for when a config file knows better.
    pub fn from_tokenizer_json(bytes: &[u8]) -> Result<Self, TextError> {
        huggingface::load(bytes)
    }

    /// Mistral's `tekken.json`.
    pub fn from_tekken(bytes: &[u8]) -> Result<Self, TextError> {
        tekken::load(bytes)
    }

    /// SentencePiece `tokenizer.model` (BPE or unigram).
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Self, TextError> {
        sentencepiece::load(bytes)
    }

    /// The vocabulary in a GGUF's metadata.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextError> {
        gguf::load(gguf)
    }

    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The tokens of a text, without BOS or EOS.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        match special {
            Special::Plain => self.encode_segments(&[Segment::Text(text.to_owned())]),
            Special::Parse => self.encode_segments(&self.split_controls(text)),
        }
    }

    pub(crate) fn encode_segments(&self, segments: &[Segment]) -> Vec<u32> {
        if let Encoder::HuggingFace(encoder) = &self.encoder {
            return encoder.encode(segments);
        }
        let mut tokens = Vec::new();
        for segment in segments {
            match segment {
                Segment::Control(token) => tokens.push(*token),
                Segment::Text(text) => match &self.encoder {
                    Encoder::HuggingFace(_) => {}
                    Encoder::ByteLevel(encoder) => encoder.encode(&self.vocabulary, text, &mut tokens),
                    Encoder::SentencePiece(encoder) => encoder.encode(&self.vocabulary, text, &mut tokens),
                },
            }
        }
        tokens
    }

    /// Cuts the text at the control tokens it names; the leftmost, then the longest wins.
    pub(crate) fn split_controls(&self, text: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        let (mut from, mut at) = (0, 0);
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            match self.vocabulary.control_at(rest) {
                Some((token, len)) => {
                    push_text(&mut segments, text.get(from..at));
                    segments.push(Segment::Control(token));
                    at += len;
                    from = at;
                }
                None => at += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
        push_text(&mut segments, text.get(from..));
        segments
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos.first().copied()
    }

    /// Every token that ends a turn; the model's EOS first. May be empty.
    pub fn eos_tokens(&self) -> Vec<u32> {
        self.eos.clone()
    }

    /// Whether a plain prompt begins with BOS (chat formats write their own).
    pub fn add_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Sets BOS from the model's configuration. Unknown tokens are ignored.
    pub fn set_bos(&mut self, token: u32) {
        if (token as usize) < self.vocab_size() {
            self.bos = Some(token);
        }
    }

    /// Sets the tokens that end a turn, the most important first. Tokens outside the vocabulary are ignored.
    pub fn set_eos(&mut self, tokens: &[u32]) {
        let known: Vec<u32> = tokens.iter().copied().filter(|token| (*token as usize) < self.vocab_size()).collect();
        if !known.is_empty() {
            self.eos = known;
        }
    }

    /// The bytes that a token stands for; a control token's name; empty for a token outside the vocabulary.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.vocabulary.bytes(token)
    }

    pub fn token_kind(&self, token: u32) -> TokenKind {
        self.vocabulary.kind(token)
    }

    /// The token of a control token's name, such as `[INST]`.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.vocabulary.control(name)
    }

    /// The token with this name among control and added tokens, such as `[INST]` or `<tool_call>`.
    pub fn named_token(&self, name: &str) -> Option<u32> {
        self.vocabulary.named(name)
    }

    /// Whether the token is a control token: it has no text.
    pub fn is_special(&self, token: u32) -> bool {
        self.vocabulary.kind(token) == TokenKind::Control
    }

    /// Control tokens and their names.
    pub fn specials(&self) -> impl Iterator<Item = (&str, u32)> {
        self.vocabulary.controls()
    }

    /// The text of the tokens. Control tokens give none, bytes that are no UTF-8 give U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for token in tokens.iter().filter(|token| !self.is_special(**token)) {
            bytes.extend_from_slice(self.token_bytes(*token));
        }
        let text = if self.drops_first_space { bytes.strip_prefix(b" ").unwrap_or(&bytes) } else { &bytes };
        String::from_utf8_lossy(text).into_owned()
    }

    /// The instruct version that a tekken file names.
    ///
    /// # Errors
    /// `File` for one that is unknown.
    pub fn instruct_version(&self) -> Result<Option<InstructVersion>, TextError> {
        self.tekken.as_ref().and_then(|facts| facts.version.as_ref()).map(|version| version.parse()).transpose()
    }

    /// What the file said about the instruct format; tekken only.
    pub(crate) fn tekken(&self) -> Option<&TekkenFacts> {
        self.tekken.as_ref()
    }

    pub(crate) fn drops_first_space(&self) -> bool {
        self.drops_first_space
    }

    /// Sets EOS to every usual end-of-turn token the vocabulary has, after the ones already known.
    fn add_usual_ends(&mut self) {
        for name in USUAL_ENDS {
            if let Some(token) = self.special_id(name).filter(|token| !self.eos.contains(token)) {
                // `</s>` beside `<|im_end|>` is an end too, but a model with `</s>` uses no other by accident.
                self.eos.push(token);
            }
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

fn push_text(segments: &mut Vec<Segment>, text: Option<&str>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        segments.push(Segment::Text(text.to_owned()));
    }
}

/// Tokens that end a turn in models whose files name only one end.
const USUAL_ENDS: [&str; 6] =
    ["</s>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>", "<|end_of_turn|>"];

/// More tokens than any published vocabulary has; also what the constraint engine's trie can hold.
const MAX_VOCABULARY: usize = 1 << 20;
