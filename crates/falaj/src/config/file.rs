//! Reads the TOML file into settings with the line each stood on. An unknown key is an error that names its line and
//! the nearest known key: a typo in a limit must not pass for a limit.

use super::settings::{self, Kind, SETTINGS, Setting};
use crate::failure::Failure;
use crate::words::Word;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub struct Found {
    pub setting: &'static Setting,
    pub text: String,
    /// From 1.
    pub line: usize,
}

#[derive(Debug)]
pub struct Problem {
    line: usize,
    cause: String,
    next: Option<String>,
}

impl Problem {
    pub fn into_failure(self, path: &Path) -> Failure {
        let failure = Failure::usage(format!("{}:{}: {}", path.display(), self.line, self.cause));
        match self.next {
            Some(next) => failure.next(next),
            None => failure,
        }
    }
}

pub fn read(text: &str) -> Result<Vec<Found>, Problem> {
    let table = DeTable::parse(text).map_err(|error| Problem {
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        cause: error.message().to_owned(),
        next: None,
    })?;
    let mut found = Vec::new();
    walk(text, "", table.get_ref(), &mut found)?;
    Ok(found)
}

fn walk(text: &str, prefix: &str, table: &DeTable<'_>, found: &mut Vec<Found>) -> Result<(), Problem> {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        let line = line_of(text, name.span().start);
        match (settings::find(&key), value.get_ref()) {
            (Some(setting), _) => found.push(Found { setting, text: scalar(setting, value, line)?, line }),
            (None, DeValue::Table(inner)) if is_table(&key) => walk(text, &format!("{key}."), inner, found)?,
            (None, _) => {
                let next = nearest(&key).map(|near| Word::DidYouMean.with(&[near]));
                return Err(Problem { line, cause: Word::SettingUnknown.with(&[&key]), next });
            }
        }
    }
    Ok(())
}

fn scalar(setting: &Setting, value: &Spanned<DeValue<'_>>, line: usize) -> Result<String, Problem> {
    let text = match (setting.kind, value.get_ref()) {
        (Kind::Text | Kind::Number, DeValue::String(text)) => Some(text.to_string()),
        (Kind::Number, DeValue::Integer(number)) if number.radix() == 10 => Some(number.as_str().to_owned()),
        (Kind::Bool, DeValue::Boolean(value)) => Some(value.to_string()),
        (Kind::List, DeValue::Array(items)) => {
            items.iter().map(|item| item.get_ref().as_str()).collect::<Option<Vec<_>>>().map(|items| items.join("\n"))
        }
        _ => None,
    };
    text.ok_or_else(|| {
        let expected = match setting.kind {
            Kind::Text => "\"text\"",
            Kind::Number => "1234",
            Kind::Bool => "true, false",
            Kind::List => "[\"text\", \"text\"]",
        };
        let found = value.get_ref().type_str();
        Problem { line, cause: Word::SettingType.with(&[setting.key, found, expected]), next: None }
    })
}

fn is_table(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

/// The known key with the fewest edits, when they are few enough to be a typo.
fn nearest(key: &str) -> Option<&'static str> {
    let tables = SETTINGS.iter().filter_map(|setting| setting.key.split_once('.').map(|(table, _)| table));
    let known = SETTINGS.iter().map(|setting| setting.key).chain(tables);
    let (distance, near) = known.map(|known| (edits(key, known), known)).min()?;
    // `thread` in the wrong table is as common as a wrong letter.
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let moved = SETTINGS.iter().find(|setting| last(setting.key) == last(key)).map(|setting| setting.key);
    if distance <= 3 { Some(near) } else { moved }
}

/// Levenshtein distance. Source: Wagner & Fischer 1974, one row at a time.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for j in 0..b.len() {
            let substituted = diagonal + usize::from(a != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (usize, String, Option<String>) {
        let problem = read(text).err().expect("the text is wrong");
        (problem.line, problem.cause, problem.next)
    }

    #[test]
    fn values_keep_their_lines() {
        let found = read("data = \"/srv\"\n\n[server]\nlisten = \"[::1]:80\"\nmodels = [\"a\", \"b\"]\n").unwrap();
        let found: Vec<_> = found.iter().map(|f| (f.setting.key, f.text.as_str(), f.line)).collect();
        assert_eq!(found, [("data", "/srv", 1), ("server.listen", "[::1]:80", 4), ("server.models", "a\nb", 5)]);
    }

    #[test]
    fn unknown_keys_name_line_and_neighbour() {
        let (line, cause, next) = problem("[engine]\nthread = 2\n");
        assert_eq!((line, cause.as_str()), (2, "unknown setting `engine.thread`"));
        assert_eq!(next.as_deref(), Some("did you mean `engine.threads`?"));
        assert_eq!(problem("threads = 2").2.as_deref(), Some("did you mean `engine.threads`?"));
        assert_eq!(problem("\n[servre]\nlisten = 1").0, 2);
        assert_eq!(problem("[colours]\nx = 1").2, None);
    }

    #[test]
    fn wrong_types_and_broken_files_name_their_line() {
        assert_eq!(problem("[engine]\nthreads = true").0, 2);
        assert_eq!(problem("data = \"x\"\n[engine\n").0, 2);
        assert_eq!(problem("[server]\nmodels = [1]").0, 2);
    }
}
