//! Names, places, numbers and other values that nobody has seen before: what is asked for can only be copied, not remembered.

use super::Material;
use super::chance::Chance;
use super::phrases::{Language, fill, first_upper};

impl Material {
    /// A word that sounds like one of the language and mostly means nothing; with a capital where there are capitals.
    pub fn made_up(&self, chance: &mut Chance, language: Language) -> String {
        let syllables = if chance.of(0.6) { 2 } else { chance.between(1, 3) + usize::from(chance.of(0.5)) };
        let part = |chance: &mut Chance, list: &str| {
            let list: Vec<&str> = list.split(' ').collect();
            (*chance.pick(&list)).trim_matches('_').to_owned()
        };
        let mut word = String::new();
        match language {
            Language::Ar => {
                if chance.of(0.15) {
                    word.push_str("ال");
                }
                for _ in 0..syllables.max(2) {
                    word.push_str(&part(chance, "ب ت ث ج ح خ د ر ز س ش ص ض ط ع غ ف ق ك ل م ن ه و ي"));
                    word.push_str(&part(chance, "ا و ي _ _ ا"));
                }
                word.push_str(&part(chance, "ن ر ل م د ة ي ى س ت _ _"));
            }
            Language::En | Language::Fr => {
                let (onset, middle, end) = if language == Language::En {
                    (
                        "b d f g h k l m n p r s t v w z br ch cl dr fl gr kr sh st th tr qu j y",
                        "a e i o u a e i o ee oo ai ou ar or",
                        "n r l m s t k ck nd st x rn ll sh ng d _ _ _ _",
                    )
                } else {
                    (
                        "b d f g j l m n p r s t v ch br cl dr fl gr pl tr gu qu z c",
                        "a e i o u é a i o ou ai au eu in on an oi",
                        "n r l s t x c lle tte nne rd _ _ _ _ _",
                    )
                };
                for _ in 0..syllables {
                    word.push_str(&part(chance, onset));
                    word.push_str(&part(chance, middle));
                }
                word.push_str(&part(chance, end));
            }
        }
        first_upper(&word)
    }

    /// Mostly made up; else a real city, or a name out of the books.
    pub fn town(&self, chance: &mut Chance, language: Language) -> String {
        if chance.of(0.4) {
            return chance.pick(self.words.list("city", "", language)).clone();
        }
        if chance.of(0.2)
            && let Some(name) = self.book(language).name(chance)
        {
            return name.to_owned();
        }
        let one = self.made_up(chance, language);
        match (chance.below(12), language) {
            (0, Language::En) => format!("Port {one}"),
            (1, Language::En) => format!("{one} {}", self.made_up(chance, language)),
            (0, Language::Fr) => format!("Saint-{one}"),
            (1, Language::Fr) => format!("{one}-sur-{}", self.made_up(chance, language)),
            (0, Language::Ar) => format!("وادي {one}"),
            (1, Language::Ar) => format!("{one} {}", self.made_up(chance, language)),
            _ => one,
        }
    }

    pub fn person(&self, chance: &mut Chance, language: Language) -> String {
        let given = |chance: &mut Chance| match chance.below(10) {
            0..6 => chance.pick(self.words.list("first names", "", language)).clone(),
            6 => self.book(language).name(chance).map_or_else(|| self.made_up(chance, language), str::to_owned),
            _ => self.made_up(chance, language),
        };
        let first = given(chance);
        if chance.of(0.4) { first } else { format!("{first} {}", self.made_up(chance, language)) }
    }

    /// As `KX-4471`.
    pub fn code(&self, chance: &mut Chance) -> String {
        let letters = |chance: &mut Chance, count: usize| -> String {
            (0..count).map(|_| char::from(b'A' + chance.below(26) as u8)).collect()
        };
        let digits = self.number(chance);
        match chance.below(5) {
            0 => format!("{}-{digits}", letters(chance, 2)),
            1 => format!("{}{digits}", letters(chance, 1)),
            2 => format!("{digits}-{}", letters(chance, 1)),
            3 => format!("{}-{digits}", letters(chance, 3)),
            _ => digits,
        }
    }

    /// A whole number; short ones more often.
    pub fn number(&self, chance: &mut Chance) -> String {
        match chance.below(6) {
            0 => chance.between(2, 9),
            1 | 2 => chance.between(10, 99),
            3 => chance.between(100, 999),
            4 => chance.between(1, 99) * 50,
            _ => chance.between(1000, 99_999),
        }
        .to_string()
    }

    pub fn time(&self, chance: &mut Chance, language: Language) -> String {
        let (hour, minute) = (chance.below(24), chance.below(12) * 5);
        match (language, chance.below(4)) {
            (Language::Fr, 0 | 1) if minute == 0 => format!("{hour} h"),
            (Language::Fr, 0 | 1) => format!("{hour} h {minute:02}"),
            (Language::En, 0) => format!("{} {}", hour % 12 + 1, if hour < 12 { "am" } else { "pm" }),
            (_, 2) => format!("{hour}:{minute:02}"),
            _ => format!("{hour:02}:{minute:02}"),
        }
    }

    fn day(&self, chance: &mut Chance, language: Language) -> String {
        let month = self.words.pick(chance, "month", "", language);
        let number = chance.between(1, 28);
        match (chance.below(4), language) {
            (0, Language::En) => self.words.pick(chance, "weekday", "", language).to_owned(),
            (0, _) => format!("{} {number} {month}", self.words.pick(chance, "weekday", "", language)),
            (1, _) => format!("{number} {month} {}", chance.between(1890, 2031)),
            _ => format!("{number} {month}"),
        }
    }

    /// A value of an attribute, of the kind that `attributes.txt` names.
    pub fn value(&self, chance: &mut Chance, kind: &str, language: Language) -> String {
        match kind {
            "year" => chance.between(1150, 2031).to_string(),
            "person" => self.person(chance, language),
            "town" => self.town(chance, language),
            "company" => self.thing(chance, "company", language),
            "time" => self.time(chance, language),
            "day" => self.day(chance, language),
            "count" => self.number(chance),
            "price" => self.listed(chance, "money", language),
            "phone" => {
                (0..chance.between(2, 4)).map(|_| chance.between(10, 99).to_string()).collect::<Vec<_>>().join(" ")
            }
            list => self.listed(chance, list, language),
        }
    }

    /// An entry of a list, its slots filled: {n} a number, {C} a code, {D} a duration, {N} a name.
    fn listed(&self, chance: &mut Chance, list: &str, language: Language) -> String {
        let entry = self.words.pick(chance, list, "", language).to_owned();
        let duration = if entry.contains("{D}") { self.listed(chance, "duration", language) } else { String::new() };
        let slots = [
            ("n", self.number(chance)),
            ("C", self.code(chance)),
            ("N", self.made_up(chance, language)),
            ("D", duration),
        ];
        let slots = slots.each_ref().map(|(name, value)| (*name, value.as_str()));
        // Lists are not sentences: their first letter stays as it is.
        let filled = fill(&format!("-{entry}"), &slots, language);
        filled[1..].to_owned()
    }

    /// Something of a kind that attributes are told of.
    pub fn thing(&self, chance: &mut Chance, kind: &str, language: Language) -> String {
        if kind == "person" { self.person(chance, language) } else { self.listed(chance, kind, language) }
    }
}
