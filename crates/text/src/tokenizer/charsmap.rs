//! SentencePiece's precompiled normalization (NFKC and friends): a double-array trie from byte strings to replacements.
//! Source: sentencepiece `normalizer.cc` and the layout of darts-clone.

pub(super) struct Charsmap {
    units: Vec<u32>,
    /// Replacements, each ended by a zero byte.
    texts: Vec<u8>,
}

impl Charsmap {
    /// `None` when the blob is not one.
    pub fn parse(blob: &[u8]) -> Option<Self> {
        let (size, rest) = blob.split_at_checked(4)?;
        let size = u32::from_le_bytes(size.try_into().ok()?) as usize;
        let (trie, texts) = rest.split_at_checked(size)?;
        let (units, []) = trie.as_chunks::<4>() else { return None };
        Some(Self { units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(), texts: texts.to_vec() })
    }

    /// The replacement of the longest mapped prefix, and how many bytes it covers.
    pub fn longest_prefix(&self, text: &[u8]) -> Option<(&str, usize)> {
        let mut found = None;
        let mut node = offset(*self.units.first()?);
        for (at, byte) in text.iter().enumerate() {
            node ^= u32::from(*byte);
            let Some(unit) = self.units.get(node as usize).copied() else { break };
            if unit & LABEL_MASK != u32::from(*byte) {
                break;
            }
            node ^= offset(unit);
            if unit & HAS_LEAF != 0
                && let Some(leaf) = self.units.get(node as usize)
            {
                found = Some((leaf & VALUE_MASK, at + 1));
            }
        }
        let (start, len) = found?;
        let text = self.texts.get(start as usize..)?;
        let text = text.split(|byte| *byte == 0).next()?;
        Some((std::str::from_utf8(text).ok()?, len))
    }
}

fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

const LABEL_MASK: u32 = (1 << 31) | 0xFF;
const VALUE_MASK: u32 = (1 << 31) - 1;
const HAS_LEAF: u32 = 1 << 8;
