//! Replies by hand, and what they are worth.

use super::*;

const SUITE: &str = r#"{"suite": "by hand", "tools": [{"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}, {"type": "function", "function": {"name": "list_models", "parameters": {}}}]}
{"task": "perplexity", "text": "été"}
{"task": "exact_match", "messages": [{"role": "user", "content": "?"}], "answers": ["été", "oui"]}
{"task": "multiple_choice", "prompt": "2 + 2 =", "choices": ["4", "four of them"], "answer": 0}
{"task": "tool_call", "messages": [{"role": "user", "content": "time in Rabat?"}], "expected": {"name": "get_time", "arguments": {"city": "Rabat"}}}
{"task": "tool_call", "messages": [{"role": "user", "content": "hello"}], "expected": null}
{"task": "grounded", "passages": ["The ferry is late.", "The van stops at the fish market every Tuesday."], "question": "Where does it stop?", "answers": ["the fish market"], "passage": 1}
{"task": "grounded", "passages": ["The ferry is late."], "question": "Why?", "answers": []}
"#;

fn scored(row: usize, reply: Reply) -> Vec<(&'static str, f64)> {
    let suite = Suite::parse("x", SUITE.as_bytes()).unwrap();
    assert_eq!(suite.bad, []);
    let outcome = outcome(&suite, &suite.rows[row], Ok(reply));
    let millionths = |score: f64| (score * 1e6).round() / 1e6;
    let score = |measure: Measure, share: Share| millionths(measure.score(share.0 / share.1));
    outcome.measures.iter().map(|(measure, share)| (measure.name(), score(*measure, *share))).collect()
}

fn says(text: &str) -> Reply {
    Reply::Answer { text: text.to_owned(), calls: Vec::new() }
}

fn calls(calls: &[(&str, &str)]) -> Reply {
    let called =
        |(name, arguments): &(&str, &str)| Called { name: (*name).to_owned(), arguments: (*arguments).to_owned() };
    Reply::Answer { text: String::new(), calls: calls.iter().map(called).collect() }
}

#[test]
fn likelihoods() {
    let perplexity = scored(0, Reply::Likelihood { nats: 5.0 * LN_2, tokens: 2 });
    assert_eq!(perplexity.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["perplexity", "bits_per_byte"]);
    assert!((perplexity[0].1 - 2.0_f64.powf(2.5)).abs() < 1e-6);
    // Five bytes: the letters with accents take two.
    assert!((perplexity[1].1 - 1.0).abs() < 1e-6);
    // The long choice is likelier by the byte only.
    assert_eq!(scored(2, Reply::Choices(vec![-3.0, -4.0])), [("acc", 1.0), ("acc_norm", 0.0)]);
    assert_eq!(scored(2, Reply::Choices(vec![-3.0, -3.0])), [("acc", 1.0), ("acc_norm", 0.0)]);
}

#[test]
fn exact_answers() {
    assert_eq!(scored(1, says(" e\u{301}te\u{301}\n")), [("exact_match", 1.0)]);
    assert_eq!(scored(1, says("Oui")), [("exact_match", 0.0)]);
}

#[test]
fn tool_calls() {
    let right = [("tool", 1.0), ("arguments_valid", 1.0), ("arguments_equal", 1.0), ("call", 1.0)];
    assert_eq!(scored(3, calls(&[("get_time", r#"{"city": "Rabat "}"#)])), right);
    let other_city = [("tool", 1.0), ("arguments_valid", 1.0), ("arguments_equal", 0.0), ("call", 0.0)];
    assert_eq!(scored(3, calls(&[("get_time", r#"{"city": "Fès"}"#)])), other_city);
    let invalid = [("tool", 1.0), ("arguments_valid", 0.0), ("arguments_equal", 0.0), ("call", 0.0)];
    assert_eq!(scored(3, calls(&[("get_time", r#"{"city": 3}"#)])), invalid);
    assert_eq!(scored(3, calls(&[("get_time", r#"{"city": "#)])), invalid);
    let other_tool = [("tool", 0.0), ("arguments_valid", 1.0), ("arguments_equal", 0.0), ("call", 0.0)];
    assert_eq!(scored(3, calls(&[("list_models", "{}")])), other_tool);
    // One call was wanted.
    let twice = calls(&[("get_time", r#"{"city": "Rabat"}"#), ("get_time", r#"{"city": "Rabat"}"#)]);
    assert_eq!(scored(3, twice), other_tool);
    assert_eq!(
        scored(3, calls(&[("get_tide", "{}")])),
        [("tool", 0.0), ("arguments_valid", 0.0), ("arguments_equal", 0.0), ("call", 0.0)]
    );
    assert_eq!(scored(3, says("It is late.")), [("tool", 0.0), ("arguments_equal", 0.0), ("call", 0.0)]);
    assert_eq!(scored(4, says("Hello!")), [("tool", 1.0), ("call", 1.0)]);
    assert_eq!(scored(4, calls(&[("list_models", "{}")])), [("tool", 0.0), ("arguments_valid", 1.0), ("call", 0.0)]);
}

#[test]
fn spans_and_abstentions() {
    let right = [("span_f1", 1.0), ("span_exact", 1.0), ("verbatim", 1.0), ("citation", 1.0)];
    assert_eq!(scored(5, says("the fish market [2]")), right);
    let elsewhere = [("span_f1", 1.0), ("span_exact", 1.0), ("verbatim", 0.0), ("citation", 0.0)];
    assert_eq!(scored(5, says("fish market [1]")), elsewhere);
    assert_eq!(scored(5, says("fish market")), elsewhere);
    assert_eq!(scored(5, says("fish market [9]")), elsewhere);
    assert_eq!(scored(5, says("[2]"))[..3], [("span_f1", 0.0), ("span_exact", 0.0), ("verbatim", 0.0)]);
    // A capital is another letter, though the same word.
    assert_eq!(scored(5, says("The fish market [2]"))[2], ("verbatim", 0.0));
    let half = scored(5, says("fish market every Tuesday [2]"));
    assert_eq!(half, [("span_f1", 0.666667), ("span_exact", 0.0), ("verbatim", 1.0), ("citation", 1.0)]);
    let abstained = [("span_f1", 0.0), ("span_exact", 0.0), ("abstain_precision", 0.0)];
    assert_eq!(scored(5, says("The passages do not answer this.")), abstained);
    assert_eq!(
        scored(6, says("les passages ne répondent pas à cette question")),
        [("abstain_precision", 1.0), ("abstain_recall", 1.0)]
    );
    assert_eq!(scored(6, says("The ferry [1]")), [("verbatim", 1.0), ("abstain_recall", 0.0)]);
}

#[test]
fn no_answer_is_no_success() {
    let suite = Suite::parse("x", SUITE.as_bytes()).unwrap();
    for row in &suite.rows {
        let outcome = outcome(&suite, row, Err("the prompt is too long".to_owned()));
        assert!(outcome.measures.values().all(|share| share.0 == 0.0), "{outcome:?}");
        assert_eq!(outcome.measures.is_empty(), matches!(row.task, Task::Perplexity { .. }));
    }
}
