//! `cargo xtask bench gateway`: an attached engine behind `falaj up`, with keys, gate, ledger and receipts, against gateways that people
//! use. All pass requests on to one mock engine (`gateway/mock.rs`) from one load generator (`gateway/load.rs`), each a process with one
//! thread; the peers come from the Python package index (`gateway/peers.rs`). A row that names `ungoverned` has ourselves without
//! a ledger as the peer, one that names `mock` the engine itself with nothing before it.

mod load;
mod mock;
mod peers;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::peers::Peer;
use super::ours;
use super::rows::{Better, Book, Row, Spread, Target, TargetOf};
use super::turns::{Patience, Samples, alternate};
use super::{Options, machine};
use crate::site::free_address;

/// `mock` or `load`: the sides that the bench starts as processes of their own.
pub fn side(args: &[String]) -> Result<()> {
    match args.split_first().map(|(side, rest)| (side.as_str(), rest)) {
        Some(("mock", [])) => mock::run(),
        Some(("load", rest)) => load::run(rest),
        _ => bail!("`gateway-side mock`, or `gateway-side load ADDRESS KEY CONNECTIONS SECONDS whole|stream`"),
    }
}

pub fn run(options: &Options) -> Result<()> {
    let order = cases();
    if options.list {
        order.iter().for_each(|case| println!("{case}"));
        return Ok(());
    }
    let folder = crate::target_dir().join("bench");
    let programs = folder.join("run/gateway");
    ours::build(&programs, &["falaj"], &["--bin", "falaj"], &["ungoverned"])?;
    ours::build(&programs, &["xtask"], &["--bin", "xtask"], &[])?;
    let mut peers = BTreeMap::new();
    for peer in Peer::ALL.into_iter().filter(|_| !options.no_peer) {
        if options.prepare || order.iter().any(|case| case.ends_with(peer.name()) && options.wants(case)) {
            peers.insert(peer, peer.install()?);
        }
    }
    if options.prepare {
        return Ok(());
    }
    let names = ["falaj", "xtask", "ungoverned"].map(|name| programs.join(name));
    let build = machine::build_of(&names, options.quick)?;
    let packages = Peer::ALL.map(Peer::package).join(", ");
    let book = Book::open(&folder.join("gateway.json"), order, machine::about(2, &packages)?, &build);
    let mut bench = Bench { options, programs, peers, book };
    bench.measure()?;
    println!("\n{}\n{}; written to target/bench/gateway.json", bench.book.table(), bench.book.judged());
    Ok(())
}

fn cases() -> Vec<String> {
    let against = Peer::ALL.map(Peer::name).into_iter().chain(["ungoverned", "mock"]);
    let rates = against.flat_map(|peer| CONNECTIONS.map(|connections| format!("c{connections}/{peer}")));
    rates.chain(["first_byte_p99_ms", "memory_mb", "cpu_us"].map(str::to_owned)).collect()
}

const CONNECTIONS: [usize; 2] = [1, 64];

struct Bench<'a> {
    options: &'a Options,
    programs: PathBuf,
    /// Programs that were installed.
    peers: BTreeMap<Peer, PathBuf>,
    book: Book,
}

/// A server that takes requests.
struct Gate {
    child: Child,
    address: String,
    key: String,
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bench<'_> {
    fn measure(&mut self) -> Result<()> {
        let missing = |case: &str| self.options.wants(case) && (self.options.again || !self.book.has(case));
        let missing: Vec<String> = cases().into_iter().filter(|case| missing(case)).collect();
        let about = |peer: &str| missing.iter().any(|case| case.ends_with(&format!("/{peer}")));
        let mock = self.mock()?;
        let ours = self.ours(&mock)?;
        for (peer, program) in self.peers.clone() {
            if about(peer.name()) {
                println!("\n== {}", peer.package());
                let gate = peer.start(&program, &mock.address, &self.programs)?;
                self.rates(peer.name(), &ours, &gate, peer.targets())?;
            }
        }
        let bare = self.ungoverned(&mock)?;
        for (name, gate) in [("ungoverned", &bare), ("mock", &mock)] {
            if about(name) {
                println!("\n== {name}");
                self.rates(name, &ours, gate, [None; 2])?;
            }
        }
        if missing.iter().any(|case| case == "cpu_us") {
            self.cpu(&ours, &bare)?;
        }
        if missing.iter().any(|case| case == "first_byte_p99_ms" || case == "memory_mb") {
            println!("\n== first byte and memory");
            let peer = match self.peers.get(&Peer::Sglang) {
                Some(program) => Some(Peer::Sglang.start(program, &mock.address, &self.programs)?),
                None => None,
            };
            self.first_byte(&mock, &ours, peer.as_ref())?;
            self.memory(&ours, peer.as_ref())?;
        }
        Ok(())
    }

