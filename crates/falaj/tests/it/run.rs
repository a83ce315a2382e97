//! `falaj run`: one answer.

use crate::site::{Site, tiny_gguf};
use std::fs;

#[test]
fn one_prompt_gets_one_answer() {
    let site = Site::new("run");
    let ran = site.falaj(&["run", "falaj-seed", "مرحبًا! من أنت؟", "--max-tokens", "16"]).ok();
    assert!(!ran.out.trim().is_empty());
    assert!(ran.out.ends_with('\n'));
    let again = site.falaj_reading("مرحبًا! من أنت؟", &["run", "falaj-seed", "-", "--max-tokens", "16"]).ok();
    assert_eq!(again.out, ran.out, "the same prompt, read from standard input");

    let json = site.falaj(&["run", "falaj-seed", "Hello", "--max-tokens", "3", "--json"]).ok().json();
    assert_eq!(json["model"], "falaj-seed");
    assert!(json["usage"]["completion_tokens"].as_u64().unwrap() <= 3);
    assert!(!site.data().exists(), "asking the built-in model writes nothing");
}

#[test]
fn the_answer_depends_on_the_seed_and_not_on_threads_or_instructions() {
    let site = Site::new("run-seed");
    let ask = |env: &[(&str, &str)], seed: &str| {
        let args = ["run", "falaj-seed", "Tell me a story", "--temperature", "2", "--seed", seed, "--max-tokens", "24"];
        site.falaj_with(env, &args).ok().out
    };
    let first = ask(&[], "7");
    assert_eq!(ask(&[("FALAJ_THREADS", "2")], "7"), first);
    assert_eq!(ask(&[("FALAJ_ISA", "scalar")], "7"), first);
    // A model that is sure of its words may say the same twice, so several seeds are asked.
    assert!(["8", "9", "10"].iter().any(|seed| ask(&[], seed) != first));
}

#[test]
fn wrong_uses_name_the_next_step() {
    let site = Site::new("run-wrong");
    site.falaj(&["run", "nobody", "Hi"]).fails(1, &["no model is called `nobody`", "falaj model list"]);
    site.falaj(&["run", "falaj-seed", "  "]).fails(2, &["the prompt is empty", "next:"]);
    site.falaj(&["run", "falaj-seed"]).fails(2, &["PROMPT"]);
    site.falaj(&["run", "falaj-seed", "Hi", "--temperature", "hot"]).fails(2, &["0 to 2"]);
    site.falaj(&["run", "falaj-seed", "Hi", "--lang", "xx"]).fails(2, &["lang", "`ar`"]);
    let long = "word ".repeat(20_000);
    site.falaj_reading(&long, &["run", "falaj-seed", "-"]).fails(1, &["context holds"]);

    fs::write(site.path("cut.gguf"), &tiny_gguf()[..1000]).unwrap();
    site.falaj(&["run", "./cut.gguf", "Hi"]).fails(1, &["ends early"]);
    fs::write(site.path("text.gguf"), "not a model").unwrap();
    site.falaj(&["run", "./text.gguf", "Hi"]).fails(1, &["not a GGUF file"]);
    let ran = site.falaj(&["run", "nobody", "Hi", "--json"]).fails(1, &[]);
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["error"]["message"], "no model is called `nobody`");
}

#[test]
fn errors_speak_the_language_of_the_environment() {
    let site = Site::new("run-lang");
    let ran = site.falaj_with(&[("LANG", "ar_TN.UTF-8")], &["run", "nobody", "Hi"]);
    ran.fails(1, &["خطأ: لا يوجد نموذج باسم `nobody`", "الخطوة التالية:"]);
    let ran = site.falaj_with(&[("LC_ALL", "fr_MA"), ("LANG", "ar_TN")], &["run", "nobody", "Hi"]);
    ran.fails(1, &["aucun modèle", "à faire :"]);
}
