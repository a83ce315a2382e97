//! How a job goes, for whoever watches: a few lines that change in a terminal, plain lines where standard error is none, lines of
//! JSON for programs.

use crate::machine;
use crate::output;
use crate::words::Word;
use falaj_protocol::jobs::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

pub struct View {
    json: bool,
    live: bool,
    folder: String,
    bar: ProgressBar,
    spark: Spark,
    /// Held-out loss and share of tokens right, the newest.
    held: Option<(f64, f64)>,
    /// When the last plain line was written.
    told: Option<Instant>,
}

/// Between two plain lines about steps.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

impl View {
    pub fn new(json: bool, folder: &Path) -> Self {
        let live = !json && stderr().is_terminal();
        let style = ProgressStyle::with_template("{wide_bar} {prefix}\n{msg}");
        let bar = if live { ProgressBar::new(0) } else { ProgressBar::hidden() };
        Self {
            json,
            live,
            folder: folder.display().to_string(),
            // The template is a constant; the default style is no worse than a crash.
            bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            spark: Spark::default(),
            held: None,
            told: None,
        }
    }

    pub fn show(&mut self, progress: &Progress) {
        if self.json {
            output::json(&json!(progress));
            return;
        }
        match progress {
            Progress::Validated { rows, tokens_per_step, steps, expected_seconds, .. } => {
                let [rows, steps_of, tokens] = [rows, steps, tokens_per_step].map(u64::to_string);
                output::line(&Word::TrainPlan.with(&[&rows, &steps_of, &tokens, &self.folder]));
                if let Some(seconds) = expected_seconds {
                    output::line(&Word::TrainExpected.with(&[&output::clock(*seconds as f64)]));
                }
                // Draws the bar: whatever is written after this goes through `line`.
                self.bar.set_length(*steps);
            }
            Progress::Step { .. } => self.step(progress),
            Progress::Evaluation { step, loss, accuracy } => {
                self.held = Some((*loss, *accuracy));
                let (loss, right) = (format!("{loss:.3}"), percent(*accuracy));
                self.line(&Word::TrainHeldOut.with(&[&step.to_string(), &loss, &right]));
            }
            Progress::Sample { step, prompt, answer } => {
                let [prompt, answer] = [prompt, answer].map(|text| output::printable(text));
                self.line(&Word::TrainSample.with(&[&step.to_string(), &prompt, answer.trim()]));
            }
            Progress::Stopped { step } => self.line(&Word::TrainStopped.with(&[&step.to_string()])),
            Progress::Done { energy: Some(energy), .. } => {
                self.line(&Word::TrainEnergy.with(&[&energy.in_words()]));
            }
            // A failure is told once, by the command's end.
            Progress::Checkpoint { .. } | Progress::Done { .. } | Progress::Failed { .. } => {}
        }
    }

    fn step(&mut self, progress: &Progress) {
        let Progress::Step { step, steps, loss, tokens_per_second, seconds_left, learning_rate, .. } = progress else {
            return;
        };
        self.spark.add(*loss);
        let [at, all] = [step, steps].map(u64::to_string);
        let (loss, speed, left) =
            (format!("{loss:.3}"), format!("{tokens_per_second:.0}"), output::clock(*seconds_left));
        let (rate, memory) = (format!("{learning_rate:.2e}"), output::bytes(machine::resident_bytes()));
        if self.live {
            self.bar.set_position(*step);
            self.bar.set_prefix(Word::TrainLeft.with(&[&at, &all, &left]));
            let losses = match self.held {
                Some((held, right)) => {
                    let (held, right) = (format!("{held:.3}"), percent(right));
                    Word::TrainLossHeld.with(&[&loss, &self.spark.drawn(), &held, &right])
                }
                None => Word::TrainLoss.with(&[&loss, &self.spark.drawn()]),
            };
            self.bar.set_message(format!("{losses}\n{}", Word::TrainPace.with(&[&speed, &rate, &memory])));
        } else if step == steps || self.told.is_none_or(|told| told.elapsed() >= PLAIN_EVERY) {
            self.told = Some(Instant::now());
            output::note(&Word::TrainStep.with(&[&at, &all, &loss, &speed, &left, &rate, &memory]));
        }
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| output::line(text));
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// All losses so far in a few characters: each column is the mean of as many steps as the others.
#[derive(Default)]
struct Spark {
    /// (sum, steps), all but the last with `wide` steps.
    columns: Vec<(f64, u32)>,
    wide: u32,
}

const COLUMNS: usize = 32;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Spark {
    fn add(&mut self, loss: f64) {
        let wide = self.wide.max(1);
        match self.columns.last_mut() {
            Some(last) if last.1 < wide => *last = (last.0 + loss, last.1 + 1),
            _ => self.columns.push((loss, 1)),
        }
        self.wide = wide;
        if self.columns.len() == COLUMNS {
            self.wide = wide * 2;
            let pairs = self.columns.chunks(2).map(|pair| pair.iter().fold((0.0, 0), |(a, n), (b, m)| (a + b, n + m)));
            self.columns = pairs.collect();
        }
    }

    fn drawn(&self) -> String {
        let means: Vec<f64> = self.columns.iter().map(|(sum, steps)| sum / f64::from((*steps).max(1))).collect();
        let (low, high) =
            means.iter().fold((f64::MAX, f64::MIN), |(low, high), mean| (low.min(*mean), high.max(*mean)));
        let bar = |mean: &f64| {
            let share = if high > low { (mean - low) / (high - low) } else { 0.0 };
            BARS[((share * 7.0).round() as usize).min(7)]
        };
        means.iter().map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_of_any_length_takes_one_line() {
        let mut spark = Spark::default();
        assert_eq!(spark.drawn(), "");
        spark.add(3.0);
        assert_eq!(spark.drawn(), "▁");
        spark.add(1.0);
        spark.add(2.0);
        assert_eq!(spark.drawn(), "█▁▅");
        for step in 0..10_000 {
            spark.add(10.0 / f64::from(step + 1));
        }
        let drawn = spark.drawn();
        assert!((COLUMNS / 2..COLUMNS).contains(&drawn.chars().count()), "{drawn}");
        assert!(drawn.starts_with('█') && drawn.ends_with('▁'), "{drawn}");
    }
}
