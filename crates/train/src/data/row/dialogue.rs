//! Conversations with their weights: the chat and function-calling rows of OpenAI and Mistral, and ShareGPT's.

use falaj_text::{Conversation, Message, Part, Role, Tool, ToolCall};
use serde_json::{Map, Value, json};

use super::fields::{Fields, short, wrong};
use crate::data::Reason;

/// A conversation, and how much each of its messages counts. Only the assistant's do.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialogue {
    pub conversation: Conversation,
    /// One per message.
    pub weights: Vec<f32>,
}

/// `messages` (Mistral's first trainer also read `interactions`), `tools`; OpenAI's older `functions`.
pub fn chat(fields: &mut Fields) -> Result<Dialogue, Reason> {
    let key = if fields.has("messages") { "messages" } else { "interactions" };
    let tools = tools(fields)?;
    let mut dialogue = messages(fields, key)?;
    dialogue.conversation.tools = tools;
    dialogue.checked(key)
}

/// The messages of `prompt` count nothing, those of `answer` as they say.
pub fn prompt_and_answer(fields: &mut Fields, prompt: &str, answer: &str) -> Result<Dialogue, Reason> {
    let tools = tools(fields)?;
    let mut dialogue = messages_or_text(fields, prompt, Role::User)?;
    dialogue.weights.fill(0.0);
    let answer_part = messages_or_text(fields, answer, Role::Assistant)?;
    dialogue.weights.extend(answer_part.weights);
    dialogue.conversation.messages.extend(answer_part.conversation.messages);
    dialogue.conversation.tools = tools;
    dialogue.checked(answer)
}

/// A list of messages, or a text that is one message of `role`; nothing where it is absent and the user's.
pub fn messages_or_text(fields: &mut Fields, key: &str, role: Role) -> Result<Dialogue, Reason> {
    if fields.is_list(key) {
        return messages(fields, key);
    }
    if role == Role::User && !fields.has(key) {
        return Ok(Dialogue { conversation: Conversation::default(), weights: Vec::new() });
    }
    let text = fields.filled_text(key)?;
    let weights = vec![if role == Role::Assistant { 1.0 } else { 0.0 }];
    let conversation = Conversation { messages: vec![Message::new(role, text)], ..Conversation::default() };
    Ok(Dialogue { conversation, weights })
}

pub fn messages(fields: &mut Fields, key: &str) -> Result<Dialogue, Reason> {
    let path = fields.path(key);
    let list = fields.list(key)?;
    if list.is_empty() {
        return Err(Reason::Empty { field: path });
    }
    let (mut messages, mut weights) = (Vec::with_capacity(list.len()), Vec::with_capacity(list.len()));
    for (at, value) in list.into_iter().enumerate() {
        let (message, weight) = message(Fields::of(&format!("{path}[{at}]"), value)?)?;
        messages.push(message);
        weights.push(weight);
    }
    Ok(Dialogue { conversation: Conversation { messages, ..Conversation::default() }, weights })
}

impl Dialogue {
    /// What holds between messages. `key`: the list that the reader is told about.
    pub fn checked(self, key: &str) -> Result<Self, Reason> {
        let messages = &self.conversation.messages;
        let offered = &self.conversation.tools;
        // Ids of calls that wait for their result.
        let mut open: Vec<&str> = Vec::new();
        let mut caller = 0;
        for (at, message) in messages.iter().enumerate() {
            if message.role == Role::Tool {
                let id = message.tool_call_id.as_deref();
                let place = match id {
                    Some(id) => open.iter().position(|call| *call == id || call.is_empty()),
                    None => open.iter().position(|call| call.is_empty()).or((open.len() == 1).then_some(0)),
                };
                match place {
                    Some(place) => drop(open.remove(place)),
                    None => return Err(Reason::AnswersNoCall { field: format!("{key}[{at}]") }),
                }
                continue;
            }
            if !open.is_empty() {
                return Err(Reason::UnansweredCalls { field: format!("{key}[{caller}]") });
            }
            for (number, call) in message.tool_calls.iter().enumerate() {
                if !offered.is_empty() && !offered.iter().any(|tool| tool.name == call.name) {
                    let field = format!("{key}[{at}].tool_calls[{number}]");
                    return Err(Reason::UnknownTool { field, name: short(&call.name) });
                }
                open.push(&call.id);
            }
            caller = at;
        }
        match messages.last().map(|message| message.role) {
            Some(Role::Assistant) => Ok(self),
            Some(role) => Err(Reason::EndsWithoutAnswer { role: role.as_str() }),
            None => Err(Reason::Empty { field: key.to_owned() }),
        }
    }
}

