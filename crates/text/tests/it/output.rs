//! Answers read back: text, thinking and tool calls, in every syntax and cut at every place.

use std::sync::Arc;

use falaj_text::{ChatFormat, InstructVersion, OutputParser, Piece, Special, Tokenizer};

use crate::support::{byte_level, json, tekken};

/// Pieces put together: text, thinking, and (id, name, arguments) per call.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    text: String,
    thinking: String,
    calls: Vec<(Option<String>, String, String)>,
}

fn read(format: &ChatFormat, tokenizer: &Arc<Tokenizer>, tokens: &[u32]) -> Answer {
    let mut parser = OutputParser::new(format, tokenizer, true);
    let mut pieces: Vec<Piece> = tokens.iter().flat_map(|token| parser.push(*token)).collect();
    pieces.extend(parser.finish());
    let mut answer = Answer::default();
    for piece in pieces {
        match piece {
            Piece::Text(text) => answer.text.push_str(&text),
            Piece::Thinking(text) => answer.thinking.push_str(&text),
            Piece::ToolCallStart { index, id, name } => {
                assert_eq!(index, answer.calls.len());
                answer.calls.push((id, name, String::new()));
            }
            Piece::ToolCallArguments { index, fragment } => answer.calls[index].2.push_str(&fragment),
        }
    }
    answer
}

/// Control tokens are recognised in `written`, as if the model had chosen them; then every byte is a token of its own.
fn both(format: &ChatFormat, tokenizer: &Arc<Tokenizer>, written: &str) -> Answer {
    let tokens = tokenizer.encode(written, Special::Parse);
    let answer = read(format, tokenizer, &tokens);
    let single: Vec<u32> = tokens
        .iter()
        .flat_map(|token| match tokenizer.token_bytes(*token) {
            bytes if bytes.len() > 1 && tokenizer.named_token(&String::from_utf8_lossy(bytes)) != Some(*token) => {
                bytes.iter().map(|byte| byte_token(tokenizer, *byte)).collect()
            }
            _ => vec![*token],
        })
        .collect();
    assert_eq!(read(format, tokenizer, &single), answer, "{written}");
    answer
}

fn byte_token(tokenizer: &Tokenizer, byte: u8) -> u32 {
    (0..tokenizer.vocab_size() as u32)
        .find(|token| tokenizer.token_bytes(*token) == [byte] && !tokenizer.is_special(*token))
        .unwrap()
}

fn mistral(version: &str) -> (ChatFormat, Arc<Tokenizer>) {
    let tokenizer = tekken(version);
    (ChatFormat::mistral(version.parse::<InstructVersion>().unwrap(), &tokenizer).unwrap(), tokenizer)
}

fn jinja(name: &str) -> (ChatFormat, Arc<Tokenizer>) {
    let tokenizer = byte_level();
    let template = match name {
        "llama" => "<|start_header_id|>{{ tools }} {\"name\":, \"parameters\": }".to_owned(),
        name => json("templates.json")[name].as_str().unwrap().to_owned(),
    };
    (ChatFormat::jinja(&template, &tokenizer).unwrap(), tokenizer)
}

fn calls(list: &[(&str, &str)]) -> Answer {
    let calls = list.iter().map(|(name, arguments)| (None, (*name).to_owned(), (*arguments).to_owned())).collect();
    Answer { calls, ..Answer::default() }
}