    fn seconds(&self) -> &'static str {
        if self.options.quick { "1" } else { "4" }
    }

    fn turns(&self) -> usize {
        if self.options.quick { 1 } else { 3 }
    }

    fn patience(&self) -> Patience {
        if self.options.quick { Patience::SHORT } else { Patience::USUAL }
    }

    /// Requests per second at each number of connections.
    fn rates(&mut self, name: &str, ours: &Gate, peer: &Gate, targets: [Option<f64>; 2]) -> Result<()> {
        let each = |gate: &Gate| {
            let rate = |connections| Ok(vec![self.load(gate, connections, self.seconds(), "whole")?.rate]);
            CONNECTIONS.into_iter().map(rate).collect::<Result<Vec<_>>>()
        };
        // Connections are opened, caches filled.
        for gate in [ours, peer] {
            self.load(gate, 64, "1", "whole")?;
        }
        let (mut here, mut there) = (|| each(ours), || each(peer));
        let (ours, peer) = alternate(self.turns(), self.patience(), &mut here, Some(&mut there))?;
        for (at, connections) in CONNECTIONS.into_iter().enumerate() {
            let target = targets.get(at).copied().flatten().map(|value| Target { value, of: TargetOf::Ratio });
            let case = format!("c{connections}/{name}");
            self.add(row(&case, "requests/s", Better::Higher, (&ours, at), (&peer, at), target)?)?;
        }
        Ok(())
    }

    /// What a gateway adds to the time to a stream's first byte, where the engine itself takes 20 ms: its 99th percentile less
    /// the engine's.
    fn first_byte(&mut self, mock: &Gate, ours: &Gate, peer: Option<&Gate>) -> Result<()> {
        let first = |gate: &Gate| Ok::<_, anyhow::Error>(self.load(gate, 16, self.seconds(), "stream")?.first_p99_ms);
        for gate in [Some(ours), peer].into_iter().flatten() {
            self.load(gate, 16, "1", "stream")?;
        }
        let added = |gate: &Gate| {
            let alone = first(mock)?;
            Ok(vec![vec![(first(gate)? - alone).max(0.0)]])
        };
        let mut here = || added(ours);
        let mut there = || peer.map_or(Ok(Vec::new()), added);
        let other = if peer.is_some() { Some(&mut there as super::turns::Side<'_>) } else { None };
        let (ours, peer) = alternate(self.turns(), self.patience(), &mut here, other)?;
        let target = Some(Target { value: 1.0, of: TargetOf::Ours });
        let unit = "ms added, 16 streams; peer: sglang-router";
        self.add(row("first_byte_p99_ms", unit, Better::Lower, (&ours, 0), (&peer, 0), target)?)
    }

    /// The most that each has held since it started.
    fn memory(&mut self, ours: &Gate, peer: Option<&Gate>) -> Result<()> {
        let (mut here, mut there) = (Samples::default(), Samples::default());
        self.load(ours, 64, self.seconds(), "whole")?;
        here.add(vec![vec![status(ours.child.id(), "VmHWM:")? / 1e3]]);
        if let Some(peer) = peer {
            self.load(peer, 64, self.seconds(), "whole")?;
            there.add(vec![vec![status(peer.child.id(), "VmHWM:")? / 1e3]]);
        }
        let target = Some(Target { value: 100.0, of: TargetOf::Ours });
        let unit = "MB at most; peer: sglang-router";
        self.add(row("memory_mb", unit, Better::Lower, (&here, 0), (&there, 0), target)?)
    }

    /// CPU time of a request in the gateway's process, with governance and without.
    fn cpu(&mut self, ours: &Gate, bare: &Gate) -> Result<()> {
        println!("\n== CPU time");
        let each = |gate: &Gate| {
            let before = cpu_us(gate.child.id())?;
            let done = self.load(gate, 64, self.seconds(), "whole")?.requests;
            Ok(vec![vec![(cpu_us(gate.child.id())? - before) / done.max(1.0)]])
        };
        let (mut here, mut there) = (|| each(ours), || each(bare));
        let (ours, peer) = alternate(self.turns(), self.patience(), &mut here, Some(&mut there))?;
        let unit = "µs a request, 64 connections; peer: ungoverned";
        self.add(row("cpu_us", unit, Better::Lower, (&ours, 0), (&peer, 0), None)?)
    }

    fn add(&mut self, row: Row) -> Result<()> {
        if self.options.wants(&row.case) { self.book.add(row) } else { Ok(()) }
    }

    fn load(&self, gate: &Gate, connections: usize, seconds: &str, kind: &str) -> Result<Loaded> {
        let mut load = Command::new(self.programs.join("xtask"));
        load.args(["gateway-side", "load", &gate.address, &gate.key, &connections.to_string(), seconds, kind]);
        let output = load.stderr(Stdio::inherit()).output().context("cannot start the load generator")?;
        anyhow::ensure!(output.status.success(), "the load generator ended with {}", output.status);
        let told: Value = serde_json::from_slice(&output.stdout)?;
        let number = |key: &str| told.get(key).and_then(Value::as_f64).with_context(|| format!("no `{key}`: {told}"));
        anyhow::ensure!(number("errors")? == 0.0, "requests failed: {told}");
        Ok(Loaded { rate: number("rate")?, requests: number("requests")?, first_p99_ms: number("first_p99_ms")? })
    }

    fn mock(&self) -> Result<Gate> {
        let mut mock = Command::new(self.programs.join("xtask"));
        let (child, address) = told(mock.args(["gateway-side", "mock"]))?;
        Ok(Gate { child, address, key: "none".to_owned() })
    }

    /// `falaj up` with the mock attached, and an empty data folder on this disk: its ledger is as durable as anybody's.
    fn ours(&self, mock: &Gate) -> Result<Gate> {
        let data = self.programs.join("data");
        let _ = fs::remove_dir_all(&data);
        let falaj = || {
            let mut falaj = Command::new(self.programs.join("falaj"));
            ours::clean(&mut falaj);
            falaj.arg("--data").arg(&data);
            falaj
        };
        let url = format!("http://{}", mock.address);
        crate::command::run(falaj().args(["engine", "attach", &url, "--name", "mock"]))?;
        let log = fs::File::create(self.programs.join("falaj-up.log"))?;
        let (child, line) = told(falaj().args(["up", "--json", "--listen", "127.0.0.1:0"]).stderr(log))?;
        let hello: Value = serde_json::from_str(&line).context("falaj up did not say where it listens")?;
        let text = |key: &str| hello.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let address = text("address").trim_start_matches("http://").to_owned();
        Ok(Gate { child, address, key: text("key") })
    }

    fn ungoverned(&self, mock: &Gate) -> Result<Gate> {
        let address = free_address()?;
        let mut bare = Command::new(self.programs.join("ungoverned"));
        let (child, _) = told(bare.args([&address, &format!("http://{}", mock.address), "mock"]))?;
        Ok(Gate { child, address, key: "sk-ungoverned".to_owned() })
    }
}

/// What the load generator counted.
struct Loaded {
    rate: f64,
    requests: f64,
    first_p99_ms: f64,
}

/// Starts a program that says one line when it is ready.
fn told(program: &mut Command) -> Result<(Child, String)> {
    let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start a program")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
    anyhow::ensure!(!line.is_empty(), "a program ended before it was ready; see {}", "target/bench/run/gateway");
    Ok((child, line.trim().to_owned()))
}

/// User and system time of a process.
fn cpu_us(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    // A tick is 10 ms on every Linux that matters here.
    Ok(ticks * 1e4)
}

/// A line of /proc/PID/status, in kB.
fn status(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1.024)
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
