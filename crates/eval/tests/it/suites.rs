//! Reading suites.

use falaj_eval::{EvalError, Suite, Task, grounded_prompt};

use crate::models::example;

#[test]
fn the_example_has_every_task() {
    let suite = example();
    assert_eq!((suite.name.as_str(), suite.bad.as_slice()), ("example", &[][..]));
    for task in ["perplexity", "exact_match", "multiple_choice", "tool_call", "grounded"] {
        assert!(suite.rows.iter().any(|row| row.task.name() == task), "{task}");
    }
    for language in ["en", "fr", "ar"] {
        assert!(suite.rows.iter().any(|row| row.language.as_deref() == Some(language)), "{language}");
    }
}

#[test]
fn bad_lines_are_told_and_the_others_kept() {
    let lines = [
        r#"{"suite": "mixed", "tools": [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}}]}"#,
        r#"{"task": "perplexity", "text": "good"}"#,
        "",
        r#"{"task": "perplexity", "text": " "}"#,
        r#"{"task": "perplexity", "txt": "x"}"#,
        r#"{"task": "poetry", "text": "x"}"#,
        r#"{"text": "x"}"#,
        r#"["perplexity"]"#,
        r#"{"task": "perplexity", "text": "cut"#,
        r#"{"task": "multiple_choice", "prompt": "1", "choices": ["a", "b"], "answer": 2}"#,
        r#"{"task": "multiple_choice", "prompt": "1", "choices": ["a"], "answer": 0}"#,
        r#"{"task": "multiple_choice", "choices": ["a", "b"], "answer": 0}"#,
        r#"{"task": "tool_call", "messages": [{"role": "user", "content": "x"}]}"#,
        r#"{"task": "tool_call", "messages": [{"role": "user", "content": "x"}], "expected": {"name": "then"}}"#,
        r#"{"task": "tool_call", "messages": [{"role": "user", "content": "x"}], "expected": {"name": "now", "arguments": {"zone": 1}}}"#,
        r#"{"task": "tool_call", "messages": [{"role": "user", "content": "x"}], "expected": null}"#,
        r#"{"task": "exact_match", "messages": [{"role": "assistant", "content": "x"}], "answers": ["y"]}"#,
        r#"{"task": "exact_match", "messages": [{"role": "judge", "content": "x"}], "answers": ["y"]}"#,
        r#"{"task": "grounded", "passages": ["p"], "question": "q", "answers": [], "passage": 1}"#,
        r#"{"task": "perplexity", "text": "x", "language": 3}"#,
    ];
    let suite = Suite::parse("x", lines.join("\n").as_bytes()).unwrap();
    assert_eq!((suite.name.as_str(), suite.rows.len()), ("mixed", 2));
    let told: Vec<String> = suite.bad.iter().map(|bad| format!("{}: {}", bad.line, bad.reason)).collect();
    let expected = [
        "4: `text` has a blank text",
        "5: unknown field `txt`, expected `text`",
        "6: no task is called `poetry`; known are `perplexity`, `exact_match`, `multiple_choice`, `tool_call` and `grounded`",
        "7: `task` is missing; it says how the row is scored",
        "8: not a JSON object",
        "9: not JSON: EOF while parsing a string at column 35",
        "10: `answer` is 2, but the choices are numbered 0 to 1",
        "11: `choices` has 1; it takes 2 to 64",
        "12: give either `prompt` or `messages`",
        "13: missing field `expected`",
        "14: `expected.name` is `then`, which is none of `tools`",
        "15: `expected.arguments` do not fit the parameters of `now`",
        "17: `messages` must end with a message of `user` or `tool`",
        "18: no message is of `judge`; known are `system`, `user`, `assistant` and `tool`",
        "19: `passage` must be a number from 0 to 0",
        "20: `language` must be a text",
    ];
    assert_eq!(told, expected);
}

/// Whatever bytes a file holds, reading it ends with rows and reasons.
#[test]
fn no_bytes_are_trusted() {
    let bad =
        |bytes: &[u8]| Suite::parse("x", bytes).unwrap().bad.into_iter().map(|bad| bad.reason).collect::<Vec<_>>();
    assert_eq!(bad(b"\xff\xfe{}"), ["byte 1 is not UTF-8"]);
    let long = [b"{\"task\": \"perplexity\", \"text\": \"".as_slice(), &vec![b'a'; 17 << 20], b"\"}"].concat();
    assert!(bad(&long)[0].contains("a row has at most"));
    let deep = format!("{{\"task\": {}", "[".repeat(100_000));
    assert!(bad(deep.as_bytes())[0].starts_with("not JSON: recursion limit exceeded"));
    assert!(bad(b"\xef\xbb\xbf{\"task\": \"perplexity\", \"text\": \"x\"}\r\n\n").is_empty());
    let header = Suite::parse("x", b"{\"suite\": \"x\", \"abstains\": {}}").unwrap_err();
    assert!(matches!(header, EvalError::Header { line: 1, .. }), "{header}");
}

#[test]
fn the_prompt_of_passages() {
    let passages = ["One\nline.".to_owned(), " Two. ".to_owned()];
    assert_eq!(grounded_prompt(&passages, "Which? "), "[1] One line.\n[2] Two.\n\nWhich?");
    let system = br#"{"system": "Be brief."}
{"task": "exact_match", "messages": [{"role": "user", "content": "x"}], "answers": ["y"]}"#;
    let suite = Suite::parse("x", system).unwrap();
    let Task::ExactMatch { messages, .. } = &suite.rows[0].task else { panic!() };
    assert_eq!((messages.len(), messages[0].text().as_str()), (2, "Be brief."));
}
