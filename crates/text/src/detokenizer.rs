//! Tokens to text, one at a time: never half a character, and the same text as decoding everything at once.

use std::sync::Arc;

use crate::Tokenizer;

/// Streams the text of generated tokens. Control tokens give no text. Bytes that are no UTF-8 become U+FFFD, as in
/// `String::from_utf8_lossy` over the whole.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    pending: Vec<u8>,
    strip_space: bool,
}

impl Detokenizer {
    /// For text that starts here: a SentencePiece vocabulary's dummy space is dropped.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let strip_space = tokenizer.drops_first_space();
        Self { tokenizer, pending: Vec::new(), strip_space }
    }

    /// For text that continues a given text (`prefix: true`, completions): a leading space is kept.
    pub fn continuing(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, pending: Vec::new(), strip_space: false }
    }

    /// Returns the text that this token completes, possibly none.
    pub fn push(&mut self, token: u32) -> String {
        if self.tokenizer.is_special(token) {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_bytes(token);
        if bytes.is_empty() {
            return String::new();
        }
        if std::mem::take(&mut self.strip_space) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        take_complete(&mut self.pending)
    }

    /// What is left at the end of the stream: U+FFFD if a character was cut.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Takes everything from `bytes` but a character that may still be completed.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut out = String::new();
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                bytes.clear();
                return out;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                out.push_str(&String::from_utf8_lossy(valid));
                let Some(bad) = error.error_len() else {
                    let rest = rest.to_vec();
                    *bytes = rest;
                    return out;
                };
                out.push(char::REPLACEMENT_CHARACTER);
                let rest = rest.get(bad..).unwrap_or_default().to_vec();
                *bytes = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn streaming_equals_lossy(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..12)) {
            let whole: Vec<u8> = pieces.concat();
            let (mut pending, mut out) = (Vec::new(), String::new());
            for piece in &pieces {
                pending.extend_from_slice(piece);
                out.push_str(&take_complete(&mut pending));
            }
            out.push_str(&String::from_utf8_lossy(&pending));
            prop_assert_eq!(out, String::from_utf8_lossy(&whole).into_owned());
        }
    }
}
