//! `POST /v1/chat/completions`: the request, as the superset of Mistral's and OpenAI's. Replies are in [`reply`].

pub mod reply;
pub(crate) mod tools;

use serde_json::Value;

pub use reply::{
    Call, ChatChoice, ChatChunk, ChatCompletion, ChatMessage, ChunkChoice, ChunkDelta, Logprobs, Named, TokenLogprob,
    TopLogprob,
};
pub use tools::{Tool, ToolCall, ToolChoice};

use crate::check::{Checker, Problem, parse};
use crate::sampling::Options;

#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    pub model: String,
    /// At least one.
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: bool,
    pub response_format: ResponseFormat,
    /// `Some(k)`: report log-probabilities with the k most likely alternatives, k <= 20.
    pub logprobs: Option<u8>,
    /// `none`, `low`, `medium`, `high`…: for models that think; others ignore it.
    pub reasoning_effort: Option<String>,
    pub options: Options,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// `system` or `developer`.
    System {
        content: String,
    },
    User {
        content: String,
    },
    Assistant {
        content: String,
        tool_calls: Vec<ToolCall>,
        prefix: bool,
    },
    Tool {
        content: String,
        tool_call_id: Option<String>,
        name: Option<String>,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    #[default]
    Text,
    JsonObject,
    /// `strict`: a keyword that cannot be enforced is an error, not left out.
    JsonSchema {
        schema: Value,
        strict: bool,
    },
    /// An extension: the whole answer matches this regular expression.
    Regex(String),
    /// An extension: a context-free grammar in llguidance's Lark dialect.
    Lark(String),
}

impl ChatRequest {
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Problem>> {
        parse(body, |c, value| {
            let mut fields = c.fields(value)?;
            let model = c.required(&mut fields, "model", Checker::string);
            let messages = c.required(&mut fields, "messages", messages);
            let tools = c.optional(&mut fields, "tools", tools::tools).unwrap_or_default();
            let choice = c.optional(&mut fields, "tool_choice", tools::tool_choice).unwrap_or(ToolChoice::Auto);
            tools::check_choice(c, &tools, &choice);
            let parallel_tool_calls = c.optional(&mut fields, "parallel_tool_calls", Checker::boolean).unwrap_or(true);
            let response_format = c.optional(&mut fields, "response_format", response_format).unwrap_or_default();
            let logprobs = c.optional(&mut fields, "logprobs", Checker::boolean);
            let top_logprobs = c.optional(&mut fields, "top_logprobs", |c, v| c.integer(v, 0, 20));
            if top_logprobs.is_some_and(|top| top > 0) && logprobs != Some(true) {
                c.field_problem("top_logprobs", "value_error", "`top_logprobs` needs `logprobs: true`");
            }
            let reasoning_effort = c.optional(&mut fields, "reasoning_effort", Checker::string);
            let options = Options::read(c, &mut fields);
            Some(Self {
                model: model?,
                messages: messages?,
                tools,
                tool_choice: choice,
                parallel_tool_calls,
                response_format,
                logprobs: (logprobs == Some(true))
                    .then(|| top_logprobs.and_then(|top| u8::try_from(top).ok()).unwrap_or(0)),
                reasoning_effort,
                options,
            })
        })
    }
}

fn messages(c: &mut Checker, value: Value) -> Option<Vec<Message>> {
    if value.as_array().is_some_and(Vec::is_empty) {
        return c.wrong("too_short", "List should have at least 1 item after validation, not 0", &value);
    }
    let last = value.as_array().map_or(0, Vec::len).saturating_sub(1);
    let list = c.list(value, message)?;
    for message in list.iter().take(last) {
        if matches!(message, Message::Assistant { prefix: true, .. }) {
            c.problem("value_error", "only the last message may have `prefix: true`", None);
            return None;
        }
    }
    Some(list)
}

fn message(c: &mut Checker, value: Value) -> Option<Message> {
    #[derive(Clone, Copy)]
    enum Role {
        System,
        User,
        Assistant,
        Tool,
    }
    const ROLES: [(&str, Role); 5] = [
        ("system", Role::System),
        ("developer", Role::System),
        ("user", Role::User),
        ("assistant", Role::Assistant),
        ("tool", Role::Tool),
    ];
    let mut fields = c.fields(value)?;
    match c.required(&mut fields, "role", |c, v| c.word(v, &ROLES))? {
        Role::System => Some(Message::System { content: c.required(&mut fields, "content", content)? }),
        Role::User => Some(Message::User { content: c.required(&mut fields, "content", content)? }),
        Role::Assistant => {
            let text = c.optional(&mut fields, "content", content);
            let refusal = c.optional(&mut fields, "refusal", Checker::string);
            let tool_calls = c.optional(&mut fields, "tool_calls", tools::tool_calls).unwrap_or_default();
            let prefix = c.optional(&mut fields, "prefix", Checker::boolean).unwrap_or(false);
            let text = text.or(refusal);
            if text.is_none() && tool_calls.is_empty() && !fields.has("content") {
                c.problem("value_error", "an assistant message needs `content` or `tool_calls`", None);
                return None;
            }
            Some(Message::Assistant { content: text.unwrap_or_default(), tool_calls, prefix })
        }
        Role::Tool => Some(Message::Tool {
            content: c.optional(&mut fields, "content", content).unwrap_or_default(),
            tool_call_id: c.optional(&mut fields, "tool_call_id", Checker::string),
            name: c.optional(&mut fields, "name", Checker::string),
        }),
    }
}

