//! Adapters over the built-in model: imported, refused, served beside it over HTTP, trained and published.

use crate::site::{Site, Up, tiny_gguf};
use falaj_artifact::gguf::Gguf;
use falaj_model::Config;
use falaj_model::synthetic::{AdapterSample, tiny_config};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

const BUILTIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/falaj-seed/falaj-seed-q8_0.gguf");

/// A PEFT folder for a model of this configuration.
fn write(site: &Site, name: &str, config: &Config, seed: u64) {
    let dir = site.path(name);
    fs::create_dir_all(&dir).unwrap();
    // Strong enough to change a trained model's first words.
    for (file, bytes) in AdapterSample::new(config, 4, seed).with_alpha(32.0).files().unwrap() {
        fs::write(dir.join(file), bytes).unwrap();
    }
}

fn builtin_config() -> Config {
    Config::from_gguf(&Gguf::parse(&fs::read(BUILTIN).unwrap()).unwrap()).unwrap()
}

fn says(up: &Up, key: &str, model: &str) -> String {
    let body = json!({ "model": model, "max_tokens": 12, "temperature": 0, "messages": [{ "role": "user", "content": "Hello!" }] });
    let (status, response) = up.exchange("POST", "/v1/chat/completions", key, &body.to_string());
    assert_eq!(status, 200, "{response}");
    let body: Value = serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["model"], model);
    body["choices"][0]["message"]["content"].to_string()
}

#[test]
fn two_adapters_and_their_base_answer_at_once() {
    let site = Site::new("adapters");
    let config = builtin_config();
    write(&site, "first", &config, 1);
    write(&site, "second", &config, 2);
    write(&site, "stranger", &tiny_config(64, 128), 3);
    // It must be said for which model, and that must be here.
    site.falaj(&["model", "import", "first"]).fails(1, &["`first` is an adapter", "--base"]);
    site.falaj(&["model", "import", "first", "--base", "nobody"]).fails(1, &["`nobody`"]);
    for name in ["first", "second", "stranger"] {
        site.falaj(&["model", "import", name, "--base", "falaj-seed"]).ok();
    }
    let shown = site.falaj(&["model", "inspect", "first", "--json"]).ok().json();
    assert_eq!((&shown["base"]["name"], &shown["architecture"]), (&json!("falaj-seed"), &json!("LoRA of rank 4")));
    site.falaj(&["run", "stranger", "Hi"]).fails(1, &["`stranger`", "made for another base"]);

    let up = site.up(&[]);
    let key = up.hello["key"].as_str().unwrap();
    let answers = std::thread::scope(|scope| {
        let asked = ["first", "falaj-seed", "second"].map(|model| scope.spawn(|| says(&up, key, model)));
        asked.map(|asked| asked.join().unwrap())
    });
    assert_eq!(BTreeSet::from(answers.clone()).len(), 3, "{answers:?}");
    assert_eq!(says(&up, key, "second"), answers[2]);
    let (_, card) = up.exchange("GET", "/v1/models/first", key, "");
    assert!(card.contains(r#""base":"falaj-seed""#) && card.contains(r#""state":"loaded""#), "{card}");
    let (_, metrics) = up.exchange("GET", "/metrics", key, "");
    assert!(metrics.contains("falaj_engine_adapters{model=\"falaj-seed\"} 2"), "{metrics}");
    // Never the silent base.
    let body = json!({ "model": "stranger", "messages": [{ "role": "user", "content": "Hello!" }] }).to_string();
    let (status, response) = up.exchange("POST", "/v1/chat/completions", key, &body);
    assert!(status == 503 && response.contains("made for another base"), "{response}");
    assert_eq!(up.stop("-TERM").0, Some(0));
    site.falaj(&["model", "remove", "first"]).ok();
}

#[test]
fn a_changed_or_missing_base_is_an_error() {
    let site = Site::new("adapters-base");
    fs::write(site.path("tiny.gguf"), tiny_gguf()).unwrap();
    site.falaj(&["model", "import", "tiny.gguf"]).ok();
    write(&site, "tuned", &tiny_config(64, 128), 1);
    site.falaj(&["model", "import", "tuned", "--base", "tiny"]).ok();
    site.falaj(&["model", "import", "tuned", "--name", "twice", "--base", "tuned"]).fails(1, &["`tuned`"]);
    site.falaj(&["model", "remove", "tiny"]).ok();
    site.falaj(&["run", "tuned", "Hi"]).fails(1, &["tiny"]);
    let listed = site.falaj(&["model", "list", "--json"]).ok().json();
    assert_eq!(listed["models"][1]["base"]["name"], "tiny");
}

#[test]
fn what_is_learnt_is_served_over_its_base() {
    let site = Site::new("adapters-train");
    let line =
        json!({ "messages": [{ "role": "user", "content": "Ping?" }, { "role": "assistant", "content": "Pong!" }] });
    fs::write(site.path("data.jsonl"), format!("{line}\n").repeat(8)).unwrap();
    let recipe = "name = \"ponger\"\nbase = \"falaj-seed\"\nmethod = \"lora\"\n[data]\ntrain = [{ path = \"data.jsonl\" }]\n[batch]\nsteps = 2\nrows = 1\nlength = 128\n";
    fs::write(site.path("recipe.toml"), recipe).unwrap();
    site.falaj(&["train", "recipe.toml"]).ok();
    let shown = site.falaj(&["model", "inspect", "ponger", "--json"]).ok().json();
    assert_eq!((&shown["format"], &shown["base"]["name"]), (&json!("adapter"), &json!("falaj-seed")));
    site.falaj(&["run", "ponger", "Ping?"]).ok();
    // Somebody else's base.
    fs::write(site.path("tiny.gguf"), tiny_gguf()).unwrap();
    site.falaj(&["model", "import", "tiny.gguf"]).ok();
    let folder = site.path("ponger/out/peft").display().to_string();
    site.falaj(&["model", "import", &folder, "--name", "wrong", "--base", "tiny"])
        .fails(1, &["not the model that it was made for"]);
}
