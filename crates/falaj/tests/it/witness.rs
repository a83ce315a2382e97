//! Two sites and two witnesses: a ledger's heads are cosigned as it grows, a verifier asks for a quorum, and a ledger that was
//! set back finds no witness.

use crate::site::{Site, Up};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

struct Witness(Child, String);

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A witness of the ledger of `site`, and the line that the site's settings need.
fn witness(site: &Site, name: &str) -> Witness {
    let data = site.path(name);
    let mut command =
        site.command(&["witness", "--name", name, "--log", "keys/log", "--listen", "127.0.0.1:0", "--json"]);
    let mut child = command.env("FALAJ_DATA", &data).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let line = format!("{} {}", told["address"].as_str().unwrap(), told["key"].as_str().unwrap());
    Witness(child, line)
}

fn ask(up: &Up, site: &Site) {
    let key = fs::read_to_string(site.data().join("admin.key")).unwrap();
    let ask = json!({ "model": "falaj-seed", "max_tokens": 1, "messages": [{ "role": "user", "content": "Hi" }] });
    assert_eq!(up.exchange("POST", "/v1/chat/completions", key.trim(), &ask.to_string()).0, 200);
}

/// Until this many cosigned heads are kept.
fn cosigned(site: &Site, count: usize) {
    let folder = site.data().join("ledger/cosigned");
    let begun = std::time::Instant::now();
    while fs::read_dir(&folder).map_or(0, Iterator::count) < count {
        assert!(begun.elapsed().as_secs() < 60, "no witness signed");
        std::thread::yield_now();
    }
}

#[test]
fn witnesses_cosign_what_continues_and_nothing_else() {
    let site = Site::new("witness");
    site.up(&[]).stop("-TERM");
    let trust = ["ledger", "keys", "--out", "keys"];
    site.falaj(&trust).ok();
    let (mut first, second) = (witness(&site, "w.example/1"), witness(&site, "w.example/2"));
    fs::write(site.path("f.toml"), format!("[site]\nwitnesses = [{:?}, {:?}]\n", first.1, second.1)).unwrap();
    let with = |args: &[&str]| site.falaj(&[args, &["--config", "f.toml"]].concat());

    let up = site.up(&["--config", "f.toml"]);
    ask(&up, &site);
    cosigned(&site, 1);
    ask(&up, &site);
    cosigned(&site, 2);
    assert_eq!(up.stop("-TERM").0, Some(0));
    with(&trust).ok();
    with(&["ledger", "export", "pack"]).ok();
    let told = with(&["verify", "pack", "--trust", "keys", "--quorum", "2", "--json"]).ok().json();
    assert_eq!(told["witnesses"], json!(["w.example/1", "w.example/2"]));
    with(&["verify", "pack", "--trust", "keys", "--quorum", "3"]).fails(1, &[]);

    // The same key with another history: what a site would do that wants to forget.
    fs::remove_dir_all(site.data().join("ledger")).unwrap();
    let up = site.up(&["--config", "f.toml"]);
    ask(&up, &site);
    let seen = |name: &str| {
        let folder = site.path(name).join("witness");
        let heads = fs::read_dir(folder).unwrap().map(|item| item.unwrap().path().join("checkpoint"));
        heads.filter_map(|path| fs::read_to_string(path).ok()).next().unwrap()
    };
    let before = seen("w.example/1");
    for _ in 0..6 {
        ask(&up, &site);
    }
    // It says why, once it was asked.
    let mut err = BufReader::new(first.0.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("does not continue the last one") {
        assert_ne!(err.read_line(&mut said).unwrap(), 0, "{said}");
    }
    up.stop("-TERM");
    assert_eq!(seen("w.example/1"), before);
    assert!(!site.data().join("ledger/cosigned").exists());
}
