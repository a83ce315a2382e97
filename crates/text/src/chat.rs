//! From a conversation to a prompt: the model's own Jinja template, or one of Mistral's instruct formats. Which words
//! in a prompt are control tokens is decided here, and never by what a message says.

mod instruct;
mod jinja;
mod lesson;
mod python_json;
mod strftime;

use std::sync::Arc;

pub use instruct::InstructVersion;
pub use lesson::{Answer, Lesson};
pub(crate) use python_json::dumps as python_dumps;

use crate::grammar::check_shape;
use crate::tokenizer::Segment;
use crate::{Conversation, TextError, Tokenizer};

/// How a model expects its conversations.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    tokenizer: Arc<Tokenizer>,
    kind: Kind,
    tools: ToolSyntax,
}

#[derive(Debug, Clone)]
enum Kind {
    Jinja(Arc<jinja::Template>),
    Mistral(instruct::Instruct),
}

/// A conversation as tokens, and as text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub tokens: Vec<u32>,
    /// For logs: control tokens are written by name, so this text does not encode back to `tokens`.
    pub text: String,
}

/// How a model writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolSyntax {
    /// It was not trained to call tools.
    None,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}, "id": …}]`; Mistral v2 to v7. `start`: the token `[TOOL_CALLS]`.
    List { start: u32, ids: bool },
    /// `[TOOL_CALLS]name[ARGS]{…}`, repeated; Mistral v11 (with `[CALL_ID]id` after the name) and later.
    Named { start: u32, args: u32, call_id: Option<u32> },
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, repeated (Hermes, Qwen).
    Hermes,
    /// The whole answer is `{"name": …, "parameters": {…}}` (Llama 3.1). `start`: the token `<|python_tag|>`.
    Llama { start: Option<u32> },
}

impl ChatFormat {
    /// The model's own template, as Hugging Face renders it. Fuel, output size and recursion are bounded: a template
    /// is foreign code.
    pub fn jinja(template: &str, tokenizer: &Arc<Tokenizer>) -> Result<Self, TextError> {
        let tools = syntax_of_template(template, tokenizer);
        let template = jinja::Template::new(template, tokenizer)?;
        Ok(Self { tokenizer: tokenizer.clone(), kind: Kind::Jinja(Arc::new(template)), tools })
    }

    /// One of Mistral's instruct formats, token by token as `mistral-common` makes it.
    pub fn mistral(version: InstructVersion, tokenizer: &Arc<Tokenizer>) -> Result<Self, TextError> {
        let instruct = instruct::Instruct::new(version, tokenizer)?;
        let tools = instruct.tool_syntax();
        Ok(Self { tokenizer: tokenizer.clone(), kind: Kind::Mistral(instruct), tools })
    }

    /// The prompt after which the model writes the next assistant message, or goes on with the last one when that is
    /// an assistant's with `prefix`.
    pub fn render(&self, conversation: &Conversation) -> Result<Prompt, TextError> {
        for schema in conversation.tools.iter().map(|tool| &tool.parameters).chain(&conversation.response_schema) {
            check_shape(schema)?;
        }
        let segments = match &self.kind {
            Kind::Jinja(template) => template.render(conversation, true)?,
            Kind::Mistral(instruct) => instruct.render(conversation)?,
        };
        let mut text = String::new();
        for segment in &segments {
            match segment {
                Segment::Text(part) => text.push_str(part),
                Segment::Control(token) => {
                    text.push_str(&String::from_utf8_lossy(self.tokenizer.token_bytes(*token)));
                }
            }
        }
        Ok(Prompt { tokens: self.tokenizer.encode_segments(&segments), text })
    }

    /// Fill in the middle: the prompt after which the model writes what belongs between the two. `None` when the
    /// vocabulary has no tokens for it.
    pub fn fim(&self, prefix: &str, suffix: &str) -> Option<Vec<u32>> {
        let mark = match &self.kind {
            Kind::Mistral(instruct) if !instruct.has_fim() => return None,
            Kind::Mistral(_) => true,
            Kind::Jinja(_) => self.tokenizer.drops_first_space(),
        };
        instruct::fim(&self.tokenizer, prefix, suffix, mark)
    }

    pub fn tool_syntax(&self) -> ToolSyntax {
        self.tools
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }
}

/// Reads off the template, and the vocabulary, how the model writes calls.
fn syntax_of_template(template: &str, tokenizer: &Tokenizer) -> ToolSyntax {
    if !template.contains("tool") {
        return ToolSyntax::None;
    }
    if let Some(start) = tokenizer.named_token("[TOOL_CALLS]").filter(|_| template.contains("[TOOL_CALLS]")) {
        if let Some(args) = tokenizer.named_token("[ARGS]").filter(|_| template.contains("[ARGS]")) {
            let call_id = tokenizer.named_token("[CALL_ID]").filter(|_| template.contains("[CALL_ID]"));
            return ToolSyntax::Named { start, args, call_id };
        }
        let ids = template.contains("\"id\"") || template.contains(".id");
        return ToolSyntax::List { start, ids };
    }
    if template.contains("<tool_call>") {
        return ToolSyntax::Hermes;
    }
    let llama = template.contains("<|start_header_id|>") && template.contains("parameters");
    if llama {
        return ToolSyntax::Llama { start: tokenizer.named_token("<|python_tag|>") };
    }
    ToolSyntax::None
}
