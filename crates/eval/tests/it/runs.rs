//! Asking a tiny random model. What it says is noise; that the scores are what the engine computes is not.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use falaj_engine::ScoreRequest;
use falaj_eval::{
    Measure, Outcome, Report, Results, Settings, Subject, Suite, Surroundings, baseline, compare, measure, run,
};
use falaj_text::Special;

use crate::models::{engine, engine_with, example, text};

fn settings() -> Settings {
    Settings { max_tokens: 8, ..Settings::default() }
}

fn asked(suite: &Suite, seed: u64, settings: &Settings, done: Vec<Outcome>) -> (Vec<Outcome>, usize) {
    let (engine, text, cancelled) = (engine(seed), text(), AtomicBool::new(false));
    let mut asked = 0;
    let mut watch = |_: &Outcome| asked += 1;
    let surroundings = Surroundings { done, cancelled: &cancelled, watch: &mut watch };
    let outcomes = run(suite, Subject { engine: &engine, adapter: None, text: &text }, settings, surroundings).unwrap();
    engine.shutdown(true);
    (outcomes, asked)
}

fn results(suite: &Suite, seed: u64) -> Results {
    let rows = asked(suite, seed, &settings(), Vec::new()).0;
    Results {
        suite: suite.name.clone(),
        suite_digest: suite.digest,
        suite_rows: suite.rows.len(),
        model: format!("tiny {seed}"),
        model_digest: None,
        adapter_digest: None,
        numerics: "1".to_owned(),
        settings: settings(),
        measures: measure(&rows),
        rows,
    }
}

#[test]
fn every_row_has_its_measures() {
    let suite = example();
    let (outcomes, asked) = asked(&suite, 1, &settings(), Vec::new());
    assert_eq!((outcomes.len(), asked), (suite.rows.len(), suite.rows.len()));
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none() && !outcome.measures.is_empty()), "{outcomes:?}");
    assert!(outcomes.iter().zip(&suite.rows).all(|(outcome, row)| outcome.line == row.line));
    // A random model knows next to nothing of 260 bytes.
    let measured = measure(&outcomes);
    let of = |wanted: Measure| measured.iter().find(|one| one.measure == wanted && one.language.is_none()).unwrap();
    let perplexity = of(Measure::Perplexity);
    assert!((150.0..500.0).contains(&perplexity.value), "{perplexity:?}");
    assert!(perplexity.interval.low <= perplexity.value && perplexity.value <= perplexity.interval.high);
    let languages: BTreeSet<_> = measured.iter().filter_map(|one| one.language.clone()).collect();
    assert_eq!(languages, ["ar", "en", "fr"].map(str::to_owned).into());
}

/// The engine's own numbers, added by hand.
#[test]
fn choices_and_texts_are_what_the_engine_says() {
    let suite = br#"{"task": "multiple_choice", "prompt": "2 + 2 = ", "choices": ["4", "five"], "answer": 0}
{"task": "perplexity", "text": "water"}"#;
    let suite = Suite::parse("x", suite).unwrap();
    let outcomes = asked(&suite, 3, &settings(), Vec::new()).0;
    let (engine, text) = (engine(3), text());
    let sum = |before: Option<u32>, written: &str, scored: usize| {
        let tokens: Vec<u32> = before.into_iter().chain(text.tokenizer.encode(written, Special::Plain)).collect();
        let first = tokens.len() - scored;
        let request = ScoreRequest { tokens, first, top: 0, ..ScoreRequest::default() };
        let scores = engine.score(request).unwrap().blocking_recv().unwrap().unwrap();
        scores.logprobs.iter().map(|logprob| f64::from(*logprob)).sum::<f64>()
    };
    let near = |kept: f64, exact: f64| assert!((kept - exact).abs() < 1e-9, "{kept} {exact}");
    let choices = outcomes[0].choices.as_ref().unwrap();
    // No BOS here; the blank belongs to the choice.
    near(choices[0], sum(None, "2 + 2 = 4", 2));
    near(choices[1], sum(None, "2 + 2 = five", 5));
    // A text is read behind the end of the one before it.
    let (nats, tokens) = outcomes[1].measures[&Measure::Perplexity];
    near(nats, -sum(text.tokenizer.eos(), "water", 5));
    assert_eq!(tokens, 5.0);
    engine.shutdown(true);
}

