//! Why a line cannot be learnt from, as data: the command line says it in its reader's language.

use super::Format;

/// A line that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// From 1; where the row begins, in a file that is one JSON list.
    pub line: u64,
    pub reason: Reason,
}

/// `field` is a path in the row, such as `messages[2].content`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    #[error("it is not UTF-8, from byte {byte} on")]
    NotUtf8 { byte: usize },
    #[error("it is longer than {most_bytes} bytes; split the text over several lines")]
    TooLong { most_bytes: usize },
    #[error("it is not JSON: {detail}")]
    NotJson { detail: String },
    #[error("it is not a JSON object")]
    NotObject,
    #[error(
        "its keys {keys} are of no known format; use `messages`, `text`, `prompt` and `completion`, `instruction` and `output`, `conversations`, or `chosen` and `rejected`"
    )]
    UnknownFormat { keys: String },
    #[error("it is {found}, but the file is {expected}; keep one format to a file")]
    OtherFormat { found: Format, expected: Format },
    #[error("`{field}` is missing")]
    Missing { field: String },
    #[error("`{field}` must be {expected}")]
    WrongType { field: String, expected: &'static str },
    #[error("`{field}` is empty")]
    Empty { field: String },
    #[error("`{field}` is `{found}`, which is no role; use {known}")]
    UnknownRole { field: String, found: String, known: &'static str },
    #[error("`{field}` is a part of type `{found}`; only text can be learnt")]
    UnknownPart { field: String, found: String },
    #[error("`{field}` must be 0 or 1, or a number between")]
    BadWeight { field: String },
    #[error("`{field}` stands on a message that is not the assistant's; only answers have a weight")]
    MisplacedWeight { field: String },
    #[error("the last message is the {role}'s; end with an answer of the assistant")]
    EndsWithoutAnswer { role: &'static str },
    #[error("`{field}` is not the JSON text of an object")]
    BadArguments { field: String },
    #[error("`{field}` calls `{name}`, which is not among the `tools`")]
    UnknownTool { field: String, name: String },
    #[error("`{field}` defines `{name}` a second time")]
    SameTool { field: String, name: String },
    #[error("`{field}` answers no call; a tool's message follows the call whose id it names")]
    AnswersNoCall { field: String },
    #[error("the calls of `{field}` are not all answered before the next message")]
    UnansweredCalls { field: String },
    #[error("the two answers are the same; there is nothing to prefer")]
    SameAnswers,
    #[error("there is nothing to learn: no answer has a weight above 0")]
    NothingToLearn,
    #[error("the model cannot take it: {detail}")]
    NotRendered { detail: String },
}
