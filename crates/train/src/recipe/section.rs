//! Reads values out of TOML tables one by one, notes what is wrong with each, and at the end names the keys that nobody
//! asked for. Knows no key by itself.

use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Everything that is wrong with a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeError {
    pub problems: Vec<RecipeProblem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeProblem {
    /// From 1.
    pub line: usize,
    pub what: String,
}

impl std::error::Error for RecipeError {}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let separator = if at > 0 { "\n" } else { "" };
            write!(f, "{separator}line {}: {}", problem.line, problem.what)?;
        }
        Ok(())
    }
}

/// The text, and what was found wrong so far.
pub struct Reader<'t> {
    text: &'t str,
    problems: Vec<RecipeProblem>,
}

impl<'t> Reader<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, problems: Vec::new() }
    }

    pub fn problem(&mut self, line: usize, what: String) {
        self.problems.push(RecipeProblem { line, what });
    }

    pub fn line_of(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    /// In the order of their lines.
    pub fn finish(mut self) -> Vec<RecipeProblem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }
}

/// A table of the recipe; an absent one has no values.
pub struct Section<'a, 't> {
    /// With a dot behind it, or empty.
    prefix: String,
    table: Option<&'a DeTable<'t>>,
    line: usize,
    asked: Vec<&'static str>,
}

impl<'a, 't> Section<'a, 't> {
    pub fn root(table: &'a DeTable<'t>) -> Self {
        Self { prefix: String::new(), table: Some(table), line: 1, asked: Vec::new() }
    }

    /// The section `key` of this one, if it is there.
    pub fn inner(&mut self, reader: &mut Reader, key: &'static str) -> Option<Section<'a, 't>> {
        let (line, value) = self.value(reader, key)?;
        let Some(table) = value.as_table() else {
            self.wrong_type(reader, key, line, value, &format!("write it as a section, `[{}{key}]`", self.prefix));
            return None;
        };
        Some(Section { prefix: format!("{}{key}.", self.prefix), table: Some(table), line, asked: Vec::new() })
    }

    pub fn absent(prefix: &'static str) -> Self {
        Section { prefix: format!("{prefix}."), table: None, line: 1, asked: Vec::new() }
    }

    pub fn from_table(prefix: String, line: usize, table: &'a DeTable<'t>) -> Self {
        Section { prefix, table: Some(table), line, asked: Vec::new() }
    }

    pub fn line(&self) -> usize {
        self.line
    }

    /// The line of `key`, or that of the section where it is not written.
    pub fn line_of(&self, reader: &Reader, key: &str) -> usize {
        let found = self.table.and_then(|table| table.get_key_value(key));
        found.map_or(self.line, |(name, _)| reader.line_of(name.span().start))
    }

    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub fn value(&mut self, reader: &Reader, key: &'static str) -> Option<(usize, &'a DeValue<'t>)> {
        self.asked.push(key);
        let (name, value): (&Spanned<_>, &Spanned<DeValue>) = self.table?.get_key_value(key)?;
        Some((reader.line_of(name.span().start), value.get_ref()))
    }