/// A string, or parts. Only text goes into the model; an earlier answer's `thinking` is dropped, as chat templates do.
fn content(c: &mut Checker, value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(_) => Some(c.list(value, part)?.concat()),
        other => c.wrong("string_type", "Input should be a valid string or a list of content parts", &other),
    }
}

fn part(c: &mut Checker, value: Value) -> Option<String> {
    if let Value::String(text) = value {
        return Some(text);
    }
    let mut fields = c.fields(value)?;
    match fields.peek("type").map(str::to_owned).as_deref() {
        Some("text") | None => c.required(&mut fields, "text", Checker::string),
        Some("refusal") => c.required(&mut fields, "refusal", Checker::string),
        Some("thinking") => Some(String::new()),
        Some(other) => {
            c.field_problem(
                "type",
                "value_error",
                format!("`{other}` parts are not supported by this model; send `text` parts"),
            );
            None
        }
    }
}

fn response_format(c: &mut Checker, value: Value) -> Option<ResponseFormat> {
    #[derive(Clone, Copy)]
    enum Kind {
        Text,
        JsonObject,
        JsonSchema,
        Regex,
        Lark,
    }
    const KINDS: [(&str, Kind); 6] = [
        ("text", Kind::Text),
        ("json_object", Kind::JsonObject),
        ("json_schema", Kind::JsonSchema),
        ("regex", Kind::Regex),
        ("lark", Kind::Lark),
        ("grammar", Kind::Lark),
    ];
    let mut fields = c.fields(value)?;
    let kind = if fields.has("type") { c.required(&mut fields, "type", |c, v| c.word(v, &KINDS))? } else { Kind::Text };
    match kind {
        Kind::Text => Some(ResponseFormat::Text),
        Kind::JsonObject => Some(ResponseFormat::JsonObject),
        Kind::JsonSchema => c.required(&mut fields, "json_schema", |c, v| {
            let mut schema = c.fields(v)?;
            c.optional(&mut schema, "name", Checker::string);
            let strict = c.optional(&mut schema, "strict", Checker::boolean).unwrap_or(false);
            // Mistral's first Python clients wrote the attribute's name on the wire.
            let name =
                if !schema.has("schema") && schema.has("schema_definition") { "schema_definition" } else { "schema" };
            Some(ResponseFormat::JsonSchema { schema: c.required(&mut schema, name, Checker::object)?, strict })
        }),
        Kind::Regex => Some(ResponseFormat::Regex(c.required(&mut fields, "regex", Checker::string)?)),
        Kind::Lark => {
            let name = if fields.has("grammar") { "grammar" } else { "lark" };
            Some(ResponseFormat::Lark(c.required(&mut fields, name, Checker::string)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(body: &str) -> String {
        let problems = ChatRequest::parse(body.as_bytes()).expect_err("the body is wrong");
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_client_that_sends_every_null_is_understood() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi","name":null}],"temperature":null,"top_p":1,
            "max_tokens":null,"stream":false,"stop":null,"random_seed":null,"response_format":null,"tools":null,
            "tool_choice":null,"presence_penalty":null,"n":null,"prediction":null,"parallel_tool_calls":null,
            "prompt_mode":null,"guardrails":null,"safe_prompt":false,"metadata":{"a":1},"service_tier":"auto"}"#;
        let request = ChatRequest::parse(body.as_bytes()).expect("a good request");
        assert_eq!(request.messages, [Message::User { content: "hi".to_owned() }]);
        assert_eq!(request.tool_choice, ToolChoice::Auto);
        assert_eq!(request.options.n, 1);
    }

    #[test]
    fn parts_join_and_pictures_are_refused() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#;
        let request = ChatRequest::parse(body.as_bytes()).expect("a good request");
        assert_eq!(request.messages, [Message::User { content: "ab".to_owned() }]);
        let body = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":"x"}]}]}"#;
        assert_eq!(
            wrong(body),
            "messages[0].content[0].type: `image_url` parts are not supported by this model; send `text` parts"
        );
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(wrong("{}"), "model: Field required\nmessages: Field required");
        assert_eq!(
            wrong(r#"{"model":1,"messages":[{"role":"robot","content":"x"}],"temperature":3,"stop":[""]}"#),
            "model: Input should be a valid string\n\
             messages[0].role: Input should be 'system', 'developer', 'user', 'assistant' or 'tool'\n\
             temperature: Input should be less than or equal to 2\n\
             stop: a stop string should have at least 1 character"
        );
        assert_eq!(
            wrong(r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tool_choice":"any"}"#),
            "tool_choice: `tool_choice` asks for a call, but there are no `tools`"
        );
    }

    #[test]
    fn tool_choices() {
        let tools = r#""tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#;
        for (sent, meant) in [
            (r#""auto""#, ToolChoice::Auto),
            (r#""none""#, ToolChoice::None),
            (r#""any""#, ToolChoice::Required),
            (r#""required""#, ToolChoice::Required),
            (r#"{"type":"function","function":{"name":"f"}}"#, ToolChoice::Named("f".to_owned())),
            (r#"{"function":{"name":"f"}}"#, ToolChoice::Named("f".to_owned())),
        ] {
            let body =
                format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{tools},"tool_choice":{sent}}}"#);
            assert_eq!(ChatRequest::parse(body.as_bytes()).expect("a good request").tool_choice, meant);
        }
    }
}
