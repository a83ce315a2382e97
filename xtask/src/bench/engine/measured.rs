//! How each kind of case is measured: what both sides are told to do, and what becomes of their samples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Bench;
use super::cases::{FORMATS, Group, Work, target};
use crate::bench::load::{self, Load, Served, Target};
use crate::bench::machine;
use crate::bench::models::{self, Costs};
use crate::bench::ours::Measure;
use crate::bench::rows::{self, Better, Row, Spread};
use crate::bench::turns::{Patience, Samples, Side, alternate};
use crate::command;

pub fn measure(bench: &mut Bench, group: &Group) -> Result<()> {
    match group.work {
        Work::Speed { prompt, decode, samples } => speed(bench, group, prompt, decode, samples),
        Work::Long { prompt } => speed(bench, group, prompt, 0, 1),
        Work::Batch { sequences, prompt, tokens } => batch(bench, group, sequences, prompt, tokens),
        Work::Server { clients, shared, own } => server(bench, group, clients, shared, own),
        Work::Neighbour { decode } => neighbour(bench, group, decode),
        Work::Context { positions } => context(bench, group, positions),
        Work::Start => start(bench, group),
        Work::Memory => memory(bench, group),
        Work::Perplexity => perplexity(bench, group),
    }
}

/// `decode` 0: the group has no such case.
fn speed(bench: &mut Bench, group: &Group, prompt: usize, decode: usize, samples: usize) -> Result<()> {
    let (path, format) = model(bench, group)?;
    let costs = Costs::of(&path)?;
    let prompt_wanted = if bench.options.wants(&group.cases[0]) { prompt } else { 0 };
    let decode_wanted = if group.cases.get(1).is_some_and(|case| bench.options.wants(case)) { decode } else { 0 };
    let mut measure = bench.ours.measure(group.build, &path, &[])?;
    measure.ask("prompt 64")?;
    measure.ask("decode 8")?;
    let mut ours = || {
        let mut rates = Vec::new();
        for (word, tokens) in [("prompt", prompt_wanted), ("decode", decode_wanted)] {
            if tokens > 0 {
                rates.push(times(samples, || measure.rate(&format!("{word} {tokens}")))?);
            }
        }
        Ok(rates)
    };
    let peer = bench.peer.clone();
    let mut theirs = || match &peer {
        Some(peer) => peer.speed(group.build, &path, prompt_wanted, decode_wanted, samples),
        None => Ok(Vec::new()),
    };
    let (ours, peer) = by_turns(bench, group, &mut ours, &mut theirs)?;
    let limits = bench.limits(group.build);
    let mut at = 0;
    for (case, tokens) in group.cases.iter().zip([prompt_wanted, decode_wanted]) {
        if tokens > 0 {
            let mut row = row(case, "tokens/s", Better::Higher, &ours, &peer, at)?;
            let rate = row.ours.median;
            row.limit_share = limits.map(|limits| match case.contains("prompt") {
                true => limits.prompt_share(&costs, format, rate),
                false => limits.decode_share(&costs, format, 1, rate),
            });
            bench.add(row)?;
            at += 1;
        }
    }
    Ok(())
}

fn batch(bench: &mut Bench, group: &Group, sequences: &[usize], prompt: usize, tokens: usize) -> Result<()> {
    let (path, format) = model(bench, group)?;
    let costs = Costs::of(&path)?;
    let wanted: Vec<(usize, &String)> =
        sequences.iter().copied().zip(&group.cases).filter(|(_, case)| bench.options.wants(case)).collect();
    let numbers: Vec<usize> = wanted.iter().map(|(number, _)| *number).collect();
    let mut measure = bench.ours.measure(group.build, &path, &[])?;
    measure.ask("prompt 64")?;
    let mut ours = || {
        let rate = |number: &usize| Ok(vec![measure.rate(&format!("batch {number} {prompt} {tokens}"))?]);
        numbers.iter().map(rate).collect::<Result<Vec<_>>>()
    };
    let peer = bench.peer.clone();
    let mut theirs = || match &peer {
        Some(peer) => {
            Ok(peer.batch(group.build, &path, &numbers, prompt, tokens)?.into_iter().map(|rate| vec![rate]).collect())
        }
        None => Ok(Vec::new()),
    };
    let (ours, peer) = by_turns(bench, group, &mut ours, &mut theirs)?;
    for (at, (number, case)) in wanted.into_iter().enumerate() {
        let mut row = row(case, "tokens/s", Better::Higher, &ours, &peer, at)?;
        row.limit_share =
            bench.limits(group.build).map(|limits| limits.decode_share(&costs, format, number, row.ours.median));
        bench.add(row)?;
    }
    Ok(())
}

