//! `falaj admin` beside a running site.

use crate::site::{Site, Up};
use serde_json::json;
use std::fs;

#[test]
fn a_tenant_is_made_limited_and_put_out_while_the_site_runs() {
    let site = Site::new("admin");
    let up = site.up(&[]);
    let add = |args: &[&str]| site.falaj(&[&["admin", "--json"], args].concat()).ok().json();
    add(&["organisation", "health", "--country", "MA"]);
    add(&["workspace", "desk", "--organisation", "health", "--purpose", "care"]);
    let key = add(&["key", "reception", "--workspace", "desk", "--scope", "infer", "--days", "1"]);
    let secret = key["secret"].as_str().unwrap().to_owned();
    assert!(key["hash"].is_null() && secret.starts_with("fj-"));
    let ask = json!({ "model": "falaj-seed", "max_tokens": 2, "messages": [{ "role": "user", "content": "Hi" }] });
    let ask = ask.to_string();
    // Until the site has taken the change in.
    let until = |secret: &str, wanted: u16| {
        let begun = std::time::Instant::now();
        loop {
            let (status, text) = up.exchange("POST", "/v1/chat/completions", secret, &ask);
            if status == wanted {
                return text;
            }
            assert!(begun.elapsed().as_secs() < 30, "{status} for ever: {text}");
        }
    };
    until(&secret, 200);
    assert_eq!(up.exchange("GET", "/v1/files", &secret, "").0, 403);
    add(&["limit", "--key", "reception", "--what", "requests", "--per", "month", "--amount", "1"]);
    assert!(until(&secret, 429).to_lowercase().contains("retry-after"));
    let next = add(&["rotate", "reception", "--overlap-hours", "0"]);
    until(&secret, 401);
    until(next["secret"].as_str().unwrap(), 200);
    site.falaj(&["admin", "revoke", "reception"]).fails(2, &["several"]);
    add(&["revoke", next["id"].as_str().unwrap()]);
    until(next["secret"].as_str().unwrap(), 401);
    site.falaj(&["admin", "key", "x", "--workspace", "desk", "--scope", "fly"]).fails(2, &["fly", "infer"]);
    site.falaj(&["admin", "workspace", "y", "--organisation", "nobody"]).fails(2, &["nobody"]);
    fs::write(site.path("terms.json"), "{\"artifacts\": [\"falaj-seed\"], \"actions\": [\"fly\"]}").unwrap();
    site.falaj(&["admin", "grant", "terms.json", "--owner", "operator"]).fails(1, &["fly"]);
    site.falaj(&["admin", "migrate"]).fails(2, &["--to-file"]);
    site.falaj(&["admin", "migrate", "--to", "postgres://127.0.0.1:1/none"]).fails(1, &["command line"]);
    let listed = site.falaj(&["admin", "list"]).ok().out;
    assert!(listed.contains("health") && listed.contains("reception") && !listed.contains(&secret), "{listed}");
    let people = |args: &[&str]| site.falaj(&[&["admin", "--json"], args].concat()).ok().json();
    let amal = people(&["user", "amal@health.example", "--organisation", "health", "--role", "admin"]);
    let key = people(&["key", "amal-1", "--workspace", "desk", "--holder", "amal@health.example"]);
    assert_eq!(key["holder"], amal["id"]);
    let secret = key["secret"].as_str().unwrap();
    until_files(&up, secret, 200);
    people(&["member", "amal@health.example", "--role", "auditor"]);
    until_made(&up, secret, 403);
    people(&["disable", "user", "amal@health.example"]);
    until_files(&up, secret, 401);
    people(&["enable", "user", "amal@health.example"]);
    until_files(&up, secret, 200);
    assert_eq!(people(&["sign-out", "amal@health.example"])["ended"], 0);
    site.falaj(&["admin", "remove", "member", "amal@health.example"]).ok();
    until_files(&up, secret, 401);
    people(&["service-account", "triage", "--workspace", "desk"]);
    let key = people(&["key", "triage-1", "--workspace", "desk", "--holder", "triage"]);
    let secret = key["secret"].as_str().unwrap();
    until_files(&up, secret, 200);
    site.falaj(&["admin", "remove", "service-account", "triage"]).ok();
    until_files(&up, secret, 401);
    let member = ["admin", "member", "amal@health.example", "--role"];
    site.falaj(&[&member[..], &["king", "--lang", "fr"]].concat()).fails(2, &["king", "owner, admin, member, auditor"]);
    site.falaj(&["admin", "key", "x", "--workspace", "default", "--holder", "amal@health.example"])
        .fails(2, &["another organisation"]);
    let listed = site.falaj(&["admin", "list", "user"]).ok().out;
    assert!(listed.contains("amal@health.example") && !listed.contains("reception"), "{listed}");
    site.falaj(&["admin", "remove", "organisation", "health", "--lang", "ar"]).ok();
    assert_eq!(site.falaj(&["admin", "list", "--json"]).ok().json(), json!([]));
}

fn until_files(up: &Up, secret: &str, wanted: u16) {
    until(up, "GET", secret, wanted);
}

/// Making what no body describes is refused in another way once it is allowed.
fn until_made(up: &Up, secret: &str, wanted: u16) {
    until(up, "POST", secret, wanted);
}

/// Until the site has taken a change in.
fn until(up: &Up, method: &str, secret: &str, wanted: u16) {
    let begun = std::time::Instant::now();
    loop {
        let (status, text) = up.exchange(method, "/v1/files", secret, "");
        if status == wanted {
            return;
        }
        assert!(begun.elapsed().as_secs() < 30, "{status} for ever: {text}");
    }
}