/// A message and its weight.
fn message(mut fields: Fields) -> Result<(Message, f32), Reason> {
    let role = fields.text("role")?;
    let role = match role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        _ => {
            let known = "`system`, `developer`, `user`, `assistant` or `tool`";
            return Err(Reason::UnknownRole { field: fields.path("role"), found: short(&role), known });
        }
    };
    let weight = weight(&mut fields, role)?;
    let key = if fields.has("content") || !fields.has("text") { "content" } else { "text" };
    let path = fields.path(key);
    let mut content = match fields.take(key) {
        Some(value) => parts(&path, value)?,
        None => Vec::new(),
    };
    // What a model says when it declines has a place of its own in OpenAI's messages.
    if content.is_empty()
        && let Some(refusal) = fields.optional_text("refusal")?
    {
        content.push(Part::Text(refusal));
    }
    let mut tool_calls = Vec::new();
    if role == Role::Assistant {
        for (at, value) in fields.optional_list("tool_calls")?.into_iter().flatten().enumerate() {
            tool_calls.push(call(Fields::of(&fields.path(&format!("tool_calls[{at}]")), value)?)?);
        }
        if let Some(value) = fields.take("function_call") {
            tool_calls.push(function(Fields::of(&fields.path("function_call"), value)?, String::new())?);
        }
    }
    let says = content.iter().any(|part| matches!(part, Part::Text(text) if !text.trim().is_empty()));
    if !says && tool_calls.is_empty() && matches!(role, Role::User | Role::Assistant) {
        return Err(Reason::Empty { field: path });
    }
    let message = Message {
        role,
        content,
        tool_calls,
        tool_call_id: fields.optional_text("tool_call_id")?,
        name: fields.optional_text("name")?,
        prefix: false,
    };
    Ok((message, weight))
}

/// OpenAI and Mistral say 0 or 1; what is between counts in proportion.
fn weight(fields: &mut Fields, role: Role) -> Result<f32, Reason> {
    let field = fields.path("weight");
    match fields.take("weight") {
        None if role == Role::Assistant => Ok(1.0),
        None => Ok(0.0),
        Some(_) if role != Role::Assistant => Err(Reason::MisplacedWeight { field }),
        Some(value) => match value.as_f64() {
            Some(weight) if (0.0..=1.0).contains(&weight) => Ok(weight as f32),
            _ => Err(Reason::BadWeight { field }),
        },
    }
}

/// A text, or parts of text and thought.
fn parts(path: &str, value: Value) -> Result<Vec<Part>, Reason> {
    let list = match value {
        Value::String(text) => return Ok(vec![Part::Text(text)]),
        Value::Array(list) => list,
        _ => return Err(wrong(path, "text, or a list of parts")),
    };
    let mut parts = Vec::with_capacity(list.len());
    for (at, value) in list.into_iter().enumerate() {
        let path = format!("{path}[{at}]");
        if let Value::String(text) = value {
            parts.push(Part::Text(text));
            continue;
        }
        let mut fields = Fields::of(&path, value)?;
        let kind = fields.optional_text("type")?;
        parts.push(match kind.as_deref() {
            None | Some("text") => Part::Text(fields.text("text")?),
            Some("refusal") => Part::Text(fields.text("refusal")?),
            Some("thinking") => {
                let path = fields.path("thinking");
                let inner = fields.take("thinking").ok_or_else(|| Reason::Missing { field: path.clone() })?;
                Part::Thinking { text: thought(&path, inner)?, closed: true }
            }
            Some(other) => return Err(Reason::UnknownPart { field: path, found: short(other) }),
        });
    }
    Ok(parts)
}

/// The text of a thought, which Mistral writes as parts of its own.
fn thought(path: &str, value: Value) -> Result<String, Reason> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(list) => {
            let texts = list.into_iter().enumerate().map(|(at, value)| match value {
                Value::String(text) => Ok(text),
                value => Fields::of(&format!("{path}[{at}]"), value)?.text("text"),
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.concat())
        }
        _ => Err(wrong(path, "text, or a list of parts")),
    }
}

fn call(mut fields: Fields) -> Result<ToolCall, Reason> {
    function_only(&mut fields)?;
    let id = fields.optional_text("id")?.filter(|id| id != "null").unwrap_or_default();
    function(fields.object("function")?, id)
}

fn function(mut fields: Fields, id: String) -> Result<ToolCall, Reason> {
    let name = fields.filled_text("name")?;
    let field = fields.path("arguments");
    let arguments = match fields.take("arguments") {
        None => return Err(Reason::Missing { field }),
        // No arguments at all are written as an empty text by some.
        Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
        Some(Value::String(text)) => match serde_json::from_str::<Map<String, Value>>(&text) {
            Ok(_) => text,
            Err(_) => return Err(Reason::BadArguments { field }),
        },
        Some(value @ Value::Object(_)) => value.to_string(),
        Some(_) => return Err(Reason::BadArguments { field }),
    };
    Ok(ToolCall { id, name, arguments })
}

