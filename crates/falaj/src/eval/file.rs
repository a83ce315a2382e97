//! The report file: results of any number of calls, one entry for each suite, model and way of computing. It is replaced as a whole,
//! so that a crash leaves the last one.

use crate::failure::{Failure, OrFail, Outcome};
use crate::words::Word;
use falaj_eval::{Compared, Report, Results, Suite};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub struct ReportFile {
    path: Option<PathBuf>,
    report: Report,
}

impl ReportFile {
    /// What is there already; without a path nothing is kept.
    pub fn open(path: Option<&Path>) -> Outcome<Self> {
        let Some(path) = path else { return Ok(Self { path: None, report: Report::default() }) };
        let shown = path.display().to_string();
        let report = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Report::default(),
            Err(error) => return Err(Failure::from(error).while_doing(&format!("`{shown}`"))),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::usage(Word::EvalReportBad.with(&[&shown, &error.to_string()]))
                    .next(Word::EvalReportNext.text())
            })?,
        };
        Ok(Self { path: Some(path.to_owned()), report })
    }

    pub fn is_kept(&self) -> bool {
        self.path.is_some()
    }

    /// Rows that an earlier call answered in the same way.
    pub fn done(&self, results: &Results) -> Vec<falaj_eval::Outcome> {
        let known = self.report.results.iter().find(|known| known.is_like(results));
        known.map(|known| known.rows.clone()).unwrap_or_default()
    }

    pub fn put(&mut self, results: Results) {
        match self.report.results.iter_mut().find(|known| known.is_like(&results)) {
            Some(known) => *known = results,
            None => self.report.results.push(results),
        }
    }

    /// Takes the place of what was compared before.
    pub fn compared(&mut self, compared: Vec<Compared>) {
        if !compared.is_empty() {
            self.report.comparisons = compared;
        }
    }

    /// All results of a suite, baselines last.
    pub fn of(&self, suite: &Suite) -> Vec<&Results> {
        let mut results: Vec<_> =
            self.report.results.iter().filter(|known| known.suite_digest == suite.digest).collect();
        results.sort_by_key(|results| super::is_baseline(results));
        results
    }

    pub fn write(&self) -> Outcome {
        let Some(path) = &self.path else { return Ok(()) };
        let shown = || format!("`{}`", path.display());
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let beside = path.with_file_name(name);
        fs::write(&beside, serde_json::to_vec(&self.report)?).or_fail(shown)?;
        fs::rename(&beside, path).or_fail(shown)
    }
}