/// Beyond a window every token still counts once, with half a window before it at least.
#[test]
fn long_texts_are_cut() {
    let text = format!("{{\"task\": \"perplexity\", \"text\": \"{}\"}}", "the water runs ".repeat(20));
    let suite = Suite::parse("x", text.as_bytes()).unwrap();
    let perplexity = |window_tokens| {
        let settings = Settings { window_tokens, ..settings() };
        asked(&suite, 3, &settings, Vec::new()).0[0].measures[&Measure::Perplexity]
    };
    let (whole, tokens) = perplexity(0);
    for window in [16, 50, 300] {
        let (nats, cut) = perplexity(window);
        assert_eq!(cut, tokens);
        assert!((nats / whole - 1.0).abs() < 0.1, "{window}: {nats} {whole}");
    }
    assert_eq!(perplexity(5000), (whole, tokens));
}

/// Stopped after some rows and called again, it asks the others, and the whole is what it would have been.
#[test]
fn a_run_goes_on_where_it_was_stopped() {
    let suite = example();
    let (engine, text, cancelled) = (engine_with(1, 8), text(), AtomicBool::new(false));
    let mut seen = 0;
    let mut watch = |_: &Outcome| {
        seen += 1;
        cancelled.store(seen >= 3, Ordering::Relaxed);
    };
    let surroundings = Surroundings { done: Vec::new(), cancelled: &cancelled, watch: &mut watch };
    let stopped =
        run(&suite, Subject { engine: &engine, adapter: None, text: &text }, &settings(), surroundings).unwrap();
    engine.shutdown(true);
    // One row was under way when the third was told.
    assert!((3..=4).contains(&stopped.len()), "{}", stopped.len());
    // What is kept is kept as JSON.
    let kept: Vec<Outcome> = serde_json::from_str(&serde_json::to_string(&stopped).unwrap()).unwrap();
    let (whole, new) = asked(&suite, 1, &settings(), kept);
    assert_eq!(new, suite.rows.len() - stopped.len());
    assert_eq!(whole, asked(&suite, 1, &settings(), Vec::new()).0);
}

#[test]
fn two_models_are_compared_row_by_row() {
    let suite = example();
    let (first, second) = (results(&suite, 1), results(&suite, 2));
    let same = compare(&first, &first);
    assert!(!same.is_empty() && same.iter().all(|one| one.difference == 0.0 && !one.is_certain()));
    let compared = compare(&first, &second);
    let perplexity = |results: &Results| {
        let of = |one: &&falaj_eval::Measured| {
            one.measure == Measure::Perplexity && one.language.is_none() && one.group.is_none()
        };
        results.measures.iter().find(of).unwrap().value
    };
    let one = compared.iter().find(|one| one.measure == Measure::Perplexity).unwrap();
    assert!((one.difference - (perplexity(&first) - perplexity(&second))).abs() < 1e-8);
    assert!(one.interval.low <= one.difference && one.difference <= one.interval.high);
    // A report survives being written.
    let report = Report { results: vec![first, second], comparisons: compared };
    let text = serde_json::to_string(&report).unwrap();
    let again: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    assert!(again.results[0].is_like(&report.results[0]) && !again.results[0].is_like(&report.results[1]));
}

#[test]
fn baselines_are_scored_as_models_are() {
    let suite = example();
    let outcomes = baseline(&suite, &text(), None);
    let expected: Vec<usize> =
        suite.rows.iter().filter(|row| row.task.name() != "exact_match").map(|row| row.line).collect();
    assert_eq!(outcomes.iter().map(|outcome| outcome.line).collect::<Vec<_>>(), expected);
    let measured = measure(&outcomes);
    let of =
        |wanted: Measure| measured.iter().find(|one| one.measure == wanted && one.language.is_none()).unwrap().value;
    // Words in common find the tool and the passage of easy questions, and spans too long.
    assert!(of(Measure::Tool) > 0.5, "{measured:?}");
    assert!((0.1..1.0).contains(&of(Measure::SpanF1)) && of(Measure::Verbatim) == 1.0, "{measured:?}");
    assert!(of(Measure::Perplexity) < 260.0);
}
