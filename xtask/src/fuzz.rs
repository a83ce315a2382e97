//! `cargo xtask fuzz`: builds the targets in `fuzz/` with coverage for libFuzzer and runs them. The pinned toolchain is
//! enough, since the parsers hold no `unsafe` that an address sanitizer would watch; a C++ compiler is needed once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, root, target_dir};

pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let all = targets()?;
    if options.list {
        println!("{}", all.join("\n"));
        return Ok(());
    }
    let chosen = match &options.target {
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => bail!("no fuzz target `{name}`; there are {}", all.join(", ")),
        None => all,
    };
    let host = host()?;
    build(&host)?;
    let mut crashed = Vec::new();
    for (at, name) in chosen.iter().enumerate() {
        println!("\n== {name} ({} of {}), {} s", at + 1, chosen.len(), options.seconds);
        if let Err(error) = fuzz(name, &host, options.seconds) {
            eprintln!("{name}: {error:#}");
            crashed.push(name.as_str());
        }
    }
    if !crashed.is_empty() {
        bail!(
            "{} found something; the inputs are in fuzz/artifacts: add each to fuzz/seeds as a test",
            crashed.join(", ")
        );
    }
    println!("\npassed: {} targets, {} s each", chosen.len(), options.seconds);
    Ok(())
}

struct Options {
    target: Option<String>,
    seconds: u64,
    list: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self { target: None, seconds: 60, list: false };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => options.list = true,
                "--seconds" => {
                    let value = args.next().context("`--seconds` needs a number")?;
                    options.seconds = value.parse().with_context(|| format!("`{value}` is not a number of seconds"))?;
                }
                flag if flag.starts_with('-') => bail!("no option `{flag}`; `cargo xtask help` lists them"),
                target => options.target = Some(target.to_owned()),
            }
        }
        Ok(options)
    }
}

/// The binaries that fuzz/Cargo.toml declares.
fn targets() -> Result<Vec<String>> {
    let path = root().join("fuzz/Cargo.toml");
    let manifest: toml::Table =
        fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?.parse()?;
    let bins = manifest.get("bin").and_then(|bins| bins.as_array()).context("fuzz/Cargo.toml declares no [[bin]]")?;
    Ok(bins.iter().filter_map(|bin| Some(bin.get("name")?.as_str()?.to_owned())).collect())
}

fn build(host: &str) -> Result<()> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target-dir"]).arg(folder());
    // Naming the target keeps the flags away from build scripts and procedural macros.
    cargo.args(["--target", host]).env("RUSTFLAGS", COVERAGE.join(" "));
    command::run(&mut cargo)
}

fn fuzz(name: &str, host: &str, seconds: u64) -> Result<()> {
    let fuzz = root().join("fuzz");
    let corpus = fuzz.join("corpus").join(name);
    let artifacts = fuzz.join("artifacts").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut run = Command::new(folder().join(host).join("release").join(name));
    run.arg(format!("-max_total_time={seconds}"));
    run.arg(format!("-artifact_prefix={}/", artifacts.display()));
    run.args(LIMITS);
    run.arg(&corpus);
    let seeds: &Path = &fuzz.join("seeds").join(name);
    if seeds.is_dir() {
        run.arg(seeds);
    }
    command::run(&mut run)
}

fn folder() -> PathBuf {
    target_dir().join("fuzz-coverage")
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").current_dir(root()).output().context("cannot run `rustc`")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    Ok(host.to_owned())
}

/// What must never happen on any input: 256 MiB in one allocation, 2 GiB in all, ten seconds.
const LIMITS: &[&str] = &[
    "-max_len=65536",
    "-malloc_limit_mb=256",
    "-rss_limit_mb=2048",
    "-timeout=10",
    "-print_final_stats=1",
    "-verbosity=0",
];

/// What libFuzzer needs from the compiler: counters, the table of places, compared values. Overflow and debug assertions
/// are on, so that a wrong length in a parser is found where it is made.
const COVERAGE: &[&str] = &[
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];
