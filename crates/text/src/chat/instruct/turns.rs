//! The first step of an instruct format: neighbouring messages of one role become one turn, and tool results follow
//! the order of their calls. Source: mistral-common, `InstructRequestNormalizer` and its versions.

use serde_json::Value;

use super::{InstructVersion, conversation_error, python_dumps};
use crate::{Message, Part, Role, TextError, ToolCall};

/// One turn, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Turn {
    System(Vec<Part>),
    User(String),
    Assistant { content: Content, calls: Vec<ToolCall>, prefix: bool },
    Tool { id: Option<String>, name: Option<String>, content: String },
}

/// Text alone is written as one piece and trimmed; text beside thinking is written part by part.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// The turns of a conversation, and the system prompt where the version keeps it apart.
pub(super) fn turns(messages: &[Message], version: InstructVersion) -> Result<(Vec<Turn>, Option<String>), TextError> {
    check(messages)?;
    let mut turns = Vec::new();
    let mut call_order: Vec<String> = Vec::new();
    for run in messages.chunk_by(|a, b| a.role == b.role) {
        match run.first().map(|message| message.role) {
            Some(Role::System) if version >= InstructVersion::V7 => {
                for message in run {
                    turns.push(Turn::System(as_parts(join(&[message], version))));
                }
            }
            Some(Role::User) => match join(&run.iter().collect::<Vec<_>>(), version) {
                Content::Text(text) => turns.push(Turn::User(text)),
                Content::Parts(_) => return Err(conversation_error("a user message holds text only")),
            },
            Some(Role::Assistant) => {
                let turn = assistant(run, version)?;
                if let Turn::Assistant { calls, .. } = &turn {
                    call_order = calls.iter().map(|call| call.id.clone()).collect();
                }
                turns.push(turn);
            }
            Some(Role::Tool) => {
                let mut results = run.iter().map(|message| result(message, version)).collect::<Result<Vec<_>, _>>()?;
                if version >= InstructVersion::V11 {
                    results.sort_by_key(|(id, _)| {
                        call_order.iter().position(|call| Some(call) == id.as_ref()).unwrap_or(usize::MAX)
                    });
                }
                turns.extend(results.into_iter().map(|(_, turn)| turn));
                call_order.clear();
            }
            _ => {}
        }
    }
    let apart = version < InstructVersion::V7;
    if turns.is_empty() || (apart && !matches!(turns.first(), Some(Turn::User(_)))) {
        turns.insert(0, Turn::User(String::new()));
    }
    Ok((turns, if apart { system_prompt(messages, version)? } else { None }))
}

/// What every version demands of a conversation.
fn check(messages: &[Message]) -> Result<(), TextError> {
    if messages.is_empty() {
        return Err(conversation_error("it has no messages"));
    }
    let last = messages.len() - 1;
    if messages.iter().take(last).any(|message| message.prefix) {
        return Err(conversation_error("only the last message can be a `prefix`"));
    }
    Ok(())
}

fn system_prompt(messages: &[Message], version: InstructVersion) -> Result<Option<String>, TextError> {
    let mut prompts = Vec::new();
    for message in messages.iter().filter(|message| message.role == Role::System) {
        match join(&[message], version) {
            Content::Text(text) if text.is_empty() => {}
            Content::Text(text) => prompts.push(text),
            Content::Parts(_) => return Err(conversation_error("this model's system prompt holds text only")),
        }
    }
    Ok((!prompts.is_empty()).then(|| prompts.join(BETWEEN)))
}

fn assistant(run: &[Message], version: InstructVersion) -> Result<Turn, TextError> {
    for message in run {
        if version < InstructVersion::V7 && !message.tool_calls.is_empty() && !message.text().is_empty() {
            let reason = "this model's assistant messages hold either text or tool calls, not both";
            return Err(conversation_error(reason));
        }
    }
    let calls = run.iter().flat_map(|message| &message.tool_calls).map(|call| ToolCall {
        id: call.id.clone(),
        name: call.name.clone(),
        arguments: normalized_json(&call.arguments),
    });
    Ok(Turn::Assistant {
        content: join(&run.iter().collect::<Vec<_>>(), version),
        calls: calls.collect(),
        prefix: run.iter().any(|message| message.prefix),
    })
}

fn result(message: &Message, version: InstructVersion) -> Result<(Option<String>, Turn), TextError> {
    let Content::Text(text) = join(&[message], version) else {
        return Err(conversation_error("a tool message holds text only"));
    };
    let content = if version < InstructVersion::V7 { normalized_json(&text) } else { text };
    let id = message.tool_call_id.clone();
    Ok((id.clone(), Turn::Tool { id, name: message.name.clone(), content }))
}

/// The contents of a run of messages as one.
fn join(messages: &[&Message], version: InstructVersion) -> Content {
    let within = if version >= InstructVersion::V15 { "" } else { BETWEEN };
    let mut parts = Vec::new();
    let mut text = String::new();
    for message in messages {
        let mut new_message = !text.is_empty();
        for part in &message.content {
            match part {
                Part::Text(piece) if piece.is_empty() => {}
                Part::Text(piece) => {
                    if !text.is_empty() {
                        text.push_str(if new_message { BETWEEN } else { within });
                    }
                    text.push_str(piece);
                    new_message = false;
                }
                Part::Thinking { .. } => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(part.clone());
                }
            }
        }
    }
    if parts.is_empty() {
        return Content::Text(text);
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Content::Parts(parts)
}

fn as_parts(content: Content) -> Vec<Part> {
    match content {
        Content::Text(text) => vec![Part::Text(text)],
        Content::Parts(parts) => parts,
    }
}

/// JSON as Python writes it; `{}` for nothing; text that is no JSON as it is.
fn normalized_json(text: &str) -> String {
    if text.is_empty() {
        return "{}".to_owned();
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => python_dumps(&value, None, false),
        Err(_) => text.to_owned(),
    }
}

/// What stands between the texts of joined messages.
const BETWEEN: &str = "\n\n";
