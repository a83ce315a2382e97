//! Small tasks on a text whose answers are computed here, greetings, and what is said about Falaj. Each gives a request and its reply.

use serde_json::Value;

use super::Material;
use super::chance::Chance;
use super::grounded::casual;
use super::phrases::{Language, Side, fill};

impl Material {
    pub fn small_talk(&self, chance: &mut Chance, side: Side, language: Language) -> (String, String) {
        let name = *chance.pick(&["greeting", "greeting", "greeting", "thanks", "goodbye"]);
        let asked = self.about.ask(chance, side, name, "asks", language).to_owned();
        (casual(chance, &asked), self.about.pick(chance, name, "says", language).to_owned())
    }

    pub fn fact(&self, chance: &mut Chance, side: Side, language: Language) -> (String, String) {
        let facts: Vec<&String> = self.about.names.iter().filter(|name| name.starts_with("fact")).collect();
        let name = *chance.pick(&facts);
        let mut asked = self.about.ask(chance, side, name, "asks", language).to_owned();
        if chance.of(0.25) {
            let polite = POLITE[language as usize];
            asked = format!("{}{asked}", chance.pick(&polite));
        }
        // One answer to a question: the first.
        (casual(chance, &asked), self.about.list(name, "says", language)[0].clone())
    }

    /// What it does not know, and sums, which it cannot do alone.
    pub fn beyond(&self, chance: &mut Chance, side: Side, language: Language) -> (String, String) {
        let (list, sum) = if chance.of(0.2) {
            ("sums", format!("{} {} {}", self.number(chance), chance.pick(&["+", "-", "*", "/"]), self.number(chance)))
        } else {
            ("beyond", String::new())
        };
        let topic = if chance.of(0.6) {
            self.words.pick(chance, "topic", "", language).to_owned()
        } else {
            self.book(language).fragment(chance, 1, 3)
        };
        let slots =
            [("T", topic), ("P", self.town(chance, language)), ("N", self.person(chance, language)), ("e", sum)];
        let slots = slots.each_ref().map(|(name, value)| (*name, value.as_str()));
        let asked = fill(self.tasks.ask(chance, side, list, "", language), &slots, language);
        // Which of the answers follows from the question, so that there is one to learn.
        let answers = self.tasks.list("cannot", "", language);
        let told = answers[usize::from(list == "beyond" && asked.len().is_multiple_of(2)) % answers.len()].clone();
        (casual(chance, &asked), told)
    }

    pub fn task(&self, chance: &mut Chance, side: Side, language: Language) -> (String, String) {
        let names = [
            "repeat",
            "repeat",
            "repeat",
            "times",
            "upper",
            "upper",
            "lower",
            "bullets",
            "bullets",
            "numbers",
            "first sentence",
            "last sentence",
            "first words",
            "brackets",
            "replace",
            "first item",
            "last item",
            "reverse",
            "next word",
            "name",
            "number",
            "json",
        ];
        let name = *chance.pick(&names);
        self.task_named(chance, side, language, name)
    }

    /// Those that only copy.
    pub fn copying(&self, chance: &mut Chance, side: Side, language: Language) -> (String, String) {
        let names =
            ["repeat", "repeat", "first item", "last item", "next word", "first sentence", "last sentence", "bullets"];
        let name = *chance.pick(&names);
        self.task_named(chance, side, language, name)
    }

