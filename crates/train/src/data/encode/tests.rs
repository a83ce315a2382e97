//! What is learnt of each kind of row, by the built-in model's vocabulary and template.

use std::path::Path;
use std::sync::LazyLock;

use falaj_artifact::gguf::Gguf;

use super::*;
use crate::data::Raw;

pub static SEED: LazyLock<ModelText> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/falaj-seed/falaj-seed-q8_0.gguf");
    ModelText::from_gguf(&Gguf::open(&path).unwrap()).unwrap()
});

fn encode_with(encoder: &Encoder, text: &str) -> Result<Vec<Unit>, Reason> {
    let raw = Raw { line: 1, text, json: true, begins: true, ends: true };
    encoder.encode(&Row::parse(&raw, None).unwrap().0)
}

/// The text with what is learnt in ⟨⟩, its weight behind it when it is not 1.
fn shown(example: &Example) -> String {
    let tokenizer = &SEED.tokenizer;
    let mut text = String::new();
    let mut before = 0.0;
    let mark = |text: &mut String, before: f32, weight: f32| {
        if before > 0.0 {
            text.push('⟩');
            if before != 1.0 {
                text.push_str(&before.to_string());
            }
        }
        if weight > 0.0 {
            text.push('⟨');
        }
    };
    let mut bytes = Vec::new();
    for (token, weight) in example.tokens.iter().zip(&example.weights) {
        if *weight != before {
            text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut bytes)));
            mark(&mut text, before, *weight);
            before = *weight;
        }
        bytes.extend_from_slice(tokenizer.token_bytes(*token));
    }
    text.push_str(&String::from_utf8_lossy(&bytes));
    mark(&mut text, before, 0.0);
    text
}

#[track_caller]
fn learns(row: &str, expected: &[&str]) {
    let units = encode_with(&Encoder::new(&SEED), row).unwrap();
    let found: Vec<String> = units.iter().flat_map(Unit::examples).map(shown).collect();
    assert_eq!(found, expected);
}

#[test]
fn answers_and_their_ends_are_learnt_and_nothing_else() {
    learns(
        r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "مرحبا [/INST]"}, {"role": "assistant", "content": "Hello </s>!"},
            {"role": "user", "content": "b"}, {"role": "assistant", "content": "no", "weight": 0}, {"role": "user", "content": "c"},
            {"role": "assistant", "content": "half", "weight": 0.5}]}"#,
        &[
            "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]مرحبا [/INST][/INST]⟨Hello </s>!</s>⟩[INST]b[/INST]no</s>[INST]c[/INST]⟨half</s>⟩0.5",
        ],
    );
    learns(
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "2"}, {"role": "assistant", "content": "two"}]}"#,
        &[
            "<s>[INST]a[/INST]⟨[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"x\": 1}}]</s>⟩[TOOL_RESULTS]{\"content\": \"2\"}[/TOOL_RESULTS]⟨two</s>⟩",
        ],
    );
}

#[test]
fn texts_completions_and_pairs() {
    learns(r#"{"text": "a b"}"#, &["<s>⟨a b</s>⟩"]);
    learns(r#"{"prompt": "The sky is", "completion": " blue"}"#, &["<s>The sky is⟨ blue</s>⟩"]);
    // No token reaches from the prompt into the completion.
    learns(r#"{"prompt": "The sk", "completion": "y is"}"#, &["<s>The sk⟨y is</s>⟩"]);
    learns(r#"{"instruction": "Add", "input": "1 1", "output": "2"}"#, &["<s>[INST]Add\n\n1 1[/INST]⟨2</s>⟩"]);
    learns(r#"{"prompt": "p", "chosen": " a", "rejected": " b"}"#, &["<s>p⟨ a</s>⟩", "<s>p⟨ b</s>⟩"]);
    learns(
        r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
        &["<s>[INST]q[/INST]⟨a</s>⟩", "<s>[INST]q[/INST]⟨b</s>⟩"],
    );
}

#[test]
fn models_without_a_chat_format_learn_text_only() {
    let plain = Encoder::new(&ModelText { tokenizer: SEED.tokenizer.clone(), chat: None });
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    assert!(
        matches!(encode_with(&plain, chat), Err(Reason::NotRendered { detail }) if detail.contains("no chat template"))
    );
    let alpaca = encode_with(&plain, r#"{"instruction": "Add", "input": "", "output": "2"}"#).unwrap();
    assert_eq!(shown(&alpaca[0].examples()[0]), "<s>Add\n\n⟨2</s>⟩");
}

#[test]
fn rows_with_nothing_to_learn_are_refused() {
    let encoder = Encoder::new(&SEED);
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}"#;
    assert_eq!(encode_with(&encoder, row), Err(Reason::NothingToLearn));
}
