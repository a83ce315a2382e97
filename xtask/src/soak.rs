//! `cargo xtask soak`: the built server under many concurrent streams for minutes, with clients that leave at random
//! moments. It fails when a request errs, when resident memory does not level off, or when requests or pages are left at
//! the end. What each client does comes from the seed; only the interleaving is the machine's.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::site::Site;
use crate::{http, target_dir};

pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let mut site = Site::start(&target_dir().join("soak"), !options.dev)?;
    println!("soak: {} streams for {} min, seed {}", options.streams, options.minutes, options.seed);
    let counts = Counts::default();
    let over = AtomicBool::new(false);
    let (address, key) = (site.address.clone(), site.key.clone());
    let memory = std::thread::scope(|scope| {
        for client in 0..options.streams {
            let random = Random(options.seed ^ client.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let (address, key, counts, over) = (&address, &key, &counts, &over);
            scope.spawn(move || drive(address, key, random, counts, over));
        }
        let memory = watch(&mut site, &counts, Duration::from_secs_f64(options.minutes * 60.0));
        over.store(true, Ordering::Relaxed);
        memory
    })?;
    let left = settle(&address, &key)?;
    site.stop()?;
    verdict(&counts, &memory, &left)
}

struct Options {
    streams: u64,
    minutes: f64,
    seed: u64,
    dev: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self { streams: 64, minutes: 5.0, seed: 1, dev: false };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("`{arg}` needs a number"));
            match arg.as_str() {
                "--streams" => options.streams = value()?.parse()?,
                "--minutes" => options.minutes = value()?.parse()?,
                "--seed" => options.seed = value()?.parse()?,
                "--dev" => options.dev = true,
                other => bail!("no option `{other}`; `cargo xtask help` lists them"),
            }
        }
        Ok(options)
    }
}

#[derive(Default)]
struct Counts {
    finished: AtomicU64,
    left: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    /// The first few failures, in words.
    failures: Mutex<Vec<String>>,
}

