//! `falaj eval MODEL SUITE…`: asks the suites of one or two models, keeps what was answered in a report, and shows it beside the
//! baseline. What is asked and how it is scored is `falaj_eval`'s; the table is in `eval/table.rs`, the file in `eval/file.rs`.

mod file;
mod table;

use crate::args::Eval;
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::serving::{self, Place};
use crate::words::Word;
use falaj_eval::{Report, Results, Settings, Subject, Suite, Surroundings, Unigram, compare, measure};
use falaj_server::Served;
use file::ReportFile;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub fn eval(context: &Context, options: &Eval) -> Outcome {
    let suites = options.suites.iter().map(|path| read(path)).collect::<Outcome<Vec<_>>>()?;
    let mut report = ReportFile::open(options.report.as_deref())?;
    let cancelled = Arc::new(AtomicBool::new(false));
    crate::train::stop_on_signal(&cancelled)?;
    let settings =
        Settings { max_tokens: options.max_tokens, window_tokens: options.window.map_or(0, |window| window as usize) };
    // Of this call; the report may hold others'.
    let mut asked: Vec<Vec<Results>> = vec![Vec::new(); suites.len()];
    for (number, name) in std::iter::once(&options.model).chain(&options.against).enumerate() {
        let served = serving::load(&context.config, &Place::find(&context.config, name)?)?;
        if number == 0 {
            let counts = options.counts.as_deref().map(|path| counts(path, &served)).transpose()?;
            for suite in &suites {
                report.put(baseline(suite, &served, &settings, counts.as_ref()));
            }
        }
        for (suite, asked) in suites.iter().zip(&mut asked) {
            let results = ask(context, suite, &served, &settings, &mut report, &cancelled)?;
            if cancelled.load(Ordering::Relaxed) && !results.is_complete() {
                let count = [results.rows.len(), results.suite_rows].map(|count| count.to_string());
                report.put(results);
                report.write()?;
                let next = match &options.report {
                    Some(path) => Word::EvalStoppedKept.with(&[&path.display().to_string()]),
                    None => Word::EvalStoppedLost.text().to_owned(),
                };
                return Err(Failure::new(Word::EvalStopped.with(&[&count[0], &count[1]])).next(next));
            }
            report.put(results.clone());
            asked.push(results);
        }
        served.engine.shutdown(false);
    }
    let compared: Vec<_> = asked
        .iter()
        .filter_map(|asked| asked.first().zip(asked.get(1)))
        .flat_map(|(first, second)| compare(first, second))
        .collect();
    report.compared(compared.clone());
    report.write()?;
    let results: Vec<&Results> = suites
        .iter()
        .flat_map(|suite| report.of(suite))
        .filter(|results| results.is_complete() || is_baseline(results))
        .collect();
    if context.json {
        let report = Report { results: results.into_iter().cloned().collect(), comparisons: compared };
        output::pretty_json(&json!(report));
        return Ok(());
    }
    for suite in &suites {
        let results: Vec<_> = results.iter().copied().filter(|results| results.suite_digest == suite.digest).collect();
        table::show(suite, &results, &compared);
    }
    if let Some(path) = &options.report {
        output::line(&Word::EvalWritten.with(&[&path.display().to_string()]));
    }
    Ok(())
}

/// Refuses a suite with bad lines: a score over the others would be another suite's.
fn read(path: &Path) -> Outcome<Suite> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).or_fail(|| format!("`{shown}`"))?;
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let suite = Suite::parse(&name, &bytes).or_fail(|| format!("`{shown}`"))?;
    for bad in suite.bad.iter().take(MOST_BAD_LINES) {
        output::note(&output::printable(&Word::EvalBadLine.with(&[&shown, &bad.line.to_string(), &bad.reason])));
    }
    match (suite.bad.len(), suite.rows.len()) {
        (0, 0) => Err(Failure::new(Word::EvalEmpty.with(&[&shown])).next(Word::EvalBadNext.text())),
        (0, _) => Ok(suite),
        (bad, _) => Err(Failure::new(Word::EvalBad.with(&[&shown, &bad.to_string()])).next(Word::EvalBadNext.text())),
    }
}

