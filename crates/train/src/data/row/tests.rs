//! Rows of every format, good ones and each kind of bad one.

use expect_test::{Expect, expect};
use falaj_text::{Part, Role};

use super::*;

fn parse(text: &str) -> Result<(Row, Format), Reason> {
    Row::parse(&Raw { line: 1, text, json: true, begins: true, ends: true }, None)
}

fn dialogue(text: &str) -> Dialogue {
    match parse(text).unwrap().0 {
        Row::Dialogue(dialogue) => dialogue,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn reasons(rows: &[&str], expected: Expect) {
    let told: Vec<String> = rows.iter().map(|row| parse(row).expect_err(row).to_string()).collect();
    expected.assert_eq(&told.join("\n"));
}

/// The function-calling row of Mistral's guide, with weights.
const CALL: &str = r#"{"messages": [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": [{"type": "text", "text": "Anagram of "}, {"type": "text", "text": "listen?"}]},
    {"role": "assistant", "content": "I do not know.", "weight": 0},
    {"role": "user", "content": "Use the tool."},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "TX92Jm8Zi", "type": "function",
        "function": {"name": "anagram", "arguments": "{\"word\": \"listen\"}"}}]},
    {"role": "tool", "content": "silent", "tool_call_id": "TX92Jm8Zi", "name": "anagram"},
    {"role": "assistant", "content": "It is silent.", "weight": 0.5}],
  "tools": [{"type": "function", "function": {"name": "anagram", "description": "makes one",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}}}],
  "parallel_tool_calls": false, "id": 7}"#;

#[test]
fn chat_with_calls_and_weights() {
    let read = dialogue(CALL);
    assert_eq!(read.weights, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5]);
    let messages = &read.conversation.messages;
    assert_eq!(messages[1].text(), "Anagram of listen?");
    assert_eq!(messages[4].tool_calls[0].arguments, r#"{"word": "listen"}"#);
    assert_eq!(messages[5].tool_call_id.as_deref(), Some("TX92Jm8Zi"));
    assert_eq!(read.conversation.tools[0].name, "anagram");
    // OpenAI's first form of the same, and arguments as an object.
    let old = r#"{"messages": [{"role": "user", "content": "x"},
        {"role": "assistant", "function_call": {"name": "f", "arguments": {"a": 1}}},
        {"role": "function", "name": "f", "content": "1"}, {"role": "assistant", "content": "one"}],
        "functions": [{"name": "f", "parameters": {}}]}"#;
    let old = dialogue(old);
    assert_eq!(old.conversation.messages[1].tool_calls[0].arguments, r#"{"a":1}"#);
    assert_eq!(old.conversation.messages[2].role, Role::Tool);
}

#[test]
fn thoughts_and_refusals() {
    let read = dialogue(
        r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "y"}]},
            {"role": "user", "content": "x"}, {"role": "assistant", "refusal": "no"}]}"#,
    );
    let thought = Part::Thinking { text: "hm".to_owned(), closed: true };
    assert_eq!(read.conversation.messages[1].content, [thought, Part::Text("y".to_owned())]);
    assert_eq!(read.conversation.messages[3].text(), "no");
}

