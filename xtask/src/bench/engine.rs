//! `cargo xtask bench engine`: prompts, decoding, batches, serving, start and memory of the engine against llama.cpp on
//! the same models, with the best instructions and with AVX2 only. Which cases there are is in `engine/cases.rs`, how
//! each kind is measured in `engine/measured.rs`. What the figures mean is in docs/performance.md.

mod cases;
mod measured;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use self::cases::Group;
use super::ours::Ours;
use super::peer::{self, Build, Peer};
use super::probes::Limits;
use super::rows::{Book, Row};
use super::{Options, machine, meter, models, plot};

pub fn run(options: &Options) -> Result<()> {
    let groups = cases::groups(options.quick);
    let order: Vec<String> = groups.iter().flat_map(|group| group.cases.clone()).collect();
    if options.list {
        order.iter().for_each(|case| println!("{case}"));
        return Ok(());
    }
    let folder = crate::target_dir().join("bench");
    let file = folder.join("engine.json");
    if options.plot {
        let (rows, all) = Book::read(&file)?;
        return plot::engine(&rows, &all);
    }
    std::fs::create_dir_all(&folder)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted: Vec<&Group> =
        groups.iter().filter(|group| group.cases.iter().any(|case| options.wants(case))).collect();
    let ours = Ours::build(&folder, threads)?;
    let build = machine::build_of(&[ours.program("falaj"), ours.program("measure")], options.quick)?;
    let mut bench = Bench {
        options: options.clone(),
        ours,
        peer: if options.no_peer { None } else { Some(Peer::install(&folder, threads)?) },
        folder: folder.clone(),
        limits: [None, None],
        book: Book::open(&file, order, machine::about(threads, peer::PACKAGE)?, &build),
    };
    bench.make_models(&wanted)?;
    bench.tune(&wanted)?;
    if options.prepare {
        return Ok(());
    }
    bench.probe()?;
    let started = std::time::Instant::now();
    let mut failures = Vec::new();
    for group in wanted {
        if !options.again && group.cases.iter().all(|case| bench.book.has(case) || !options.wants(case)) {
            continue;
        }
        println!("\n== {} ({} s)", group.cases.join(", "), started.elapsed().as_secs());
        // One case that fails must not cost the others their figures; the exit status tells.
        if let Err(error) = measured::measure(&mut bench, group) {
            eprintln!("{}: {error:#}", group.cases.join(", "));
            failures.push(group.cases.join(", "));
        }
    }
    bench.close(&failures)
}

/// Everything that measuring a group needs.
struct Bench {
    options: Options,
    ours: Ours,
    peer: Option<Peer>,
    folder: PathBuf,
    /// Of the native build and of AVX2.
    limits: [Option<Limits>; 2],
    book: Book,
}

impl Bench {
    fn model(&self, shape: models::Shape, format: &str) -> Result<PathBuf> {
        let peer = || match &self.peer {
            Some(peer) => Ok(peer.clone()),
            // Only its tool makes the quantised files; it is needed once.
            None => Peer::install(&self.folder, self.ours.threads),
        };
        models::file(&self.folder.join("models"), shape, format, &peer)
    }

    fn make_models(&self, groups: &[&Group]) -> Result<()> {
        for group in groups {
            if let Some((shape, format)) = group.model {
                self.model(shape, format)?;
            }
        }
        Ok(())
    }

    /// The comparison is with the peer's best.
    fn tune(&mut self, groups: &[&Group]) -> Result<()> {
        for group in groups {
            if let (Some((shape, format)), false) = (group.model, group.alone()) {
                let path = self.model(shape, format)?;
                if let Some(peer) = &mut self.peer {
                    peer.tune(group.build, &path)?;
                }
            }
        }
        if let Some(peer) = &self.peer {
            self.book.about.insert("peer".into(), peer.chosen());
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<()> {
        println!("\nthe machine's limits:");
        let mut probes = Map::new();
        for (at, build) in [Build::Native, Build::Avx2].into_iter().enumerate() {
            // The best of a few: whatever else runs can only make it look slower.
            let mut best: Option<Value> = None;
            for _ in 0..3 {
                meter::wait_for_quiet(std::time::Duration::from_secs(5))?;
                let probe = self.ours.probe(build)?;
                best = Some(match best {
                    None => probe,
                    Some(best) => better(best, &probe),
                });
            }
            let probe = best.context("three probes ran")?;
            println!("  {probe}");
            self.limits[at] = Some(Limits::of(&probe)?);
            probes.insert(if build == Build::Avx2 { "avx2" } else { "native" }.into(), probe);
        }
        // Memory is the same for both.
        let bytes = self.limits.iter().flatten().map(|limits| limits.bytes).fold(0.0, f64::max);
        self.limits.iter_mut().flatten().for_each(|limits| limits.bytes = bytes);
        self.book.about.insert("probes".into(), Value::Object(probes));
        self.book.write()
    }

    fn limits(&self, build: Build) -> Option<Limits> {
        self.limits[usize::from(build == Build::Avx2)]
    }

    fn add(&mut self, row: Row) -> Result<()> {
        if self.options.wants(&row.case) { self.book.add(row) } else { Ok(()) }
    }

    fn close(&self, failures: &[String]) -> Result<()> {
        println!("\n{}", self.book.table());
        println!("{}; written to target/bench/engine.json", self.book.judged());
        anyhow::ensure!(failures.is_empty(), "not measured: {}", failures.join("; "));
        Ok(())
    }
}

fn better(mut one: Value, other: &Value) -> Value {
    if let (Some(one), Some(other)) = (one.as_object_mut(), other.as_object()) {
        for (key, value) in one.iter_mut() {
            if let (Some(old), Some(new)) = (value.as_f64(), other.get(key).and_then(Value::as_f64))
                && new > old
            {
                *value = json!(new);
            }
        }
    }
    one
}
