//! `cargo xtask bench govern`: what a decision, an admission and a metered request cost by themselves, without a network. What governance
//! costs a whole request is in `bench gateway` (`cpu_us`, `…/ungoverned`). There is no peer: targets are absolute.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::rows::{Better, Book, Row, Spread, Target, TargetOf};
use super::turns::{Patience, Samples, alternate};
use super::{Options, machine, ours};

/// A figure of an example's output.
struct Case {
    name: &'static str,
    unit: &'static str,
    better: Better,
    target: f64,
    /// The number that stands behind this text, times `scale`.
    after: &'static str,
    scale: f64,
}

/// One run of an example, and what it tells.
struct Probe {
    example: &'static str,
    args: &'static [&'static str],
    cases: &'static [Case],
}

const PROBES: &[Probe] = &[
    Probe {
        example: "decide_rate",
        args: &["5000"],
        cases: &[
            Case {
                name: "decision_p99_us",
                unit: "µs, 5,000 tenants",
                better: Better::Lower,
                target: 10.0,
                after: "decision: p99 ",
                scale: 1e-3,
            },
            Case {
                name: "decision_median_us",
                unit: "µs, 5,000 tenants",
                better: Better::Lower,
                target: 10.0,
                after: "decision: median ",
                scale: 1e-3,
            },
            Case {
                name: "cache_hit_ns",
                unit: "ns, median",
                better: Better::Lower,
                target: 200.0,
                after: "cache hit: median ",
                scale: 1.0,
            },
        ],
    },
    Probe {
        example: "append_rate",
        args: &["append_rate.tmp", "4", "600", "256"],
        cases: &[Case {
            name: "appends_per_s",
            unit: "entries/s, 256 in flight",
            better: Better::Higher,
            target: 50_000.0,
            after: "",
            scale: 1.0,
        }],
    },
    Probe {
        example: "append_rate",
        args: &["append_rate.tmp", "4", "600", "64", "20000"],
        cases: &[Case {
            name: "admission_p99_ms",
            unit: "ms, at 20,000 entries/s",
            better: Better::Lower,
            target: 5.0,
            after: "p99 ",
            scale: 1.0,
        }],
    },
];

pub fn run(options: &Options) -> Result<()> {
    let order: Vec<String> = cases().map(|case| case.name.to_owned()).collect();
    if options.list {
        order.iter().for_each(|case| println!("{case}"));
        return Ok(());
    }
    let folder = crate::target_dir().join("bench");
    let programs = folder.join("run/govern");
    ours::build(&programs, &["falaj-govern", "falaj-ledger"], &[], &["decide_rate", "append_rate"])?;
    if options.prepare {
        return Ok(());
    }
    let build = machine::build_of(&["decide_rate", "append_rate"].map(|name| programs.join(name)), options.quick)?;
    let mut book = Book::open(&folder.join("govern.json"), order, machine::about(1, "none")?, &build);
    for probe in PROBES {
        let wanted = |case: &&Case| options.wants(case.name) && (options.again || !book.has(case.name));
        let cases: Vec<&Case> = probe.cases.iter().filter(wanted).collect();
        if cases.is_empty() {
            continue;
        }
        let patience = if options.quick { Patience::SHORT } else { Patience::USUAL };
        let mut once = || {
            let told = probe.run(&programs)?;
            cases.iter().map(|case| Ok(vec![case.read(&told)?])).collect::<Result<Vec<_>>>()
        };
        let (samples, _) = alternate(if options.quick { 1 } else { 5 }, patience, &mut once, None)?;
        for (at, case) in cases.into_iter().enumerate() {
            book.add(case.row(&samples, at)?)?;
        }
    }
    println!("\n{}\n{}; written to target/bench/govern.json", book.table(), book.judged());
    Ok(())
}

fn cases() -> impl Iterator<Item = &'static Case> {
    PROBES.iter().flat_map(|probe| probe.cases)
}

impl Probe {
    fn run(&self, programs: &Path) -> Result<String> {
        // Its folder must be on a disk, as a ledger's is.
        let mut example = Command::new(programs.join(self.example));
        let output = example.args(self.args).current_dir(programs).output().context("cannot start an example")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "`{}` failed: {}",
            self.example,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }
}

impl Case {
    /// Times are in the unit that is printed; where it is not the case's own, it is converted.
    fn read(&self, told: &str) -> Result<f64> {
        let missing = || format!("no `{}` in: {told}", self.after);
        let (line, word) = self.after.rsplit_once(": ").unwrap_or(("", self.after));
        let rest = told.split_once(line).with_context(missing)?.1;
        let rest = rest.split_once(word).with_context(missing)?.1;
        let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let value: f64 = digits.parse().with_context(missing)?;
        let unit = rest.get(digits.len()..).unwrap_or_default();
        // `Duration` chooses its own unit.
        let to_ms = match unit {
            unit if unit.starts_with("µs") => 1e-3,
            unit if unit.starts_with('s') => 1e3,
            _ => 1.0,
        };
        Ok(value * self.scale * to_ms)
    }

    fn row(&self, samples: &Samples, at: usize) -> Result<Row> {
        Ok(Row {
            case: self.name.to_owned(),
            unit: self.unit.to_owned(),
            better: self.better,
            ours: Spread::of(samples.of(at)).with_context(|| format!("`{}` has no sample", self.name))?,
            peer: None,
            target: Some(Target { value: self.target, of: TargetOf::Ours }),
            limit_share: None,
            flagged: samples.disturbed,
            note: String::new(),
            build: String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_where_they_stand() {
        let told = "world of 5000 tenants: 80 ms\ndecision: median 3900 ns, p99 11700 ns, worst 90000 ns, of 9\n\
            cache hit: median 160 ns, p99 251 ns, worst 1 ns, of 9\n";
        let rates =
            "85000 appends/s of 600 bytes, 64 in flight\nwait p50 1.20ms, p99 2.50ms, p99.9 3.00ms, max 4.00ms\n";
        let fast = rates.replace("2.50ms", "850.00µs");
        let read = |name: &str, told: &str| cases().find(|case| case.name == name).unwrap().read(told).unwrap();
        assert!((read("decision_p99_us", told) - 11.7).abs() < 1e-9);
        assert!((read("decision_median_us", told) - 3.9).abs() < 1e-9);
        assert_eq!(read("cache_hit_ns", told), 160.0);
        assert_eq!(read("appends_per_s", rates), 85_000.0);
        assert!((read("admission_p99_ms", rates) - 2.5).abs() < 1e-9);
        assert!((read("admission_p99_ms", &fast) - 0.85).abs() < 1e-9);
    }
}
