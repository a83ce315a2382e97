//! `cargo xtask bench engine`: prompts, decoding, batches, serving, start and memory of the engine against llama.cpp on
//! the same models, with the best instructions and with AVX2 only. Which cases there are is in `engine/cases.rs`, how
//! each kind is measured in `engine/measured.rs`. What the figures mean is in docs/performance.md.

mod cases;
mod measured;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use self::cases::Group;
use super::ours::Ours;
use super::peer::{self, Build, Peer};
use super::probes::Limits;
use super::rows::{Book, Row};
use super::{Options, meter, models, plot, rows};

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
        return plots(&rows, &all);
    }
    std::fs::create_dir_all(&folder)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted: Vec<&Group> =
        groups.iter().filter(|group| group.cases.iter().any(|case| options.wants(case))).collect();
    let mut bench = Bench {
        options: options.clone(),
        ours: Ours::build(&folder, threads)?,
        peer: if options.no_peer { None } else { Some(Peer::install(&folder, threads)?) },
        folder: folder.clone(),
        limits: [None, None],
        book: Book::open(&file, order, about(threads)?, options.resume, &["machine", "versions"]),
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
        if options.resume && group.cases.iter().all(|case| bench.book.has(case) || !options.wants(case)) {
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
        let rows = self.book.rows();
        let met = rows.iter().filter(|row| row.met() == Some(true)).count();
        let judged = rows.iter().filter(|row| row.met().is_some()).count();
        let flagged = rows.iter().filter(|row| row.flagged).count();
        println!("{met} of {judged} targets met; {flagged} rows flagged; written to target/bench/engine.json");
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

/// Draws docs/performance/*.svg, and writes the figures beside them.
fn plots(rows: &[Row], all: &Value) -> Result<()> {
    let folder = crate::root().join("docs/performance");
    std::fs::create_dir_all(&folder)?;
    let of = |avx2: bool| -> Vec<&Row> {
        rows.iter().filter(|row| row.case.ends_with("@avx2") == avx2 && !row.case.starts_with("perplexity")).collect()
    };
    for (name, svg) in [
        ("ratios.svg", plot::ratios("Against llama.cpp, best instructions of this machine", &of(false))),
        ("ratios-avx2.svg", plot::ratios("Against llama.cpp, AVX2 only", &of(true))),
        ("limits.svg", plot::limits("Share of the machine's limit, best instructions", &of(false))),
        ("limits-avx2.svg", plot::limits("Share of the machine's limit, AVX2 only", &of(true))),
    ] {
        std::fs::write(folder.join(name), svg)?;
        println!("docs/performance/{name}");
    }
    let about = ["machine", "versions", "probes", "peer"].map(|key| {
        let value = all.get(key).unwrap_or(&Value::Null);
        format!("- {key}: {}", value.as_str().map_or_else(|| format!("`{value}`"), str::to_owned))
    });
    let figures = format!(
        "# Figures\n\nWritten by `cargo xtask bench engine --plot` from one run; what they mean is in\n\
         [performance.md](../performance.md). Medians, with the least and the most.\n\n{}\n\n## Best instructions\n\n{}\n\
         ## AVX2 only\n\n{}",
        about.join("\n"),
        rows::markdown(&rows.iter().filter(|row| !row.case.ends_with("@avx2")).collect::<Vec<_>>()),
        rows::markdown(&rows.iter().filter(|row| row.case.ends_with("@avx2")).collect::<Vec<_>>()),
    );
    std::fs::write(folder.join("figures.md"), figures)?;
    println!("docs/performance/figures.md");
    Ok(())
}

fn about(threads: usize) -> Result<Map<String, Value>> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("benches need Linux's /proc")?;
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(':').nth(1)).unwrap_or_default().trim().to_owned()
    };
    let flags = field("flags");
    let notable = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16"];
    let has: Vec<&str> = notable.into_iter().filter(|flag| flags.split(' ').any(|had| had == *flag)).collect();
    let output = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(crate::root()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    let machine = format!(
        "{} (family {}, model {}), {threads} threads, {}",
        field("model name"),
        field("cpu family"),
        field("model"),
        has.join(" ")
    );
    let versions = json!({ "ours": commit, "profile": "release", "peer": peer::PACKAGE });
    Ok([("machine".to_owned(), json!(machine)), ("versions".to_owned(), versions)].into_iter().collect())
}
