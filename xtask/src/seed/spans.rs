//! Exercises in answering from passages, from easy to hard, each level a file of its own so that a recipe can begin with the first:
//! spans that a mark shows (`Marked`), spans whose neighbours the question repeats (`Beside`), short questions about made-up things
//! (`Asked`). Passages are short and asked about several times, so that much of a row is learnt; where a span begins always follows
//! from words that question and passage share. The exercises of `grounded.rs`, which are harder, stay as they are.

use super::Material;
use super::chance::Chance;
use super::grounded::{Grounded, bare, casual, reply};
use super::phrases::{Language, Side, fill, first_upper};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Marked,
    Beside,
    Asked,
}

impl Level {
    pub const ALL: [Self; 3] = [Self::Marked, Self::Beside, Self::Asked];

    pub fn name(self) -> &'static str {
        ["marked", "beside", "asked"][self as usize]
    }

    /// `spans.1.jsonl` is the easiest.
    pub fn file(self) -> String {
        format!("spans.{}.jsonl", self as usize + 1)
    }
}

/// Passages, and what is asked about them, one after the other.
pub struct Talk {
    pub passages: Vec<String>,
    pub turns: Vec<Turn>,
}

pub struct Turn {
    pub question: String,
    /// The span and its passage; none where the passages do not answer.
    pub answer: Option<(String, usize)>,
}

impl Talk {
    /// What is said on both sides; the passages stand in the first question.
    pub fn turns(&self, language: Language) -> Vec<(String, String)> {
        let mut turns: Vec<_> =
            self.turns.iter().map(|turn| (turn.question.clone(), reply(&turn.answer, language))).collect();
        if let Some((asked, _)) = turns.first_mut() {
            *asked = self.first().prompt();
        }
        turns
    }

    /// The passages with the first question alone.
    pub fn first(&self) -> Grounded {
        let Turn { question, answer } = &self.turns[0];
        Grounded { passages: self.passages.clone(), question: question.clone(), answer: answer.clone() }
    }

    fn is_sound(&self) -> bool {
        let verbatim = |turn: &Turn| match &turn.answer {
            Some((span, at)) => !span.is_empty() && self.passages[*at].contains(span.as_str()),
            None => true,
        };
        !self.turns.is_empty() && self.turns.iter().all(verbatim)
    }
}

impl Material {
    pub fn spans(&self, chance: &mut Chance, side: Side, language: Language, level: Level) -> Talk {
        loop {
            let talk = match level {
                Level::Marked => match chance.below(5) {
                    0 => self.repeated(chance, language),
                    1 | 2 => self.quoted(chance, language),
                    _ => self.listed_beside(chance, language),
                },
                Level::Beside => self.beside(chance, language),
                Level::Asked => self.asked(chance, side, language),
            };
            if let Some(talk) = talk.filter(Talk::is_sound) {
                return talk;
            }
        }
    }

    /// A whole passage: its number alone says what to copy.
    fn repeated(&self, chance: &mut Chance, language: Language) -> Option<Talk> {
        let passages: Vec<String> = (0..few(chance)).map(|_| self.short_text(chance, language)).collect();
        let mut places: Vec<usize> = (0..passages.len()).collect();
        chance.shuffle(&mut places);
        let turn = |chance: &mut Chance, at: usize| Turn {
            question: chance.pick(&REPEAT[language as usize]).replace("{n}", &(at + 1).to_string()),
            answer: Some((passages[at].clone(), at)),
        };
        let count = chance.between(1, places.len());
        let turns = places.into_iter().take(count).map(|at| turn(chance, at)).collect();
        Some(Talk { passages, turns })
    }

    /// Some words of one passage stand in quotation marks.
    fn quoted(&self, chance: &mut Chance, language: Language) -> Option<Talk> {
        let mut passages: Vec<String> = (0..few(chance)).map(|_| self.short_text(chance, language)).collect();
        let at = chance.below(passages.len());
        let text = passages[at].clone();
        let words: Vec<&str> = text.trim_end_matches('.').split(' ').collect();
        let count = chance.between(1, 5).min(words.len());
        let start = chance.below(words.len() - count + 1);
        let span = words[start..start + count].join(" ");
        if bare(&span)? != span || text.contains(['"', '«']) {
            return None;
        }
        let (open, close) = [("\"", "\""), ("« ", " »"), ("«", "»")][language as usize];
        let marked = format!("{open}{span}{close}");
        let parts = [words[..start].join(" "), marked, words[start + count..].join(" ")];
        passages[at] = format!("{}.", parts.join(" ").trim());
        let question = (*chance.pick(&QUOTED[language as usize])).to_owned();
        Some(Talk { passages, turns: vec![Turn { question, answer: Some((span, at)) }] })
    }

