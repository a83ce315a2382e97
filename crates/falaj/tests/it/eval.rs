//! `falaj eval` with the built-in model: the table, the report, going on, comparing, and what is refused.

use crate::site::Site;
use serde_json::Value;
use std::fs;

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
