//! A site that is killed while many requests run: whatever a client has got is in its ledger, and its sums are those of the ledger.

use crate::site::{Site, Up};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use falaj_ledger::{Admission, Claims, Entry, Folder, Receipt, Tile};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// At once.
const CLIENTS: usize = 64;
/// Whole answers, after which it is killed.
const ANSWERS: usize = 300;
const REQUESTS_LIMIT: u64 = 1_000_000;
const TOKENS_LIMIT: u64 = 100_000_000;

#[test]
fn nothing_that_was_answered_is_lost_by_a_kill() {
    let site = Site::new("crash");
    let mut up = site.up(&[]);
    let secret = customer(&site);
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.extend(load_until_killed(up, &secret));
        up = site.up(&[]);
        assert_sums(&up, &site, &secret, &answers);
    }
    assert_eq!(up.stop("-TERM").0, Some(0));
    assert_ledger(&site, &answers);
}

/// A key of an organisation with limits.
fn customer(site: &Site) -> String {
    let admin = |args: &[&str]| site.falaj(&[&["admin", "--json"], args].concat()).ok().json();
    admin(&["organisation", "health", "--country", "MA"]);
    admin(&["workspace", "desk", "--organisation", "health"]);
    for (what, amount) in [("requests", REQUESTS_LIMIT), ("tokens", TOKENS_LIMIT)] {
        let amount = amount.to_string();
        admin(&["limit", "--organisation", "health", "--what", what, "--per", "month", "--amount", &amount]);
    }
    admin(&["key", "reception", "--workspace", "desk"])["secret"].as_str().unwrap().to_owned()
}

/// What a client has seen of an answer.
#[derive(Default)]
struct Answer {
    request_id: [u8; 16],
    /// As the ledger holds it.
    receipt: Option<Vec<u8>>,
}

fn load_until_killed(up: Up, secret: &str) -> Vec<Answer> {
    let (answers, whole) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let address = up.address().to_owned();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (answers, whole, address) = (&answers, &whole, &address);
            scope.spawn(move || {
                // Until nobody answers any more.
                for round in 0.. {
                    let Some(text) = ask(address, secret, (client + round) % 2 == 0) else { break };
                    let Some(answer) = seen(&text) else { continue };
                    whole.fetch_add(usize::from(answer.receipt.is_some()), Ordering::SeqCst);
                    answers.lock().unwrap().push(answer);
                }
            });
        }
        while whole.load(Ordering::SeqCst) < ANSWERS {
            thread::yield_now();
        }
        up.stop("-KILL");
    });
    answers.into_inner().unwrap()
}

/// Whatever comes before the connection ends; none where there is none to be had.
fn ask(address: &str, secret: &str, stream: bool) -> Option<String> {
    let body = json!({ "model": "falaj-seed", "max_tokens": 3, "stream": stream,
        "messages": [{ "role": "user", "content": "Hi" }] });
    let body = body.to_string();
    let mut socket = TcpStream::connect(address).ok()?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {secret}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).ok()?;
    let mut got = Vec::new();
    // A reset leaves what came before it.
    let _ = socket.read_to_end(&mut got);
    (!got.is_empty()).then(|| String::from_utf8_lossy(&got).into_owned())
}

/// None for a refusal.
fn seen(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    if !head.starts_with("HTTP/1.1 200") {
        return None;
    }
    let id = u128::from_str_radix(header("x-request-id: req_")?, 16).unwrap().to_be_bytes();
    let comment = || body.split_once(": falaj-receipt ")?.1.split_once("\n\n").map(|(receipt, _)| receipt);
    let receipt = header("falaj-receipt: ").or_else(comment).map(|text| URL_SAFE_NO_PAD.decode(text).unwrap());
    Some(Answer { request_id: id, receipt })
}

/// All entries, in their order.
fn entries(site: &Site) -> Vec<Entry> {
    let folder = Folder::new(&site.data().join("ledger"));
    let checkpoint = String::from_utf8(folder.read("checkpoint").unwrap().unwrap()).unwrap();
    let size = checkpoint.lines().nth(1).unwrap().parse().unwrap();
    let bundles = (0..).map_while(|index| Tile::within(0, index, size)).map(|tile| folder.bundle(tile).unwrap());
    bundles.flatten().map(|entry| Entry::from_bytes(&entry).unwrap()).collect()
}

fn claims(entries: &[Entry]) -> HashMap<[u8; 16], Claims> {
    let receipts = entries.iter().filter_map(|entry| match entry {
        Entry::Receipt(bytes) => Some(Receipt::unverified(bytes).unwrap().claims),
        _ => None,
    });
    receipts.map(|claims| (claims.request_id, claims)).collect()
}

/// What is left is what the ledger's receipts leave, to the token. A request that ran when the site was killed counts as a request.
fn assert_sums(up: &Up, site: &Site, secret: &str, answers: &[Answer]) {
    let claims = claims(&entries(site));
    let whole = answers.iter().filter(|answer| answer.receipt.is_some()).count();
    assert!(claims.len() >= whole, "{} receipts for {whole} answers", claims.len());
    let tokens: u64 = claims.values().map(|claims| claims.prompt_tokens + claims.completion_tokens).sum();
    let text = ask(up.address(), secret, false).unwrap();
    let header = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.parse().unwrap()
    };
    let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    let own = body["usage"]["total_tokens"].as_u64().unwrap();
    let without_receipt = REQUESTS_LIMIT - header("x-ratelimit-remaining-requests: ") - claims.len() as u64 - 1;
    assert!(without_receipt <= 2 * CLIENTS as u64, "{without_receipt} requests too many");
    assert_eq!(header("x-ratelimit-remaining-tokens: "), TOKENS_LIMIT - tokens - own);
}

fn assert_ledger(site: &Site, answers: &[Answer]) {
    site.falaj(&["ledger", "keys", "--out", "keys"]).ok();
    site.falaj(&["ledger", "export", "pack"]).ok();
    let verified = site.falaj(&["verify", "pack", "--trust", "keys", "--json"]).ok().json();
    assert_eq!(verified["holds"], true);
    let mut admitted = HashSet::new();
    let mut receipts = HashSet::new();
    for entry in entries(site) {
        match entry {
            Entry::Admission(Admission { request_id, .. }) => {
                assert!(admitted.insert(request_id), "admitted twice");
            }
            Entry::Receipt(bytes) => {
                let id = Receipt::unverified(&bytes).unwrap().claims.request_id;
                assert!(admitted.contains(&id), "a receipt before its admission");
                assert!(receipts.insert(bytes), "the same receipt twice");
            }
            Entry::Session(_) | Entry::Tombstone(_) | Entry::Denial(_) | Entry::DenialCount(_) => {}
        }
    }
    for answer in answers {
        assert!(admitted.contains(&answer.request_id), "an answer without an admission");
        assert!(
            answer.receipt.as_ref().is_none_or(|receipt| receipts.contains(receipt)),
            "a receipt that is not there"
        );
    }
    // Those whose client saw no end: what ran when the site was killed, twice, and the two that asked for what is left.
    let whole = answers.iter().filter(|answer| answer.receipt.is_some()).count();
    assert!(receipts.len() <= whole + 2 * CLIENTS + 2, "{} receipts, {whole} answers", receipts.len());
}
