//! Cuts text into the pieces inside which byte pairs may merge. The patterns are part of a vocabulary: the same tokens
//! with another pattern are another tokenizer.

use fancy_regex::Regex;

use crate::TextError;

/// Regular expressions applied one after the other, each to the pieces of the one before.
pub(super) struct Pretokenizer {
    patterns: Vec<Regex>,
}

impl Pretokenizer {
    pub fn new(format: &'static str, patterns: &[&str]) -> Result<Self, TextError> {
        let compile = |pattern: &&str| {
            if pattern.len() > MAX_PATTERN_BYTES {
                return Err(TextError::TooLarge {
                    what: "a split pattern",
                    got: pattern.len(),
                    max: MAX_PATTERN_BYTES,
                });
            }
            Regex::new(pattern)
                .map_err(|error| TextError::File { format, reason: format!("a split pattern is wrong: {error}") })
        };
        Ok(Self { patterns: patterns.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// The patterns a GGUF names in `tokenizer.ggml.pre`. Source: llama.cpp's list of pre-tokenizer types.
    pub fn named(name: &str) -> Result<Self, TextError> {
        let Some((_, patterns)) = PRETOKENIZERS.iter().find(|(names, _)| names.contains(&name)) else {
            let known = "llama-bpe, tekken, gpt-2, qwen2, smollm, starcoder, default";
            let name: String = name.chars().take(40).collect();
            return Err(TextError::File {
                format: "GGUF",
                reason: format!("its pre-tokenizer `{name}` is unknown; known ones are {known}"),
            });
        };
        Self::new("GGUF", patterns)
    }

    pub fn split(&self, text: &str, piece: &mut dyn FnMut(&str)) {
        split_with(&self.patterns, text, piece);
    }
}

fn split_with(patterns: &[Regex], text: &str, piece: &mut dyn FnMut(&str)) {
    if text.is_empty() {
        return;
    }
    let Some((pattern, rest)) = patterns.split_first() else {
        piece(text);
        return;
    };
    let mut from = 0;
    for found in pattern.find_iter(text) {
        // A pattern that backtracks beyond the engine's limit leaves the rest uncut: other tokens, but no hang.
        let Ok(found) = found else { break };
        if found.end() == found.start() {
            continue;
        }
        split_with(rest, text.get(from..found.start()).unwrap_or(""), piece);
        split_with(rest, found.as_str(), piece);
        from = found.end();
    }
    split_with(rest, text.get(from..).unwrap_or(""), piece);
}

/// Whether llama.cpp, cutting in this way, looks a whole piece up before it merges: Hugging Face's `ignore_merges`.
pub(crate) fn takes_whole(name: &str) -> bool {
    matches!(name, "llama-bpe" | "llama3" | "llama-v3" | "tekken" | "pixtral")
}

/// What GGUF calls the ways to cut, the usual name first, and their patterns.
pub(crate) const PRETOKENIZERS: &[(&[&str], &[&str])] = &[
    (&["llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"], &[LLAMA3]),
    (&["tekken", "pixtral"], &[TEKKEN]),
    (&["gpt-2", "gpt2", "phi-2", "jina-es", "jina-de", "mpt", "olmo", ""], &[GPT2]),
    (&["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"], &[QWEN2]),
    (&["smollm", "starcoder", "refact", "command-r", "codeshell", "granite"], &[r"\p{N}", GPT2]),
    (&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2_OPEN, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

const MAX_PATTERN_BYTES: usize = 4096;

pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT2_OPEN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