    pub fn text(&mut self, reader: &mut Reader, key: &'static str) -> Option<String> {
        let (line, value) = self.value(reader, key)?;
        match value.as_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong_type(reader, key, line, value, "write it in quotes");
                None
            }
        }
    }

    pub fn flag(&mut self, reader: &mut Reader, key: &'static str, default: bool) -> bool {
        let Some((line, value)) = self.value(reader, key) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.wrong_type(reader, key, line, value, "write `true` or `false`");
            default
        })
    }

    pub fn count(&mut self, reader: &mut Reader, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let Some((line, value)) = self.value(reader, key) else { return default };
        let expected = format!("write a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(written) = value else {
            self.wrong_type(reader, key, line, value, &expected);
            return default;
        };
        match i128::from_str_radix(written.as_str(), written.radix()).ok().and_then(|number| u64::try_from(number).ok())
        {
            Some(number) if range.contains(&number) => number,
            _ => {
                reader.problem(line, format!("`{}` is {}; {expected}", self.name(key), short(written.as_str())));
                default
            }
        }
    }

    pub fn size(&mut self, reader: &mut Reader, key: &'static str, range: RangeInclusive<u64>, default: u64) -> usize {
        usize::try_from(self.count(reader, key, range, default)).unwrap_or(usize::MAX)
    }

    pub fn number(&mut self, reader: &mut Reader, key: &'static str, range: RangeInclusive<f64>, default: f64) -> f64 {
        let Some((line, value)) = self.value(reader, key) else { return default };
        let expected = format!("write a number from {} to {}", range.start(), range.end());
        let written = match value {
            DeValue::Float(written) => written.as_str(),
            DeValue::Integer(written) if written.radix() == 10 => written.as_str(),
            _ => {
                self.wrong_type(reader, key, line, value, &expected);
                return default;
            }
        };
        match written.parse::<f64>() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                reader.problem(line, format!("`{}` is {}; {expected}", self.name(key), short(written)));
                default
            }
        }
    }

    pub fn word<T: Copy>(&mut self, reader: &mut Reader, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let line = self.line_of(reader, key);
        let written = self.text(reader, key)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == written) {
            return Some(*meaning);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let next = match nearest(&written, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", list(&known)),
        };
        reader.problem(line, format!("`{}` is `{}`; {next}", self.name(key), short(&written)));
        None
    }

    pub fn texts(&mut self, reader: &mut Reader, key: &'static str) -> Option<(usize, Vec<String>)> {
        let (line, value) = self.value(reader, key)?;
        let texts = value.as_array().and_then(|items| {
            items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        if texts.is_none() {
            self.wrong_type(reader, key, line, value, "write a list of texts, such as [\"a\", \"b\"]");
        }
        Some((line, texts?))
    }

    /// A list in which each word is one of `words`; the second list is what a reader is told.
    pub fn words<T: Copy>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        words: &[(&str, T)],
        told: &[&str],
    ) -> Option<Vec<T>> {
        let (line, written) = self.texts(reader, key)?;
        let mut found = Vec::with_capacity(written.len());
        for text in written {
            match words.iter().find(|(word, _)| *word == text) {
                Some((_, meaning)) => found.push(*meaning),
                None => {
                    let name = self.name(key);
                    reader.problem(line, format!("`{name}` has `{}`; write one of {}", short(&text), list(told)));
                }
            }
        }
        Some(found)
    }

    pub fn wrong_type(&self, reader: &mut Reader, key: &str, line: usize, value: &DeValue, next: &str) {
        let article = if value.type_str().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        reader.problem(line, format!("`{}` is {article} {}; {next}", self.name(key), value.type_str()));
    }

    /// Notes the keys that nobody asked for.
    pub fn close(self, reader: &mut Reader) {
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let next = match nearest(name, &self.asked) {
                Some(near) => format!("did you mean `{}{near}`?", self.prefix),
                None => format!("known here are {}", list(&self.asked)),
            };
            let what = format!("`{}{}` is unknown; {next}", self.prefix, short(name));
            reader.problem(reader.line_of(key.span().start), what);
        }
    }
}

/// The known word with the fewest edits, when they are few enough to be a typo.
fn nearest<'w>(written: &str, known: &[&'w str]) -> Option<&'w str> {
    if written.len() > 64 {
        return None;
    }
    let most = 1 + written.chars().count().min(12) / 4;
    known
        .iter()
        .map(|word| (edits(written, word), *word))
        .min()
        .filter(|(edits, _)| *edits <= most)
        .map(|(_, word)| word)
}

/// Levenshtein distance. Source: Wagner & Fischer 1974, one row at a time.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, b) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *slot;
            let here = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            (diagonal, left, *slot) = (above, here, here);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// What a file says, fit for a message.
pub fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        assert_eq!([edits("", "ab"), edits("kitten", "sitting"), edits("rows", "rows")], [2, 3, 0]);
        assert_eq!(nearest("epoch", &["epochs", "steps"]), Some("epochs"));
        assert_eq!(nearest("colour", &["rows", "length"]), None);
        assert_eq!(nearest(&"x".repeat(100), &["rows"]), None);
    }
}
