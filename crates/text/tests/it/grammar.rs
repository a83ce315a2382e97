//! Restricted output: whatever is drawn from the masks fits the grammar, and calls fit their schemas.

use std::sync::Arc;

use falaj_text::{
    ChatFormat, Grammar, GrammarCompiler, OutputParser, Piece, Special, TextError, Tokenizer, Tool, ToolChoice,
};
use serde_json::{Value, json};

use crate::support::{byte_level, json as file, tekken};

/// Draws tokens by a small generator until the grammar ends, preferring to end after `wish` tokens.
fn draw(tokenizer: &Arc<Tokenizer>, grammar: &Grammar, mut seed: u64, wish: usize) -> Vec<u32> {
    let mut matcher = GrammarCompiler::new(tokenizer.clone()).compile(grammar).unwrap();
    let ends = tokenizer.eos_tokens();
    let mut tokens = Vec::new();
    for step in 0..3000 {
        let mut mask = vec![0u32; tokenizer.vocab_size().div_ceil(32)];
        matcher.allowed(&mut mask).unwrap();
        let allowed: Vec<u32> =
            (0..tokenizer.vocab_size() as u32).filter(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1).collect();
        assert!(!allowed.is_empty(), "a dead end after {tokens:?}");
        if allowed.iter().any(|token| ends.contains(token))
            && (step >= wish || allowed.iter().all(|t| ends.contains(t)))
        {
            return tokens;
        }
        let inner: Vec<u32> = allowed.into_iter().filter(|token| !ends.contains(token)).collect();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // After the wish, what closes strings and brackets comes first, so that the drawing ends.
        let closing = inner.iter().filter(|token| {
            let bytes = tokenizer.token_bytes(**token);
            bytes.first().is_some_and(|byte| b"\"}]0,:".contains(byte)) || tokenizer.is_special(**token)
        });
        let token = match (step > wish, closing.max_by_key(|token| tokenizer.token_bytes(**token)[0] == b'"')) {
            (true, Some(token)) => *token,
            _ => inner[(seed >> 33) as usize % inner.len()],
        };
        matcher.accept(token).unwrap();
        tokens.push(token);
    }
    panic!("no end: {}", tokenizer.decode(&tokens));
}

fn refuse(grammar: &Grammar) -> TextError {
    let what: String = format!("{grammar:?}").chars().take(200).collect();
    GrammarCompiler::new(byte_level()).compile(grammar).expect_err(&what)
}

#[test]
fn json_that_fits() {
    let tokenizer = byte_level();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "kind": {"enum": ["a", "é", 3]},
            "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
            "inner": {"$ref": "#/$defs/inner"},
        },
        "required": ["name", "kind", "list", "inner"],
        "additionalProperties": false,
        "$defs": {"inner": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"], "additionalProperties": false}},
    });
    for seed in 0..12 {
        let text = tokenizer.decode(&draw(&tokenizer, &Grammar::json_schema(&schema), seed, 20));
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(["a", "é"].map(Value::from).contains(&value["kind"]) || value["kind"] == 3, "{text}");
        assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!((1..=3).contains(&value["list"].as_array().unwrap().len()), "{text}");
        assert!(value["inner"]["n"].as_u64().unwrap() <= 99, "{text}");
        let text = tokenizer.decode(&draw(&tokenizer, &Grammar::json_object(), seed, 10));
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
    }
}

/// Optional properties stand side by side, all possible at once.
#[test]
fn a_wide_schema_can_be_written_or_is_refused() {
    let wide = |count: usize| {
        let properties: serde_json::Map<String, Value> =
            (0..count).map(|index| (format!("property{index}"), json!({"type": "object"}))).collect();
        Grammar::json_schema(&json!({"type": "object", "properties": properties, "additionalProperties": false}))
    };
    let tokenizer = byte_level();
    let mut matcher = GrammarCompiler::new(tokenizer.clone()).compile(&wide(600)).unwrap();
    let mut mask = vec![0u32; tokenizer.vocab_size().div_ceil(32)];
    for token in tokenizer.encode(r#"{"property599": {}}"#, Special::Plain) {
        mask.fill(0);
        matcher.allowed(&mut mask).unwrap();
        assert_eq!(mask[token as usize / 32] >> (token % 32) & 1, 1, "{token}");
        matcher.accept(token).unwrap();
    }
    assert!(matcher.may_end());
    assert!(matches!(refuse(&wide(1_001)), TextError::TooLarge { got: 1_001, .. }));
}

