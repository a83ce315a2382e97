//! `cargo xtask bench train`: steps, memory, products and the loss curve of the trainer against PyTorch, on the same 11 M decoder
//! (`crates/train/examples/baseline.rs`, `bench/torch_train.py`). PyTorch is installed by `train/torch.rs`, the curves are
//! compared in `train/curves.rs`. What the figures mean is in docs/performance.md.

mod curves;
mod torch;

pub use self::curves::{Apart, Curves};

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::torch::Torch;
use super::ours::{self, Measure};
use super::rows::{Better, Book, Row, Spread, Target, TargetOf};
use super::turns::{Patience, Samples, alternate};
use super::{Options, machine, plot};

/// Name, out and in of the products of the decoder, as `gemm_rate` runs them too.
const PRODUCTS: [(&str, usize, usize); 5] =
    [("qkv", 640, 320), ("output", 320, 320), ("mlp", 1536, 320), ("down", 320, 768), ("head", 8192, 320)];
const PASSES: [&str; 3] = ["forward", "dx", "dw"];
const TOKENS: usize = 16 * 256;
/// Multiplications and additions of matrices that a token costs, forward and back; half of attention's square is masked.
const OPERATIONS_PER_TOKEN: f64 =
    6.0 * (8192.0 * 320.0 + 8.0 * 320.0 * (640.0 + 320.0 + 3.0 * 768.0)) + 12.0 * 8.0 * 320.0 * 128.0;

pub fn run(options: &Options) -> Result<()> {
    let order = cases();
    if options.list {
        order.iter().for_each(|case| println!("{case}"));
        return Ok(());
    }
    let folder = crate::target_dir().join("bench");
    let file = folder.join("train.json");
    if options.plot {
        let (rows, all) = Book::read(&file)?;
        return plot::train(&rows, &all, &folder);
    }
    std::fs::create_dir_all(&folder)?;
    let programs = folder.join("run/train");
    ours::build(&programs, &["falaj-train", "falaj-kernels"], &[], &["baseline", "gemm_rate"])?;
    let (baseline, gemm_rate) = (programs.join("baseline"), programs.join("gemm_rate"));
    let torch = if options.no_peer { None } else { Some(Torch::install(&folder)?) };
    if options.prepare {
        return Ok(());
    }
    let build = machine::build_of(&[baseline.clone(), gemm_rate.clone()], options.quick)?;
    let about = machine::about(THREADS, torch::PACKAGE)?;
    let mut bench = Bench {
        options: options.clone(),
        folder,
        baseline,
        gemm_rate,
        torch,
        book: Book::open(&file, order, about, &build),
    };
    let measured =
        [("gemm/", Bench::gemm as fn(&mut Bench) -> Result<()>), ("step/", Bench::step), ("loss/", Bench::loss)];
    let mut failures = Vec::new();
    for (prefix, measure) in measured {
        let cases: Vec<String> = cases().into_iter().filter(|case| group(case) == prefix).collect();
        let missing = |case: &String| options.wants(case) && (options.again || !bench.book.has(case));
        if !cases.iter().any(missing) {
            continue;
        }
        println!("\n== {}", cases.join(", "));
        // One case that fails must not cost the others their figures; the exit status tells.
        if let Err(error) = measure(&mut bench) {
            eprintln!("{prefix}…: {error:#}");
            failures.push(prefix);
        }
    }
    println!("\n{}\n{}; written to target/bench/train.json", bench.book.table(), bench.book.judged());
    anyhow::ensure!(failures.is_empty(), "not measured: {}", failures.join("; "));
    Ok(())
}

/// Memory is measured with the steps.
fn group(case: &str) -> &str {
    match case.split_once('/') {
        Some(("gemm", _)) => "gemm/",
        Some(("loss", _)) => "loss/",
        _ => "step/",
    }
}

fn cases() -> Vec<String> {
    let products = PRODUCTS.iter().flat_map(|(name, ..)| PASSES.map(|pass| format!("gemm/{name}/{pass}")));
    let others =
        ["step/compile", "step/eager", "memory/compile", "memory/eager", "loss/mean", "loss/max", "loss/error"];
    others.into_iter().map(str::to_owned).chain(products).collect()
}

struct Bench {
    options: Options,
    folder: PathBuf,
    baseline: PathBuf,
    gemm_rate: PathBuf,
    torch: Option<Torch>,
    book: Book,
}

impl Bench {
    fn turns(&self, full: usize) -> usize {
        if self.options.quick { 1 } else { full }
    }

    fn patience(&self) -> Patience {
        if self.options.quick { Patience::SHORT } else { Patience::USUAL }
    }

    fn add(&mut self, row: Row) -> Result<()> {
        if self.options.wants(&row.case) { self.book.add(row) } else { Ok(()) }
    }