    /// Pairs of words that mean nothing: asked for the one, the other is the answer.
    fn listed_beside(&self, chance: &mut Chance, language: Language) -> Option<Talk> {
        let mut pairs: Vec<(usize, String, String)> = Vec::new();
        let mut passages = Vec::new();
        for at in 0..few(chance) {
            let mut entries = Vec::new();
            for _ in 0..chance.between(2, 5) {
                let key = self.made_up(chance, language);
                let value = match chance.below(5) {
                    0 => self.number(chance),
                    1 => self.code(chance),
                    2 => self.person(chance, language),
                    3 => self.book(language).fragment(chance, 1, 4),
                    _ => self.made_up(chance, language),
                };
                if pairs.iter().any(|(_, known, told)| *known == key || *told == key) {
                    return None;
                }
                entries.push(format!("{key}: {value}"));
                pairs.push((at, key, value));
            }
            passages.push(format!("{}.", entries.join(if language == Language::Ar { "؛ " } else { "; " })));
        }
        let count = chance.between(1, 4);
        let asked = chance.sample(&pairs, count);
        let turn = |(at, key, value): (usize, String, String)| Turn {
            question: chance.pick(&LISTED[language as usize]).replace("{l}", &key),
            answer: Some((value, at)),
        };
        let turns = asked.into_iter().map(turn).collect();
        Some(Talk { passages, turns })
    }

    /// Questions that repeat the words before a span of one or two sentences, and say where it ends: at other words, after one word,
    /// or at the next mark.
    fn beside(&self, chance: &mut Chance, language: Language) -> Option<Talk> {
        let passage = |chance: &mut Chance| {
            let count = 1 + usize::from(chance.of(0.3));
            (0..count).map(|_| self.book(language).sentence(chance)).collect::<Vec<_>>().join(" ")
        };
        let passages: Vec<String> = (0..few(chance)).map(|_| passage(chance)).collect();
        let mut turns: Vec<Turn> = Vec::new();
        let wanted = chance.between(2, 5);
        for _ in 0..4 * wanted {
            if turns.len() == wanted {
                break;
            }
            let turn = span_beside(chance, &passages, language);
            turns.extend(turn.filter(|turn| turns.iter().all(|known| known.question != turn.question)));
        }
        Some(Talk { passages, turns })
    }

    /// A few things of one kind, each with a few facts, and questions about most of them: in other words, or in the sentence's own with
    /// a gap where the answer is.
    fn asked(&self, chance: &mut Chance, side: Side, language: Language) -> Option<Talk> {
        let sections = &self.attributes.names;
        let kind = chance.pick(sections).split(' ').next()?.to_owned();
        let of_kind: Vec<&String> = sections.iter().filter(|name| name.split(' ').next() == Some(&kind)).collect();
        let (mut passages, mut facts) = (Vec::new(), Vec::<Fact>::new());
        for at in 0..few(chance) {
            let thing = self.thing(chance, &kind, language);
            let count = chance.between(1, 3);
            let mut sentences = Vec::new();
            for section in chance.sample(&of_kind, count) {
                let value = self.value(chance, section.rsplit(' ').next()?, language);
                let says = self.attributes.pick(chance, section, "says", language).to_owned();
                sentences.push(fill(&says, &[("E", &thing), ("V", &value)], language));
                facts.push(Fact { at, section: section.clone(), thing: thing.clone(), value, says });
            }
            passages.push(sentences.join(" "));
        }
        let count = chance.between(1, 4);
        let mut turns = Vec::new();
        for fact in chance.sample(&facts, count) {
            let Fact { at, section, thing, value, says } = fact;
            let natural = |chance: &mut Chance, section: &str| {
                let ask = self.attributes.ask(chance, side, section, "asks", language);
                casual(chance, &fill(ask, &[("E", &thing)], language))
            };
            if chance.of(UNANSWERED) {
                let untold = |name: &&&String| !facts.iter().any(|fact| fact.thing == thing && fact.section == ***name);
                let others: Vec<&&String> = of_kind.iter().filter(untold).collect();
                if !others.is_empty() {
                    let section = chance.pick(&others).to_owned().to_owned().clone();
                    turns.push(Turn { question: natural(chance, &section), answer: None });
                    continue;
                }
            }
            let question = if chance.of(0.4) {
                let gap = fill(&says, &[("E", &thing), ("V", "…")], language);
                chance.pick(&GAP[language as usize]).replace("{l}", gap.trim_end_matches('.'))
            } else {
                natural(chance, &section)
            };
            let span = if passages[at].contains(&value) { value } else { first_upper(&value) };
            turns.push(Turn { question, answer: Some((span, at)) });
        }
        Some(Talk { passages, turns })
    }