/// The same properties, named by every alternative: few in the text, many where the object begins.
#[test]
fn alternatives_that_share_many_properties_are_refused_before_they_begin() {
    let fan = |alternatives: usize| {
        let wide: serde_json::Map<String, Value> = (0..500).map(|i| (format!("property{i}"), json!({}))).collect();
        let one = |i: usize| json!({"allOf": [{"$ref": "#/$defs/wide"}, {"properties": {format!("kind{i}"): {}}}]});
        let all: Vec<Value> = (0..alternatives).map(one).collect();
        Grammar::json_schema(&json!({"anyOf": all, "$defs": {"wide": {"type": "object", "properties": wide}}}))
    };
    assert!(matches!(refuse(&fan(30)), TextError::TooLarge { got: 15_030, .. }));
    // Objects in objects do not stand side by side.
    let deep = json!({"$defs": {"leaf": {"type": "object", "properties": {"a": {}, "b": {}}}}, "type": "object",
        "properties": (0..900).map(|i| (format!("p{i}"), json!({"$ref": "#/$defs/leaf"}))).collect::<serde_json::Map<_, _>>()});
    GrammarCompiler::new(byte_level()).compile(&Grammar::json_schema(&deep)).unwrap();
}

#[test]
fn regular_expressions() {
    let tokenizer = byte_level();
    for seed in 0..8 {
        let text = tokenizer.decode(&draw(&tokenizer, &Grammar::regex("[a-c]{3}-(oui|نعم)"), seed, 0));
        let (left, right) = text.split_once('-').unwrap();
        assert!(
            left.len() == 3 && left.bytes().all(|b| b"abc".contains(&b)) && ["oui", "نعم"].contains(&right),
            "{text}"
        );
    }
}

#[test]
fn plain_text_grammars_give_no_control_tokens() {
    let tokenizer = byte_level();
    let mut matcher = GrammarCompiler::new(tokenizer.clone()).compile(&Grammar::regex("(.|\n)*")).unwrap();
    let mut mask = vec![0u32; tokenizer.vocab_size().div_ceil(32)];
    matcher.allowed(&mut mask).unwrap();
    for (name, token) in tokenizer.specials() {
        let allowed = mask[token as usize / 32] >> (token % 32) & 1 == 1;
        assert_eq!(allowed, tokenizer.eos_tokens().contains(&token), "{name}");
    }
}

fn tools() -> Vec<Tool> {
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}, "unit": {"$ref": "#/definitions/unit"}},
        "required": ["city", "unit"],
        "additionalProperties": false,
        "definitions": {"unit": {"enum": ["C", "F"]}},
    });
    let tool = |name: &str, parameters: Value| Tool {
        name: name.into(),
        description: String::new(),
        parameters,
        strict: true,
    };
    vec![
        tool("weather", schema),
        tool("now", json!({"type": "object", "properties": {}, "additionalProperties": false})),
    ]
}

fn formats() -> Vec<(&'static str, ChatFormat, Arc<Tokenizer>)> {
    let mut list = Vec::new();
    for version in ["v3", "v7", "v11", "v13"] {
        let tokenizer = tekken(version);
        list.push((version, ChatFormat::mistral(version.parse().unwrap(), &tokenizer).unwrap(), tokenizer));
    }
    let tokenizer = byte_level();
    let llama = "<|start_header_id|>{{ tools }} {\"name\":, \"parameters\": }";
    for (name, template) in [("hermes", file("templates.json")["chatml"].as_str().unwrap()), ("llama", llama)] {
        list.push((name, ChatFormat::jinja(template, &tokenizer).unwrap(), tokenizer.clone()));
    }
    // A vocabulary without tokens for the tags.
    let tokenizer = tekken("v13");
    let chatml = file("templates.json")["chatml"].as_str().unwrap().to_owned();
    list.push(("hermes", ChatFormat::jinja(&chatml, &tokenizer).unwrap(), tokenizer));
    list
}

/// Whether these pieces of text, written token by token, may be the whole answer.
fn accepts(tokenizer: &Arc<Tokenizer>, grammar: &Grammar, pieces: &[&str]) -> bool {
    let mut matcher = GrammarCompiler::new(tokenizer.clone()).compile(grammar).unwrap();
    for token in pieces.iter().flat_map(|piece| tokenizer.encode(piece, Special::Parse)) {
        let mut mask = vec![0u32; tokenizer.vocab_size().div_ceil(32)];
        matcher.allowed(&mut mask).unwrap();
        if mask[token as usize / 32] >> (token % 32) & 1 == 0 {
            return false;
        }
        matcher.accept(token).unwrap();
    }
    matcher.may_end()
}