    fn task_named(&self, chance: &mut Chance, side: Side, language: Language, name: &str) -> (String, String) {
        let comma = language.comma();
        let (mut a, mut b, mut n) = (String::new(), String::new(), String::new());
        let book = self.book(language);
        let items = |chance: &mut Chance, least: usize, most: usize| -> Vec<String> {
            let count = chance.between(least, most);
            match chance.below(5) {
                0 => (0..count).map(|_| self.made_up(chance, language)).collect(),
                1 => (0..count).map(|_| self.number(chance)).collect(),
                2 => {
                    let list = ["goods", "trade", "colour", "first names", "city"][chance.below(5)];
                    chance.sample(self.words.list(list, "", language), count)
                }
                _ => book.words(chance, count),
            }
        };
        let (x, reply) = match name {
            "repeat" => {
                let x = match chance.below(6) {
                    0 => book.sentence(chance).to_owned(),
                    1 => items(chance, 2, 8).join(" "),
                    2 => self.person(chance, language),
                    3 => self.code(chance),
                    _ => book.fragment(chance, 1, 12),
                };
                (x.clone(), x)
            }
            "times" => {
                let (x, count) = (book.word(chance).to_owned(), chance.between(2, 5));
                n = count.to_string();
                (x.clone(), vec![x; count].join(" "))
            }
            "upper" | "lower" => {
                // Arabic has no case: there the task is about a Latin word.
                let source = if language == Language::Ar { Language::En } else { language };
                let book = self.book(source);
                let x = match chance.below(4) {
                    0 => self.made_up(chance, source),
                    1 => book.fragment(chance, 2, 4),
                    _ => book.word(chance).to_owned(),
                };
                let (small, big) = (x.to_lowercase(), x.to_uppercase());
                if name == "upper" { (small, big) } else { (big, small) }
            }
            "bullets" | "numbers" => {
                let items = items(chance, 2, 6);
                let mark = |at: usize| if name == "bullets" { "-".to_owned() } else { format!("{}.", at + 1) };
                let lines = items.iter().enumerate().map(|(at, item)| format!("{} {item}", mark(at)));
                (items.join(comma), lines.collect::<Vec<_>>().join("\n"))
            }
            "first sentence" | "last sentence" => {
                let sentences: Vec<String> =
                    (0..chance.between(2, 3)).map(|_| book.sentence(chance).to_owned()).collect();
                let at = if name == "first sentence" { 0 } else { sentences.len() - 1 };
                (sentences.join(" "), sentences[at].clone())
            }
            "first words" => {
                let x = book.fragment(chance, 8, 16);
                let count = chance.between(2, 5);
                n = count.to_string();
                let kept: Vec<&str> = x.split(' ').take(count).collect();
                let kept = kept.join(" ");
                (x, kept)
            }
            "brackets" => {
                let x = book.sentence(chance).to_owned();
                let words: Vec<&str> = x.split(' ').collect();
                let at = chance.between(2, words.len() - 2);
                let aside = book.fragment(chance, 1, 4);
                (format!("{} ({aside}) {}", words[..at].join(" "), words[at..].join(" ")), x)
            }
            "replace" => {
                let words = book.words(chance, 5);
                let x = book.fragment(chance, 3, 9);
                let whole: Vec<&str> = x.split(' ').collect();
                a = whole[chance.below(whole.len())].to_owned();
                b = words[0].clone();
                let reply: Vec<&str> = whole.iter().map(|word| if *word == a { b.as_str() } else { *word }).collect();
                let reply = reply.join(" ");
                (x, reply)
            }
            "first item" | "last item" => {
                let items = items(chance, 3, 8);
                let at = if name == "first item" { 0 } else { items.len() - 1 };
                (items.join(comma), items[at].clone())
            }
            "reverse" => {
                let mut items = items(chance, 2, 5);
                let x = items.join(comma);
                items.reverse();
                (x, items.join(comma))
            }
            "next word" => {
                let words = book.words(chance, 7);
                let at = chance.below(6);
                a = words[at].clone();
                (words.join(" "), words[at + 1].clone())
            }
            "name" | "number" => {
                let list = self.tasks.list("mention", "", language);
                let (person, count) = (self.person(chance, language), self.number(chance));
                let fitting: Vec<&String> = list.iter().filter(|text| name == "name" || text.contains("{n}")).collect();
                let slots = [("N", person.as_str()), ("n", count.as_str())];
                let x = fill(chance.pick(&fitting).as_str(), &slots, language);
                (x, if name == "name" { person.clone() } else { count.clone() })
            }
            _ => {
                let (person, place, age) =
                    (self.person(chance, language), self.town(chance, language), chance.between(5, 99));
                let slots = [("N", person.as_str()), ("P", place.as_str()), ("n", &age.to_string())];
                let x = fill(self.tasks.pick(chance, "person", "", language), &slots, language);
                let [person, place] = [&person, &place].map(|text| Value::from(text.as_str()).to_string());
                (x, format!("{{\"name\": {person}, \"age\": {age}, \"city\": {place}}}"))
            }
        };
        let asked = self.tasks.ask(chance, side, name, "", language);
        // The text itself is not touched by what fill() mends.
        let asked = fill(asked, &[("a", &a), ("b", &b), ("n", &n)], language).replace("{x}", &x);
        (asked, reply)
    }

    /// A name is told, and asked for some turns later.
    pub fn remembered(&self, chance: &mut Chance, side: Side, language: Language) -> Vec<(String, String)> {
        let name = self.person(chance, language);
        let with_name = |text: &str| fill(text, &[("N", &name)], language);
        let mut turns = vec![(
            with_name(self.tasks.ask(chance, side, "introduce", "", language)),
            with_name(self.tasks.pick(chance, "welcome", "", language)),
        )];
        for _ in 0..chance.below(3) {
            turns.push(self.short(chance, side, language));
        }
        let asked = self.tasks.ask(chance, side, "recall", "", language).to_owned();
        turns.push((casual(chance, &asked), with_name(self.tasks.pick(chance, "recalled", "", language))));
        turns
    }

    pub fn short(&self, chance: &mut Chance, side: Side, language: Language) -> (String, String) {
        match chance.below(10) {
            0..2 => self.small_talk(chance, side, language),
            2..5 => self.fact(chance, side, language),
            5 => self.beyond(chance, side, language),
            _ => self.task(chance, side, language),
        }
    }
}

const POLITE: [[&str; 4]; 3] = [
    ["please, ", "I would like to know: ", "a question: ", "hello, "],
    ["s'il te plaît, ", "j'aimerais savoir : ", "une question : ", "bonjour, "],
    ["من فضلك، ", "أريد أن أعرف: ", "سؤال: ", "مرحبا، "],
];