#[test]
fn the_other_formats() {
    let text = |text: &str| Row::Text { text: text.to_owned(), begins: true, ends: true };
    assert_eq!(parse(r#"{"text": "a", "meta": 1}"#), Ok((text("a"), Format::Text)));
    assert_eq!(parse(r#"{"content": "a", "text": null}"#), Ok((text("a"), Format::Text)));
    let completion = Row::Completion { prompt: String::new(), completion: " b".to_owned() };
    assert_eq!(parse(r#"{"prompt": "", "completion": " b"}"#), Ok((completion, Format::Completion)));
    let read = dialogue(
        r#"{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}"#,
    );
    assert_eq!(read.weights, [0.0, 1.0]);
    let alpaca = parse(r#"{"instruction": "add", "input": "", "output": "2"}"#).unwrap();
    assert_eq!(alpaca.1, Format::Alpaca);
    let share = dialogue(
        r#"{"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
            {"from": "observation", "value": "1"}, {"from": "gpt", "value": "b"}], "tools": "[{\"name\": \"f\"}]"}"#,
    );
    assert_eq!(share.weights, [0.0, 0.0, 1.0, 0.0, 1.0]);
    assert_eq!(share.conversation.tools[0].name, "f");
}

#[test]
fn preference_pairs_of_every_kind() {
    let pair = |text: &str| match parse(text).unwrap() {
        (Row::Preference(preference), Format::Preference) => preference,
        other => panic!("{other:?}"),
    };
    let dialogues = |text: &str| match pair(text) {
        Preference::Dialogues(pair) => (*pair).map(|dialogue| {
            let texts: Vec<String> = dialogue.conversation.messages.iter().map(falaj_text::Message::text).collect();
            (texts.join("|"), dialogue.weights)
        }),
        other => panic!("{other:?}"),
    };
    let expected = [("q|good".to_owned(), vec![0.0, 1.0]), ("q|bad".to_owned(), vec![0.0, 1.0])];
    for text in [
        r#"{"input": {"messages": [{"role": "user", "content": "q"}], "tools": [], "parallel_tool_calls": true},
            "preferred_output": [{"role": "assistant", "content": "good"}], "non_preferred_output": [{"role": "assistant", "content": "bad"}]}"#,
        r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}]}"#,
        r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]}"#,
        r#"{"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]}"#,
        r#"{"prompt": "q", "chosen": [{"role": "assistant", "content": "good"}], "rejected": "bad"}"#,
    ] {
        assert_eq!(dialogues(text), expected, "{text}");
    }
    let texts = |prompt: &str, chosen: &str, rejected: &str| Preference::Texts {
        prompt: prompt.to_owned(),
        answers: [chosen.to_owned(), rejected.to_owned()],
    };
    assert_eq!(
        pair(r#"{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}"#),
        texts("The sky is", " blue.", " green.")
    );
    assert_eq!(
        pair(r#"{"chosen": "The sky is blue.", "rejected": "The sky is black."}"#),
        texts("The sky is", " blue.", " black.")
    );
}

#[test]
fn every_kind_of_bad_row_is_told() {
    reasons(
        &[
            "{",
            "[1]",
            "3",
            r#"{"a": 1, "b": 2}"#,
            "{}",
            r#"{"text": 3}"#,
            r#"{"text": " "}"#,
            r#"{"prompt": "x"}"#,
            r#"{"instruction": "x"}"#,
            r#"{"prompt": "x", "completion": ""}"#,
            "{\"text\": \"\\ud800\"}",
        ],
        expect![[r#"
            it is not JSON: EOF while parsing an object at column 1
            it is not a JSON object
            it is not a JSON object
            its keys `a`, `b` are of no known format; use `messages`, `text`, `prompt` and `completion`, `instruction` and `output`, `conversations`, or `chosen` and `rejected`
            its keys (none) are of no known format; use `messages`, `text`, `prompt` and `completion`, `instruction` and `output`, `conversations`, or `chosen` and `rejected`
            `text` must be text
            `text` is empty
            `completion` is missing
            `output` is missing
            `completion` is empty
            it is not JSON: unexpected end of hex escape at column 17"#]],
    );
    let chat = |messages: &str| format!(r#"{{"messages": {messages}}}"#);
    let user = r#"{"role": "user", "content": "x"}"#;
    let call = r#"{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}"#;
    let rows = [
        chat("[]"),
        chat("3"),
        chat("[3]"),
        chat(&format!("[{user}]")),
        chat(&format!(r#"[{user}, {{"role": "robot", "content": "x"}}]"#)),
        chat(&format!(r#"[{user}, {{"content": "x"}}]"#)),
        chat(&format!(r#"[{user}, {{"role": "assistant", "content": ""}}]"#)),
        chat(&format!(r#"[{user}, {{"role": "assistant", "content": "x", "weight": 2}}]"#)),
        chat(r#"[{"role": "user", "content": "x", "weight": 1}, {"role": "assistant", "content": "x"}]"#),
        chat(r#"[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, {"role": "assistant", "content": "x"}]"#),
        chat(&format!(r#"[{user}, {{"role": "assistant", "tool_calls": [{{"function": {{"name": "f", "arguments": "no"}}}}]}}]"#)),
        chat(&format!(r#"[{user}, {{"role": "assistant", "tool_calls": [{{"function": {{"arguments": "{{}}"}}}}]}}]"#)),
        chat(&format!(r#"[{user}, {{"role": "tool", "content": "1"}}, {{"role": "assistant", "content": "x"}}]"#)),
        chat(&format!(r#"[{user}, {call}, {{"role": "tool", "content": "1", "tool_call_id": "b"}}, {{"role": "assistant", "content": "x"}}]"#)),
        chat(&format!(r#"[{user}, {call}, {user}, {{"role": "assistant", "content": "x"}}]"#)),
        format!(r#"{{"messages": [{user}, {call}], "tools": [{{"function": {{"name": "g"}}}}]}}"#),
        format!(r#"{{"messages": [{user}, {call}], "tools": [{{"function": {{"name": "f"}}}}, {{"function": {{"name": "f"}}}}]}}"#),
        format!(r#"{{"messages": [{user}, {call}], "tools": [{{"type": "code", "function": {{"name": "f"}}}}]}}"#),
        r#"{"conversations": [{"from": "alien", "value": "x"}]}"#.to_owned(),
        r#"{"system": "s", "conversations": [{"from": "human", "value": "x"}, {"from": "observation", "value": "x"}, {"from": "gpt", "value": "x"}]}"#.to_owned(),
        r#"{"prompt": "x", "chosen": "a", "rejected": "a"}"#.to_owned(),
        r#"{"prompt": "x", "chosen": "a"}"#.to_owned(),
        r#"{"chosen": "a ", "rejected": "a b"}"#.to_owned(),
        r#"{"preferred_output": []}"#.to_owned(),
    ];
    reasons(
        &rows.iter().map(String::as_str).collect::<Vec<_>>(),
        expect![[r#"
        `messages` is empty
        `messages` must be a list
        `messages[0]` must be an object
        the last message is the user's; end with an answer of the assistant
        `messages[1].role` is `robot`, which is no role; use `system`, `developer`, `user`, `assistant` or `tool`
        `messages[1].role` is missing
        `messages[1].content` is empty
        `messages[1].weight` must be 0 or 1, or a number between
        `messages[0].weight` stands on a message that is not the assistant's; only answers have a weight
        `messages[0].content[0]` is a part of type `image_url`; only text can be learnt
        `messages[1].tool_calls[0].function.arguments` is not the JSON text of an object
        `messages[1].tool_calls[0].function.name` is missing
        `messages[1]` answers no call; a tool's message follows the call whose id it names
        `messages[2]` answers no call; a tool's message follows the call whose id it names
        the calls of `messages[1]` are not all answered before the next message
        `messages[1].tool_calls[0]` calls `f`, which is not among the `tools`
        `tools[1].function.name` defines `f` a second time
        `tools[0].type` must be `function`
        `conversations[0].from` is `alien`, which is no role; use `system`, `human`, `gpt`, `function_call` or `observation`
        `conversations[1]` answers no call; a tool's message follows the call whose id it names
        the two answers are the same; there is nothing to prefer
        `rejected` is missing
        `chosen` is empty
        `input` is missing"#]],
    );
    let other = Row::parse(&Raw { line: 1, text: CALL, json: true, begins: true, ends: true }, Some(Format::Text));
    expect!["it is chat, but the file is text; keep one format to a file"].assert_eq(&other.unwrap_err().to_string());
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = format!(r#"{{"text": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(parse(&deep), Err(Reason::NotJson { .. })));
    let keys: String = (0..10_000).map(|key| format!(r#""{key}{}": 1,"#, "k".repeat(100))).collect();
    assert!(parse(&format!(r#"{{{keys} "z": 1}}"#)).unwrap_err().to_string().len() < 800);
}