    /// Tokens per second and the most memory, against both of PyTorch's ways.
    fn step(&mut self) -> Result<()> {
        let steps = if self.options.quick { 4 } else { 8 };
        let command = format!("step {steps}");
        let mut ours = || {
            let mut baseline = Command::new(&self.baseline);
            baseline.args(["step", &steps.to_string(), &THREADS.to_string()]);
            let (rates, peak) = rates(&reply_of(&mut baseline)?)?;
            Ok(vec![rates, vec![peak]])
        };
        let mut sides: Vec<RefCell<Measure>> = Vec::new();
        if let Some(torch) = &self.torch {
            for compile in [true, false] {
                let mut side = torch.start(THREADS, "bf16", compile)?;
                // Compiles, and fills caches.
                side.ask("step 1")?;
                sides.push(RefCell::new(side));
            }
        }
        let mut theirs = || {
            let replies = sides.iter().map(|side| rates(&side.borrow_mut().ask(&command)?));
            let replies = replies.collect::<Result<Vec<_>>>()?;
            let peaks: Vec<Vec<f64>> = replies.iter().map(|(_, peak)| vec![*peak]).collect();
            Ok(replies.into_iter().map(|(rates, _)| rates).chain(peaks).collect())
        };
        let (ours, peer) = alternate(
            self.turns(4),
            self.patience(),
            &mut ours,
            if self.torch.is_some() { Some(&mut theirs) } else { None },
        )?;
        drop(sides);
        let peak = self.peak()?;
        for (at, (case, wanted)) in [("step/compile", 1.6), ("step/eager", 2.3)].into_iter().enumerate() {
            let target = Target { value: wanted, of: TargetOf::Ratio };
            let mut row = row(case, "tokens/s", Better::Higher, (&ours, 0), (&peer, at), Some(target))?;
            row.limit_share = Some(row.ours.median * OPERATIONS_PER_TOKEN / peak);
            self.add(row)?;
        }
        for (at, case) in ["memory/compile", "memory/eager"].into_iter().enumerate() {
            let target = Target { value: 2.0, of: TargetOf::Ratio };
            self.add(row(case, "MB at most", Better::Lower, (&ours, 1), (&peer, at + 2), Some(target))?)?;
        }
        Ok(())
    }

    /// The peak of bf16 products, once per run.
    fn peak(&mut self) -> Result<f64> {
        if let Some(peak) = self.book.about.get("bf16_per_s").and_then(Value::as_f64) {
            return Ok(peak);
        }
        let (_, peak) = self.products()?;
        self.book.about.insert("bf16_per_s".into(), json!(peak));
        Ok(peak)
    }

    /// GFLOP/s per product and pass, and the peak in operations per second.
    fn products(&self) -> Result<(Vec<Vec<f64>>, f64)> {
        let output =
            Command::new(&self.gemm_rate).arg(THREADS.to_string()).output().context("cannot start gemm_rate")?;
        products_of(&String::from_utf8_lossy(&output.stdout))
    }

