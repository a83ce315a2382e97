//! Any text as a chat template, rendered with a conversation that has everything; and what a model with that template might
//! write, read back.

use falaj_text::{ChatFormat, OutputParser, Piece};

use super::sample;

/// # Panics
/// When a rendered prompt has tokens that do not exist, or an answer's calls come out of order.
pub fn run(bytes: &[u8]) {
    let Ok(template) = std::str::from_utf8(bytes) else { return };
    let tokenizer = sample::tokenizer();
    let format = match ChatFormat::jinja(template, tokenizer) {
        Ok(format) => format,
        Err(error) => {
            assert!(error.to_string().len() < 4000);
            return;
        }
    };
    for (with_tools, continued) in [(true, false), (false, true)] {
        match format.render(&sample::conversation(with_tools, continued)) {
            Ok(prompt) => assert!(prompt.tokens.iter().all(|token| (*token as usize) < tokenizer.vocab_size())),
            Err(error) => assert!(error.to_string().len() < 4000),
        }
    }
    // The template decides how calls are read; its own bytes serve as an answer full of surprises.
    let mut parser = OutputParser::new(&format, tokenizer, true);
    let mut calls = 0;
    let mut check = |pieces: Vec<Piece>| {
        for piece in pieces {
            match piece {
                Piece::ToolCallStart { index, .. } => {
                    assert_eq!(index, calls, "calls are numbered in order");
                    calls += 1;
                }
                Piece::ToolCallArguments { index, .. } => {
                    assert_eq!(index + 1, calls, "arguments belong to the last call")
                }
                Piece::Text(_) | Piece::Thinking(_) => {}
            }
        }
    };
    for token in bytes.iter().take(4096) {
        check(parser.push(u32::from(*token)));
    }
    check(parser.finish());
}
