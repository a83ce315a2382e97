//! What stays of a run for people: `report.md` in its folder, and the curves beside it as SVG, drawn from `events.jsonl`.

use crate::energy::emitted;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::words::Word;
use falaj_energy::Carbon;
use falaj_plot::{Axis, Chart, Series, smooth};
use falaj_protocol::jobs::{Energy, Progress};
use falaj_train::run::Summary;
use falaj_train::{ExportFormat, Recipe};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes the curves and the report. Returns the report's path.
pub fn write(
    folder: &Path,
    recipe: &Recipe,
    summary: &Summary,
    exports: &[(ExportFormat, PathBuf, f32)],
    carbon: &Carbon,
) -> Outcome<PathBuf> {
    let plots = plots(folder)?;
    let path = folder.join("report.md");
    let text = text(recipe, summary, exports, carbon, &events(folder)?, &plots);
    fs::write(&path, text).or_fail(|| format!("`{}`", path.display()))?;
    Ok(path)
}

fn text(
    recipe: &Recipe,
    summary: &Summary,
    exports: &[(ExportFormat, PathBuf, f32)],
    carbon: &Carbon,
    events: &[Progress],
    plots: &[PathBuf],
) -> String {
    let held = summary.valid_loss.zip(summary.valid_accuracy);
    let held = held.map(|(loss, right)| format!("{loss:.4} ({:.1} %)", right * 100.0));
    let unknown = || Word::ReportUnknown.text().to_owned();
    let rows = [
        (Word::ReportSteps, summary.steps.to_string()),
        (Word::ReportLearnt, summary.trained_tokens.to_string()),
        (Word::ReportLoss, format!("{:.4} → {:.4}", summary.first_loss, summary.last_loss)),
        (Word::ReportHeld, held.unwrap_or_else(|| "–".to_owned())),
        (Word::ReportTime, output::clock(summary.seconds)),
        (Word::ReportEnergy, summary.energy.as_ref().map_or_else(unknown, Energy::in_words)),
        (Word::ReportCarbon, summary.energy.map_or_else(unknown, |energy| emitted(carbon, energy.joules))),
        (
            Word::ReportResults,
            exports.iter().map(|(_, path, _)| format!("`{}`", path.display())).collect::<Vec<_>>().join(", "),
        ),
    ];
    let base = recipe.base.as_deref().unwrap_or("–");
    let mut out = format!("# {}\n\n| {base} | `{:?}` |\n|---|---|\n", recipe.name, recipe.method);
    for (word, value) in rows {
        let _ = writeln!(out, "| {} | {value} |", word.text());
    }
    for plot in plots {
        let name = plot.file_name().unwrap_or_default().to_string_lossy();
        let _ = write!(out, "\n![{}]({name})\n", name.trim_end_matches(".svg"));
    }
    // The newest answer to each prompt.
    let mut answers: Vec<(&String, u64, &String)> = Vec::new();
    for event in events {
        let Progress::Sample { step, prompt, answer } = event else { continue };
        answers.retain(|(known, ..)| *known != prompt);
        answers.push((prompt, *step, answer));
    }
    if !answers.is_empty() {
        let _ = write!(out, "\n## {}\n", Word::ReportSamples.text());
    }
    for (prompt, step, answer) in answers {
        let [prompt, answer] = [prompt, answer].map(|text| output::printable(text).replace('\n', "\n> "));
        let _ = write!(out, "\n> {prompt}\n>\n> **{answer}** ({} {step})\n", Word::PlotStep.text());
    }
    out
}

/// Draws `loss.svg`, `speed.svg` and `rate.svg` in the folder of a run.
///
/// # Errors
/// A folder without a run.
pub fn plots(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let (mut losses, mut held, mut speeds, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for event in events(folder)? {
        match event {
            Progress::Step { step, loss, tokens_per_second, learning_rate, .. } => {
                losses.push((step as f64, loss));
                speeds.push((step as f64, tokens_per_second));
                rates.push((step as f64, learning_rate));
            }
            Progress::Evaluation { step, loss, .. } => held.push((step as f64, loss)),
            _ => {}
        }
    }
    if losses.is_empty() {
        return Err(none_in(folder));
    }
    let smoothed = |raw: &[(f64, f64)]| smooth(raw, (raw.len() / 50).max(1));
    let mut loss = vec![Series::faint(losses.clone()), Series::line(Word::PlotTrain.text(), smoothed(&losses))];
    if !held.is_empty() {
        loss.push(Series::dots(Word::PlotHeld.text(), held));
    }
    let speed = vec![Series::faint(speeds.clone()), Series::line(Word::PlotSpeed.text(), smoothed(&speeds))];
    let rate = vec![Series::line(Word::PlotRate.text(), rates)];
    [("loss.svg", Word::PlotLoss, loss), ("speed.svg", Word::PlotSpeed, speed), ("rate.svg", Word::PlotRate, rate)]
        .into_iter()
        .map(|(name, what, series)| {
            let (x, y) = (Axis::linear(Word::PlotStep.text()), Axis::linear(what.text()));
            let chart = Chart { title: what.text().to_owned(), x, y, series };
            let path = folder.join(name);
            fs::write(&path, chart.svg()).or_fail(|| format!("`{}`", path.display()))?;
            Ok(path)
        })
        .collect()
}

fn none_in(folder: &Path) -> Failure {
    Failure::new(Word::TrainNoRun.with(&[&folder.display().to_string()])).next(Word::TrainNoRunNext.text())
}

/// Those that this version knows, oldest first.
fn events(folder: &Path) -> Outcome<Vec<Progress>> {
    match fs::read_to_string(folder.join("events.jsonl")) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(none_in(folder)),
        Err(error) => Err(Failure::from(error).while_doing(&format!("`{}`", folder.display()))),
    }
}
