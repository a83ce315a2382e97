//! `falaj eval` with the built-in model: the table, the report, going on, comparing, and what is refused.

use crate::site::Site;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Command;

const EXAMPLE: &str = include_str!("../../../../docs/evaluation-example.jsonl");

#[test]
fn the_example_is_measured_beside_its_baseline() {
    let site = Site::new("eval");
    fs::write(site.path("example.jsonl"), EXAMPLE).unwrap();
    let args = ["eval", "falaj-seed", "example.jsonl", "--max-tokens", "24", "--report", "r.json"];
    let first = site.falaj(&args).ok();
    for word in [
        "example: 15 rows",
        "falaj-seed",
        "baseline",
        "perplexity bits_per_byte",
        "tool_call call",
        "  fr ",
        "written to",
    ] {
        assert!(first.out.contains(word), "{word} is not in {}", first.out);
    }
    let report: Value = serde_json::from_slice(&fs::read(site.path("r.json")).unwrap()).unwrap();
    let results = report["results"].as_array().unwrap();
    let of = |name: &str| results.iter().find(|results| results["model"] == name).unwrap();
    let rows = of("falaj-seed")["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 15);
    assert!(rows.iter().all(|row| row["error"].is_null()), "{rows:?}");
    assert!(of("falaj-seed")["model_digest"].is_string() && of("baseline")["model_digest"].is_null());
    let bits = |name: &str| {
        let measures = of(name)["measures"].as_array().unwrap();
        measures.iter().find(|one| one["measure"] == "bits_per_byte").unwrap()["value"].as_f64().unwrap()
    };
    assert!(bits("falaj-seed") < bits("baseline"), "{} {}", bits("falaj-seed"), bits("baseline"));

    // Again: nothing is asked; the same rows by other threads: the same outcomes.
    let again = site.falaj(&args).ok();
    assert!(again.err.contains("15 rows were done before"), "{}", again.err);
    assert_eq!(again.out, first.out);
    let args = ["eval", "falaj-seed", "example.jsonl", "--max-tokens", "24", "--json", "--lang", "ar"];
    let json = site.falaj_with(&[("FALAJ_THREADS", "2")], &args).ok().json();
    assert_eq!(json["results"][0]["rows"], of("falaj-seed")["rows"]);

    // Rows that are missing are asked, and only they.
    let mut cut = report.clone();
    cut["results"][results.iter().position(|results| results["model"] == "falaj-seed").unwrap()]["rows"]
        .as_array_mut()
        .unwrap()
        .truncate(9);
    fs::write(site.path("r.json"), cut.to_string()).unwrap();
    let args = ["eval", "falaj-seed", "example.jsonl", "--max-tokens", "24", "--report", "r.json", "--lang", "fr"];
    let resumed = site.falaj(&args).ok();
    assert!(resumed.err.contains("9 lignes étaient déjà faites"), "{}", resumed.err);
    assert!(resumed.out.contains("référence simple"), "{}", resumed.out);
    let whole: Value = serde_json::from_slice(&fs::read(site.path("r.json")).unwrap()).unwrap();
    assert_eq!(whole["results"], report["results"]);
}

#[test]
fn what_is_interrupted_says_so_keeps_what_is_done_and_goes_on_to_the_same_numbers() {
    let site = Site::new("eval-interrupted");
    let row = |number: usize| {
        let messages = [json!({"role": "user", "content": format!("Repeat: word {number} of many")})];
        json!({"task": "exact_match", "messages": messages, "answers": [format!("word {number} of many")]}).to_string()
    };
    fs::write(site.path("short.jsonl"), row(0)).unwrap();
    fs::write(site.path("long.jsonl"), (0..LONG).map(|number| row(number) + "\n").collect::<String>()).unwrap();
    let args = |report| ["eval", "falaj-seed", "short.jsonl", "long.jsonl", "--max-tokens", "32", "--report", report];
    let report = |name: &str| -> Value { serde_json::from_slice(&fs::read(site.path(name)).unwrap()).unwrap() };
    let rows = |report: &Value, suite: &str| {
        let of = |results: &&Value| results["suite"] == suite && results["model"] == "falaj-seed";
        report["results"].as_array().unwrap().iter().find(of).map_or(0, |of| of["rows"].as_array().unwrap().len())
    };
    let whole_run = site.falaj(&args("whole.json")).ok();
    let whole = report("whole.json");

    // An earlier call left two rows of the long suite, so that this one says when it begins with the others.
    let mut cut = whole.clone();
    let results = cut["results"].as_array_mut().unwrap();
    results.retain(|results| results["suite"] == "long" && results["model"] == "falaj-seed");
    results[0]["rows"].as_array_mut().unwrap().truncate(2);
    fs::write(site.path("cut.json"), cut.to_string()).unwrap();
    let mut child = site.command(&args("cut.json")).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.contains("2 rows were done before")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let err = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(child.wait().unwrap().code(), Some(1), "{err}");
    let kept = report("cut.json");
    let count = rows(&kept, "long");
    assert!((2..LONG).contains(&count), "{count} rows were done");
    assert!(err.contains(&format!("stopped after {count} of {LONG} rows")) && err.contains("`cut.json`"), "{err}");
    // What this call had finished before is there as well.
    assert_eq!((rows(&whole, "short"), rows(&kept, "short")), (1, 1));

    let resumed = site.falaj(&args("cut.json")).ok();
    assert!(resumed.err.contains(&format!("{count} rows were done before")), "{}", resumed.err);
    assert_eq!(resumed.out.replace("cut.json", "whole.json"), whole_run.out);
    let sorted = |report: Value| {
        let mut results = report["results"].as_array().unwrap().clone();
        results.sort_by_key(|results| format!("{} {}", results["suite"], results["model"]));
        results
    };
    assert_eq!(sorted(report("cut.json")), sorted(whole));
}

/// Rows that take much longer than a signal.
const LONG: usize = 48;

#[test]
fn two_models_are_told_apart_or_not() {
    let site = Site::new("eval-against");
    let rows: Vec<&str> = EXAMPLE.lines().filter(|line| line.contains("perplexity")).collect();
    fs::write(site.path("texts.jsonl"), rows.join("\n")).unwrap();
    let ran = site.falaj(&["eval", "falaj-seed", "texts.jsonl", "--against", "falaj-seed"]).ok();
    assert!(ran.out.contains("falaj-seed minus falaj-seed") && ran.out.contains("not told apart"), "{}", ran.out);
    assert!(!ran.out.contains("differs"), "{}", ran.out);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let site = Site::new("eval-bad");
    fs::write(site.path("bad.jsonl"), format!("{EXAMPLE}{{\"task\": \"poetry\"}}\n")).unwrap();
    let ran = site.falaj(&["eval", "falaj-seed", "bad.jsonl"]);
    ran.fails(1, &["bad.jsonl: line 17: no task is called `poetry`", "`bad.jsonl`: 1 lines cannot be asked", "next:"]);
    fs::write(site.path("empty.jsonl"), "\n").unwrap();
    site.falaj(&["eval", "falaj-seed", "empty.jsonl"]).fails(1, &["asks nothing"]);
    site.falaj(&["eval", "falaj-seed", "none.jsonl"]).fails(1, &["none.jsonl"]);
    site.falaj(&["eval", "falaj-seed"]).fails(2, &["SUITES"]);
    fs::write(site.path("good.jsonl"), EXAMPLE).unwrap();
    site.falaj(&["eval", "nobody", "good.jsonl"]).fails(1, &["no model is called `nobody`"]);
    site.falaj(&["eval", "falaj-seed", "good.jsonl", "--report", "bad.jsonl"]).fails(2, &["is no report", "--report"]);
}