/// Clients at the same moment, on servers that stay up between the turns.
fn server(bench: &mut Bench, group: &Group, clients: usize, shared: usize, own: usize) -> Result<()> {
    let (path, format) = model(bench, group)?;
    let costs = Costs::of(&path)?;
    let ours = bench.ours.server(group.build, &path)?;
    let our_target = Target::Ours { address: ours.address.clone(), key: ours.key.clone(), model: ours.model.clone() };
    let load = Load { clients, shared, own, tokens: SERVED_TOKENS, round: 0, patience: LONGEST };
    let warm =
        |target: &Target| load::drive(target, &Load { clients: 1, shared: 0, own: 32, tokens: 4, round: 9, ..load });
    warm(&our_target)?;
    let theirs = match &bench.peer {
        Some(peer) => Some(peer.server(group.build, &path, clients, shared + own + SERVED_TOKENS + 16)?),
        None => None,
    };
    let peer_target = theirs.as_ref().map(|server| Target::Peer { address: server.address.clone() });
    if let Some(target) = &peer_target {
        warm(target)?;
    }
    let round = std::cell::Cell::new(100);
    let slowest = std::cell::Cell::new(0f64);
    let cut = std::cell::Cell::new(false);
    let values = |served: Served| vec![vec![served.tokens_per_s], vec![served.first_token_s]];
    let mut ours = || {
        round.set(round.get() + 1);
        let served = load::drive(&our_target, &Load { round: round.get(), ..load })?;
        slowest.set(slowest.get().max((clients * SERVED_TOKENS) as f64 / served.tokens_per_s));
        Ok(values(served))
    };
    let mut theirs = || {
        let Some(target) = &peer_target else { return Ok(Vec::new()) };
        // A peer that takes many times as long is not waited for; its figure is then a bound in its favour.
        let patience = Duration::from_secs_f64((slowest.get() * CUT_AFTER).max(60.0));
        let served = load::drive(target, &Load { round: round.get(), patience, ..load })?;
        cut.set(cut.get() || served.cut);
        Ok(values(served))
    };
    let (ours, peer) = by_turns(bench, group, &mut ours, &mut theirs)?;
    let limits = bench.limits(group.build);
    for (at, (case, (unit, better))) in
        group.cases.iter().zip([("tokens/s", Better::Higher), ("s to first", Better::Lower)]).enumerate()
    {
        let mut row = row(case, unit, better, &ours, &peer, at)?;
        if cut.get() {
            row.note = "peer cut off: at best this".into();
        }
        if at == 0 {
            let prompt = shared + clients * own;
            row.limit_share = limits
                .map(|limits| limits.serve_share(&costs, format, prompt, clients, SERVED_TOKENS, row.ours.median));
        }
        bench.add(row)?;
    }
    Ok(())
}

fn neighbour(bench: &mut Bench, group: &Group, decode: usize) -> Result<()> {
    let (path, _) = model(bench, group)?;
    let mut measure = bench.ours.measure(group.build, &path, &[])?;
    measure.ask("decode 8")?;
    let beside = |rate: &mut dyn FnMut() -> Result<f64>| -> Result<Vec<Vec<f64>>> {
        let quiet = rate()?;
        let spinner = Spinner::start()?;
        let busy = rate()?;
        drop(spinner);
        Ok(vec![vec![busy], vec![busy / quiet]])
    };
    let mut ours = || beside(&mut || measure.rate(&format!("decode {decode}")));
    let peer = bench.peer.clone();
    let mut theirs = || match &peer {
        Some(peer) => beside(&mut || {
            let rates = peer.speed(group.build, &path, 0, decode, 1)?;
            rates.first().and_then(|rates| rates.first()).copied().context("no rate")
        }),
        None => Ok(Vec::new()),
    };
    let (ours, peer) = by_turns(bench, group, &mut ours, &mut theirs)?;
    for (at, (case, unit)) in group.cases.iter().zip(["tokens/s", "of quiet"]).enumerate() {
        bench.add(row(case, unit, Better::Higher, &ours, &peer, at)?)?;
    }
    Ok(())
}

