//! `cargo xtask test`: the steps, in the order that fails soonest, and a closing table. A failed step does not hide the
//! ones after it. Client suites are in `clients.rs`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{clients, command, debian, tidy};

pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let started = Instant::now();
    let mut report = Report::default();
    if options.wants("unit") {
        for (step, why) in debian::missing() {
            report.not_run(step, &why);
        }
    }
    for &(name, step) in STEPS {
        if options.wants(name) {
            report.record(name, step);
        }
    }
    if options.wants("clients") {
        clients::run(&options, &mut report);
    } else if options.quick {
        report.not_run("clients", "left out by --quick");
    }
    report.close(started.elapsed())
}

/// What a step says when it passes: how many tests ran, and a remark.
#[derive(Default)]
pub struct Passed {
    pub tests: usize,
    pub remark: String,
}

#[derive(Default)]
pub struct Report {
    lines: Vec<Line>,
}

impl Report {
    pub fn record(&mut self, name: &str, step: impl FnOnce() -> Result<Passed>) -> bool {
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = match step() {
            Ok(passed) => Outcome::Passed(passed),
            Err(error) => {
                eprintln!("{name}: {error:#}");
                Outcome::Failed(format!("{error:#}"))
            }
        };
        let passed = matches!(outcome, Outcome::Passed(_));
        self.lines.push(Line { name: name.to_owned(), outcome, took: started.elapsed() });
        passed
    }

    pub fn not_run(&mut self, name: &str, why: &str) {
        println!("\n== {name}\nNOT RUN: {why}");
        self.lines.push(Line { name: name.to_owned(), outcome: Outcome::NotRun(why.to_owned()), took: Duration::ZERO });
    }

    fn close(self, took: Duration) -> Result<()> {
        println!("\n{:<24} {:<8} {:>9} {:>7}", "step", "result", "seconds", "tests");
        let (mut failed, mut not_run, mut tests) = (0, 0, 0);
        for Line { name, outcome, took } in &self.lines {
            let seconds = took.as_secs_f32();
            match outcome {
                Outcome::Passed(passed) => {
                    tests += passed.tests;
                    let count = if passed.tests > 0 { passed.tests.to_string() } else { String::new() };
                    println!("{name:<24} {:<8} {seconds:>9.1} {count:>7}  {}", "passed", passed.remark);
                }
                Outcome::Failed(why) => {
                    failed += 1;
                    let first = why.lines().next().unwrap_or_default();
                    println!("{name:<24} {:<8} {seconds:>9.1} {:>7}  {first}", "FAILED", "");
                }
                Outcome::NotRun(why) => {
                    not_run += 1;
                    println!("{name:<24} {:<8} {:>9} {:>7}  {why}", "NOT RUN", "", "");
                }
            }
        }
        let minutes = took.as_secs() / 60;
        let seconds = took.as_secs() % 60;
        let steps = self.lines.len();
        if failed > 0 {
            bail!("{failed} of {steps} steps failed ({minutes} min {seconds} s)");
        }
        println!("\npassed: {} steps, {tests} tests, {minutes} min {seconds} s", steps - not_run);
        if not_run > 0 {
            println!("NOT RUN: {not_run} steps; see the table for why");
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Options {
    pub quick: bool,
    pub release: bool,
    steps: Vec<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for arg in args {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--release" => options.release = true,
                flag if flag.starts_with('-') => bail!("no option `{flag}`; `cargo xtask help` lists them"),
                step => options.steps.push(step.to_owned()),
            }
        }
        let known = |step: &str| STEPS.iter().any(|(name, _)| *name == step) || clients::is_name(step);
        if let Some(unknown) = options.steps.iter().find(|step| !known(step)) {
            let names: Vec<_> = STEPS.iter().map(|(name, _)| (*name).to_owned()).chain(clients::names()).collect();
            bail!("no step `{unknown}`; there are {}", names.join(", "));
        }
        Ok(options)
    }

    /// Whether to run this step: named, or the whole of what it is part of is named, or nothing is named.
    pub fn wants(&self, step: &str) -> bool {
        let inside = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with(':'));
        match self.steps.is_empty() {
            true => !(self.quick && (step == "clients" || inside("clients", step))),
            false => self.steps.iter().any(|named| named == step || inside(named, step) || inside(step, named)),
        }
    }
}

struct Line {
    name: String,
    outcome: Outcome,
    took: Duration,
}

enum Outcome {
    Passed(Passed),
    Failed(String),
    NotRun(String),
}

type Step = fn() -> Result<Passed>;

const STEPS: &[(&str, Step)] = &[("fmt", fmt), ("tidy", tidy), ("clippy", clippy), ("unit", unit), ("doc", doc)];

fn fmt() -> Result<Passed> {
    command::run(command::cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Passed::default())
}

fn tidy() -> Result<Passed> {
    Ok(Passed { tests: 0, remark: format!("{} files", tidy::check()?) })
}

fn clippy() -> Result<Passed> {
    command::run(command::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(Passed::default())
}

fn unit() -> Result<Passed> {
    let nextest = command::find("cargo-nextest").is_some();
    let args: &[&str] = match nextest {
        true => &["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--status-level", "slow"],
        false => &["test", "--workspace", "--lib", "--bins", "--tests", "--locked", "--no-fail-fast"],
    };
    let (passed, output) = command::tee(command::cargo().args(args))?;
    if !passed {
        bail!("unit and integration tests failed");
    }
    let remark = if nextest { "cargo nextest" } else { "cargo test" };
    Ok(Passed { tests: count(&output), remark: remark.to_owned() })
}

fn doc() -> Result<Passed> {
    let (passed, output) = command::tee(command::cargo().args(["test", "--workspace", "--doc", "--locked"]))?;
    if !passed {
        bail!("documentation tests failed");
    }
    Ok(Passed { tests: count(&output), remark: String::new() })
}

/// Sums "N passed" and TAP's "# pass N" over what a test runner printed.
pub fn count(output: &str) -> usize {
    let summaries = |line: &&str| {
        line.contains("test result:")
            || line.contains("tests run:")
            || line.contains(" in ")
            || line.starts_with("# pass")
    };
    output.lines().filter(summaries).filter_map(passed_in).sum()
}

fn passed_in(line: &str) -> Option<usize> {
    if let Some(number) = line.strip_prefix("# pass ") {
        return number.trim().parse().ok();
    }
    let words: Vec<&str> = line.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == "passed").and_then(|pair| pair[0].parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_each_runner_prints() {
        assert_eq!(count("test result: ok. 7 passed; 0 failed\ntest result: ok. 2 passed; 0 failed"), 9);
        assert_eq!(count("     Summary [   1.2s] 345 tests run: 344 passed, 1 failed, 0 skipped"), 344);
        assert_eq!(count("==== 28 passed, 2 skipped in 3.10s ===="), 28);
        assert_eq!(count("# tests 12\n# pass 11\n# fail 1"), 11);
    }

    #[test]
    fn a_step_is_wanted_with_its_part_and_its_whole() {
        let options =
            |steps: &[&str]| Options { steps: steps.iter().map(|s| (*s).to_owned()).collect(), ..Default::default() };
        assert!(options(&[]).wants("clients:node"));
        assert!(options(&["clients"]).wants("clients:node"));
        assert!(options(&["clients:node"]).wants("clients"));
        assert!(!options(&["clients:node"]).wants("clients:openai"));
        assert!(!Options { quick: true, ..Default::default() }.wants("clients"));
    }
}
