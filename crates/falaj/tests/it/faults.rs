//! What a site does when the machine fails it: two servers on one ledger, a clock that is set back, a full disk, files that are not
//! what they were. Each is a clear state, and nothing is lost.

use crate::site::{Ran, Site, Up};
use falaj_ledger::{Entry, FileKey, Folder, Log, LogSettings, Receipt, Tile, Tombstone};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An answer with what it says of limits.
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = |line: &&str| line.to_lowercase().starts_with(&format!("{name}:"));
        self.text.lines().find(line).map(|line| line[name.len() + 1..].trim())
    }

    pub fn number(&self, name: &str) -> u64 {
        self.header(name).unwrap_or_else(|| panic!("{name} in {}", self.text)).parse().unwrap()
    }

    fn tokens(&self) -> u64 {
        let body: Value = serde_json::from_str(self.text.split_once("\r\n\r\n").unwrap().1).unwrap();
        body["usage"]["total_tokens"].as_u64().unwrap()
    }
}

fn ask(up: &Up, key: &str) -> Answer {
    let ask = json!({ "model": "falaj-seed", "max_tokens": 1, "messages": [{ "role": "user", "content": "Hi" }] });
    let (status, text) = up.exchange("POST", "/v1/chat/completions", key, &ask.to_string());
    Answer { status, text }
}