fn counts(path: &Path, served: &Served) -> Outcome<Unigram> {
    let text = std::fs::read_to_string(path).or_fail(|| format!("`{}`", path.display()))?;
    Ok(Unigram::of(&text, &served.text.tokenizer))
}

/// Everything that the suite asks and the report does not know yet.
fn ask(
    context: &Context,
    suite: &Suite,
    served: &Served,
    settings: &Settings,
    report: &mut ReportFile,
    cancelled: &AtomicBool,
) -> Outcome<Results> {
    let model = served.engine.model();
    let mut results = Results {
        suite: suite.name.clone(),
        suite_digest: suite.digest,
        suite_rows: suite.rows.len(),
        model: served.facts.id.clone(),
        model_digest: model.digest(),
        adapter_digest: served.adapter.as_ref().map(falaj_engine::AdapterHandle::digest),
        numerics: format!("{} {:?}", model.ops().numerics_version(), served.engine.options().kv_format),
        settings: settings.clone(),
        measures: Vec::new(),
        rows: Vec::new(),
    };
    let done = report.done(&results);
    let bar = bar(suite, &results.model, done.len());
    if !done.is_empty() {
        bar.suspend(|| output::note(&Word::EvalKept.with(&[&done.len().to_string()])));
    }
    results.rows.clone_from(&done);
    let mut written = Instant::now();
    let mut trouble = Ok(());
    let mut watch = |outcome: &falaj_eval::Outcome| {
        bar.inc(1);
        results.rows.push(outcome.clone());
        if report.is_kept() && written.elapsed() > BETWEEN_WRITES {
            report.put(results.clone());
            trouble = std::mem::replace(&mut trouble, Ok(())).and(report.write());
            written = Instant::now();
        }
    };
    let surroundings = Surroundings { done, cancelled, watch: &mut watch };
    let subject = Subject { engine: &served.engine, adapter: served.adapter.as_ref(), text: &served.text };
    let rows = falaj_eval::run(suite, subject, settings, surroundings);
    bar.finish_and_clear();
    results.rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            // What is done stays done.
            report.put(results);
            report.write()?;
            return Err(error.into());
        }
    };
    trouble?;
    results.measures = measure(&results.rows);
    let mut failed = results.rows.iter().filter_map(|row| Some((row.line, row.error.as_ref()?)));
    if let Some((line, reason)) = failed.next()
        && !context.json
    {
        let (count, line) = (results.failed().to_string(), line.to_string());
        let text = Word::EvalFailed.with(&[&suite.name, &count, &line, reason]);
        output::note(&output::printable(&text));
    }
    Ok(results)
}

fn baseline(suite: &Suite, served: &Served, settings: &Settings, counts: Option<&Unigram>) -> Results {
    let rows = falaj_eval::baseline(suite, &served.text, counts);
    Results {
        suite: suite.name.clone(),
        suite_digest: suite.digest,
        suite_rows: suite.rows.len(),
        model: BASELINE.to_owned(),
        model_digest: None,
        adapter_digest: None,
        numerics: String::new(),
        settings: settings.clone(),
        measures: measure(&rows),
        rows,
    }
}

fn is_baseline(results: &Results) -> bool {
    results.model == BASELINE && results.model_digest.is_none()
}

fn bar(suite: &Suite, model: &str, done: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    let bar = ProgressBar::new(suite.rows.len() as u64).with_message(Word::EvalAsking.with(&[model, &suite.name]));
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_position(done as u64);
    bar
}

/// In reports; a model that is served cannot have a name without a digest.
const BASELINE: &str = "baseline";
/// More are counted, not told.
const MOST_BAD_LINES: usize = 1000;
/// What a crash may cost.
const BETWEEN_WRITES: Duration = Duration::from_secs(5);