#[test]
fn free_text_cannot_become_an_unchecked_call() {
    for (what, format, tokenizer) in formats() {
        let grammar = Grammar::tools(&tools(), &ToolChoice::Auto, true, &format).unwrap().unwrap();
        let accepts = |pieces: &[&str]| accepts(&tokenizer, &grammar, pieces);
        for text in ["", "4", "é", " hello", "a {\"name\": 1}", "a < b <tool and <tool_cal"] {
            assert!(accepts(&[text]), "{what}: {text:?}");
        }
        let call = |name: &str, key: &str| format!("{{\"name\": \"{name}\", \"{key}\": {{}}}}");
        if what == "hermes" {
            let end = |name| format!("\n{}\n</tool_call>", call(name, "arguments"));
            let good = format!("<tool_call>{}", end("now"));
            assert!(accepts(&[&good]));
            assert!(accepts(&[&format!("I look.\n{good}\n{good}")]));
            for before in ["", "\n", "I look.\n"] {
                assert!(!accepts(&[before, "<tool_call>", &end("other")]), "{before:?}");
                // The tag in characters, where there is a token for it.
                assert!(!accepts(&[before, "<tool", "_call>", &end("other")]), "{before:?}");
            }
        }
        if what == "llama" {
            assert!(accepts(&[&call("now", "parameters")]));
            for before in ["", " ", "\n\n", "\u{a0}"] {
                assert!(!accepts(&[before, &call("other", "parameters")]), "{before:?}");
            }
        }
    }
}

#[test]
fn a_model_that_thinks_may_think_before_it_calls() {
    let tokenizer = tekken("v13");
    let format = ChatFormat::mistral("v13".parse().unwrap(), &tokenizer).unwrap();
    let grammar = Grammar::tools(&tools(), &ToolChoice::Auto, true, &format).unwrap().unwrap();
    let accepts = |text: &str| accepts(&tokenizer, &grammar, &[text]);
    assert!(accepts("[THINK]What time\nis it?[/THINK]I look.[TOOL_CALLS]now[ARGS]{}"));
    assert!(accepts("[THINK][/THINK]4") && accepts("[TOOL_CALLS]now[ARGS]{}"));
    assert!(!accepts("[THINK]What time is it?") && !accepts("[/THINK]4"));
}

#[test]
fn calls_fit_their_schemas() {
    let tools = tools();
    for (what, format, tokenizer) in formats() {
        for (choice, parallel) in [
            (ToolChoice::Any, true),
            (ToolChoice::Any, false),
            (ToolChoice::Named("weather".into()), true),
            (ToolChoice::Auto, true),
        ] {
            let grammar = Grammar::tools(&tools, &choice, parallel, &format).unwrap().unwrap();
            for seed in 0..6 {
                let tokens = draw(&tokenizer, &grammar, seed, 8);
                let mut parser = OutputParser::new(&format, &tokenizer, true);
                let mut pieces: Vec<Piece> = tokens.iter().flat_map(|token| parser.push(*token)).collect();
                pieces.extend(parser.finish());
                let mut calls: Vec<(String, String)> = Vec::new();
                for piece in pieces {
                    match piece {
                        Piece::ToolCallStart { name, .. } => calls.push((name, String::new())),
                        Piece::ToolCallArguments { fragment, .. } => calls.last_mut().unwrap().1.push_str(&fragment),
                        Piece::Text(text) => assert_eq!(choice, ToolChoice::Auto, "{what}: {text:?}"),
                        Piece::Thinking(_) => {}
                    }
                }
                let written = tokenizer.decode(&tokens);
                match choice {
                    ToolChoice::Auto => {}
                    _ => assert!(!calls.is_empty() && (parallel || calls.len() == 1), "{what}: {written}"),
                }
                for (name, arguments) in calls {
                    let value: Value =
                        serde_json::from_str(&arguments).unwrap_or_else(|e| panic!("{what} {e}: {written}"));
                    match name.as_str() {
                        "weather" => assert!(
                            value["city"].as_str().unwrap().chars().count() <= 5
                                && ["C", "F"].contains(&value["unit"].as_str().unwrap())
                                && value.as_object().unwrap().len() == 2,
                            "{what}: {written}"
                        ),
                        "now" => {
                            assert_eq!((&value, choice != ToolChoice::Named("weather".into())), (&json!({}), true))
                        }
                        other => panic!("{what} {other}: {written}"),
                    }
                }
            }
        }
    }
}

