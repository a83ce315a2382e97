//! Passages and questions: about made-up things, and about sentences of the books. The answer is a piece of a passage, letter for
//! letter, with the passage's number; or that the passages do not answer.

use super::Material;
use super::chance::Chance;
use super::phrases::{Language, Side, fill, first_upper};

pub struct Grounded {
    pub passages: Vec<String>,
    pub question: String,
    /// The span and its passage; none where the passages do not answer.
    pub answer: Option<(String, usize)>,
}

/// The words for "not here" of the contract.
pub const ABSTAIN: [&str; 3] = [
    "The passages do not answer this.",
    "Les passages ne répondent pas à cette question.",
    "المقاطع لا تجيب عن هذا السؤال.",
];

impl Grounded {
    /// One passage a line, an empty line, the question.
    pub fn prompt(&self) -> String {
        let passages = self.passages.iter().enumerate().map(|(at, text)| format!("[{}] {text}\n", at + 1));
        format!("{}\n{}", passages.collect::<String>(), self.question)
    }

    pub fn reply(&self, language: Language) -> String {
        reply(&self.answer, language)
    }
}

/// A span with its passage's number, or the words for "not here".
pub fn reply(answer: &Option<(String, usize)>, language: Language) -> String {
    match answer {
        Some((span, at)) => format!("{span} [{}]", at + 1),
        None => ABSTAIN[language as usize].to_owned(),
    }
}

impl Material {
    pub fn grounded(&self, chance: &mut Chance, side: Side, language: Language) -> Grounded {
        loop {
            let one = match chance.below(20) {
                0..13 => self.about_things(chance, side, language),
                13..16 => self.missing_words(chance, language),
                16 | 17 => self.what_follows(chance, language),
                18 => self.who_did(chance, language),
                _ => self.which_sentence(chance, language),
            };
            let verbatim = |one: &Grounded| match &one.answer {
                Some((span, at)) => one.passages[*at].contains(span.as_str()) && !span.is_empty(),
                None => true,
            };
            if let Some(one) = one.filter(verbatim) {
                return one;
            }
        }
    }

    /// Several things of the same kind, so that neither the kind of a value nor its place gives the answer away.
    fn about_things(&self, chance: &mut Chance, side: Side, language: Language) -> Option<Grounded> {
        let sections = &self.attributes.names;
        let kind = chance.pick(sections).split(' ').next()?.to_owned();
        let of_kind = |kind: &str| -> Vec<&String> {
            sections.iter().filter(|name| name.split(' ').next() == Some(kind)).collect()
        };
        let (mut passages, mut told) = (Vec::new(), Vec::new());
        for at in 0..chance.between(1, 4) {
            if at > 0 && chance.of(0.12) {
                passages.push(self.few_sentences(chance, language));
                continue;
            }
            let other = if at > 0 && chance.of(0.2) {
                chance.pick(sections).split(' ').next()?.to_owned()
            } else {
                kind.clone()
            };
            let thing = self.thing(chance, &other, language);
            let count = [1, 2, 2, 3, 3, 4][chance.below(6)];
            let attributes = chance.sample(&of_kind(&other), count);
            let mut sentences = Vec::new();
            for section in attributes {
                let value = self.value(chance, section.rsplit(' ').next()?, language);
                let says = self.attributes.pick(chance, section, "says", language);
                sentences.push(fill(says, &[("E", &thing), ("V", &value)], language));
                told.push((at, section.clone(), thing.clone(), value));
            }
            if chance.of(0.2) {
                sentences.insert(chance.below(sentences.len() + 1), self.book(language).sentence(chance).to_owned());
            }
            passages.push(sentences.join(" "));
        }
        let (mut at, section, mut thing, value) = chance.pick(&told).clone();
        let mut asked = section;
        let mut known = true;
        if chance.of(0.28) {
            known = false;
            let untold =
                |name: &&String| !told.iter().any(|(_, told, whose, _)| *whose == thing && told == name.as_str());
            let others: Vec<&String> = of_kind(asked.split(' ').next()?).into_iter().filter(untold).collect();
            // Something else of the same thing, or the same of something else.
            if chance.of(0.6) && !others.is_empty() {
                asked = (*chance.pick(&others)).clone();
            } else {
                thing = self.thing(chance, asked.split(' ').next()?, language);
                if told.iter().any(|(_, _, whose, _)| *whose == thing) {
                    return None;
                }
            }
        }
        let question = fill(self.attributes.ask(chance, side, &asked, "asks", language), &[("E", &thing)], language);
        // Where the passages came is chosen after the question, so that no place is likelier.
        let mut order: Vec<usize> = (0..passages.len()).collect();
        chance.shuffle(&mut order);
        let passages: Vec<String> = order.iter().map(|from| passages[*from].clone()).collect();
        at = order.iter().position(|from| *from == at)?;
        let span = if passages[at].contains(&value) { value } else { first_upper(&value) };
        let question = casual(chance, &question);
        Some(Grounded { passages, question, answer: known.then_some((span, at)) })
    }

