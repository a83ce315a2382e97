//! The table of cases: what is measured, on which model, by which side, how often, and what was asked for.

use crate::bench::models::{BIG, SMALL, Shape};
use crate::bench::peer::Build;
use crate::bench::rows::{Target, TargetOf};

pub const FORMATS: [&str; 4] = ["q4_0", "q8_0", "q4_k_m", "bf16"];

/// Cases that one measurement gives together.
#[derive(Clone, Debug)]
pub struct Group {
    pub cases: Vec<String>,
    pub work: Work,
    /// Shape and format.
    pub model: Option<(Shape, &'static str)>,
    pub build: Build,
    /// Turns of each side.
    pub turns: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A prompt, then decoding alone, from nothing: tokens of each, and samples in a turn.
    Speed {
        prompt: usize,
        decode: usize,
        samples: usize,
    },
    /// A prompt of thousands of tokens.
    Long {
        prompt: usize,
    },
    /// 8 and 32 sequences together after prompts of their own, or 32 alone.
    Batch {
        sequences: &'static [usize],
        prompt: usize,
        tokens: usize,
    },
    /// Clients on a server: their number, tokens that all prompts begin with, tokens of their own.
    Server {
        clients: usize,
        shared: usize,
        own: usize,
    },
    /// Decoding beside a process that never stops computing.
    Neighbour {
        decode: usize,
    },
    /// A token after so many.
    Context {
        positions: &'static [usize],
    },
    Start,
    Memory,
    Perplexity,
}

impl Group {
    /// Whether only our side has something to measure.
    pub fn alone(&self) -> bool {
        matches!(self.work, Work::Context { .. } | Work::Start | Work::Memory | Work::Perplexity)
    }
}

/// In the order in which they run: what matters most comes first, in case a run is cut short.
pub fn groups(quick: bool) -> Vec<Group> {
    let turns = |full: usize| if quick { 1 } else { full };
    let mut groups = Vec::new();
    for build in [Build::Native, Build::Avx2] {
        let mut add = |cases: &[String], work, model, turns| {
            let cases = cases.iter().map(|case| format!("{case}{}", build.suffix())).collect();
            groups.push(Group { cases, work, model, build, turns });
        };
        let native = build == Build::Native;
        for format in FORMATS {
            let (decode, samples) = if quick { (32, 1) } else { (64, 2) };
            let cases = [format!("prompt512/{format}"), format!("decode/{format}")];
            add(&cases, Work::Speed { prompt: 512, decode, samples }, Some((BIG, format)), turns(2));
        }
        let names = |cases: &[&str]| cases.iter().map(|case| (*case).to_owned()).collect::<Vec<_>>();
        let q4_0 = Some((BIG, "q4_0"));
        let batch = Work::Batch { sequences: &[8, 32], prompt: 64, tokens: 32 };
        add(&names(&["batch8/q4_0", "batch32/q4_0"]), batch, q4_0, turns(2));
        let server = |clients| Work::Server { clients, shared: 0, own: 128 };
        add(&names(&["server8", "server8/first"]), server(8), q4_0, turns(if native { 3 } else { 2 }));
        add(&names(&["server32", "server32/first"]), server(32), q4_0, turns(if native { 2 } else { 1 }));
        let prefix = Work::Server { clients: 32, shared: 2000, own: 16 };
        add(&names(&["prefix32", "prefix32/first"]), prefix, q4_0, 1);
        let neighbour = Work::Neighbour { decode: if quick { 32 } else { 64 } };
        add(&names(&["neighbour", "neighbour/of_quiet"]), neighbour, q4_0, turns(3));
        for format in FORMATS {
            add(&[format!("prompt4096/{format}")], Work::Long { prompt: 4096 }, Some((BIG, format)), 1);
        }
        let speed = Work::Speed { prompt: 512, decode: 128, samples: if quick { 1 } else { 2 } };
        let small = Some((SMALL, "q4_0"));
        add(&names(&["small/prompt512/q4_0", "small/decode/q4_0"]), speed, small, turns(3));
        let batch = Work::Batch { sequences: &[32], prompt: 64, tokens: 64 };
        add(&names(&["small/batch32/q4_0"]), batch, small, turns(3));
        if native {
            add(&names(&["server1", "server1/first"]), server(1), q4_0, turns(2));
            let context = Work::Context { positions: &[8192, 32_000] };
            add(
                &names(&["context8k", "context8k/attention", "context32k", "context32k/attention"]),
                context,
                q4_0,
                turns(3),
            );
            add(&names(&["start/built-in", "start/4gb", "start/4gb-panels"]), Work::Start, None, turns(5));
            add(&names(&["memory/q4_0"]), Work::Memory, q4_0, 1);
            let perplexity: Vec<String> = FORMATS.iter().map(|format| format!("perplexity/{format}")).collect();
            add(&perplexity, Work::Perplexity, None, 1);
        }
    }
    groups
}

/// What the project set itself, by case.
pub fn target(case: &str) -> Option<Target> {
    let ratio = |value| Some(Target { value, of: TargetOf::Ratio });
    let ours = |value| Some(Target { value, of: TargetOf::Ours });
    match case.split_once('@').map_or(case, |(name, _)| name) {
        "neighbour/of_quiet" => ours(0.6),
        "start/built-in" => ours(0.3),
        "start/4gb" | "start/4gb-panels" => ours(2.0),
        "memory/q4_0" => ours(150.0),
        "context8k" | "context8k/attention" | "context32k" | "context32k/attention" => None,
        "neighbour" | "server1" | "server1/first" => None,
        _ if case.ends_with("@avx2") => ratio(1.1),
        "prompt512/q4_0" | "prompt512/q8_0" | "prompt512/q4_k_m" => ratio(5.0),
        "prompt4096/q4_0" | "prompt4096/q8_0" | "prompt4096/q4_k_m" => ratio(5.0),
        "prompt512/bf16" => ratio(8.0),
        "decode/q4_0" => ratio(1.2),
        "decode/q8_0" => ratio(1.05),
        "decode/q4_k_m" => ratio(1.7),
        "decode/bf16" => ratio(1.1),
        "batch8/q4_0" => ratio(3.0),
        "batch32/q4_0" => ratio(5.0),
        "server8" => ratio(4.0),
        "server8/first" => ratio(5.0),
        "server32" => ratio(8.0),
        "server32/first" => ratio(10.0),
        "prefix32" => ratio(10.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_that_was_asked_for_is_there_once() {
        let cases: Vec<String> = groups(false).into_iter().flat_map(|group| group.cases).collect();
        for wanted in ["server8", "server32", "prefix32", "neighbour", "batch8/q4_0", "batch32/q4_0"] {
            for name in [wanted.to_owned(), format!("{wanted}@avx2")] {
                assert_eq!(cases.iter().filter(|case| **case == name).count(), 1, "{name}");
            }
        }
        for stage in ["prompt512", "prompt4096", "decode"] {
            for format in FORMATS {
                assert!(
                    cases.contains(&format!("{stage}/{format}")) && cases.contains(&format!("{stage}/{format}@avx2"))
                );
            }
        }
        assert!(cases.contains(&"small/batch32/q4_0@avx2".to_owned()));
    }

    #[test]
    fn avx2_has_targets_of_its_own() {
        assert_eq!(target("decode/q4_0").map(|target| target.value), Some(1.2));
        assert_eq!(target("decode/q4_0@avx2").map(|target| target.value), Some(1.1));
        assert_eq!(target("neighbour/of_quiet@avx2").map(|target| target.of), Some(TargetOf::Ours));
    }
}