    fn gemm(&mut self) -> Result<()> {
        let mut peak = self.book.about.get("bf16_per_s").and_then(Value::as_f64).unwrap_or(0.0);
        let mut side = match &self.torch {
            Some(torch) => Some(torch.start(THREADS, "bf16", false)?),
            None => None,
        };
        let mut ours = || {
            let (rates, measured) = self.products()?;
            // The highest of a few: whatever else runs can only make it look lower.
            peak = peak.max(measured);
            Ok(rates)
        };
        let mut theirs = || {
            let mut rates = Vec::new();
            for (_, out, inner) in PRODUCTS {
                let reply = match &mut side {
                    Some(side) => side.ask(&format!("gemm {TOKENS} {out} {inner}"))?,
                    None => return Ok(Vec::new()),
                };
                for pass in PASSES {
                    let rate =
                        reply.get(pass).and_then(Value::as_f64).with_context(|| format!("no `{pass}`: {reply}"))?;
                    rates.push(vec![rate / 1e9]);
                }
            }
            Ok(rates)
        };
        let turns = if self.options.quick { 1 } else { 3 };
        let patience = if self.options.quick { Patience::SHORT } else { Patience::USUAL };
        let peer = if self.torch.is_some() { Some(&mut theirs as super::turns::Side<'_>) } else { None };
        let (ours, peer) = alternate(turns, patience, &mut ours, peer)?;
        self.book.about.insert("bf16_per_s".into(), json!(peak));
        let names = PRODUCTS.iter().flat_map(|(name, ..)| PASSES.map(|pass| format!("gemm/{name}/{pass}")));
        for (at, case) in names.enumerate() {
            let target = Target { value: peak / 2e9, of: TargetOf::Ours };
            let mut row = row(&case, "GFLOP/s", Better::Higher, (&ours, at), (&peer, at), Some(target))?;
            row.limit_share = Some(row.ours.median * 1e9 / peak);
            self.add(row)?;
        }
        Ok(())
    }

    /// The same weights, the same windows, the same optimiser: how far apart the curves are, beside how far apart PyTorch's own are
    /// when rows lie in another order; and how far both sides are from f32.
    fn loss(&mut self) -> Result<()> {
        let Some(torch) = &self.torch else {
            println!("  a comparison of two sides; left out by --no-peer");
            return Ok(());
        };
        let curves = curves::run(&self.folder, &self.baseline, torch, THREADS, self.options.quick)?;
        let [ours, peer] = curves.errors();
        let (apart, noise) = (curves.ours_and_peer(), curves.noise());
        let (other, exact) = ("nats apart; peer: of itself, rows in another order", "nats from f32; peer: bf16");
        let samples = |pairs: &[Apart], of: fn(&Apart) -> f64| {
            let mut samples = Samples::default();
            samples.add(vec![pairs.iter().map(of).collect()]);
            samples
        };
        let mean = |pairs: &[Apart]| samples(pairs, Apart::mean);
        let cases = [
            ("loss/mean", other, mean(&apart), mean(&noise)),
            ("loss/max", other, samples(&apart, Apart::max), samples(&noise, Apart::max)),
            ("loss/error", exact, mean(&ours), mean(&peer)),
        ];
        for (case, unit, ours, peer) in cases {
            let target = (case != "loss/max").then_some(Target { value: 1.0, of: TargetOf::Ratio });
            let mut row = row(case, unit, Better::Lower, (&ours, 0), (&peer, 0), target)?;
            row.note = curves.note();
            self.add(row)?;
        }
        Ok(())
    }
}

fn row(
    case: &str,
    unit: &str,
    better: Better,
    (ours, ours_at): (&Samples, usize),
    (peer, peer_at): (&Samples, usize),
    target: Option<Target>,
) -> Result<Row> {
    let Some(spread) = Spread::of(ours.of(ours_at)) else { bail!("`{case}` has no sample") };
    Ok(Row {
        case: case.to_owned(),
        unit: unit.to_owned(),
        better,
        ours: spread,
        peer: Spread::of(peer.of(peer_at)),
        target,
        limit_share: None,
        flagged: ours.disturbed || peer.disturbed,
        note: String::new(),
        build: String::new(),
    })
}

/// What a program that ends by itself says: its last line, as JSON.
fn reply_of(program: &mut Command) -> Result<Value> {
    let output = program.stderr(std::process::Stdio::inherit()).output().context("cannot start the trainer's side")?;
    anyhow::ensure!(output.status.success(), "the trainer's side ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).context("the trainer's side said no JSON")
}

/// Tokens per second of each step, and the peak in megabytes.
fn rates(reply: &Value) -> Result<(Vec<f64>, f64)> {
    let number = |key: &str| reply.get(key).and_then(Value::as_f64).with_context(|| format!("no `{key}`: {reply}"));
    let (tokens, peak) = (number("tokens")?, number("peak_bytes")?);
    let seconds = reply.get("seconds").and_then(Value::as_array).context("no `seconds`")?;
    Ok((seconds.iter().filter_map(Value::as_f64).map(|seconds| tokens / seconds).collect(), peak / 1e6))
}

/// Reads what `gemm_rate` prints: `…, bf16 peak 457 GFLOP/s`, then a line per product, `4096 × 640 × 320: forward, dx, dw: 300
/// ( 65 %)  …`.
fn products_of(text: &str) -> Result<(Vec<Vec<f64>>, f64)> {
    let peak = text.split("peak ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    let mut rates = Vec::new();
    for (name, out, inner) in PRODUCTS {
        let head = format!("{TOKENS} × {out} × {inner}: forward, dx, dw:");
        let line =
            text.lines().find_map(|line| line.strip_prefix(&head)).with_context(|| format!("no line for {name}"))?;
        let numbers: Vec<f64> =
            line.split('(').filter_map(|part| part.split_whitespace().last()?.parse().ok()).collect();
        anyhow::ensure!(numbers.len() == PASSES.len(), "`{line}` does not have three rates");
        rates.extend(numbers.into_iter().map(|rate| vec![rate]));
    }
    Ok((rates, peak.context("gemm_rate names no peak")? * 1e9))
}

/// What the targets are said for.
const THREADS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_of_products_are_read() {
        let mut text = String::from("avx512, 2 threads, bf16 peak 457 GFLOP/s\n");
        for (number, (_, out, inner)) in PRODUCTS.into_iter().enumerate() {
            let rates = format!("   30{number} ( 66 %)     274 ( 60 %)     183 (  4 %) GFLOP/s\n");
            text.push_str(&format!("4096 × {out} × {inner}: forward, dx, dw: {rates}"));
        }
        let (rates, peak) = products_of(&text).expect("as printed");
        assert_eq!(peak, 457e9);
        assert_eq!(rates.len(), 15);
        assert_eq!(rates[3..6].concat(), [301.0, 274.0, 183.0]);
        assert!(products_of("bf16 peak 457 GFLOP/s").is_err());
    }

    #[test]
    fn every_case_belongs_to_one_measurement() {
        let cases = cases();
        assert_eq!(cases.len(), 22);
        assert_eq!(cases.iter().filter(|case| group(case) == "step/").count(), 4);
        assert_eq!(cases.iter().filter(|case| group(case) == "gemm/").count(), 15);
    }

    #[test]
    fn a_step_costs_six_operations_per_parameter_and_attention() {
        // 10.98 M parameters of matrices.
        assert!((OPERATIONS_PER_TOKEN / 1e6 - 69.8).abs() < 0.1, "{OPERATIONS_PER_TOKEN}");
    }
}
