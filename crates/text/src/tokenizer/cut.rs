//! Encoding with places kept: which token begins at a given place of the text. Tokens are the same as without cuts, but
//! for a token that would reach over one.

use super::{Segment, Tokenizer};

/// Before byte `byte` of segment `segment`; `byte` is a character's boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cut {
    pub segment: usize,
    pub byte: usize,
}

/// Tokens, and how many of them stand before each cut.
pub(crate) struct CutTokens {
    pub tokens: Vec<u32>,
    pub places: Vec<usize>,
    /// Why they are not the tokens of the whole.
    pub crossed: Option<Crossed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossed {
    /// A token would reach over this cut, the first such.
    Cut(usize),
    /// The encoder rewrites text, so that nobody can say.
    Unknown,
}

impl Tokenizer {
    /// The tokens of the texts joined, without BOS or EOS, and how many tokens there are up to the end of each.
    pub fn encode_joined(&self, texts: &[&str]) -> (Vec<u32>, Vec<usize>) {
        let mut ends = Vec::with_capacity(texts.len());
        let mut joined = String::new();
        for text in texts {
            joined.push_str(text);
            ends.push(Cut { segment: 0, byte: joined.len() });
        }
        let encoded = self.encode_cut(&[Segment::Text(joined)], &ends);
        (encoded.tokens, encoded.places)
    }

    /// `cuts` ascend.
    pub(crate) fn encode_cut(&self, segments: &[Segment], cuts: &[Cut]) -> CutTokens {
        let tokens = self.encode_segments(segments);
        let crossed = match self.places(segments, &tokens, cuts) {
            Ok(places) => return CutTokens { tokens, places, crossed: None },
            Err(crossed) => Some(crossed),
        };
        // Each piece is encoded for itself.
        let (mut tokens, mut places) = (Vec::new(), Vec::with_capacity(cuts.len()));
        let mut from = Cut { segment: 0, byte: 0 };
        let end = Cut { segment: segments.len(), byte: 0 };
        for cut in cuts.iter().copied().chain([end]) {
            let piece = between(segments, from, cut);
            if !piece.is_empty() {
                tokens.extend(self.encode_segments(&piece));
            }
            places.push(tokens.len());
            from = cut;
        }
        places.pop();
        CutTokens { tokens, places, crossed }
    }

    /// The number of tokens before each cut, if each token's bytes are found in the text and none reaches over a cut.
    fn places(&self, segments: &[Segment], tokens: &[u32], cuts: &[Cut]) -> Result<Vec<usize>, Crossed> {
        let mut places = Vec::with_capacity(cuts.len());
        let mut cuts = cuts.iter().peekable();
        let mut next = 0;
        for (index, segment) in segments.iter().enumerate() {
            while cuts.next_if(|cut| cut.segment == index && cut.byte == 0).is_some() {
                places.push(next);
            }
            let text = match segment {
                Segment::Control(token) => {
                    if tokens.get(next) != Some(token) {
                        return Err(Crossed::Unknown);
                    }
                    next += 1;
                    continue;
                }
                Segment::Text(text) => text.as_bytes(),
            };
            let mut done = 0;
            while done < text.len() {
                let token = *tokens.get(next).ok_or(Crossed::Unknown)?;
                let bytes = self.token_bytes(token);
                let rest = text.get(done..).unwrap_or_default();
                // The space that SentencePiece puts before a text is not of the text.
                let own = match bytes.strip_prefix(b" ") {
                    Some(own) if done == 0 && !rest.starts_with(bytes) => own,
                    _ => bytes,
                };
                if self.is_special(token) || !rest.starts_with(own) || (own.is_empty() && bytes.is_empty()) {
                    return Err(Crossed::Unknown);
                }
                done += own.len();
                next += 1;
                while let Some(cut) = cuts.next_if(|cut| cut.segment == index && cut.byte <= done) {
                    if cut.byte < done {
                        return Err(Crossed::Cut(places.len()));
                    }
                    places.push(next);
                }
            }
        }
        places.extend(cuts.map(|_| next));
        if next == tokens.len() { Ok(places) } else { Err(Crossed::Unknown) }
    }
}

fn between(segments: &[Segment], from: Cut, to: Cut) -> Vec<Segment> {
    let mut piece = Vec::new();
    for (index, segment) in segments.iter().enumerate().take(to.segment + 1).skip(from.segment) {
        match segment {
            Segment::Control(_) if index < to.segment => piece.push(segment.clone()),
            Segment::Control(_) => {}
            Segment::Text(text) => {
                let start = if index == from.segment { from.byte } else { 0 };
                let end = if index == to.segment { to.byte } else { text.len() };
                if let Some(part) = text.get(start..end).filter(|part| !part.is_empty()) {
                    piece.push(Segment::Text(part.to_owned()));
                }
            }
        }
    }
    piece
}
