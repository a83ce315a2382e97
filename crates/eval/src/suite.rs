//! Suites: a JSON-lines file, an optional header and then one thing to ask per line. Reading tells every bad line by number and
//! reason and keeps the good ones. How rows are scored is in `score.rs`.

mod read;

use falaj_artifact::Digest;
use falaj_text::{Message, Tool};
use serde_json::Value;

use crate::schema::Schema;

/// What a file asks.
#[derive(Debug)]
pub struct Suite {
    /// From the header, else from the file's name.
    pub name: String,
    /// Of the file's bytes.
    pub digest: Digest,
    pub rows: Vec<Row>,
    pub bad: Vec<BadLine>,
    /// The phrases that say that passages do not answer, by language.
    pub abstain: Vec<(String, String)>,
}

/// A line that is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    pub reason: String,
}

/// One thing to ask.
#[derive(Debug)]
pub struct Row {
    /// From 1.
    pub line: usize,
    pub id: Option<String>,
    pub language: Option<String>,
    pub group: Option<String>,
    pub task: Task,
}

#[derive(Debug)]
pub enum Task {
    /// How likely a text is.
    Perplexity { text: String },
    /// An answer that must be one of these, to the letter.
    ExactMatch { messages: Vec<Message>, answers: Vec<String> },
    /// Which of these continuations the model finds likeliest.
    MultipleChoice { context: Context, choices: Vec<String>, answer: usize },
    /// Which tool is called, and how. `expected: None`: none may be.
    ToolCall { messages: Vec<Message>, tools: Vec<Tool>, schemas: Vec<Schema>, expected: Option<ExpectedCall> },
    /// A span of the passages that answers, and which passage it is from. No `answers`: the passages do not answer.
    Grounded {
        system: Option<String>,
        passages: Vec<String>,
        question: String,
        answers: Vec<String>,
        passage: Option<usize>,
    },
}

/// What choices continue.
#[derive(Debug)]
pub enum Context {
    Text(String),
    Messages(Vec<Message>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedCall {
    pub name: String,
    pub arguments: Value,
}

impl Task {
    /// As suites and reports name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Perplexity { .. } => "perplexity",
            Self::ExactMatch { .. } => "exact_match",
            Self::MultipleChoice { .. } => "multiple_choice",
            Self::ToolCall { .. } => "tool_call",
            Self::Grounded { .. } => "grounded",
        }
    }
}

impl Suite {
    /// The phrase that abstains in a row's language, English where that is unknown.
    pub fn abstains(&self, language: Option<&str>) -> &str {
        let of = |language: &str| self.abstain.iter().find(|(known, _)| known == language);
        let phrase = language.and_then(of).or_else(|| of("en")).or(self.abstain.first());
        phrase.map_or("", |(_, phrase)| phrase)
    }
}

/// The one prompt of a grounded row, the same in training and in evaluation: numbered passages, a line each, an empty line, the
/// question.
pub fn grounded_prompt(passages: &[String], question: &str) -> String {
    let mut prompt = String::new();
    for (number, passage) in passages.iter().enumerate() {
        let passage = passage.split_whitespace().collect::<Vec<_>>().join(" ");
        prompt.push_str(&format!("[{}] {passage}\n", number + 1));
    }
    prompt + "\n" + question.trim()
}