fn function_only(fields: &mut Fields) -> Result<(), Reason> {
    match fields.optional_text("type")?.as_deref() {
        None | Some("function") => Ok(()),
        Some(_) => Err(wrong(&fields.path("type"), "`function`")),
    }
}

pub fn tools(fields: &mut Fields) -> Result<Vec<Tool>, Reason> {
    let mut tools: Vec<Tool> = Vec::new();
    for key in ["tools", "available_tools", "functions"] {
        let path = fields.path(key);
        // LLaMA-Factory keeps the list as JSON text.
        let list = match fields.take(key) {
            None => continue,
            Some(Value::Array(list)) => list,
            Some(Value::String(text)) if text.trim().is_empty() => continue,
            Some(Value::String(text)) => serde_json::from_str(&text).map_err(|_| wrong(&path, "a list"))?,
            Some(_) => return Err(wrong(&path, "a list")),
        };
        for (at, value) in list.into_iter().enumerate() {
            let mut tool = Fields::of(&format!("{path}[{at}]"), value)?;
            function_only(&mut tool)?;
            let mut function = if tool.has("function") { tool.object("function")? } else { tool };
            let name = function.filled_text("name")?;
            if tools.iter().any(|other| other.name == name) {
                return Err(Reason::SameTool { field: function.path("name"), name: short(&name) });
            }
            let parameters = match function.take("parameters") {
                None => json!({"type": "object", "properties": {}}),
                Some(value @ Value::Object(_)) => value,
                Some(_) => return Err(wrong(&function.path("parameters"), "an object")),
            };
            let description = function.optional_text("description")?.unwrap_or_default();
            tools.push(Tool { name, description, parameters, strict: false });
        }
    }
    Ok(tools)
}

/// `conversations`: a list of `from` and `value`; `system` and `tools` beside it, as LLaMA-Factory has them.
pub fn share_gpt(fields: &mut Fields) -> Result<Dialogue, Reason> {
    let tools = tools(fields)?;
    let (mut messages, mut weights) = (Vec::new(), Vec::new());
    if let Some(system) = fields.optional_text("system")?.filter(|text| !text.trim().is_empty()) {
        messages.push(Message::system(system));
        weights.push(0.0);
    }
    let before = messages.len();
    for (at, value) in fields.list("conversations")?.into_iter().enumerate() {
        let mut fields = Fields::of(&format!("conversations[{at}]"), value)?;
        if fields.has("role") && !fields.has("from") {
            let (message, weight) = message(fields)?;
            messages.push(message);
            weights.push(weight);
            continue;
        }
        let from = fields.text("from")?;
        let role = match from.as_str() {
            "system" => Role::System,
            "human" | "user" => Role::User,
            "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "bot" | "model" | "function_call" => Role::Assistant,
            "tool" | "function" | "observation" | "function_response" => Role::Tool,
            _ => {
                let known = "`system`, `human`, `gpt`, `function_call` or `observation`";
                return Err(Reason::UnknownRole { field: fields.path("from"), found: short(&from), known });
            }
        };
        weights.push(weight(&mut fields, role)?);
        let path = fields.path("value");
        let value = fields.filled_text("value")?;
        messages.push(if from == "function_call" {
            Message { content: Vec::new(), tool_calls: calls_in(&path, &value)?, ..Message::assistant("") }
        } else {
            Message::new(role, value)
        });
    }
    if messages.len() == before {
        return Err(Reason::Empty { field: "conversations".to_owned() });
    }
    let conversation = Conversation { messages, tools, ..Conversation::default() };
    let dialogue = Dialogue { conversation, weights };
    // Positions are told in the file's own list.
    dialogue.checked("conversations").map_err(|reason| if before > 0 { shifted(reason) } else { reason })
}

/// One call, or a list of them, as JSON text.
fn calls_in(path: &str, text: &str) -> Result<Vec<ToolCall>, Reason> {
    let bad = || Reason::BadArguments { field: path.to_owned() };
    let list = match serde_json::from_str(text).map_err(|_| bad())? {
        Value::Array(list) if !list.is_empty() => list,
        value @ Value::Object(_) => vec![value],
        _ => return Err(bad()),
    };
    list.into_iter().map(|value| function(Fields::of(path, value)?, String::new())).collect()
}

/// A system prompt that stands beside the list is its message 0 here.
fn shifted(reason: Reason) -> Reason {
    let shift = |field: String| {
        let number = field.split(['[', ']']).nth(1).and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
        field.replacen(&format!("[{number}]"), &format!("[{}]", number.saturating_sub(1)), 1)
    };
    match reason {
        Reason::AnswersNoCall { field } => Reason::AnswersNoCall { field: shift(field) },
        Reason::UnansweredCalls { field } => Reason::UnansweredCalls { field: shift(field) },
        Reason::UnknownTool { field, name } => Reason::UnknownTool { field: shift(field), name },
        other => other,
    }
}
