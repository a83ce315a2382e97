//! `cargo xtask bench WHAT`: measurements against what people would run otherwise. Every bench has one form: rows of
//! `case, ours, peer, ratio, limit_share`, measured by turns in one run (`turns.rs`), with a guard against other
//! processes (`meter.rs`), printed as a table and written as JSON (`rows.rs`), drawn as SVG (`plot.rs`).
//! What is measured is in `bench/engine.rs`, `bench/train.rs`, `bench/govern.rs` and `bench/gateway.rs`. No test depends on a timing.

mod engine;
pub mod gateway;
mod gguf;
mod govern;
mod load;
mod machine;
mod meter;
mod models;
mod ours;
mod peer;
mod plot;
mod probes;
mod rows;
mod train;
mod turns;

use anyhow::{Context, Result, bail};

pub fn run(args: &[String]) -> Result<()> {
    let (what, rest) = args.split_first().context("bench what? there are `engine`, `train`, `govern` and `gateway`")?;
    let options = Options::parse(rest)?;
    match what.as_str() {
        "engine" => engine::run(&options),
        "train" => train::run(&options),
        "govern" => govern::run(&options),
        "gateway" => gateway::run(&options),
        other => bail!("no bench `{other}`; there are `engine`, `train`, `govern` and `gateway`"),
    }
}

/// What every bench understands.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Few repetitions, short cases.
    pub quick: bool,
    /// Only cases that match one of these, with `*` for anything.
    pub cases: Vec<String>,
    /// Leave the peer out: nothing is downloaded for it, and rows have no ratio.
    pub no_peer: bool,
    /// Measure again what an earlier run of the same programs on this machine measured.
    pub again: bool,
    /// Print the cases and end.
    pub list: bool,
    /// Install and build the peers, make the models, and end.
    pub prepare: bool,
    /// Draw the plots from the rows that are there, and end.
    pub plot: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--no-peer" => options.no_peer = true,
                "--again" => options.again = true,
                "--list" => options.list = true,
                "--prepare" => options.prepare = true,
                "--plot" => options.plot = true,
                "--cases" => {
                    let patterns = args.next().context("`--cases` needs patterns with commas between them")?;
                    options.cases.extend(patterns.split(',').map(|pattern| pattern.trim().to_owned()));
                }
                other => bail!("no option `{other}`; `cargo xtask help` lists them"),
            }
        }
        Ok(options)
    }

    pub fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|pattern| matches(pattern, case))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text
            .strip_prefix(head)
            .is_some_and(|text| (0..=text.len()).any(|at| text.get(at..).is_some_and(|tail| matches(rest, tail)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("prompt512/q4_0", "prompt512/q4_0", true),
            ("prompt512/q4_0", "prompt512/q4_0@avx2", false),
            ("*@avx2", "prompt512/q4_0@avx2", true),
            ("prompt*/q4*", "prompt4096/q4_k_m", true),
            ("decode/*", "prompt512/q4_0", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