    /// A dozen words at most: of a book, or made up.
    fn short_text(&self, chance: &mut Chance, language: Language) -> String {
        let text = if chance.of(0.4) {
            (0..chance.between(3, 8)).map(|_| self.made_up(chance, language)).collect::<Vec<_>>().join(" ")
        } else {
            self.book(language).fragment(chance, 4, 12)
        };
        format!("{text}.")
    }
}

#[derive(Clone)]
struct Fact {
    at: usize,
    section: String,
    thing: String,
    value: String,
    says: String,
}

/// One passage more often than two or three.
fn few(chance: &mut Chance) -> usize {
    [1, 1, 1, 2, 2, 3][chance.below(6)]
}

fn span_beside(chance: &mut Chance, passages: &[String], language: Language) -> Option<Turn> {
    let at = chance.below(passages.len());
    let words: Vec<&str> = passages[at].split(' ').collect();
    let (before, after) = (chance.between(1, 3), chance.between(1, 2));
    let count = chance.between(1, 6);
    if words.len() < before + count + after {
        return None;
    }
    let start = before + chance.below(words.len() - before - count - after + 1);
    let clue = bare(&words[start - before..start].join(" "))?;
    // What the question repeats stands in one place, so that there is one answer.
    if passages.iter().map(|passage| passage.matches(clue.as_str()).count()).sum::<usize>() != 1 {
        return None;
    }
    let rest = words[start..].join(" ");
    let (questions, span, end) = match chance.below(3) {
        0 => {
            let end = bare(&words[start + count..start + count + after].join(" "))?;
            (&BETWEEN, words[start..start + count].join(" "), end)
        }
        1 => (&NEXT, words[start].to_owned(), String::new()),
        _ => {
            let span = rest.split(MARKS).next()?.to_owned();
            if span.split(' ').count() > 10 {
                return None;
            }
            (&REST, span, String::new())
        }
    };
    let question = chance.pick(&questions[language as usize]).replace("{l}", &clue).replace("{r}", &end);
    Some(Turn { question, answer: Some((bare(&span)?, at)) })
}

/// Of the hardest level: few, since a model that does not copy yet learns to abstain instead.
const UNANSWERED: f64 = 0.12;

const MARKS: [char; 9] = ['.', ',', ';', ':', '!', '?', '،', '؛', '؟'];

const REPEAT: [[&str; 3]; 3] = [
    ["Repeat [{n}].", "Copy passage [{n}].", "What does [{n}] say?"],
    ["Répète [{n}].", "Copie le passage [{n}].", "Que dit [{n}] ?"],
    ["كرر [{n}].", "انسخ المقطع [{n}].", "ماذا يقول [{n}]؟"],
];

const QUOTED: [[&str; 3]; 3] = [
    ["What is quoted?", "Which words are in quotation marks?", "Copy the quotation."],
    ["Qu'est-ce qui est cité ?", "Quels mots sont entre guillemets ?", "Copie la citation."],
    ["ما المقتبس؟", "ما الكلمات بين علامتي التنصيص؟", "انسخ الاقتباس."],
];

const LISTED: [[&str; 4]; 3] = [
    ["{l}?", "What stands beside {l}?", "What is {l}?", "{l}:"],
    ["{l} ?", "Qu'y a-t-il à côté de {l} ?", "Qu'est-ce que {l} ?", "{l} :"],
    ["{l}؟", "ماذا بجانب {l}؟", "ما {l}؟", "{l}:"],
];

const BETWEEN: [[&str; 3]; 3] = [
    ["What stands between \"{l}\" and \"{r}\"?", "{l} … {r}?", "Complete: {l} … {r}"],
    ["Qu'y a-t-il entre « {l} » et « {r} » ?", "{l} … {r} ?", "Complète : {l} … {r}"],
    ["ما الذي بين «{l}» و«{r}»؟", "{l} … {r}؟", "أكمل: {l} … {r}"],
];

const NEXT: [[&str; 3]; 3] = [
    ["Which word follows \"{l}\"?", "The next word after \"{l}\"?", "One word: {l} …"],
    ["Quel mot suit « {l} » ?", "Le mot après « {l} » ?", "Un mot : {l} …"],
    ["ما الكلمة التي تلي «{l}»؟", "الكلمة بعد «{l}»؟", "كلمة واحدة: {l} …"],
];

const REST: [[&str; 3]; 3] = [
    ["How does it go on after \"{l}\"?", "{l} what?", "Go on: {l} …"],
    ["Quelle est la suite de « {l} » ?", "{l} quoi ?", "Continue : {l} …"],
    ["كيف تستمر الجملة بعد «{l}»؟", "{l} ماذا؟", "تابع: {l} …"],
];

const GAP: [[&str; 3]; 3] = [
    ["{l}?", "What is missing? {l}", "Complete: {l}"],
    ["{l} ?", "Que manque-t-il ? {l}", "Complète : {l}"],
    ["{l}؟", "ما الناقص؟ {l}", "أكمل: {l}"],
];