#[test]
fn choices() {
    let tokenizer = tekken("v3");
    let format = ChatFormat::mistral("v3".parse().unwrap(), &tokenizer).unwrap();
    assert_eq!(Grammar::tools(&tools(), &ToolChoice::None, true, &format).unwrap(), None);
    assert_eq!(Grammar::tools(&[], &ToolChoice::Auto, true, &format).unwrap(), None);
    let error = Grammar::tools(&tools(), &ToolChoice::Named("x".into()), true, &format).unwrap_err();
    assert!(error.to_string().contains("`x`") && error.to_string().contains("weather, now"), "{error}");
    assert!(Grammar::tools(&[], &ToolChoice::Any, true, &format).is_err());
    let plain = ChatFormat::jinja("{{ messages[0].content }}", &tokenizer).unwrap();
    assert_eq!(Grammar::tools(&tools(), &ToolChoice::Auto, true, &plain).unwrap(), None);
    assert!(Grammar::tools(&tools(), &ToolChoice::Any, true, &plain).is_err());
}

#[test]
fn bad_grammars_say_why() {
    for (grammar, part) in [
        (Grammar::json_schema(&json!({"type": "nonsense"})), "nonsense"),
        (Grammar::json_schema(&json!({"$ref": "#/missing"})), "missing"),
        (Grammar::json_schema(&json!({"$ref": "https://example.org/x"})), "example.org"),
        (Grammar::json_schema(&json!({"type": "string", "pattern": "(("})), "(("),
        (Grammar::json_schema(&json!(false)), ""),
        (Grammar::json_schema(&json!(3)), ""),
        (Grammar::regex("a{2"), ""),
        (Grammar::regex("(?=x)y"), ""),
        (Grammar::lark("start: nothing"), "nothing"),
        (Grammar::lark(""), ""),
        (Grammar::lark(&format!("start: {}", "(".repeat(20_000))), ""),
        (Grammar::regex(&"(".repeat(20_000)), ""),
        (Grammar::regex(&"x".repeat(1 << 20)), "limit"),
    ] {
        let error = refuse(&grammar).to_string();
        assert!(error.contains(part) && error.len() < 500, "{error}");
    }
    let deep = (0..150).fold(json!({}), |inner, _| json!({"type": "array", "items": inner}));
    assert!(refuse(&Grammar::json_schema(&deep)).to_string().contains("depth"));
}

/// References chain without nesting: depth that only the compiler sees. The lengths fill the largest grammar.
#[test]
fn a_long_chain_of_references_compiles_or_is_refused() {
    let compiler = GrammarCompiler::new(byte_level());
    let chain = |links: usize, link: &dyn Fn(String) -> Value| {
        let mut defs = serde_json::Map::new();
        for at in 0..links {
            defs.insert(format!("{at:x}"), link(format!("#/d/{:x}", at + 1)));
        }
        defs.insert(format!("{links:x}"), json!({"type": "integer"}));
        Grammar::json_schema(&json!({"$ref": "#/d/0", "d": defs}))
    };
    let too_large = |grammar: &Grammar| matches!(compiler.compile(grammar), Err(TextError::TooLarge { .. }));
    assert!(!too_large(&chain(300, &|next| json!({"items": {"$ref": next}}))));
    assert!(!too_large(&chain(18_000, &|next| json!({"$ref": next}))));
    assert!(!too_large(&chain(13_000, &|next| json!({"items": {"$ref": next}}))));
    assert!(!too_large(&chain(11_000, &|next| json!({"anyOf": [{"$ref": next}, {}]}))));
    let lark = |links: usize, name: &str| {
        let rules: String = (0..links).map(|at| format!("{name}{at:x}: {name}{:x}\n", at + 1)).collect();
        Grammar::lark(&format!("start: {name}0\n{rules}{name}{links:x}: \"x\"\n"))
    };
    assert!(!too_large(&lark(30_000, "a")));
    assert!(!too_large(&lark(30_000, "A")));
}

#[test]
fn misuse_is_an_error() {
    let tokenizer = byte_level();
    let mut matcher = GrammarCompiler::new(tokenizer.clone()).compile(&Grammar::regex("ab")).unwrap();
    let token = tokenizer.encode("b", falaj_text::Special::Plain)[0];
    assert!(matcher.accept(token).is_err());
    assert!(matcher.accept(u32::MAX).is_err());
    assert!(matcher.allowed(&mut [0; 4]).is_err());
}

#[test]
fn choices_go_their_own_ways() {
    let tokenizer = byte_level();
    let compiler = GrammarCompiler::new(Arc::clone(&tokenizer));
    let mut one = compiler.compile(&Grammar::regex("ab|cd")).unwrap();
    let mut other = one.another();
    let write = |matcher: &mut falaj_text::Matcher, text: &str| {
        tokenizer.encode(text, falaj_text::Special::Plain).into_iter().try_for_each(|token| matcher.accept(token))
    };
    write(&mut one, "ab").unwrap();
    write(&mut other, "cd").unwrap();
    assert!(one.may_end() && other.may_end());
}
