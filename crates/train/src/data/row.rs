//! One row as its author meant it. The format is read off the keys of a row and must be the same in the whole file.
//! Sources: OpenAI's and Mistral's fine-tuning guides, TRL's "dataset formats", the Alpaca and ShareGPT files.

mod dialogue;
mod fields;
mod preference;

use std::fmt;

use serde_json::{Map, Value};

use super::{Raw, Reason};
pub use dialogue::Dialogue;
use fields::Fields;
pub use preference::Preference;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `{"text": …}`, or a file of plain text.
    Text,
    /// `{"messages": […], "tools": […]}`.
    Chat,
    /// `{"prompt": …, "completion": …}`, texts or messages.
    Completion,
    /// `{"instruction": …, "input": …, "output": …}`.
    Alpaca,
    /// `{"conversations": [{"from": …, "value": …}]}`.
    ShareGpt,
    /// `{"prompt": …, "chosen": …, "rejected": …}` or `{"input": …, "preferred_output": …, "non_preferred_output": …}`.
    Preference,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Chat => "chat",
            Format::Completion => "prompt and completion",
            Format::Alpaca => "Alpaca",
            Format::ShareGpt => "ShareGPT",
            Format::Preference => "preference pairs",
        }
    }

    /// By its keys.
    fn of(row: &Map<String, Value>) -> Option<Self> {
        let has = |key: &str| row.get(key).is_some_and(|value| !value.is_null());
        let any = |keys: &[&str]| keys.iter().any(|key| has(key));
        Some(if any(&["chosen", "rejected", "preferred_output", "non_preferred_output"]) {
            Format::Preference
        } else if any(&["messages", "interactions"]) {
            Format::Chat
        } else if has("conversations") {
            Format::ShareGpt
        } else if has("instruction") {
            Format::Alpaca
        } else if has("prompt") && has("completion") {
            Format::Completion
        } else if any(&["text", "content"]) {
            Format::Text
        } else if any(&["prompt", "completion"]) {
            Format::Completion
        } else {
            return None;
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// `begins` and `ends`: whether a document does so here.
    Text {
        text: String,
        begins: bool,
        ends: bool,
    },
    Dialogue(Dialogue),
    /// Text after which text is to be learnt.
    Completion {
        prompt: String,
        completion: String,
    },
    Alpaca {
        instruction: String,
        input: String,
        output: String,
    },
    Preference(Preference),
}

impl Row {
    /// The row, and its format. `expected`: that of the rows before it.
    ///
    /// # Errors
    /// Why the line cannot be learnt from.
    pub fn parse(raw: &Raw, expected: Option<Format>) -> Result<(Self, Format), Reason> {
        if !raw.json {
            let text = raw.text.to_owned();
            return Ok((Row::Text { text, begins: raw.begins, ends: raw.ends }, Format::Text));
        }
        let value: Value = serde_json::from_str(raw.text).map_err(|error| Reason::NotJson {
            // The line that serde counts is the row's own; the file's is reported beside it.
            detail: error
                .to_string()
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect::<String>()
                + &format!(" at column {}", error.column()),
        })?;
        let Value::Object(row) = value else { return Err(Reason::NotObject) };
        let Some(format) = Format::of(&row) else {
            let keys = row.keys().take(8).map(|key| format!("`{}`", fields::short(key))).collect::<Vec<_>>();
            let keys = if keys.is_empty() { "(none)".to_owned() } else { keys.join(", ") };
            return Err(Reason::UnknownFormat { keys });
        };
        if let Some(expected) = expected.filter(|expected| *expected != format) {
            return Err(Reason::OtherFormat { found: format, expected });
        }
        let mut fields = Fields::new(String::new(), row);
        let row = match format {
            Format::Text => {
                let key = if fields.has("text") { "text" } else { "content" };
                Row::Text { text: fields.filled_text(key)?, begins: true, ends: true }
            }
            Format::Chat => Row::Dialogue(dialogue::chat(&mut fields)?),
            Format::ShareGpt => Row::Dialogue(dialogue::share_gpt(&mut fields)?),
            Format::Alpaca => Row::Alpaca {
                instruction: fields.filled_text("instruction")?,
                input: fields.optional_text("input")?.unwrap_or_default(),
                output: fields.filled_text("output")?,
            },
            Format::Completion => completion(&mut fields)?,
            Format::Preference => Row::Preference(preference::preference(&mut fields)?),
        };
        Ok((row, format))
    }
}

/// Two texts, or two lists of messages.
fn completion(fields: &mut Fields) -> Result<Row, Reason> {
    if fields.is_list("prompt") || fields.is_list("completion") {
        return Ok(Row::Dialogue(dialogue::prompt_and_answer(fields, "prompt", "completion")?));
    }
    let prompt = fields.text("prompt")?;
    Ok(Row::Completion { prompt, completion: fields.filled_text("completion")? })
}

#[cfg(test)]
mod tests;
