//! The tokens themselves: bytes, kind, and the names of control tokens. One arena, so that a vocabulary of 131,072
//! tokens is three allocations.

use std::collections::{BTreeMap, HashMap};

use super::MAX_VOCABULARY;
use crate::TextError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Structure: has a name, gives no text, and no plain text encodes to it.
    Control,
    /// Text that is always one token.
    Added,
    /// One raw byte.
    Byte,
    /// A hole in the numbering, or a token that nothing produces.
    Unused,
}

pub(crate) struct Vocabulary {
    arena: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    controls: BTreeMap<String, u32>,
    added: BTreeMap<String, u32>,
    /// Control tokens by first byte, longest first.
    control_starts: HashMap<u8, Vec<(String, u32)>>,
}

impl Vocabulary {
    /// Tokens in order of their number.
    pub fn new(tokens: impl IntoIterator<Item = (Vec<u8>, TokenKind)>) -> Result<Self, TextError> {
        let mut vocabulary = Self {
            arena: Vec::new(),
            ends: Vec::new(),
            kinds: Vec::new(),
            controls: BTreeMap::new(),
            added: BTreeMap::new(),
            control_starts: HashMap::new(),
        };
        for (bytes, kind) in tokens {
            vocabulary.push(&bytes, kind)?;
        }
        for (name, token) in &vocabulary.controls {
            if let Some(first) = name.as_bytes().first() {
                vocabulary.control_starts.entry(*first).or_default().push((name.clone(), *token));
            }
        }
        for names in vocabulary.control_starts.values_mut() {
            names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        }
        Ok(vocabulary)
    }

    fn push(&mut self, bytes: &[u8], kind: TokenKind) -> Result<(), TextError> {
        let token = self.kinds.len();
        if token >= MAX_VOCABULARY {
            return Err(TextError::TooLarge { what: "the vocabulary", got: token + 1, max: MAX_VOCABULARY });
        }
        self.arena.extend_from_slice(bytes);
        let end = u32::try_from(self.arena.len()).map_err(|_| TextError::TooLarge {
            what: "the vocabulary's text",
            got: self.arena.len(),
            max: u32::MAX as usize,
        })?;
        self.ends.push(end);
        self.kinds.push(kind);
        let names = match kind {
            TokenKind::Control => &mut self.controls,
            TokenKind::Added => &mut self.added,
            _ => return Ok(()),
        };
        if let Ok(name) = std::str::from_utf8(bytes) {
            names.entry(name.to_owned()).or_insert(token as u32);
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    pub fn bytes(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let Some(end) = self.ends.get(token) else { return &[] };
        let start = token.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.arena.get(start as usize..*end as usize).unwrap_or(&[])
    }

    pub fn kind(&self, token: u32) -> TokenKind {
        self.kinds.get(token as usize).copied().unwrap_or(TokenKind::Unused)
    }

    pub fn control(&self, name: &str) -> Option<u32> {
        self.controls.get(name).copied()
    }

    pub fn named(&self, name: &str) -> Option<u32> {
        self.control(name).or_else(|| self.added.get(name).copied())
    }

    pub fn controls(&self) -> impl Iterator<Item = (&str, u32)> {
        self.controls.iter().map(|(name, token)| (name.as_str(), *token))
    }

    /// The longest control token whose name begins this text, and the name's length in bytes.
    pub fn control_at(&self, text: &str) -> Option<(u32, usize)> {
        let first = text.as_bytes().first()?;
        let (name, token) = self.control_starts.get(first)?.iter().find(|(name, _)| text.starts_with(name))?;
        Some((*token, name.len()))
    }
}
