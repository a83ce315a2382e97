//! Draft models by setting: guesses are made and checked, answers stay the same, memory counts, and wrong ones are refused.

use crate::site::{Site, Up};
use serde_json::{Value, json};
use std::fs;

const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/falaj-seed/falaj-seed-q8_0.gguf");

fn answer(up: &Up, key: &str) -> String {
    let ask = json!({ "model": "falaj-seed", "max_tokens": 12, "temperature": 0, "logit_bias": { "2": -100 },
        "messages": [{ "role": "user", "content": "Hello!" }] });
    let (status, response) = up.exchange("POST", "/v1/chat/completions", key, &ask.to_string());
    assert_eq!(status, 200, "{response}");
    body(&response)["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn body(response: &str) -> Value {
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn memory_bytes(up: &Up, key: &str) -> u64 {
    let (_, response) = up.exchange("GET", "/v1/models", key, "");
    let cards = body(&response)["data"].clone();
    let card = cards.as_array().unwrap().iter().find(|card| card["id"] == "falaj-seed").unwrap();
    card["memory_bytes"].as_u64().unwrap()
}

fn metric(up: &Up, key: &str, name: &str) -> f64 {
    let (_, response) = up.exchange("GET", "/metrics", key, "");
    let line = response.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains("falaj-seed"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {response}"))
}

#[test]
fn a_draft_model_by_setting_guesses_and_changes_nothing() {
    let site = Site::new("drafts");
    site.falaj(&["model", "import", SEED, "--name", "small"]).ok();
    let up = site.up(&[]);
    let key = up.hello["key"].as_str().unwrap().to_owned();
    let (expected, alone) = (answer(&up, &key), memory_bytes(&up, &key));
    assert_eq!(metric(&up, &key, "falaj_engine_draft_rows_total"), 0.0);
    up.stop("-TERM");

    fs::write(site.path("falaj.toml"), "[engine]\ndraft_models = [\"falaj-seed=small\"]\n").unwrap();
    let up = site.up(&["--config", "falaj.toml"]);
    assert_eq!(answer(&up, &key), expected);
    // The first guess is made before anything is measured; the same weights guess what they will say.
    assert!(metric(&up, &key, "falaj_engine_draft_rows_total") >= 1.0);
    assert!(metric(&up, &key, "falaj_engine_draft_accepted_rows_total") >= 1.0);
    assert!(metric(&up, &key, "falaj_engine_draft_microseconds_total") > 0.0);
    let both = memory_bytes(&up, &key);
    assert!(both > alone + fs::metadata(SEED).unwrap().len() * 9 / 10, "{both} with, {alone} without");
    up.stop("-TERM");

    // Room for the model alone is too little for both.
    let between = ((alone + both) / 2).to_string();
    let up = site.up(&["--config", "falaj.toml", "--memory", &between]);
    let ask = json!({ "model": "falaj-seed", "messages": [{ "role": "user", "content": "Hello!" }] });
    assert_eq!(up.exchange("POST", "/v1/chat/completions", &key, &ask.to_string()).0, 507);
    up.stop("-TERM");

    let env = [("FALAJ_DRAFT_MODELS", "falaj-seed=small")];
    let found = site.falaj_with(&env, &["doctor", "falaj-seed", "--json"]).ok().json();
    assert_eq!(found["speculation"]["draft_model"], "small");
    assert!(
        found["speculation"]["guesses"].as_u64().unwrap() >= found["speculation"]["right_guesses"].as_u64().unwrap()
    );
    assert!(found["speculation"]["draft_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let site = Site::new("drafts-wrong");
    let mut file = fs::read(SEED).unwrap();
    let name = b"[MIDDLE]";
    // In the list of tokens, and in the tokenizer.json that the file carries.
    while let Some(at) = file.windows(name.len()).position(|bytes| bytes == name) {
        file[at + 1] = b'm';
    }
    fs::write(site.path("other.gguf"), file).unwrap();
    site.falaj(&["model", "import", "other.gguf"]).ok();
    let run = |drafts: &str, speculation: &str| {
        let env = [("FALAJ_DRAFT_MODELS", drafts), ("FALAJ_SPECULATION", speculation)];
        site.falaj_with(&env, &["run", "falaj-seed", "Hello", "--max-tokens", "2"])
    };
    let words = ["engine.draft_models", "`other` has another vocabulary than `falaj-seed`", "[mIDDLE]", "next:"];
    run("falaj-seed=other", "true").fails(1, &words);
    run("falaj-seed=nobody", "true").fails(1, &["engine.draft_models", "no model is called `nobody`"]);
    // Nothing is loaded where nothing is guessed.
    run("falaj-seed=other", "false").ok();
    run("falaj-seed", "true").fails(2, &["engine.draft_models", "large-model=small-model"]);
}
