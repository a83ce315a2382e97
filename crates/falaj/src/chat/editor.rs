//! The line editor of a chat: history in a file, several lines where the input says so, plain lines when standard input is
//! no terminal.

use crate::failure::Outcome;
use crate::output;
use rustyline::Helper;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use std::path::{Path, PathBuf};

pub struct Editor {
    inner: rustyline::Editor<Lines, DefaultHistory>,
    history: PathBuf,
}

pub enum Input {
    Text(String),
    /// Ctrl-C while typing: the line is forgotten.
    Interrupted,
    /// Ctrl-D.
    End,
}

impl Editor {
    pub fn new(history: &Path) -> Outcome<Self> {
        let config = rustyline::Config::builder().max_history_size(1000)?.auto_add_history(false).build();
        let mut inner = rustyline::Editor::with_config(config)?;
        inner.set_helper(Some(Lines));
        // None yet on the first start.
        let _ = inner.load_history(history);
        Ok(Self { inner, history: history.to_owned() })
    }

    pub fn read(&mut self) -> Outcome<Input> {
        match self.inner.readline(if output::colour() { PROMPT_IN_COLOUR } else { PROMPT }) {
            Ok(text) => {
                if !text.trim().is_empty() {
                    self.inner.add_history_entry(&text)?;
                    // After each line, so that a crash loses nothing; a full disk must not end the conversation.
                    if let Err(error) = self.inner.append_history(&self.history) {
                        tracing::warn!(%error, "the history is not saved");
                    }
                }
                Ok(Input::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupted),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(error.into()),
        }
    }
}

const PROMPT: &str = "> ";
const PROMPT_IN_COLOUR: &str = "\u{1b}[1m> \u{1b}[0m";

/// Enter goes on to a new line after a backslash and inside `"""`.
struct Lines;

impl Completer for Lines {
    type Candidate = String;
}

impl Hinter for Lines {
    type Hint = String;
}

impl Highlighter for Lines {}

impl Helper for Lines {}

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_open(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

fn is_open(input: &str) -> bool {
    let quoted = input.trim_start().starts_with("\"\"\"");
    if quoted { input.trim().len() < 6 || !input.trim_end().ends_with("\"\"\"") } else { input.ends_with('\\') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_texts_stay_open_until_closed() {
        assert!(is_open("one \\"));
        assert!(is_open("\"\"\""));
        assert!(is_open("\"\"\"\nline"));
        assert!(!is_open("\"\"\"\nline\n\"\"\""));
        assert!(!is_open("one"));
    }
}
