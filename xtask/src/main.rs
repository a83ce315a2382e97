//! Development tasks, as `cargo xtask TASK`. Each task is one file; `cargo xtask` alone prints them.
//! Nothing here ships. Dependencies stay few, since every task waits for this crate to build.
#![forbid(unsafe_code)]

mod bench;
mod clients;
mod command;
mod debian;
mod fuzz;
mod golden;
mod http;
mod seed;
mod site;
mod soak;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = args.split_first().map_or(("help", &[][..]), |(task, rest)| (task.as_str(), rest));
    let outcome = match task {
        "test" => test::run(rest),
        "tidy" => tidy::run(rest),
        "fuzz" => fuzz::run(rest),
        "soak" => soak::run(rest),
        "bench" => bench::run(rest),
        "gateway-side" => bench::gateway::side(rest),
        "golden" => golden::run(rest),
        "seed-data" => seed::run(rest),
        "seed-curves" => seed::curves::run(rest),
        "help" | "-h" | "--help" => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(anyhow::anyhow!("no task `{other}`; `cargo xtask help` lists them")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace root").to_path_buf()
}

/// Where builds go: `CARGO_TARGET_DIR` if it is set, as cargo itself reads it.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

const HELP: &str = "\
Usage: cargo xtask TASK

  test [--quick] [--release] [STEP ...]
        Everything that must hold: fmt, tidy, clippy, unit, doc, clients. With STEPs only those; `clients` also takes
        the name of one suite, as in `clients:openai`. --quick leaves the clients out; --release tests the
        optimised binary (slower to build) instead of the development one.
  tidy  The house rules a machine can check: the edge table, file heads and sizes, names, manifests.
  fuzz [TARGET] [--seconds N]
        Fuzzes one target, or each in turn, for N seconds (60). `--list` prints them.
  soak [--streams 64] [--minutes 5] [--seed 1] [--dev]
        Drives the built server with concurrent streams and random disconnects; checks errors, memory and pages.
  bench engine|train|govern|gateway [--quick] [--cases PATTERN,...] [--no-peer] [--again] [--list | --prepare | --plot]
        Measures the engine against llama.cpp, the trainer against PyTorch, decisions and the ledger against what is asked
        of them, or attached engines against other gateways, by turns; builds what it needs below target/bench. Cases that the same programs ran already are left out, unless --again; --prepare builds and makes
        models only; --plot draws docs/performance and writes its tables.
  seed-data --books DIR --out DIR [--seed 1] [--count 240000] [--each 40]
        Writes what falaj-seed is trained on, and development suites; prints their digests. DIR of the books holds en.txt,
        fr.txt and ar.txt, a paragraph a line.
  seed-curves OUT.svg NAME=EVENTS=TOKENS...
        Draws losses of trainings from their events.jsonl; TOKENS are those that a step reads.
  golden
        Says how each committed golden file is made again.";