/// Asks until `wanted` holds.
fn ask_until(up: &Up, key: &str, mut wanted: impl FnMut(&Answer) -> bool) -> Answer {
    let started = Instant::now();
    loop {
        let answer = ask(up, key);
        if wanted(&answer) {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{}", answer.text);
    }
}

#[test]
fn a_second_server_on_one_ledger_names_the_first() {
    let (site, other) = (Site::new("faults-first"), Site::new("faults-second"));
    let up = site.up(&[]);
    let key = up.hello["key"].as_str().unwrap().to_owned();
    assert_eq!(ask(&up, &key).status, 200);
    // Another folder and other settings, and the same ledger with its key.
    fs::create_dir(other.data()).unwrap();
    std::os::unix::fs::symlink(site.data().join("ledger"), other.data().join("ledger")).unwrap();
    fs::copy(site.data().join("site.key"), other.data().join("site.key")).unwrap();
    let words = [&*format!("in use by process {}", up.hello["pid"]), "stop that one first", "one writer"];
    other.falaj(&["up", "--listen", "127.0.0.1:0"]).fails(1, &words);
    assert_eq!(ask(&up, &key).status, 200);
    assert_eq!(up.stop("-TERM").0, Some(0));
    site.falaj(&["ledger", "keys", "--out", "keys"]).ok();
    site.falaj(&["ledger", "export", "pack"]).ok();
    site.falaj(&["verify", "pack", "--trust", "keys"]).ok();
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A day that is over stays over: what has expired opens nothing, what was used is used, and the ledger's times keep their order.
#[test]
fn a_clock_that_is_set_back_brings_nothing_back() {
    if !Path::new(FAKETIME).is_file() {
        eprintln!("\n!!! NOT RUN: no libfaketime here, so no clock was set back; install Debian's `libfaketime`\n");
        return;
    }
    let site = Site::new("faults-clock");
    let file = site.path("clock");
    let set = |day: u32| fs::write(&file, format!("@2027-01-{day} 10:00:00\n")).unwrap();
    let path = file.display().to_string();
    let env = [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", &path),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    set(15);
    let admin = |args: &[&str]| site.falaj_with(&env, &[&["admin", "--json"], args].concat()).ok().json();
    admin(&["organisation", "health", "--country", "MA"]);
    admin(&["workspace", "desk", "--organisation", "health"]);
    admin(&["limit", "--workspace", "desk", "--what", "requests", "--per", "day", "--amount", "2"]);
    let secret = |args: &[&str]| admin(args)["secret"].as_str().unwrap().to_owned();
    let short = secret(&["key", "short", "--workspace", "desk", "--days", "1"]);
    let long = secret(&["key", "long", "--workspace", "desk"]);

    let up = site.up_with(&env, &[]);
    assert_eq!(ask(&up, &short).status, 200);
    set(17);
    assert_eq!(ask(&up, &short).status, 401, "it has expired");
    assert_eq!([0; 3].map(|_| ask(&up, &long).status), [200, 200, 429]);
    set(15);
    assert_eq!((ask(&up, &short).status, ask(&up, &long).status), (401, 429));
    // The server looks every second.
    let started = Instant::now();
    let behind = || {
        let (_, text) = up.exchange("GET", "/metrics", &long, "");
        text.lines().find_map(|line| line.strip_prefix("falaj_clock_behind_seconds ")?.parse::<f64>().ok()).unwrap()
    };
    assert!((170_000.0..175_000.0).contains(&behind()), "{}", behind());
    while started.elapsed() < Duration::from_secs(3) {
        assert!(behind() > 170_000.0);
    }
    let (code, err) = up.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(err.contains("clock was set back"), "{err}");

    let up = site.up_with(&env, &[]);
    assert_eq!((ask(&up, &short).status, ask(&up, &long).status), (401, 429));
    let (code, err) = up.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(err.contains("clock was set back"), "{err}");
    site.falaj(&["ledger", "keys", "--out", "keys"]).ok();
    site.falaj(&["ledger", "export", "pack"]).ok();
    let verified = site.falaj(&["verify", "pack", "--trust", "keys", "--json"]).ok().json();
    assert_eq!((&verified["holds"], &verified["times_back_ms"]), (&json!(true), &json!(0)));
    let times: Vec<u64> = entries(&site.data().join("ledger")).iter().filter_map(time_ms).collect();
    assert!(times.len() == 6 && times.is_sorted(), "{times:?}");
}

/// All entries, in their order.
fn entries(ledger: &Path) -> Vec<Entry> {
    let folder = Folder::new(ledger);
    let checkpoint = String::from_utf8(folder.read("checkpoint").unwrap().unwrap()).unwrap();
    let size = checkpoint.lines().nth(1).unwrap().parse().unwrap();
    let bundles = (0..).map_while(|index| Tile::within(0, index, size)).map(|tile| folder.bundle(tile).unwrap());
    bundles.flatten().map(|entry| Entry::from_bytes(&entry).unwrap()).collect()
}

fn time_ms(entry: &Entry) -> Option<u64> {
    match entry {
        Entry::Admission(admission) => Some(admission.time_ms),
        Entry::Receipt(bytes) => Some(Receipt::unverified(bytes).unwrap().claims.time_ms),
        _ => None,
    }
}

/// A small disk of its own for a site's data, seen by what is started inside.
struct Disk {
    site: Site,
    /// Of 4 KiB, at most.
    pages: usize,
    /// Keeps the mount until its input ends.
    holder: Child,
}

impl Disk {
    fn new(name: &str, megabytes: usize) -> Option<Self> {
        let site = Site::new(name);
        fs::create_dir(site.data()).unwrap();
        let mount = format!("mount -t tmpfs -o size={megabytes}m tmpfs \"$0\" && echo there && exec cat");
        let mut holder = Command::new("unshare");
        holder.args(["-m", "sh", "-c", &mount]).arg(site.data()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.stderr(Stdio::null()).spawn().ok()?;
        let mut said = String::new();
        let mut out = BufReader::new(holder.stdout.take().unwrap());
        out.read_line(&mut said).unwrap();
        let disk = Self { site, pages: megabytes << 8, holder };
        if said.trim() == "there" {
            // Its output is read no more, and it writes none.
            return Some(disk);
        }
        eprintln!("\n!!! NOT RUN: no disk could be mounted here, so no full one was tested; run the tests as root\n");
        None
    }

    /// The site's executable, with the disk mounted.
    fn command(&self, args: &[&str]) -> Command {
        let plain = self.site.command(args);
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg(plain.get_program()).args(args);
        command.env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn falaj(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap())
    }

    fn up(&self) -> Up {
        Site::started(self.command(&["up", "--listen", "127.0.0.1:0", "--json"]))
    }

    /// The data as seen from outside.
    fn data(&self) -> String {
        format!("/proc/{}/root{}", self.holder.id(), self.site.data().display())
    }

    /// Until nothing fits, which must come soon: where no small disk is mounted after all, this one must not fill up.
    fn fill(&self) {
        let mut file = fs::File::create(format!("{}/ballast", self.data())).unwrap();
        let page = [0; 4096];
        let pages = (0..).take_while(|_| file.write_all(&page).is_ok()).take(1 + 2 * self.pages).count();
        assert!(pages <= 2 * self.pages, "the small disk has no end");
    }

    /// Leaves this much space again.
    fn shrink(&self, bytes: u64) {
        let file = fs::OpenOptions::new().write(true).open(format!("{}/ballast", self.data())).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
    }

    fn free(&self) {
        fs::remove_file(format!("{}/ballast", self.data())).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

const STREAM_TOKENS: u32 = 1500;

/// Reads up to its first event.
fn start_stream(up: &Up, key: &str) -> BufReader<TcpStream> {
    let ask = json!({ "model": "falaj-seed", "max_tokens": STREAM_TOKENS, "stream": true,
        "stream_options": { "include_usage": true }, "logit_bias": { "2": -100 },
        "messages": [{ "role": "user", "content": "Count from one to twenty." }] });
    let ask = ask.to_string();
    let mut stream = TcpStream::connect(up.address()).unwrap();
    let head = format!(
        "POST /openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{ask}",
        ask.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data:") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended before its first event");
    }
    reader
}

/// A file of about so many bytes, for training.
pub fn upload(up: &Up, key: &str, bytes: usize) -> (u16, String) {
    let lines = "{\"text\":\"a line of a long file, of which there are many\"}\n".repeat(bytes / 58);
    let body = format!(
        "--x\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--x\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{lines}\r\n--x--\r\n"
    );
    let mut socket = TcpStream::connect(up.address()).unwrap();
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // Whoever answers early reads no more.
    let _ = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body.as_bytes()));
    let mut got = Vec::new();
    let _ = socket.read_to_end(&mut got);
    let text = String::from_utf8_lossy(&got).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {text}")), text)
}

const REQUESTS: u64 = 1_000_000;
const TOKENS: u64 = 100_000_000;

#[test]
fn a_full_disk_lets_nobody_in_and_the_site_goes_on_when_there_is_space() {
    let Some(disk) = Disk::new("faults-disk", 16) else { return };
    let admin = |args: &[&str]| disk.falaj(&[&["admin", "--json"], args].concat()).ok().json();
    admin(&["organisation", "health", "--country", "MA"]);
    admin(&["workspace", "desk", "--organisation", "health"]);
    for (what, amount) in [("requests", REQUESTS), ("tokens", TOKENS)] {
        admin(&["limit", "--workspace", "desk", "--what", what, "--per", "month", "--amount", &amount.to_string()]);
    }
    let key = admin(&["key", "reception", "--workspace", "desk"])["secret"].as_str().unwrap().to_owned();
    let up = disk.up();
    let (mut served, mut tokens) = (0, 0);
    let mut count = |answer: &Answer| {
        if answer.status == 200 {
            assert!(answer.header("falaj-receipt").is_some(), "{}", answer.text);
            served += 1;
            tokens += answer.tokens();
        }
        answer.status
    };
    assert_eq!(count(&ask(&up, &key)), 200);
    // Let in before the disk is full, and ended after.
    let mut stream = start_stream(&up, &key);
    disk.fill();
    // Until the page that the ledger writes in is full as well.
    let mut refused = 0;
    while refused < 40 {
        let answer = ask(&up, &key);
        if count(&answer) != 200 {
            assert_eq!(answer.status, 503, "{}", answer.text);
            assert!(answer.text.contains("no_ledger") && answer.text.contains("nothing is served"), "{}", answer.text);
            refused += 1;
        }
    }
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    // With its receipt, where the ledger still had room: it makes some before it needs it.
    assert!(rest.contains("[DONE]"), "{rest}");
    let usage = rest.lines().find_map(|line| line.split_once("\"total_tokens\":")).unwrap().1;
    let streamed: u64 = usage.split([',', '}']).next().unwrap().parse().unwrap();
    let (status, text) = up.exchange("POST", "/v1/fine_tuning/jobs", &key, "{}");
    assert_eq!(status, 503, "{text}");
    // What does not fit is not kept, and what fits is.
    disk.shrink(3 << 20);
    ask_until(&up, &key, |answer| count(answer) == 200);
    let (status, text) = upload(&up, &key, 6 << 20);
    assert!(status == 507 && text.contains("no_space"), "{text}");
    let (status, text) = upload(&up, &key, 1 << 20);
    assert_eq!(status, 200, "{text}");
    disk.free();
    let last = ask_until(&up, &key, |answer| answer.status == 200);
    count(&last);
    let (mut served, mut tokens) = (served + 1, tokens + streamed);
    assert_eq!(last.number("x-ratelimit-remaining-requests"), REQUESTS - served);
    assert_eq!(last.number("x-ratelimit-remaining-tokens"), TOKENS - tokens);
    // The stream's receipt may come late, and is there to be fetched.
    let started = Instant::now();
    while !up.exchange("GET", "/v1/receipts", &key, "").1.contains(&format!("\"completion_tokens\":{STREAM_TOKENS}")) {
        assert!(started.elapsed() < Duration::from_secs(60));
    }
    let (code, err) = up.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(err.contains("could not be written down"), "{err}");

    // Whatever was refused is charged to nobody, after a start as well.
    let up = disk.up();
    let last = ask_until(&up, &key, |answer| answer.status == 200);
    served += 1;
    tokens += last.tokens();
    assert_eq!(last.number("x-ratelimit-remaining-tokens"), TOKENS - tokens);
    assert_eq!(up.stop("-TERM").0, Some(0));
    // Nor does it start on a full disk, and says why.
    disk.fill();
    disk.falaj(&["up", "--listen", "127.0.0.1:0"]).fails(1, &["is full: make space on it"]);
    disk.free();
    // Whoever enters another's mounts is at their root.
    let [keys, pack] = ["keys", "pack"].map(|name| disk.site.path(name).display().to_string());
    disk.falaj(&["ledger", "keys", "--out", &keys]).ok();
    disk.falaj(&["ledger", "export", &pack]).ok();
    let verified = disk.site.falaj(&["verify", &pack, "--trust", &keys, "--json"]).ok().json();
    assert_eq!((&verified["holds"], &verified["receipts"]), (&json!(true), &json!(served)));
}

/// Keys that are half written would be in the way for ever.
#[test]
fn a_first_start_on_a_full_disk_leaves_nothing_broken() {
    let Some(disk) = Disk::new("faults-new", 16) else { return };
    disk.fill();
    disk.falaj(&["up", "--listen", "127.0.0.1:0"]).fails(1, &["is full: make space on it"]);
    disk.falaj(&["ledger", "make-key"]).fails(1, &["No space"]);
    disk.falaj(&["admin", "organisation", "health", "--country", "MA"]).fails(1, &[]);
    disk.free();
    let up = disk.up();
    assert_eq!(ask(&up, up.hello["key"].as_str().unwrap()).status, 200);
    assert_eq!(up.stop("-TERM").0, Some(0));
}

/// A ledger whose older entries stand in tiles only.
fn ledger(site: &Site) {
    fs::create_dir_all(site.data()).unwrap();
    let key = Arc::new(FileKey::create(&site.data().join("site.key")).unwrap());
    let settings = LogSettings { segment_bytes: 4000, ..LogSettings::default() };
    let folder = site.data().join("ledger");
    let log = Log::open(&folder, "localhost/ledger", key, Arc::new(|| 1_800_000_000), settings).unwrap();
    for number in 0..600u32 {
        let tombstone = Tombstone { request_id: [7; 16], time_ms: number.into(), reason: "erasure".into() };
        log.append(Entry::Tombstone(tombstone).to_bytes()).unwrap().wait().unwrap();
    }
}

#[test]
fn a_damaged_ledger_is_not_served_from_and_not_changed() {
    let site = Site::new("faults-damage");
    ledger(&site);
    let folder = site.data().join("ledger");
    let refuses = |words: &[&str]| {
        let words = [words, &["the ledger does not open", "nothing was changed; restore"]].concat();
        site.falaj(&["up", "--listen", "127.0.0.1:0"]).fails(1, &words);
    };
    let flipped = |name: &str, at: usize, words: &[&str]| {
        let path = folder.join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        refuses(words);
        assert_eq!(fs::read(&path).unwrap(), bad);
        fs::write(&path, good).unwrap();
    };
    flipped("tile/0/000", 5, &["`tile/0/000` is damaged"]);
    let mut segments: Vec<_> = fs::read_dir(folder.join("wal"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    segments.sort();
    assert!(segments.len() > 1 && segments[0] != format!("{:020}", 0), "{segments:?}");
    flipped(&format!("wal/{}", segments[0]), 100, &[&segments[0], "is damaged at byte"]);
    flipped("checkpoint", 20, &["checkpoint", "does not match this ledger"]);
    let (last, away) = (folder.join("wal").join(segments.last().unwrap()), site.path("away"));
    fs::rename(&last, &away).unwrap();
    refuses(&["ends at entry", "but the checkpoint has 600"]);
    fs::rename(&away, &last).unwrap();
    assert_eq!(site.up(&[]).stop("-TERM").0, Some(0));
}
