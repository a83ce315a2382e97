//! `falaj train` and `falaj job run`: from a dozen lines to a served answer, interrupted and taken up again, and what is wrong with a
//! recipe. The built-in model learns a few steps.

use crate::site::{Ran, Site};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// A dozen lines, and a model that learns in seconds.
const RECIPE: &str = r#"
name = "desk"
base = "falaj-seed"
method = "lora"
[data]
train = "talks.jsonl"
validation = "held.jsonl"
[batch]
rows = 2
length = 64
steps = 6
[evaluate]
every = 3
samples = ["Who are you?"]
"#;

fn site(name: &str) -> Site {
    let site = Site::new(name);
    let row = |question: &str, answer: &str| {
        let messages = json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
        format!("{}\n", json!({ "messages": messages }))
    };
    let rows = (0..24).map(|n| row(&format!("Room {n}?"), &format!("On floor {}.", n / 4)));
    fs::write(site.path("talks.jsonl"), rows.collect::<String>()).unwrap();
    fs::write(site.path("held.jsonl"), row("Room 30?", "On floor 7.")).unwrap();
    fs::write(site.path("recipe.toml"), RECIPE).unwrap();
    site
}

/// The events of a run, as `--json` prints them.
fn events(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

fn adapter(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("out/peft/adapter_model.safetensors")).unwrap()
}

