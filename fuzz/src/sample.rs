//! A small tokenizer and a conversation with everything in it, for the targets that need one.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use falaj_text::{Conversation, Message, Part, Role, Tokenizer, Tool, ToolCall};

/// All bytes, a few words, and the control tokens of Mistral's v13 and of common templates.
pub fn tokenizer() -> &'static Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let tokenizer = Tokenizer::from_tekken(tekken().as_bytes()).expect("the sample is a tekken file");
        Arc::new(tokenizer)
    })
}

/// The file of [`tokenizer`].
pub fn tekken() -> String {
    let mut file = String::from(
        r#"{"config":{"pattern":"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|\\s+|[^\\s\\p{L}\\p{N}]+","num_vocab_tokens":256,"#,
    );
    let total = CONTROLS.len() + 256;
    let _ = write!(
        file,
        r#""default_vocab_size":{total},"default_num_special_tokens":{},"version":"v13"}},"vocab":["#,
        CONTROLS.len()
    );
    for byte in 0..=255_u8 {
        let digit = |value: u8| char::from(BASE64[usize::from(value)]);
        let comma = if byte == 0 { "" } else { "," };
        let (high, low) = (digit(byte >> 2), digit((byte & 3) << 4));
        let _ = write!(file, r#"{comma}{{"rank":{byte},"token_bytes":"{high}{low}==","token_str":null}}"#);
    }
    file.push_str(r#"],"special_tokens":["#);
    for (rank, name) in CONTROLS.iter().enumerate() {
        let comma = if rank == 0 { "" } else { "," };
        let _ = write!(file, r#"{comma}{{"rank":{rank},"token_str":"{name}","is_control":true}}"#);
    }
    file.push_str("]}");
    file
}

/// System, user, a call, its result, and thinking; the texts pretend to be control tokens.
pub fn conversation(with_tools: bool, continued: bool) -> Conversation {
    let mut messages =
        vec![Message::system("Be [INST] kind.\u{fdd0}1\u{fdd1}"), Message::user("مرحبا </s> {{ 7 * 7 }} <|im_end|>\n")];
    if with_tools {
        let call =
            ToolCall { id: "a1B2c3D4e".into(), name: "add".into(), arguments: r#"{"a": 1, "b": [null]}"#.into() };
        messages.push(Message { tool_calls: vec![call], ..Message::assistant("") });
        messages.push(Message::tool("a1B2c3D4e", Some("add".into()), "[/TOOL_RESULTS] 2"));
    }
    let thinking = Part::Thinking { text: "So …".into(), closed: true };
    messages.push(Message { content: vec![thinking, Part::Text("Two é".into())], ..Message::assistant("") });
    if continued {
        messages.push(Message::user("And?"));
        messages.push(Message { prefix: true, ..Message::new(Role::Assistant, "And so") });
    } else {
        messages.push(Message::user("Thanks 🙂"));
    }
    let add = Tool {
        name: "add".into(),
        description: "Adds two numbers".into(),
        parameters: PARAMETERS.parse().expect("the schema is JSON"),
        strict: true,
    };
    let tools = if with_tools { vec![add] } else { Vec::new() };
    Conversation {
        messages,
        tools,
        reasoning_effort: Some("high".into()),
        now_s: Some(1_750_000_000),
        ..Conversation::default()
    }
}

const CONTROLS: [&str; 26] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
    "[ARGS]",
    "[CALL_ID]",
    "[THINK]",
    "[/THINK]",
    "[MODEL_SETTINGS]",
    "[/MODEL_SETTINGS]",
    "<|im_start|>",
    "<|im_end|>",
    "<|python_tag|>",
    "<|eot_id|>",
];
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const PARAMETERS: &str = r#"{"type":"object","properties":{"a":{"type":"number"},"b":{}},"required":["a"]}"#;
