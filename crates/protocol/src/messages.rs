//! Anthropic's `POST /v1/messages` and `/v1/messages/count_tokens`. Content blocks become chat's messages here, in one
//! place, because both dialects say the same things; replies and stream events are in [`reply`].

pub mod reply;

use serde_json::Value;

pub use reply::{AnthropicUsage, Block, Delta, Event, MessageDelta, MessageReply, StartedMessage, TokenCount};

use crate::chat::tools::{self, no_parameters};
use crate::chat::{Message, ResponseFormat, Tool, ToolCall, ToolChoice};
use crate::check::{Checker, Fields, Problem, parse};
use crate::sampling::top_p;

#[derive(Clone, Debug, PartialEq)]
pub struct MessagesRequest {
    pub model: String,
    /// The system prompt is the first message, where there is one.
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: bool,
    pub response_format: ResponseFormat,
    /// 0 when counting tokens.
    pub max_tokens: u32,
    pub stop: Vec<String>,
    pub stream: bool,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
}

impl MessagesRequest {
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            let max_tokens = c.required(&mut fields, "max_tokens", |c, v| c.u32(v, 1));
            let request = Self::read(c, &mut fields);
            Some(Self { max_tokens: max_tokens?, ..request? })
        })
    }

    /// The same without `max_tokens`, for `count_tokens`.
    ///
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse_count(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            Self::read(c, &mut fields)
        })
    }

    fn read(c: &mut Checker, fields: &mut Fields) -> Option<Self> {
        let model = c.required(fields, "model", Checker::string);
        let system = c.optional(fields, "system", text_blocks);
        let turns = c.required(fields, "messages", turns);
        let tools = c.optional(fields, "tools", tools_list).unwrap_or_default();
        let (tool_choice, parallel_tool_calls) =
            c.optional(fields, "tool_choice", tool_choice).unwrap_or((ToolChoice::Auto, true));
        tools::check_choice(c, &tools, &tool_choice);
        let stop = c.optional(fields, "stop_sequences", crate::sampling::stops);
        let stream = c.optional(fields, "stream", Checker::boolean);
        let temperature = c.optional(fields, "temperature", |c, v| c.number(v, 0.0, 1.0));
        let top_p = c.optional(fields, "top_p", top_p);
        let top_k = c.optional(fields, "top_k", |c, v| c.u32(v, 0));
        let direct = c.optional(fields, "output_format", output_format);
        let nested = c.optional(fields, "output_config", |c, v| {
            let mut config = c.fields(v)?;
            c.optional(&mut config, "format", output_format)
        });
        let mut messages: Vec<Message> = system.map(|content| Message::System { content }).into_iter().collect();
        messages.extend(turns?);
        Some(Self {
            model: model?,
            messages,
            tools,
            tool_choice,
            parallel_tool_calls,
            response_format: nested.or(direct).unwrap_or_default(),
            max_tokens: 0,
            stop: stop.unwrap_or_default(),
            stream: stream.unwrap_or(false),
            temperature,
            top_p,
            top_k: top_k.filter(|k| *k > 0),
        })
    }
}

/// A turn of blocks may become several messages: each tool result is one of its own.
fn turns(c: &mut Checker, value: Value) -> Option<Vec<Message>> {
    if value.as_array().is_some_and(Vec::is_empty) {
        return c.wrong("too_short", "at least one message is required", &value);
    }
    let mut messages: Vec<Message> = c.list(value, turn)?.into_iter().flatten().collect();
    // A last assistant turn is a prefill: the answer goes on from it.
    if let Some(Message::Assistant { prefix, tool_calls, .. }) = messages.last_mut() {
        *prefix = tool_calls.is_empty();
    }
    Some(messages)
}

fn turn(c: &mut Checker, value: Value) -> Option<Vec<Message>> {
    let mut fields = c.fields(value)?;
    // `system` turns inside the list are newer than the `system` field; both mean the same.
    let role =
        c.required(&mut fields, "role", |c, v| c.word(v, &[("user", 'u'), ("assistant", 'a'), ("system", 's')]))?;
    let blocks = c.required(&mut fields, "content", |c, v| match v {
        Value::String(text) => Some(vec![Content::Text(text)]),
        Value::Array(_) => c.list(v, block),
        other => c.wrong("string_type", "Input should be a valid string or a list of content blocks", &other),
    })?;
    let mut text = String::new();
    let mut tool_calls = Vec::new();
    let mut messages = Vec::new();
    for block in blocks {
        match block {
            Content::Text(piece) => text.push_str(&piece),
            Content::Call(call) => tool_calls.push(call),
            Content::Result(result) => messages.push(result),
            Content::Ignored => {}
        }
    }
    match role {
        'a' => messages.push(Message::Assistant { content: text, tool_calls, prefix: false }),
        's' => messages.push(Message::System { content: text }),
        // Results come before the words that go with them.
        _ if messages.is_empty() || !text.is_empty() => messages.push(Message::User { content: text }),
        _ => {}
    }
    Some(messages)
}

enum Content {
    Text(String),
    Call(ToolCall),
    Result(Message),
    Ignored,
}

