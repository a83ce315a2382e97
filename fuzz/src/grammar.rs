//! What a request may ask an answer to fit: the first byte chooses JSON schema, regular expression, Lark or a tool's
//! parameters; the rest is its text. What compiles then takes a few steps.

use std::sync::OnceLock;

use falaj_text::{ChatFormat, Grammar, GrammarCompiler, InstructVersion, Tool, ToolChoice};

use super::sample;

/// # Panics
/// When a compiled grammar refuses a token that it allowed.
pub fn run(bytes: &[u8]) {
    static COMPILER: OnceLock<GrammarCompiler> = OnceLock::new();
    let Some((kind, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let tokenizer = sample::tokenizer();
    let grammar = match kind % 4 {
        0 => match serde_json::from_str(text) {
            Ok(schema) => Grammar::json_schema(&schema),
            Err(_) => return,
        },
        1 => Grammar::regex(text),
        2 => Grammar::lark(text),
        _ => {
            let Ok(parameters) = serde_json::from_str(text) else { return };
            let tool = Tool { name: "add".into(), description: String::new(), parameters, strict: true };
            let format = ChatFormat::mistral(InstructVersion::V13, tokenizer).expect("the sample has v13's tokens");
            match Grammar::tools(&[tool], &ToolChoice::Any, false, &format) {
                Ok(Some(grammar)) => grammar,
                _ => return,
            }
        }
    };
    let compiler = COMPILER.get_or_init(|| GrammarCompiler::new(tokenizer.clone()));
    let mut matcher = match compiler.compile(&grammar) {
        Ok(matcher) => matcher,
        Err(error) => {
            assert!(error.to_string().len() < 4000);
            return;
        }
    };
    let mut mask = vec![0_u32; tokenizer.vocab_size().div_ceil(32)];
    for step in 0..16_usize {
        mask.fill(0);
        if matcher.is_finished() || matcher.allowed(&mut mask).is_err() {
            return;
        }
        let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32)
            .filter(|token| mask[*token as usize / 32] >> (token % 32) & 1 == 1)
            .collect();
        let Some(token) = allowed.get(step * 7 % allowed.len().max(1)) else { return };
        // Work limits may end a match between the two; an error is then the honest answer.
        let _ = matcher.accept(*token);
    }
}
