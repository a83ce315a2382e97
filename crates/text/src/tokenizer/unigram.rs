//! SentencePiece's unigram model: the cut of the text whose pieces have the highest total score.
//! Source: Kudo 2018; sentencepiece `unigram_model.cc` for scores of unknown characters and user symbols.

use std::collections::HashMap;

use super::bpe::{NO_TOKEN, Symbol};

pub(super) struct Unigram<'a> {
    pub pieces: &'a HashMap<Box<str>, u32>,
    pub scores: &'a [f32],
    /// No piece is longer.
    pub longest_bytes: usize,
    pub unknown_score: f32,
}

impl Unigram<'_> {
    /// Viterbi over byte positions. `NO_TOKEN` marks characters that no piece covers.
    pub fn segment(&self, text: &str) -> Vec<Symbol> {
        #[derive(Clone, Copy)]
        struct Best {
            score: f32,
            from: usize,
            token: u32,
        }
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        if let Some(first) = best.first_mut() {
            *first = Some(Best { score: 0.0, from: 0, token: NO_TOKEN });
        }
        for (start, c) in text.char_indices() {
            let Some(Some(here)) = best.get(start).copied() else { continue };
            let mut offer = |end: usize, score: f32, token: u32| {
                if let Some(slot) = best.get_mut(end)
                    && slot.is_none_or(|old| here.score + score > old.score)
                {
                    *slot = Some(Best { score: here.score + score, from: start, token });
                }
            };
            let single = start + c.len_utf8();
            let mut covered = false;
            let limit = text.len().min(start.saturating_add(self.longest_bytes));
            let mut end = single;
            while end <= limit {
                if let Some(token) = text.get(start..end).and_then(|piece| self.pieces.get(piece)) {
                    covered |= end == single;
                    offer(end, self.scores.get(*token as usize).copied().unwrap_or(self.unknown_score), *token);
                }
                end += 1;
                while end < text.len() && !text.is_char_boundary(end) {
                    end += 1;
                }
            }
            if !covered {
                offer(single, self.unknown_score, NO_TOKEN);
            }
        }
        let mut symbols = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Some(Some(step)) = best.get(end) else { break };
            symbols.push(Symbol { start: step.from, end, token: step.token });
            end = step.from;
        }
        symbols.reverse();
        symbols
    }
}
