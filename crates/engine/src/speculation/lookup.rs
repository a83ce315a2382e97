//! Prompt lookup: the continuation of the last place where the sequence's present end stood before. It needs no model and no
//! index: one pass over a few thousand tokens costs less than a thousandth of a decoding step.
//! Source: Saxena 2023, "Prompt lookup decoding".

/// What followed when the sequence's end stood earlier in `tokens`, and how many tokens of the end agreed there. The longest
/// agreement wins (counted up to [`LONGEST`]), the latest among equals. Nothing below `shortest` agreeing tokens.
pub(crate) fn lookup(tokens: &[u32], shortest: usize) -> Option<(&[u32], usize)> {
    let (&last, before) = tokens.split_last()?;
    let mut best: Option<(usize, usize)> = None;
    // From the end to the beginning, so that only a longer agreement replaces a later place.
    for end in (0..before.len()).rev().filter(|end| before[*end] == last) {
        let earlier = before[..end].iter().rev();
        let agreed = 1 + earlier.zip(before.iter().rev()).take(LONGEST - 1).take_while(|(a, b)| a == b).count();
        if best.is_none_or(|(_, most)| agreed > most) {
            best = Some((end, agreed));
            if agreed == LONGEST {
                break;
            }
        }
    }
    let (end, agreed) = best?;
    (agreed >= shortest).then(|| (&tokens[end + 1..], agreed))
}

/// More agreeing tokens than this say no more about what follows.
pub(crate) const LONGEST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_agreement_wins_and_the_latest_among_equals() {
        // "1 2 3" stood at the beginning (then 4) and "2 3" later (then 9): the longer one wins.
        let tokens = [1, 2, 3, 4, 5, 2, 3, 9, 1, 2, 3];
        assert_eq!(lookup(&tokens, 1), Some((&tokens[3..], 3)));
        // Twice the same two tokens: the later place.
        let tokens = [2, 3, 7, 2, 3, 8, 2, 3];
        assert_eq!(lookup(&tokens, 1), Some((&tokens[5..], 2)));
    }

    #[test]
    fn short_agreement_and_new_tokens_give_nothing() {
        assert_eq!(lookup(&[1, 2, 3, 9, 3], 2), None);
        assert_eq!(lookup(&[1, 2, 3], 1), None);
        assert_eq!(lookup(&[5], 1), None);
        assert_eq!(lookup(&[], 1), None);
    }

    #[test]
    fn repetition_proposes_what_it_repeats() {
        let tokens = [7; 12];
        let (next, agreed) = lookup(&tokens, 2).unwrap();
        assert_eq!(agreed, LONGEST);
        assert!(next.iter().all(|token| *token == 7) && !next.is_empty());
    }
}