/// One client: requests of all kinds, one after another, until the time is over.
fn drive(address: &str, key: &str, mut random: Random, counts: &Counts, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let request = Request::draw(&mut random);
        // Three in ten leave early: some before the first byte, some after a few pieces.
        let leave_after = (random.below(10) < 3).then(|| random.below(12));
        match request.perform(address, key, leave_after, counts) {
            Ok(true) => counts.finished.fetch_add(1, Ordering::Relaxed),
            Ok(false) => counts.left.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                let mut failures = counts.failures.lock().expect("no client panics");
                if failures.len() < 10 {
                    failures.push(format!("{}: {error:#}", request.path));
                }
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

struct Request {
    path: &'static str,
    body: String,
    /// What the last piece of a whole stream holds.
    end: &'static str,
}

impl Request {
    fn draw(random: &mut Random) -> Self {
        let most = if random.below(8) == 0 { 160 } else { 24 };
        let words = 1 + random.below(most);
        let prompt: Vec<&str> = (0..words).map(|_| WORDS[random.below(WORDS.len() as u64) as usize]).collect();
        let prompt = prompt.join(" ");
        let tokens = 1 + random.below(64);
        let seed = random.below(1 << 30);
        let messages = format!(r#""messages":[{{"role":"user","content":"{prompt}"}}]"#);
        let common = format!(r#""model":"falaj-seed","max_tokens":{tokens},"temperature":0.8"#);
        let (path, body, end) = match random.below(9) {
            0 | 1 => (
                "/v1/chat/completions",
                format!(r#"{{{common},{messages},"stream":true,"random_seed":{seed}}}"#),
                "[DONE]",
            ),
            2 => (
                "/openai/v1/chat/completions",
                format!(r#"{{{common},{messages},"stream":true,"seed":{seed},"n":2}}"#),
                "[DONE]",
            ),
            3 => ("/v1/chat/completions", format!(r#"{{{common},{messages}}}"#), "usage"),
            4 => (
                "/openai/v1/chat/completions",
                format!(r#"{{{common},{messages},"stream":true,"response_format":{{"type":"json_object"}}}}"#),
                "[DONE]",
            ),
            5 => (
                "/v1/fim/completions",
                format!(r#"{{{common},"prompt":"{prompt}","suffix":"end","stream":true}}"#),
                "[DONE]",
            ),
            6 => ("/v1/completions", format!(r#"{{{common},"prompt":"{prompt}","stream":true}}"#), "[DONE]"),
            7 => ("/v1/messages", format!(r#"{{{common},{messages},"stream":true}}"#), "message_stop"),
            _ => ("/v1/embeddings", format!(r#"{{"model":"falaj-seed","input":["{prompt}","second"]}}"#), "usage"),
        };
        Self { path, body, end }
    }

    /// True when the reply was read to its end, false when the client left as planned.
    fn perform(&self, address: &str, key: &str, leave_after: Option<u64>, counts: &Counts) -> Result<bool> {
        let mut stream = http::send(address, "POST", self.path, key, &self.body)?;
        let mut text = String::new();
        let mut pieces = 0;
        loop {
            if leave_after.is_some_and(|limit| pieces >= limit) {
                return Ok(false);
            }
            let Some(piece) = stream.piece()? else { break };
            pieces += 1;
            counts.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            text.push_str(&String::from_utf8_lossy(&piece));
        }
        if stream.status != 200 {
            bail!("status {}: {}", stream.status, shorten(&text));
        }
        if text.contains(r#""error""#) || !text.contains(self.end) {
            bail!("the reply does not end with `{}`: {}", self.end, shorten(&text));
        }
        Ok(true)
    }
}

/// Samples resident memory until the time is over. Fails at once if the server ends.
fn watch(site: &mut Site, counts: &Counts, time: Duration) -> Result<Vec<u64>> {
    let started = Instant::now();
    let mut memory = Vec::new();
    let mut shown = Instant::now();
    while started.elapsed() < time {
        std::thread::sleep(SAMPLE);
        if let Some(status) = site.ended()? {
            bail!("the server ended with {status}:\n{}", site.last_words());
        }
        memory.push(resident_kib(site.pid())?);
        if shown.elapsed() > Duration::from_secs(15) {
            shown = Instant::now();
            println!(
                "{:>4} s  {:>7} finished  {:>6} left early  {:>4} failed  {:>6} MiB resident",
                started.elapsed().as_secs(),
                counts.finished.load(Ordering::Relaxed),
                counts.left.load(Ordering::Relaxed),
                counts.failed.load(Ordering::Relaxed),
                memory.last().unwrap_or(&0) / 1024,
            );
        }
    }
    Ok(memory)
}

/// Waits until the server says it is idle. Returns what its gauges still hold.
fn settle(address: &str, key: &str) -> Result<Vec<(String, f64)>> {
    let started = Instant::now();
    loop {
        let text = http::get(address, "/metrics", key)?.body;
        let left: Vec<_> =
            IDLE_GAUGES.iter().map(|name| Ok(((*name).to_owned(), gauge(&text, name)?))).collect::<Result<_>>()?;
        if left.iter().all(|(_, value)| *value == 0.0) || started.elapsed() > SETTLE_TIMEOUT {
            return Ok(left);
        }
        std::thread::sleep(SAMPLE / 10);
    }
}

/// The sum over all label sets of one metric.
fn gauge(text: &str, name: &str) -> Result<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        (rest.starts_with([' ', '{'])).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    let values: Vec<f64> = values.collect();
    if values.is_empty() {
        bail!("/metrics has no `{name}`");
    }
    Ok(values.iter().sum())
}

fn verdict(counts: &Counts, memory: &[u64], left: &[(String, f64)]) -> Result<()> {
    let finished = counts.finished.load(Ordering::Relaxed);
    let failed = counts.failed.load(Ordering::Relaxed);
    // After a warm-up of two fifths, the level of the last fifth against that of the middle one.
    let fifth = memory.len() / 5;
    let middle = median(&memory[2 * fifth..3 * fifth.max(1)]);
    let last = median(&memory[memory.len() - fifth.max(1)..]);
    let growth_kib = last as i64 - middle as i64;
    println!(
        "\n{finished} finished, {} left early, {failed} failed, {} MiB received; resident {} MiB in the middle, {} MiB at the end",
        counts.left.load(Ordering::Relaxed),
        counts.bytes.load(Ordering::Relaxed) >> 20,
        middle / 1024,
        last / 1024,
    );
    for failure in counts.failures.lock().expect("no client panics").iter() {
        eprintln!("failed: {failure}");
    }
    for (name, value) in left {
        println!("{name} {value}");
    }
    if failed > 0 || finished == 0 {
        bail!("{failed} requests failed, {finished} finished");
    }
    if growth_kib > GROWTH_LIMIT_KIB.max(middle as i64 / 20) {
        bail!("resident memory grew by {} MiB from the middle to the end", growth_kib / 1024);
    }
    if let Some((name, value)) = left.iter().find(|(_, value)| *value != 0.0) {
        bail!("`{name}` is still {value} after all clients left");
    }
    println!("passed: no error, memory level, every page returned");
    Ok(())
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("resident memory is read from /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

fn shorten(text: &str) -> String {
    let tail: Vec<char> = text.chars().rev().take(300).collect();
    tail.into_iter().rev().collect()
}

/// SplitMix64: small, seedable, good enough to choose requests.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

const SAMPLE: Duration = Duration::from_secs(1);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
const GROWTH_LIMIT_KIB: i64 = 16 << 10;
/// All zero when no request is alive.
const IDLE_GAUGES: &[&str] = &["falaj_engine_running", "falaj_engine_waiting", "falaj_engine_pages_used"];
const WORDS: &[&str] = &[
    "water",
    "channel",
    "village",
    "source",
    "the",
    "of",
    "shared",
    "l'eau",
    "le",
    "village",
    "partage",
    "مياه",
    "الفلج",
    "قرية",
    "مشترك",
    "hello",
    "bonjour",
    "مرحبا",
    "1",
    "2",
    "3",
    "tell",
    "me",
    "about",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_sums_its_labels() {
        let text = "# TYPE falaj_x gauge\nfalaj_x{model=\"a\"} 2\nfalaj_x{model=\"b\"} 3\nfalaj_x_total 9\n";
        assert_eq!(gauge(text, "falaj_x").expect("it is there"), 5.0);
        assert!(gauge(text, "falaj_y").is_err());
    }

    #[test]
    fn requests_are_drawn_from_the_seed() {
        let bodies =
            |seed| (0..20).map(|_| 0).scan(Random(seed), |r, _| Some(Request::draw(r).body)).collect::<Vec<_>>();
        assert_eq!(bodies(7), bodies(7));
        assert_ne!(bodies(7), bodies(8));
    }
}