    /// One to three sentences that follow each other in a book.
    fn few_sentences(&self, chance: &mut Chance, language: Language) -> String {
        let all = &self.book(language).sentences;
        let count = chance.between(1, 3).min(all.len());
        let from = chance.below(all.len() - count + 1);
        all[from..from + count].join(" ")
    }

    fn book_passages(&self, chance: &mut Chance, language: Language) -> (Vec<String>, usize) {
        let passages: Vec<String> = (0..chance.between(1, 3)).map(|_| self.few_sentences(chance, language)).collect();
        let at = chance.below(passages.len());
        (passages, at)
    }

    fn missing_words(&self, chance: &mut Chance, language: Language) -> Option<Grounded> {
        let (passages, at) = self.book_passages(chance, language);
        let known = chance.of(0.78);
        let from = if known { passages[at].clone() } else { self.few_sentences(chance, language) };
        let words: Vec<&str> = from.split(' ').collect();
        let count = chance.between(1, 4);
        let (before, after) = (chance.between(2, 4), chance.between(1, 4));
        if words.len() < before + count + after {
            return None;
        }
        let start = before + chance.below(words.len() - before - count - after + 1);
        let span = bare(&words[start..start + count].join(" "))?;
        let (left, right) =
            (words[start - before..start].join(" "), words[start + count..start + count + after].join(" "));
        let (left, right) = (left.trim(), right.trim_end_matches(['.', ',', ';', ':', '،']));
        let questions: [&[&str]; 3] = [
            &[
                "Complete: {l} … {r}",
                "What is missing? {l} ___ {r}",
                "Fill the gap: {l} ... {r}",
                "Which words stand between \"{l}\" and \"{r}\"?",
            ],
            &[
                "Complète : {l} … {r}",
                "Que manque-t-il ? {l} ___ {r}",
                "Remplis le vide : {l} ... {r}",
                "Quels mots sont entre « {l} » et « {r} » ?",
            ],
            &["أكمل: {l} … {r}", "ما الناقص؟ {l} ___ {r}", "املأ الفراغ: {l} ... {r}", "ما الكلمات بين «{l}» و«{r}»؟"],
        ];
        let question = chance.pick(questions[language as usize]).replace("{l}", left).replace("{r}", right);
        Some(Grounded { passages, question, answer: known.then_some((span, at)) })
    }

    fn what_follows(&self, chance: &mut Chance, language: Language) -> Option<Grounded> {
        let (passages, at) = self.book_passages(chance, language);
        let known = chance.of(0.78);
        let from = if known { passages[at].clone() } else { self.few_sentences(chance, language) };
        let words: Vec<&str> = from.split(' ').collect();
        let (given, count) = (chance.between(1, 4), chance.between(1, 6));
        if words.len() < given + count {
            return None;
        }
        let start = chance.below(words.len() - given - count + 1);
        let clue = bare(&words[start..start + given].join(" "))?;
        if known && from.matches(clue.as_str()).count() != 1 {
            return None;
        }
        let span = bare(&words[start + given..start + given + count].join(" "))?;
        let questions: [&[&str]; 3] = [
            &["What follows \"{l}\"?", "What comes after \"{l}\"?", "How does it go on after \"{l}\"?"],
            &["Que vient-il après « {l} » ?", "Qu'y a-t-il après « {l} » ?", "Comment continue « {l} » ?"],
            &["ماذا يأتي بعد «{l}»؟", "ما الذي يلي «{l}»؟", "كيف تستمر الجملة بعد «{l}»؟"],
        ];
        let question = chance.pick(questions[language as usize]).replace("{l}", &clue);
        Some(Grounded { passages, question, answer: known.then_some((span, at)) })
    }

