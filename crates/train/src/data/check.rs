//! Looks at a file as a job would, and tells what it found: every bad line, and what the good ones come to.

use std::collections::HashSet;
use std::path::Path;

use super::{BadLine, FileFacts, Reading, Unit};
use crate::TrainError;

/// What a file holds for one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub file: FileFacts,
    /// Rows that can be learnt from.
    pub rows: u64,
    /// Examples they make; pairs count two.
    pub examples: u64,
    /// At most as many as were asked for.
    pub bad: Vec<BadLine>,
    pub bad_rows: u64,
    pub tokens: TokenCounts,
    /// Lines of rows with an example longer than the limit: the first few, and how many.
    pub long: Vec<u64>,
    pub long_rows: u64,
    /// Lines of rows that give the same tokens as an earlier one: the first few, and how many.
    pub same: Vec<u64>,
    pub same_rows: u64,
}

/// Tokens of examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    pub min: u32,
    pub median: u32,
    pub p95: u32,
    pub max: u32,
    pub total: u64,
    /// Those with a weight above 0.
    pub learnt: u64,
}

/// Checks `path`. `length`: the tokens that a row may have; `most_bad`: how many bad lines are kept.
///
/// # Errors
/// `Io` where the file cannot be read. Bad lines are no error here.
pub fn check(path: &Path, reading: Reading, length: usize, most_bad: usize) -> Result<Checked, TrainError> {
    let mut bad = Vec::new();
    let (mut rows, mut bad_rows, mut learnt) = (0, 0, 0);
    let (mut lengths, mut seen) = (Vec::new(), HashSet::new());
    let (mut long, mut long_rows, mut same, mut same_rows) = (Vec::new(), 0, Vec::new(), 0);
    let note = |list: &mut Vec<u64>, count: &mut u64, line| {
        *count += 1;
        if list.len() < NOTED_LINES {
            list.push(line);
        }
    };
    let file = reading.read(path, &mut |line, units| {
        let units = match units {
            Ok(units) => units,
            Err(reason) => {
                bad_rows += 1;
                if bad.len() < most_bad {
                    bad.push(BadLine { line, reason });
                }
                return Ok(());
            }
        };
        rows += 1;
        let (mut is_long, mut is_new) = (false, false);
        for unit in &units {
            is_new |= seen.insert(unit.key());
            for example in unit.examples() {
                lengths.push(u32::try_from(example.tokens.len()).unwrap_or(u32::MAX));
                learnt += example.weights.iter().filter(|weight| **weight > 0.0).count() as u64;
                is_long |= !matches!(unit, Unit::Text(_)) && example.tokens.len() > length;
            }
        }
        if is_long {
            note(&mut long, &mut long_rows, line);
        }
        if !is_new {
            note(&mut same, &mut same_rows, line);
        }
        Ok(())
    })?;
    let examples = lengths.len() as u64;
    let tokens = TokenCounts { learnt, ..TokenCounts::of(lengths) };
    Ok(Checked { file, rows, examples, bad, bad_rows, tokens, long, long_rows, same, same_rows })
}

impl TokenCounts {
    fn of(mut lengths: Vec<u32>) -> Self {
        lengths.sort_unstable();
        let at = |share: f64| {
            let place = (lengths.len().saturating_sub(1) as f64 * share).round() as usize;
            lengths.get(place).copied().unwrap_or(0)
        };
        let total = lengths.iter().map(|length| u64::from(*length)).sum();
        Self { min: at(0.0), median: at(0.5), p95: at(0.95), max: at(1.0), total, learnt: 0 }
    }
}

/// Of a list that is shown to people.
const NOTED_LINES: usize = 10;
