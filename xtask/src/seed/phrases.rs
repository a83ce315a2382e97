//! The lists that are kept as text beside this file: sections `== name`, then `language: one | two` or `language part: one | two`.

use std::collections::BTreeMap;

use super::chance::Chance;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    En,
    Fr,
    Ar,
}

impl Language {
    pub const ALL: [Self; 3] = [Self::En, Self::Fr, Self::Ar];

    pub fn code(self) -> &'static str {
        ["en", "fr", "ar"][self as usize]
    }

    pub fn comma(self) -> &'static str {
        if self == Self::Ar { "، " } else { ", " }
    }
}

/// Which ways to ask are used: the last one of a long list is kept for development, so that a phrasing can be new to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Train,
    Development,
}

pub struct Phrases {
    /// By section, part and language; in the order of the file.
    lists: BTreeMap<(String, String, Language), Vec<String>>,
    /// The sections, in the order of the file.
    pub names: Vec<String>,
}

impl Phrases {
    pub fn parse(text: &str) -> Self {
        let (mut lists, mut names) = (BTreeMap::new(), Vec::<String>::new());
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            if let Some(name) = line.strip_prefix("== ") {
                names.push(name.to_owned());
                continue;
            }
            let (head, rest) = line.split_once(": ").expect("a list has a head");
            let (code, part) = head.split_once(' ').unwrap_or((head, ""));
            let language =
                Language::ALL.into_iter().find(|language| language.code() == code).expect("a known language");
            let name = names.last().expect("a list stands in a section").clone();
            let list = rest.split(" | ").map(|entry| entry.trim().to_owned()).collect();
            lists.insert((name, part.to_owned(), language), list);
        }
        Self { lists, names }
    }

    pub fn list(&self, name: &str, part: &str, language: Language) -> &[String] {
        let key = (name.to_owned(), part.to_owned(), language);
        self.lists.get(&key).unwrap_or_else(|| panic!("no list `{name}` `{part}` in {}", language.code()))
    }

    pub fn pick(&self, chance: &mut Chance, name: &str, part: &str, language: Language) -> &str {
        chance.pick(self.list(name, part, language)).as_str()
    }

    /// A way to ask: the last of four or more only in development, and there half of the time.
    pub fn ask(&self, chance: &mut Chance, side: Side, name: &str, part: &str, language: Language) -> &str {
        let list = self.list(name, part, language);
        let (kept, last) =
            if list.len() < 4 { (list.len(), false) } else { (list.len() - 1, side == Side::Development) };
        if last && chance.of(0.5) { &list[kept] } else { &list[chance.below(kept)] }
    }
}

/// Puts values into the braces of a phrase, and mends French where an article follows a preposition.
pub fn fill(phrase: &str, slots: &[(&str, &str)], language: Language) -> String {
    let mut text = phrase.to_owned();
    for (name, value) in slots {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    if language == Language::Fr {
        for (from, to) in FRENCH {
            text = text.replace(from, to);
        }
    }
    if language == Language::Ar {
        text = text.replace("لـال", "لل").replace("الـ", "ال").replace("بـ", "ب").replace("لـ", "ل");
    }
    first_upper(&text)
}

const FRENCH: [(&str, &str); 9] = [
    (" de le ", " du "),
    ("De le ", "Du "),
    (" à le ", " au "),
    ("À le ", "Au "),
    (" de un", " d'un"),
    (" de une", " d'une"),
    (" que il", " qu'il"),
    (" de les ", " des "),
    (" à les ", " aux "),
];

pub fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