#[test]
fn list_syntax() {
    let (format, tokenizer) = mistral("v3");
    let both = |written: &str| both(&format, &tokenizer, written);
    assert_eq!(
        both(r#"[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "s": "é\"}]"}, "id": "a1B2c3D4e"}]</s>"#),
        calls(&[("add", r#"{"a": 1, "s": "é\"}]"}"#)])
    );
    assert_eq!(
        both("[TOOL_CALLS] [ {\"arguments\":{},\"name\":\"a\"} ,\n{\"name\":\"b\",\"arguments\":{\"x\":[{}]}}]"),
        calls(&[("a", "{}"), ("b", r#"{"x":[{}]}"#)])
    );
    assert_eq!(both(r#"[TOOL_CALLS][{"name": "now"}]"#), calls(&[("now", "{}")]));
    assert_eq!(
        both(r#"Wait. [TOOL_CALLS][{"id": "X", "name": "a", "arguments": "{\"x\": 1}"}]"#),
        Answer {
            text: "Wait. ".into(),
            calls: vec![(Some("X".into()), "a".into(), "{\"x\": 1}".into())],
            ..Answer::default()
        }
    );
    // What is no call is text, and a cut one keeps what it had.
    assert_eq!(both("[TOOL_CALLS]sorry, no").text, "sorry, no");
    assert_eq!(both(r#"[TOOL_CALLS][{"nam"#).text, r#"[{"nam"#);
    assert_eq!(both(r#"[TOOL_CALLS][{"name": "a", "arguments": {"x": "#), calls(&[("a", "{\"x\": ")]));
    assert_eq!(both("plain [text] {\"a\": 1} مرحبا 😀").text, "plain [text] {\"a\": 1} مرحبا 😀");
}

#[test]
fn named_syntax() {
    for version in ["v11", "v13", "v15"] {
        let (format, tokenizer) = mistral(version);
        let both = |written: &str| both(&format, &tokenizer, written);
        assert_eq!(
            both("Let me see.[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]b_2[ARGS]{}</s>"),
            Answer { text: "Let me see.".into(), ..calls(&[("add", "{\"a\": 1}"), ("b_2", "{}")]) }
        );
        assert_eq!(both("[TOOL_CALLS]half"), Answer::default());
    }
    let (format, tokenizer) = mistral("v11");
    let answer = both(&format, &tokenizer, "[TOOL_CALLS]add[CALL_ID]a1B2c3D4e[ARGS]{}");
    assert_eq!(answer.calls, [(Some("a1B2c3D4e".into()), "add".into(), "{}".into())]);
}

#[test]
fn thinking() {
    let (format, tokenizer) = mistral("v13");
    let answer = both(&format, &tokenizer, "[THINK]2 and 2…[/THINK]4[TOOL_CALLS]f[ARGS]{}");
    assert_eq!((answer.thinking.as_str(), answer.text.as_str(), answer.calls.len()), ("2 and 2…", "4", 1));
}

#[test]
fn hermes_syntax() {
    let (format, tokenizer) = jinja("chatml");
    let both = |written: &str| both(&format, &tokenizer, written);
    let one = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": \"</tool_call>\"}}\n</tool_call>";
    assert_eq!(both(one), calls(&[("add", "{\"a\": \"</tool_call>\"}")]));
    assert_eq!(
        both(&format!("I look.\n{one}\n<tool_call>{{\"name\": \"b\", \"arguments\": {{}}}}</tool_call><|im_end|>")),
        Answer { text: "I look.".into(), ..calls(&[("add", "{\"a\": \"</tool_call>\"}"), ("b", "{}")]) }
    );
    assert_eq!(both("a < b <tool and <tool_cal").text, "a < b <tool and <tool_cal");
    assert_eq!(both("trailing  \n").text, "trailing  \n");
}

#[test]
fn llama_syntax() {
    let (format, tokenizer) = jinja("llama");
    let both = |written: &str| both(&format, &tokenizer, written);
    assert_eq!(both("{\"name\": \"add\", \"parameters\": {\"a\": 1}}<|eot_id|>"), calls(&[("add", "{\"a\": 1}")]));
    assert_eq!(
        both(" {\"name\": \"a\", \"parameters\": {}}; {\"name\": \"b\", \"parameters\": {}}"),
        calls(&[("a", "{}"), ("b", "{}")])
    );
    assert_eq!(both("{\"answer\": 42}").text, "{\"answer\": 42}");
    assert_eq!(both("{not json}").text, "{not json}");
    assert_eq!(both("  Hello {\"name\": 1}").text, "  Hello {\"name\": 1}");
}

#[test]
fn no_tools_no_calls() {
    let (format, tokenizer) = mistral("v3");
    let mut parser = OutputParser::new(&format, &tokenizer, false);
    let tokens = tokenizer.encode("Hi[TOOL_CALLS] there</s>", Special::Parse);
    let mut pieces: Vec<Piece> = tokens.iter().flat_map(|token| parser.push(*token)).collect();
    pieces.extend(parser.finish());
    let text: String =
        pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.as_str() } else { "!" }).collect();
    assert_eq!(text, "Hi there");
}
