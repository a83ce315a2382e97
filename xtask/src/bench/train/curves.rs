//! The loss of the same training on both sides, with the rows of each step in several orders, which changes roundings alone: how far
//! apart PyTorch's own curves are then is the noise. Beside them PyTorch in f32, from which both sides' errors are counted. Each
//! curve is kept as it was made, so that a run that was cut short makes only the missing ones.

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
    /// For each order of rows.
    ours: Vec<Vec<f64>>,
    /// bf16, as ours.
    peer: Vec<Vec<f64>>,
    /// PyTorch in f32, whose order of rows moves it by a thousandth of what bf16 does.
    exact: Vec<f64>,
    rows: usize,
}

pub fn run(folder: &Path, baseline: &Path, torch: &Torch, threads: usize, quick: bool) -> Result<Curves> {
    let (steps, rows, orders) = if quick { (60, 4, 4) } else { (300, 16, 2) };
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

    let ours = |order: usize| {
        kept(&store, &format!("ours/{order}"), &identity(&[baseline.to_owned()])?, || {
            let mut program = Command::new(baseline);
            program.arg("loss").arg(&text).args([steps, rows, threads, order].map(|number: usize| number.to_string()));
            super::reply_of(&mut program)
        })
    };
    let theirs = |mode: &str, order: usize| {
        kept(&store, &format!("{mode}/{order}"), &identity(std::slice::from_ref(&script))?, || {
            let command = format!("loss {} {} {steps} {rows} {order}", text.display(), weights.display());
            // Compiling pays in a long run only.
            torch.start(threads, mode, !quick)?.ask(&command)
        })
    };
    let curves = Curves {
        ours: (0..orders).map(ours).collect::<Result<_>>()?,
        peer: (0..orders).map(|order| theirs("bf16", order)).collect::<Result<_>>()?,
        exact: theirs("fp32", 0)?,
        rows,
    };
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
        let identity = all["ours/0"]["identity"].as_str().unwrap_or_default();
        let rows = identity.rsplit(' ').next().and_then(|rows| rows.parse().ok()).context("curves without rows")?;
        let of = |name: &str| -> Result<Vec<Vec<f64>>> {
            let same = |order: &usize| all[format!("{name}/{order}")]["losses"].is_array();
            (0..).take_while(same).map(|order| losses(&all, &format!("{name}/{order}"))).collect()
        };
        Ok(Self { ours: of("ours")?, peer: of("bf16")?, exact: losses(&all, "fp32/0")?, rows })
    }

    /// Every one of ours from every one of theirs.
    pub fn ours_and_peer(&self) -> Vec<Apart> {
        self.ours.iter().flat_map(|ours| self.peer.iter().map(|peer| Apart::of(ours, peer))).collect()
    }

    /// Theirs from each other: the same mathematics in another order.
    pub fn noise(&self) -> Vec<Apart> {
        let after = |at: usize| self.peer[at + 1..].iter();
        self.peer.iter().enumerate().flat_map(|(at, one)| after(at).map(|other| Apart::of(one, other))).collect()
    }

    /// Ours and theirs from f32.
    pub fn errors(&self) -> [Vec<Apart>; 2] {
        [&self.ours, &self.peer].map(|curves| curves.iter().map(|curve| Apart::of(curve, &self.exact)).collect())
    }

    pub fn note(&self) -> String {
        let end =
            |curves: &[Vec<f64>]| curves.iter().filter_map(|losses| losses.last()).sum::<f64>() / curves.len() as f64;
        format!(
            "{} steps of {} × 256, rows in {} orders; in the end {:.4}, bf16 {:.4}, f32 {:.4}",
            self.exact.len(),
            self.rows,
            self.ours.len(),
            end(&self.ours),
            end(&self.peer),
            end(std::slice::from_ref(&self.exact))
        )
    }

    pub fn svg(&self) -> String {
        let points = |losses: &[f64]| -> Vec<(f64, f64)> {
            losses.iter().enumerate().map(|(step, loss)| ((step + 1) as f64, *loss)).collect()
        };
        let first = |curves: &[Vec<f64>]| curves.first().map_or_else(Vec::new, |losses| points(losses));
        Chart {
            title: format!("The same training on both sides, {} × 256 tokens a step", self.rows),
            x: Axis::linear("step"),
            y: Axis::linear("nats per token"),
            series: vec![
                Series::line("Falaj", first(&self.ours)),
                Series::line("PyTorch bf16", first(&self.peer)),
                Series::line("PyTorch f32", points(&self.exact)),
            ],
        }
        .svg()
    }

    /// How far the curves are apart, step by step, in the mean of all pairs.
    pub fn apart_svg(&self) -> String {
        let series = |name: &str, pairs: &[Apart]| {
            let mean = |step: usize| pairs.iter().map(|apart| apart.0[step]).sum::<f64>() / pairs.len().max(1) as f64;
            let steps = pairs.iter().map(|apart| apart.0.len()).min().unwrap_or(0);
            let points: Vec<(f64, f64)> = (0..steps).map(|step| ((step + 1) as f64, mean(step).max(1e-7))).collect();
            Series::line(name, smooth(&points, 2))
        };
        let [ours, peer] = self.errors();
        Chart {
            title: "How far the loss curves are apart".into(),
            x: Axis::linear("step"),
            y: Axis::log("nats per token, mean of five steps"),
            series: vec![
                series("Falaj and PyTorch bf16", &self.ours_and_peer()),
                series("PyTorch bf16 in two orders", &self.noise()),
                series("Falaj and PyTorch f32", &ours),
                series("PyTorch bf16 and f32", &peer),
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
        let curves = Curves {
            ours: vec![vec![3.0, 2.5]],
            peer: vec![vec![3.1, 2.5], vec![3.0, 2.0], vec![3.0, 2.5]],
            exact: vec![3.0, 2.0],
            rows: 4,
        };
        let means = |pairs: &[Apart]| pairs.iter().map(|apart| (apart.mean() * 1e4).round() / 1e4).collect::<Vec<_>>();
        assert_eq!(means(&curves.ours_and_peer()), [0.05, 0.25, 0.0]);
        assert_eq!(means(&curves.noise()), [0.3, 0.05, 0.25]);
        assert_eq!(curves.errors().map(|pairs| means(&pairs)), [vec![0.25], vec![0.3, 0.0, 0.25]]);
        assert_eq!(curves.noise()[0].max(), 0.5);
        assert!(curves.note().starts_with("2 steps of 4 × 256, rows in 1 orders"));
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
