//! Results side by side: a row per measure, then per language and group of it; a column per model, the baseline last. Measures keep
//! their names in all languages, as in the report.

use super::is_baseline;
use crate::output;
use crate::words::Word;
use falaj_eval::{Compared, Measured, Results, Suite};

pub fn show(suite: &Suite, results: &[&Results], compared: &[Compared]) {
    output::line("");
    output::line(&Word::EvalSuite.with(&[&suite.name, &suite.rows.len().to_string()]));
    let mut rows = vec![vec![String::new(), Word::EvalRows.text().to_owned()]];
    rows[0].extend(results.iter().map(|results| column(results)));
    for key in keys(results) {
        let cells: Vec<_> =
            results.iter().map(|results| results.measures.iter().find(|one| Key::of(one) == key)).collect();
        let count = cells.iter().flatten().map(|one| one.rows).max().unwrap_or(0);
        let mut row = vec![key.title(), count.to_string()];
        row.extend(cells.iter().map(|cell| cell.map_or("–".to_owned(), said)));
        rows.push(row);
    }
    output::table(&rows);
    let compared: Vec<_> = compared.iter().filter(|one| one.suite == suite.name).collect();
    if let Some(one) = compared.first() {
        output::line("");
        output::line(&Word::EvalDifference.with(&[&one.first, &one.second]));
        let rows = compared.iter().map(|one| {
            let verdict = if one.is_certain() { Word::EvalCertain } else { Word::EvalUncertain };
            let title = format!("{} {}", one.task, one.measure.name());
            let interval = format!("[{}, {}]", signed(one.interval.low), signed(one.interval.high));
            vec![title, one.rows.to_string(), signed(one.difference), interval, verdict.text().to_owned()]
        });
        output::table(&rows.collect::<Vec<_>>());
    }
}

/// What a line of the table is about.
#[derive(Clone, PartialEq)]
struct Key<'a> {
    task: &'a str,
    measure: falaj_eval::Measure,
    language: Option<&'a str>,
    group: Option<&'a str>,
}

impl<'a> Key<'a> {
    fn of(one: &'a Measured) -> Self {
        Self { task: &one.task, measure: one.measure, language: one.language.as_deref(), group: one.group.as_deref() }
    }

    fn title(&self) -> String {
        match self.language.or(self.group) {
            None => format!("{} {}", self.task, self.measure.name()),
            Some(part) => format!("  {}", output::printable(part)),
        }
    }
}

/// Each measure with its parts behind it; a part that is the whole says nothing.
fn keys<'a>(results: &[&'a Results]) -> Vec<Key<'a>> {
    let mut all: Vec<(&Measured, Key)> = Vec::new();
    for one in results.iter().flat_map(|results| &results.measures) {
        let key = Key::of(one);
        if all.iter().all(|(_, known)| *known != key) {
            all.push((one, key));
        }
    }
    let mut keys: Vec<Key> = Vec::new();
    for (whole, key) in all.iter().filter(|(_, key)| key.language.is_none() && key.group.is_none()) {
        keys.push(key.clone());
        let part = |(one, part): &&(&Measured, Key)| {
            let same = part.task == key.task && part.measure == key.measure;
            same && (part.language.is_some() || part.group.is_some()) && one.rows < whole.rows
        };
        keys.extend(all.iter().filter(part).map(|(_, part)| part.clone()));
    }
    keys
}

fn column(results: &Results) -> String {
    if is_baseline(results) { Word::EvalBaseline.text().to_owned() } else { output::printable(&results.model) }
}

/// `0.812 [0.776, 0.842]`
fn said(one: &Measured) -> String {
    let (low, high) = (one.interval.low, one.interval.high);
    match low.is_finite() && high.is_finite() {
        true => format!("{} [{}, {}]", number(one.value), number(low), number(high)),
        false => number(one.value),
    }
}

fn number(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

fn signed(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:+.3}") } else { format!("{value:+.1}") }
}