#[test]
fn a_dozen_lines_become_a_served_answer() {
    let site = site("train-served");
    let ran = site.falaj(&["train", "recipe.toml"]).ok();
    for words in
        ["6 steps of 128 tokens", "by a rate measured", "step 3: on held-out data", "step 6: Who are you?", "energy: "]
    {
        assert!(ran.out.contains(words), "`{words}` is not in {}", ran.out);
    }
    // No terminal: plain lines, and no bar.
    assert!(ran.err.contains("step 6/6  loss ") && !ran.err.contains('\u{1b}'), "{}", ran.err);
    let report = fs::read_to_string(site.path("desk/report.md")).unwrap();
    assert!(report.contains("| emissions (CO2) |") && report.contains(" mg (world, 2024; Ember"), "{report}");
    // And in what stays with the weights.
    let manifest = fs::read_to_string(site.path("desk/out/peft/training.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert!(manifest["summary"]["energy"]["joules"].as_f64().unwrap() > 0.0, "{manifest}");
    assert!(report.contains("# desk") && report.contains("| steps | 6 |") && report.contains("(loss.svg)"), "{report}");
    let events = events(&fs::read_to_string(site.path("desk/events.jsonl")).unwrap());
    assert_eq!((of(&events, "step").len(), of(&events, "sample").len()), (6, 2));
    assert!(of(&events, "step")[0]["accuracy"].is_number());

    fs::remove_file(site.path("desk/loss.svg")).unwrap();
    let french = site.falaj(&["train", "plot", "desk", "--lang", "fr"]).ok();
    assert!(french.out.contains("loss.svg"), "{}", french.out);
    assert!(fs::read_to_string(site.path("desk/loss.svg")).unwrap().contains("entraînement"));
    site.falaj(&["train", "plot", "."]).fails(1, &["holds no run"]);

    // What the job reached is what the next one is expected to.
    let checked = site.falaj(&["data", "check", "talks.jsonl", "--json"]).ok().json();
    assert_eq!(checked["estimate"]["tokens_per_second_from"], "last_job");

    let up = site.up(&[]);
    let key = fs::read_to_string(up.hello["key_file"].as_str().unwrap()).unwrap();
    let body = json!({"model": "desk", "messages": [{"role": "user", "content": "Room 3?"}], "max_tokens": 4});
    let (status, answer) = up.exchange("POST", "/v1/chat/completions", key.trim(), &body.to_string());
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains(r#""model":"desk""#), "{answer}");
    assert_eq!(up.stop("-INT").0, Some(0));
}

#[test]
fn what_is_interrupted_goes_on_to_the_same_weights() {
    let site = site("train-resumed");
    let whole = events(&site.falaj(&["train", "recipe.toml", "--out", "whole", "--json"]).ok().out);
    let done = of(&whole, "done");
    let energy = &done[0]["energy"];
    assert!(energy["joules"].as_f64().unwrap() > 0.0 && energy["grade"].is_string(), "{energy}");
    assert!(of(&whole, "validated")[0]["expected_seconds"].is_number());

    let again = ["train", "recipe.toml", "--out", "cut", "--json"];
    let mut child = site.command(&again).stderr(Stdio::inherit()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines {
        seen.push(line.unwrap());
        if seen.last().unwrap().contains(r#""event":"step","step":2,"#) {
            let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            assert!(told.success());
        }
    }
    assert!(child.wait().unwrap().success());
    let stopped = events(&seen.join("\n"));
    let at = of(&stopped, "stopped")[0]["step"].as_u64().unwrap();
    assert!((2..6).contains(&at), "{seen:?}");
    let rest = events(&site.falaj(&again).ok().out);
    assert_eq!(of(&rest, "step")[0]["step"], at + 1);
    assert_eq!(of(&rest, "done")[0]["trained_tokens"], done[0]["trained_tokens"]);
    assert_eq!(adapter(&site.path("cut")), adapter(&site.path("whole")));
    let losses = |folder: &str| {
        let events = events(&fs::read_to_string(site.path(folder).join("events.jsonl")).unwrap());
        of(&events, "step").into_iter().map(|step| step["loss"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(losses("cut"), losses("whole"));
}

#[test]
fn data_that_changed_is_read_again_or_refused() {
    let site = site("train-changed");
    let talks = fs::read_to_string(site.path("talks.jsonl")).unwrap();
    let check = ["train", "recipe.toml", "--out", "run", "--json"];
    let few = talks.lines().take(20).map(|line| format!("{line}\n")).collect::<String>();
    fs::write(site.path("talks.jsonl"), few).unwrap();
    let data = |site: &Site| fs::read_to_string(site.path("run/data/data.json")).unwrap();
    site.falaj(&check).ok();
    let first = data(&site);
    // As a run that was stopped before its first checkpoint.
    fs::remove_dir_all(site.path("run/checkpoints")).unwrap();
    fs::write(site.path("talks.jsonl"), &talks).unwrap();
    site.falaj(&check).ok();
    assert_ne!(data(&site), first, "the lines were read again");
    fs::write(site.path("recipe.toml"), RECIPE.replace("length = 64", "length = 32")).unwrap();
    site.falaj(&check).fails(1, &["batch.length", "was 64 and is 32", "a folder of its own"]);
}

#[test]
fn a_wrong_recipe_is_told_by_line_and_word() {
    let site = site("train-wrong");
    let told = |text: &str| -> Ran {
        fs::write(site.path("wrong.toml"), text).unwrap();
        site.falaj(&["train", "wrong.toml"])
    };
    told(&RECIPE.replace("steps = 6", "steps = \"six\"")).fails(2, &["steps", "next:"]);
    told(&RECIPE.replace("[batch]", "[bach]")).fails(2, &["bach"]);
    told(&RECIPE.replace("name = \"desk\"", "")).fails(2, &["`name` is missing"]);
    told("no toml").fails(2, &["wrong.toml", "line 1"]);
    told(&RECIPE.replace("talks.jsonl", "nowhere.jsonl")).fails(1, &["nowhere.jsonl"]);
    told(&RECIPE.replace("falaj-seed", "nobody")).fails(1, &["no model is called `nobody`"]);
    fs::write(site.path("talks.jsonl"), "{\"text\": 1}\n").unwrap();
    told(RECIPE).fails(1, &["talks.jsonl"]);
    site.falaj(&["train", "missing.toml"]).fails(1, &["missing.toml"]);
    site.falaj(&["train"]).fails(2, &["RECIPE"]);
    let printed = site.falaj(&["train", "recipe.toml", "--print"]).ok().out;
    assert!(printed.contains("learning_rate = ") && printed.contains("samples = [\"Who are you?\"]"), "{printed}");
    assert!(!site.path("desk/out").exists());
}

#[test]
fn the_data_of_a_job_is_checked_by_a_process_of_its_own() {
    let site = site("train-check");
    let folder = site.path("job");
    fs::create_dir(&folder).unwrap();
    fs::copy(site.path("talks.jsonl"), folder.join("data-0.jsonl")).unwrap();
    let request = json!({
        "model": "falaj-seed", "training_files": [{"file": "a", "weight": 1.0}], "validation_files": [],
        "suffix": null, "auto_start": true, "skip_invalid_share": 0.0, "method": "supervised", "steps": 5,
        "epochs": null, "learning_rate": null, "learning_rate_multiplier": null, "weight_decay": null,
        "warmup_fraction": null, "length": 64, "batch_rows": 2, "seed": null, "metadata": [],
    });
    let spec = json!({
        "id": "1", "name": "ft-desk", "request": request, "training": ["data-0.jsonl"], "validation": [],
    });
    fs::write(folder.join("job.json"), spec.to_string()).unwrap();
    let found = events(&site.falaj(&["job", "run", "job", "--check"]).ok().out);
    assert_eq!((&found[0]["event"], &found[0]["steps"]), (&json!("validated"), &json!(5)));
    assert!(found[0]["expected_seconds"].as_u64().is_some_and(|seconds| seconds > 0), "{found:?}");
    assert!(!folder.join("checkpoints").exists());

    fs::remove_dir_all(folder.join("data")).unwrap();
    fs::write(folder.join("data-0.jsonl"), "{\"messages\": []}\n").unwrap();
    let ran = site.falaj(&["job", "run", "job", "--check"]);
    let failed = &events(&ran.out)[0];
    assert_eq!((&failed["event"], &failed["validation"]), (&json!("failed"), &json!(true)));
    ran.fails(1, &["data-0.jsonl"]);
}
