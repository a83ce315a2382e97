//! The loss of the same training on both sides, and on PyTorch in two precisions, whose difference is the noise. Each curve is
//! kept as it was made, so that a run that was cut short makes only the missing ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use falaj_plot::{Axis, Chart, Series, smooth};
use serde_json::{Value, json};

use super::torch::Torch;
use crate::bench::machine;

/// Losses by step.
pub struct Curves {
    ours: Vec<f64>,
    /// bf16, as ours.
    peer: Vec<f64>,
    /// PyTorch in f32.
    exact: Vec<f64>,
    rows: usize,
}

pub fn run(folder: &Path, baseline: &Path, torch: &Torch, threads: usize, quick: bool) -> Result<Curves> {
    let (steps, rows) = if quick { (60, 4) } else { (300, 16) };
    let text = folder.join("train-text.txt");
    fs::write(&text, machine::prose()?)?;
    let weights = folder.join("train-weights.safetensors");
    let status = Command::new(baseline).arg("weights").arg(&weights).status()?;
    anyhow::ensure!(status.success(), "the first weights were not written");
    let store = folder.join("train-loss.json");
    let identity = |who: &[PathBuf]| -> Result<String> {
        let files = [&[text.clone(), weights.clone()], who].concat();
        Ok(format!("{} {steps} {rows}", machine::build_of(&files, quick)?))
    };
    let script = crate::root().join("bench/torch_train.py");

    let ours = kept(&store, "ours", &identity(&[baseline.to_owned()])?, || {
        let mut program = Command::new(baseline);
        program.arg("loss").arg(&text).args([steps, rows, threads].map(|number: usize| number.to_string()));
        super::reply_of(&mut program)
    })?;
    let theirs = |mode: &str| {
        kept(&store, mode, &identity(std::slice::from_ref(&script))?, || {
            let command = format!("loss {} {} {steps} {rows}", text.display(), weights.display());
            // Compiling pays in a long run only.
            torch.start(threads, mode, !quick)?.ask(&command)
        })
    };
    let curves = Curves { ours, peer: theirs("bf16")?, exact: theirs("fp32")?, rows };
    fs::write(folder.join("train-loss.svg"), curves.svg())?;
    Ok(curves)
}

/// The curve `name` of the file, or else a new one, written into it.
fn kept(store: &Path, name: &str, identity: &str, make: impl FnOnce() -> Result<Value>) -> Result<Vec<f64>> {
    let mut all: Value =
        fs::read_to_string(store).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(json!({}));
    if all[name]["identity"] != identity {
        println!("  the loss curve of {name}:");
        let reply = make()?;
        all[name] = json!({ "identity": identity, "losses": reply.get("losses").context("no losses")? });
        fs::write(store, all.to_string())?;
    }
    losses(&all, name)
}

fn losses(all: &Value, name: &str) -> Result<Vec<f64>> {
    let losses = all[name]["losses"].as_array().with_context(|| format!("no loss curve `{name}`"))?;
    Ok(losses.iter().filter_map(Value::as_f64).collect())
}

/// Differences by step.
pub struct Apart(Vec<f64>);

impl Apart {
    fn of(one: &[f64], other: &[f64]) -> Self {
        Self(one.iter().zip(other).map(|(one, other)| (one - other).abs()).collect())
    }

    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }
}

impl Curves {
    /// What the last run left.
    pub fn read(folder: &Path) -> Result<Self> {
        let all: Value = serde_json::from_str(&fs::read_to_string(folder.join("train-loss.json"))?)?;
        let identity = all["ours"]["identity"].as_str().unwrap_or_default();
        let rows = identity.rsplit(' ').next().and_then(|rows| rows.parse().ok()).context("curves without rows")?;
        Ok(Self { ours: losses(&all, "ours")?, peer: losses(&all, "bf16")?, exact: losses(&all, "fp32")?, rows })
    }

    pub fn ours_and_peer(&self) -> Apart {
        Apart::of(&self.ours, &self.peer)
    }

    pub fn noise(&self) -> Apart {
        Apart::of(&self.exact, &self.peer)
    }

    pub fn note(&self) -> String {
        let exact = Apart::of(&self.ours, &self.exact);
        let end = |losses: &[f64]| losses.last().copied().unwrap_or(f64::NAN);
        format!(
            "{} steps of {} × 256; ours from PyTorch's f32 {:.5} in the mean; at the end {:.4}, bf16 {:.4}, f32 {:.4}",
            self.ours.len(),
            self.rows,
            exact.mean(),
            end(&self.ours),
            end(&self.peer),
            end(&self.exact)
        )
    }

    pub fn svg(&self) -> String {
        let points = |losses: &[f64]| -> Vec<(f64, f64)> {
            losses.iter().enumerate().map(|(step, loss)| ((step + 1) as f64, *loss)).collect()
        };
        Chart {
            title: format!("The same training on both sides, {} × 256 tokens a step", self.rows),
            x: Axis::linear("step"),
            y: Axis::linear("nats per token"),
            series: vec![
                Series::line("Falaj", points(&self.ours)),
                Series::line("PyTorch bf16", points(&self.peer)),
                Series::line("PyTorch f32", points(&self.exact)),
            ],
        }
        .svg()
    }

    /// How far the curves are apart, step by step.
    pub fn apart_svg(&self) -> String {
        let series = |name: &str, apart: Apart| {
            let points: Vec<(f64, f64)> =
                apart.0.iter().enumerate().map(|(step, apart)| ((step + 1) as f64, apart.max(1e-7))).collect();
            Series::line(name, smooth(&points, 2))
        };
        Chart {
            title: "How far the loss curves are apart".into(),
            x: Axis::linear("step"),
            y: Axis::log("nats per token, mean of five steps"),
            series: vec![
                series("Falaj and PyTorch bf16", self.ours_and_peer()),
                series("PyTorch bf16 and f32", self.noise()),
            ],
        }
        .svg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_compared_step_by_step() {
        let curves = Curves { ours: vec![3.0, 2.5], peer: vec![3.1, 2.5], exact: vec![3.0, 2.0], rows: 4 };
        assert!((curves.ours_and_peer().mean() - 0.05).abs() < 1e-9);
        assert_eq!(curves.noise().max(), 0.5);
        assert!(curves.note().starts_with("2 steps of 4 × 256"));
    }

    #[test]
    fn a_curve_is_made_once() {
        let store = std::env::temp_dir().join(format!("falaj-curves-{}.json", std::process::id()));
        let made = |identity: &str, loss: f64| {
            kept(&store, "ours", identity, || Ok(json!({ "losses": [loss] }))).expect("a curve")
        };
        assert_eq!((made("a", 1.0), made("a", 2.0), made("b", 3.0)), (vec![1.0], vec![1.0], vec![3.0]));
        fs::remove_file(store).expect("it was ours");
    }
}
