//! Byte pair encoding: the merge loop, shared by byte-level vocabularies (GPT-2 merges, tekken ranks) and
//! SentencePiece (scores). Linearithmic, so that a hostile megabyte without spaces costs no more than its sort.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::pretokenize::Pretokenizer;
use super::vocabulary::Vocabulary;

/// Byte-level BPE: a regular expression cuts the text, then pairs merge by rank.
pub(super) struct ByteLevelBpe {
    pub pretokenizer: Pretokenizer,
    pub ranks: Ranks,
    /// The token of each single byte.
    pub byte_tokens: Vec<Option<u32>>,
    /// Text that is always one token, longest first.
    pub added: Vec<(String, u32)>,
    /// Look the whole piece up before merging (tiktoken does, and Llama 3's `ignore_merges`).
    pub whole_first: bool,
    pub by_bytes: HashMap<Box<[u8]>, u32>,
    pub unknown: Option<u32>,
}

/// When two neighbours may merge, and how early.
pub(super) enum Ranks {
    /// tiktoken: any two whose joined bytes are a token; its number is the rank.
    Joined,
    /// GPT-2: listed pairs; (left, right) to (rank, merged).
    Pairs(HashMap<(u32, u32), (u32, u32)>),
}

impl ByteLevelBpe {
    pub fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut plain_from = 0;
        let mut at = 0;
        if !self.added.is_empty() {
            while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
                if let Some((name, token)) = self.added.iter().find(|(name, _)| rest.starts_with(name.as_str())) {
                    self.encode_plain(vocabulary, text.get(plain_from..at).unwrap_or(""), out);
                    out.push(*token);
                    at += name.len();
                    plain_from = at;
                } else {
                    at += rest.chars().next().map_or(1, char::len_utf8);
                }
            }
        }
        self.encode_plain(vocabulary, text.get(plain_from..).unwrap_or(""), out);
    }

    fn encode_plain(&self, _vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        self.pretokenizer.split(text, &mut |piece| self.encode_piece(piece.as_bytes(), out));
    }

    fn encode_piece(&self, piece: &[u8], out: &mut Vec<u32>) {
        if self.whole_first
            && let Some(token) = self.by_bytes.get(piece)
        {
            out.push(*token);
            return;
        }
        let symbols = piece.iter().enumerate().map(|(at, byte)| Symbol {
            start: at,
            end: at + 1,
            token: self.byte_tokens.get(*byte as usize).copied().flatten().unwrap_or(NO_TOKEN),
        });
        let merged = merge(symbols.collect(), |left, right| match &self.ranks {
            Ranks::Joined => {
                let token = *self.by_bytes.get(piece.get(left.start..right.end)?)?;
                Some((u64::from(token), token))
            }
            Ranks::Pairs(pairs) => {
                pairs.get(&(left.token, right.token)).map(|(rank, token)| (u64::from(*rank), *token))
            }
        });
        for symbol in merged {
            if symbol.token != NO_TOKEN {
                out.push(symbol.token);
            } else if let Some(unknown) = self.unknown {
                out.push(unknown);
            }
        }
    }
}

/// A stretch of the text that is one symbol so far. `NO_TOKEN` when no token stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Symbol {
    pub start: usize,
    pub end: usize,
    pub token: u32,
}

pub(super) const NO_TOKEN: u32 = u32::MAX;

/// Merges neighbours until none may: lowest rank first, leftmost among equals.
/// `rank(left, right)` gives the rank and token of a merge that is allowed.
pub(super) fn merge(symbols: Vec<Symbol>, rank: impl Fn(&Symbol, &Symbol) -> Option<(u64, u32)>) -> Vec<Symbol> {
    let count = symbols.len();
    if count < 2 {
        return symbols;
    }
    // A list linked by position: `links[i]` is (previous, next), with `count` for none. Merged-away symbols are None.
    let mut slots: Vec<Option<Symbol>> = symbols.into_iter().map(Some).collect();
    let mut links: Vec<(usize, usize)> =
        (0..count).map(|at| (at.checked_sub(1).unwrap_or(count), (at + 1).min(count))).collect();
    let mut queue = BinaryHeap::new();
    let propose = |queue: &mut BinaryHeap<_>, slots: &[Option<Symbol>], left: usize, right: usize| {
        if let (Some(Some(a)), Some(Some(b))) = (slots.get(left), slots.get(right))
            && let Some((rank, token)) = rank(a, b)
        {
            queue.push(Reverse((rank, left, right, a.end - a.start, b.end - b.start, token)));
        }
    };
    for left in 0..count - 1 {
        propose(&mut queue, &slots, left, left + 1);
    }
    while let Some(Reverse((_, left, right, left_len, right_len, token))) = queue.pop() {
        // Entries whose symbols have changed since are stale; a symbol only ever grows, so its length tells.
        let (Some(Some(a)), Some(Some(b))) = (slots.get(left), slots.get(right)) else { continue };
        if a.end - a.start != left_len || b.end - b.start != right_len || a.end != b.start {
            continue;
        }
        let merged = Symbol { start: a.start, end: b.end, token };
        let next = links.get(right).map_or(count, |link| link.1);
        if let Some(slot) = slots.get_mut(left) {
            *slot = Some(merged);
        }
        if let Some(slot) = slots.get_mut(right) {
            *slot = None;
        }
        if let Some(link) = links.get_mut(left) {
            link.1 = next;
        }
        if let Some(link) = links.get_mut(next) {
            link.0 = left;
        }
        let previous = links.get(left).map_or(count, |link| link.0);
        if previous < count {
            propose(&mut queue, &slots, previous, left);
        }
        if next < count {
            propose(&mut queue, &slots, left, next);
        }
    }
    slots.into_iter().flatten().collect()
}

/// GPT-2 writes bytes as printable characters; this reads one back. Source: openai/gpt-2, `bytes_to_unicode`.
pub(super) fn byte_of_char(c: char) -> Option<u8> {
    let code = c as u32;
    let printable = |b: u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if code < 256 && printable(code) {
        return u8::try_from(code).ok();
    }
    // The bytes that are not printable, in order, are the characters from 256 on.
    let nth = code.checked_sub(256)? as usize;
    (0u32..256).filter(|b| !printable(*b)).nth(nth).and_then(|b| u8::try_from(b).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [false; 256];
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of_char) {
                assert!(!std::mem::replace(&mut seen[byte as usize], true));
            }
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(byte_of_char('Ġ'), Some(b' '));
    }

    #[test]
    fn merges_lowest_rank_first_then_leftmost() {
        let symbols = (0..5).map(|at| Symbol { start: at, end: at + 1, token: 0 }).collect();
        // "aaaaa" with aa(rank 0) and aaaa(rank 1).
        let merged = merge(symbols, |a, b| match b.end - a.start {
            2 => Some((0, 2)),
            4 => Some((1, 4)),
            _ => None,
        });
        assert_eq!(merged.iter().map(|s| s.end - s.start).collect::<Vec<_>>(), [4, 1]);
    }
}
