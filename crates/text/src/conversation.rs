//! A conversation as this crate sees it: roles, text, tool calls. Wire types convert into it once, in `server`.

use serde_json::Value;

/// Messages, and the tools the model may call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    /// How much a reasoning model should think (`none`, `high`); instruct v15 and templates that read it.
    pub reasoning_effort: Option<String>,
    /// The JSON schema that the answer must fit; instruct v15 tells it to the model.
    pub response_schema: Option<Value>,
    /// Seconds since 1970 for templates that print the date; the system's clock when absent.
    pub now_s: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// The name that chat templates know.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: Vec<Part>,
    /// Assistant only.
    pub tool_calls: Vec<ToolCall>,
    /// Tool only: the call that this answers.
    pub tool_call_id: Option<String>,
    /// Tool only: the function that was called.
    pub name: Option<String>,
    /// Last assistant message only: the model goes on where its text ends, instead of opening a new turn.
    pub prefix: bool,
}

impl Message {
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![Part::Text(text.into())],
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
            prefix: false,
        }
    }

    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, text)
    }

    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, text)
    }

    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, text)
    }

    /// The answer of a tool to the call with this id.
    pub fn tool(id: impl Into<String>, name: Option<String>, text: impl Into<String>) -> Self {
        Self { tool_call_id: Some(id.into()), name, ..Self::new(Role::Tool, text) }
    }

    /// All text parts, joined; thinking left out.
    pub fn text(&self) -> String {
        self.content
            .iter()
            .filter_map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Thinking { .. } => None,
            })
            .collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    /// Reasoning of the model. `closed: false` when it was cut short.
    Thinking {
        text: String,
        closed: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Mistral v3 to v11 were trained on nine alphanumerics; other ids are mapped to such.
    pub id: String,
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// JSON schema of the arguments.
    pub parameters: Value,
    pub strict: bool,
}

/// Whether and what the model must call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    #[default]
    Auto,
    None,
    /// At least one call of any tool (`any`, `required`).
    Any,
    /// A call of this tool.
    Named(String),
}
