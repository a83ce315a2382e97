//! When two texts count as the same: composed alike for exact answers, and for spans as the question-answering benchmarks have it.
//! Source: Rajpurkar et al. 2016 (SQuAD), § 6.1; d'Hoffschmidt et al. 2020 (FQuAD) for French articles; Mozannar et al. 2019
//! (ARCD) for Arabic.

use icu_normalizer::ComposingNormalizerBorrowed;

/// Composed as Unicode's form C has it: a letter and its accent are one.
pub fn nfc(text: &str) -> String {
    ComposingNormalizerBorrowed::new_nfc().normalize(text).into_owned()
}

/// The words that count: lower case, without punctuation, articles, and Arabic's vowel marks and lengthening strokes.
pub fn words(text: &str) -> Vec<String> {
    let text = nfc(text).to_lowercase();
    let kept = text.chars().filter(|c| !is_mark(*c)).map(|c| if c.is_alphanumeric() { c } else { ' ' });
    let kept: String = kept.collect();
    kept.split_whitespace().filter(|word| !ARTICLES.contains(word)).map(str::to_owned).collect()
}

/// The overlap of two bags of words: 2PR / (P + R).
pub fn f1(answer: &[String], truth: &[String]) -> f64 {
    if answer.is_empty() || truth.is_empty() {
        return if answer.len() == truth.len() { 1.0 } else { 0.0 };
    }
    let common = common(answer, truth);
    2.0 * common as f64 / (answer.len() + truth.len()) as f64
}

/// Words that both have, as often as both have them.
pub fn common(a: &[String], b: &[String]) -> usize {
    let mut left: Vec<&String> = b.iter().collect();
    let taken = a.iter().filter(|word| {
        let place = left.iter().position(|other| other == word);
        place.map(|place| left.swap_remove(place)).is_some()
    });
    taken.count()
}

/// Sentences, roughly: pieces up to a full stop, question mark or exclamation mark of any of the three scripts.
pub fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let pieces = text.split_inclusive(['.', '!', '?', '؟', '\n']);
    pieces.map(str::trim).filter(|sentence| !sentence.is_empty())
}

/// Fathatan to sukun and their neighbours, the dagger alef, tatweel.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{064B}'..='\u{065F}' | '\u{0670}' | '\u{0640}')
}

const ARTICLES: [&str; 12] = ["a", "an", "the", "le", "la", "les", "l", "un", "une", "des", "du", "au"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spans_have_in_common() {
        assert_eq!(words("The  «Quiet» harbour's, 12.5"), ["quiet", "harbour", "s", "12", "5"]);
        assert_eq!(words("L’Été à la plage"), words("l'e\u{301}te\u{301} à plage"));
        assert_eq!(words("مَدِينَةُ مســقط"), ["مدينة", "مسقط"]);
        assert_eq!(words("؟!"), Vec::<String>::new());
        let f1 = |a: &str, b: &str| f1(&words(a), &words(b));
        assert_eq!(f1("six books", "six books"), 1.0);
        assert_eq!(f1("up to six books", "six books"), 2.0 * 2.0 / 6.0);
        assert_eq!(f1("six six", "six"), 2.0 / 3.0);
        assert_eq!((f1("", "six"), f1("", "")), (0.0, 1.0));
    }

    #[test]
    fn sentences_of_three_scripts() {
        assert_eq!(sentences("One. Two? ").collect::<Vec<_>>(), ["One.", "Two?"]);
        assert_eq!(sentences("أين السوق؟ هنا.").count(), 2);
    }
}