    /// "Marius went to the door." gives "Who went to the door?"; Arabic has no capitals to know a name by.
    fn who_did(&self, chance: &mut Chance, language: Language) -> Option<Grounded> {
        let book = self.book(language);
        let who = match language {
            Language::En => "Who",
            Language::Fr => "Qui",
            Language::Ar => return None,
        };
        let (mut passages, at) = self.book_passages(chance, language);
        let mut tries = 0;
        let sentence = loop {
            let sentence = book.sentence(chance);
            if book.is_name(sentence.split(' ').next().unwrap_or_default()) {
                break sentence;
            }
            tries += 1;
            if tries > 400 {
                return None;
            }
        };
        let (name, rest) = sentence.split_once(' ')?;
        let rest = rest.split([',', ';', ':', '.', '!', '?']).next()?;
        let words = rest.split(' ').count();
        let verb = rest.split(' ').next()?;
        let small = verb.chars().next().is_some_and(char::is_lowercase);
        if !(2..=10).contains(&words) || !small || ["and", "et", "of", "de", "or", "ou"].contains(&verb) {
            return None;
        }
        let known = chance.of(0.75);
        if known {
            let text = &passages[at];
            passages[at] = if chance.of(0.5) { format!("{sentence} {text}") } else { format!("{text} {sentence}") };
        }
        let mark = if language == Language::Fr { " ?" } else { "?" };
        let question = format!("{who} {}{mark}", rest.trim());
        Some(Grounded { passages, question, answer: known.then_some((name.to_owned(), at)) })
    }

    /// The whole sentence that holds some words.
    fn which_sentence(&self, chance: &mut Chance, language: Language) -> Option<Grounded> {
        let (passages, at) = self.book_passages(chance, language);
        let known = chance.of(0.78);
        let from = if known { passages[at].clone() } else { self.few_sentences(chance, language) };
        let ends: Vec<usize> = from.match_indices(['.', '!', '?', '؟']).map(|(at, mark)| at + mark.len()).collect();
        let number = chance.below(ends.len().max(1));
        let start = if number == 0 { 0 } else { ends[number - 1] };
        let sentence = from.get(start..*ends.get(number)?)?.trim().to_owned();
        let mut words: Vec<&str> = sentence.split(' ').filter(|word| word.chars().count() > 4).collect();
        if words.len() < 2 || sentence.split(' ').count() > 20 {
            return None;
        }
        let count = chance.between(1, 3).min(words.len());
        let skip = chance.below(words.len() - count + 1);
        let clue = words.drain(skip..skip + count).filter_map(bare).collect::<Vec<_>>().join(language.comma());
        let questions: [&[&str]; 3] = [
            &["Which sentence speaks of {l}?", "Quote the sentence with: {l}", "What is said about {l}?"],
            &["Quelle phrase parle de {l} ?", "Cite la phrase avec : {l}", "Que dit-on sur {l} ?"],
            &["أي جملة تتحدث عن {l}؟", "اقتبس الجملة التي فيها: {l}", "ماذا قيل عن {l}؟"],
        ];
        let question = chance.pick(questions[language as usize]).replace("{l}", &clue);
        Some(Grounded { passages, question, answer: known.then_some((sentence, at)) })
    }
}

/// Without marks at its ends.
pub fn bare(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| !c.is_alphanumeric());
    (!text.is_empty()).then(|| text.to_owned())
}

/// As people type: the final mark and the first capital come and go.
pub fn casual(chance: &mut Chance, text: &str) -> String {
    let mut text = text.to_owned();
    if chance.of(0.2) {
        text = text.trim_end_matches(['?', '؟', '.', '!']).trim_end().to_owned();
    }
    if chance.of(0.2) {
        let mut letters = text.chars();
        // A name keeps its capital.
        let second_small = text.chars().nth(1).is_some_and(|c| c.is_lowercase() || c == '\'');
        if second_small && let Some(first) = letters.next() {
            text = first.to_lowercase().chain(letters).collect();
        }
    }
    text
}