fn block(c: &mut Checker, value: Value) -> Option<Content> {
    let mut fields = c.fields(value)?;
    match c.required(&mut fields, "type", Checker::string)?.as_str() {
        "text" => Some(Content::Text(c.required(&mut fields, "text", Checker::string)?)),
        "thinking" | "redacted_thinking" => Some(Content::Ignored),
        "tool_use" => {
            let id = c.required(&mut fields, "id", Checker::string);
            let name = c.required(&mut fields, "name", Checker::string);
            let input = c.required(&mut fields, "input", Checker::object);
            Some(Content::Call(ToolCall { id: id?, name: name?, arguments: input?.to_string() }))
        }
        "tool_result" => {
            let id = c.required(&mut fields, "tool_use_id", Checker::string);
            let content = c.optional(&mut fields, "content", text_blocks).unwrap_or_default();
            let failed = c.optional(&mut fields, "is_error", Checker::boolean).unwrap_or(false);
            let content = if failed { format!("error: {content}") } else { content };
            Some(Content::Result(Message::Tool { content, tool_call_id: Some(id?), name: None }))
        }
        other => {
            c.field_problem("type", "value_error", unsupported_block(other));
            None
        }
    }
}

/// A string, or a list of text blocks.
fn text_blocks(c: &mut Checker, value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(_) => {
            let blocks = c.list(value, |c, v| {
                let mut fields = c.fields(v)?;
                match c.required(&mut fields, "type", Checker::string)?.as_str() {
                    "text" => c.required(&mut fields, "text", Checker::string),
                    other => {
                        c.field_problem("type", "value_error", unsupported_block(other));
                        None
                    }
                }
            })?;
            Some(blocks.join("\n"))
        }
        other => c.wrong("string_type", "Input should be a valid string or a list of text blocks", &other),
    }
}

fn unsupported_block(kind: &str) -> String {
    format!("`{kind}` blocks are not supported by this model; send `text` blocks")
}

fn tools_list(c: &mut Checker, value: Value) -> Option<Vec<Tool>> {
    let list = c.list(value, |c, v| {
        let mut fields = c.fields(v)?;
        if let Some(kind) = c.optional(&mut fields, "type", Checker::string).filter(|kind| kind != "custom") {
            c.field_problem("type", "value_error", format!("`{kind}` tools are not served here; define a custom tool"));
            return None;
        }
        let name = c.required(&mut fields, "name", tools::tool_name);
        let description = c.optional(&mut fields, "description", Checker::string);
        let parameters = c.optional(&mut fields, "input_schema", Checker::object).unwrap_or_else(no_parameters);
        let strict = c.optional(&mut fields, "strict", Checker::boolean).unwrap_or(false);
        Some(Tool { name: name?, description: description.unwrap_or_default(), parameters, strict })
    })?;
    tools::no_twins(c, &list)?;
    Some(list)
}

fn tool_choice(c: &mut Checker, value: Value) -> Option<(ToolChoice, bool)> {
    let mut fields = c.fields(value)?;
    let kinds = [("auto", 'a'), ("any", 'y'), ("tool", 't'), ("none", 'n')];
    let kind = c.required(&mut fields, "type", |c, v| c.word(v, &kinds))?;
    let serial = c.optional(&mut fields, "disable_parallel_tool_use", Checker::boolean).unwrap_or(false);
    let choice = match kind {
        'a' => ToolChoice::Auto,
        'y' => ToolChoice::Required,
        't' => ToolChoice::Named(c.required(&mut fields, "name", Checker::string)?),
        _ => ToolChoice::None,
    };
    Some((choice, !serial))
}

fn output_format(c: &mut Checker, value: Value) -> Option<ResponseFormat> {
    let mut fields = c.fields(value)?;
    c.required(&mut fields, "type", |c, v| c.word(v, &[("json_schema", ())]))?;
    Some(ResponseFormat::JsonSchema { schema: c.required(&mut fields, "schema", Checker::object)?, strict: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_messages() {
        let body = r#"{"model":"m","max_tokens":5,"system":[{"type":"text","text":"be kind","cache_control":{"type":"ephemeral"}}],
            "messages":[
              {"role":"user","content":"weather?"},
              {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"text","text":"look"},
                {"type":"tool_use","id":"toolu_1","name":"w","input":{"city":"Tunis"}}]},
              {"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"sun"}]},
                {"type":"text","text":"so?"}]},
              {"role":"assistant","content":"It is"}],
            "tools":[{"name":"w","input_schema":{"type":"object"}}],"tool_choice":{"type":"tool","name":"w"}}"#;
        let request = MessagesRequest::parse(body.as_bytes()).expect("a good request");
        assert_eq!(
            request.messages,
            [
                Message::System { content: "be kind".into() },
                Message::User { content: "weather?".into() },
                Message::Assistant {
                    content: "look".into(),
                    tool_calls: vec![ToolCall {
                        id: "toolu_1".into(),
                        name: "w".into(),
                        arguments: r#"{"city":"Tunis"}"#.into()
                    }],
                    prefix: false
                },
                Message::Tool { content: "sun".into(), tool_call_id: Some("toolu_1".into()), name: None },
                Message::User { content: "so?".into() },
                Message::Assistant { content: "It is".into(), tool_calls: Vec::new(), prefix: true },
            ]
        );
        assert_eq!(request.tool_choice, ToolChoice::Named("w".into()));
    }

    #[test]
    fn max_tokens_is_required_only_for_messages() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
        let problems = MessagesRequest::parse(body).expect_err("no max_tokens");
        assert_eq!(problems.first().map(ToString::to_string).as_deref(), Some("max_tokens: Field required"));
        assert!(MessagesRequest::parse_count(body).is_ok());
    }
}