/// A process that never stops computing, for as long as the value lives.
struct Spinner(Child);

impl Spinner {
    fn start() -> Result<Self> {
        let spinner = Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(Self(spinner))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ours only: tokens per second after long contexts, and the share of the time that the context costs.
fn context(bench: &mut Bench, group: &Group, positions: &[usize]) -> Result<()> {
    let (path, _) = model(bench, group)?;
    let mut measure = bench.ours.measure(group.build, &path, &["--context", "64"])?;
    let mut ours = || {
        let empty = measure.rate("context 0 24")?;
        let mut values = Vec::new();
        for position in positions {
            let rate = measure.rate(&format!("context {position} 12"))?;
            values.push(vec![rate]);
            values.push(vec![1.0 - rate / empty]);
        }
        Ok(values)
    };
    let (ours, peer) = by_turns(bench, group, &mut ours, &mut || Ok(Vec::new()))?;
    for (at, case) in group.cases.iter().enumerate() {
        let (unit, better) = if at % 2 == 0 { ("tokens/s", Better::Higher) } else { ("of the time", Better::Lower) };
        bench.add(row(case, unit, better, &ours, &peer, at)?)?;
    }
    Ok(())
}

fn start(bench: &mut Bench, group: &Group) -> Result<()> {
    for case in &group.cases {
        if !bench.options.wants(case) {
            continue;
        }
        let (huge, panels) = (case.contains("4gb"), case.ends_with("-panels"));
        if huge && bench.options.quick {
            println!("  {case}: left out by --quick");
            continue;
        }
        let model = if huge {
            let path = models::huge(&bench.folder.join("models"))?;
            bench.ours.import(&path, "bench-4gb")?;
            if panels {
                bench.ours.optimize("bench-4gb")?;
                "bench-4gb-panels"
            } else {
                "bench-4gb"
            }
        } else {
            "falaj-seed"
        };
        // The first start reads the files into the page cache and remembers their digests.
        bench.ours.first_token(model)?;
        let ours = bench.ours.clone();
        let (ours, peer) =
            by_turns(bench, group, &mut || Ok(vec![vec![ours.first_token(model)?]]), &mut || Ok(Vec::new()))?;
        bench.add(row(case, "s to first", Better::Lower, &ours, &peer, 0)?)?;
        if huge {
            bench.ours.forget()?;
            fs::remove_file(models::huge(&bench.folder.join("models"))?)?;
        }
    }
    Ok(())
}

/// Megabytes beyond the weights after a prompt and some decoding; the cache of that context is part of it.
fn memory(bench: &mut Bench, group: &Group) -> Result<()> {
    let (path, _) = model(bench, group)?;
    let mut measure = bench.ours.measure(group.build, &path, &[])?;
    measure.ask("prompt 512")?;
    measure.ask("decode 32")?;
    let resident = measure.ask("memory")?.get("resident_bytes").and_then(Value::as_f64).context("no size")?;
    let weights = measure.ready.get("weight_bytes").and_then(Value::as_f64).context("no size of the weights")?;
    let over = (resident - weights) / 1e6;
    let mut samples = Samples::default();
    samples.add(vec![vec![over]]);
    let mut row = row(&group.cases[0], "MB beside weights", Better::Lower, &samples, &Samples::default(), 0)?;
    row.note = format!("{:.0} MB resident, {:.0} MB weights", resident / 1e6, weights / 1e6);
    bench.add(row)
}

/// Of the built-in model in each format, in windows of 512 tokens; the target is what f32 arithmetic gives on the same,
/// dequantised weights.
fn perplexity(bench: &mut Bench, group: &Group) -> Result<()> {
    let Some(peer) = bench.peer.clone() else {
        println!("  the peer's tools make the files and tokens; left out by --no-peer");
        return Ok(());
    };
    let built_in = crate::root().join("models/falaj-seed/falaj-seed-q8_0.gguf");
    let folder = bench.folder.join("models");
    let quantize = |from: &Path, to: &str, kind: &str| -> Result<PathBuf> {
        let path = folder.join(to);
        let mut quantize = Command::new(peer.native("llama-quantize"));
        command::run(quantize.arg("--allow-requantize").arg(from).arg(&path).args([kind, "2"]).stderr(Stdio::null()))?;
        Ok(path)
    };
    let text = bench.folder.join("perplexity.txt");
    fs::write(&text, machine::prose()?)?;
    // llama-perplexity begins each window with the model's first token if the model wants one, and so must ours.
    let (with, without) = (peer.tokens(&built_in, &text, true)?, peer.tokens(&built_in, &text, false)?);
    let first = (with.matches(',').count() > without.matches(',').count())
        .then(|| with.split(',').next().unwrap_or_default().trim().to_owned());
    let tokens = bench.folder.join("perplexity.tokens");
    fs::write(&tokens, &with)?;
    let command = format!("perplexity {} 512 {}", tokens.display(), first.unwrap_or_default());
    for (case, format) in group.cases.iter().zip(FORMATS) {
        if !bench.options.wants(case) {
            continue;
        }
        let model = quantize(&built_in, &format!("seed-{format}.gguf"), &format.to_uppercase())?;
        let reference = quantize(&model, &format!("seed-{format}-f32.gguf"), "F32")?;
        let of = |model: &Path| -> Result<Value> {
            let mut measure: Measure = bench.ours.measure(group.build, model, &["--context", "512"])?;
            measure.ask(command.trim())
        };
        let number = |reply: &Value, key: &str| {
            reply.get(key).and_then(Value::as_f64).with_context(|| format!("no {key}: {reply}"))
        };
        let exact = number(&of(&reference)?, "perplexity")?;
        let reply = of(&model)?;
        let (ours, theirs) = (number(&reply, "perplexity")?, peer.perplexity(&model, &text, 512)?);
        let (mut our_samples, mut peer_samples) = (Samples::default(), Samples::default());
        our_samples.add(vec![vec![ours]]);
        peer_samples.add(vec![vec![theirs]]);
        let mut row = row(case, "perplexity", Better::Lower, &our_samples, &peer_samples, 0)?;
        row.target = Some(rows::Target { value: exact, of: rows::TargetOf::Near });
        let off = |value: f64| (value / exact - 1.0) * 100.0;
        row.note = format!(
            "{:+.3} %, peer {:+.3} %, of {exact:.4} in f32; {} tokens",
            off(ours),
            off(theirs),
            number(&reply, "tokens")?
        );
        bench.add(row)?;
    }
    Ok(())
}

fn by_turns(bench: &Bench, group: &Group, ours: Side<'_>, peer: Side<'_>) -> Result<(Samples, Samples)> {
    let patience = if bench.options.quick { Patience::SHORT } else { Patience::USUAL };
    let alone = bench.peer.is_none() || group.alone();
    alternate(group.turns, patience, ours, if alone { None } else { Some(peer) })
}

fn row(case: &str, unit: &str, better: Better, ours: &Samples, peer: &Samples, at: usize) -> Result<Row> {
    let Some(spread) = Spread::of(ours.of(at)) else { bail!("`{case}` has no sample") };
    Ok(Row {
        case: case.to_owned(),
        unit: unit.to_owned(),
        better,
        ours: spread,
        peer: Spread::of(peer.of(at)),
        target: target(case),
        limit_share: None,
        flagged: ours.disturbed || peer.disturbed,
        note: String::new(),
        build: String::new(),
    })
}

fn model(bench: &Bench, group: &Group) -> Result<(PathBuf, &'static str)> {
    let (shape, format) = group.model.context("this group has a model")?;
    Ok((bench.model(shape, format)?, format))
}

fn times(count: usize, mut measure: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    (0..count).map(|_| measure()).collect()
}

/// Tokens that each client asks for.
const SERVED_TOKENS: usize = 48;
const LONGEST: Duration = Duration::from_secs(600);
/// What was asked for at most is 10. A peer's clients leave after so many times what ours took.
const CUT_AFTER: f64 = 11.0;
