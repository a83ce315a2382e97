//! Tools in a chat request: definitions, the choice among them, and calls in earlier messages.

use serde_json::{Value, json};

use crate::check::{Checker, Fields};

#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// A JSON Schema object.
    pub parameters: Value,
    pub strict: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Empty where the client sent none.
    pub id: String,
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    Auto,
    None,
    /// At least one call: `required` (OpenAI) or `any` (Mistral).
    Required,
    Named(String),
    /// OpenAI's `allowed_tools`: these only, and at least one call if `required`. The others stay in the prompt.
    Allowed {
        names: Vec<String>,
        required: bool,
    },
}

pub const MOST_TOOLS: usize = 512;

pub(super) fn tools(c: &mut Checker, value: Value) -> Option<Vec<Tool>> {
    if value.as_array().is_some_and(|list| list.len() > MOST_TOOLS) {
        return c.wrong("too_long", format!("List should have at most {MOST_TOOLS} items"), &value);
    }
    let tools = c.list(value, |c, v| {
        let mut fields = c.fields(v)?;
        function_only(c, &mut fields)?;
        c.required(&mut fields, "function", |c, v| {
            let mut function = c.fields(v)?;
            Some(Tool {
                name: c.required(&mut function, "name", tool_name)?,
                description: c.optional(&mut function, "description", Checker::string).unwrap_or_default(),
                parameters: c.optional(&mut function, "parameters", Checker::object).unwrap_or_else(no_parameters),
                strict: c.optional(&mut function, "strict", Checker::boolean).unwrap_or(false),
            })
        })
    })?;
    no_twins(c, &tools)?;
    Some(tools)
}

/// What a tool without `parameters` takes: an empty object.
pub(crate) fn no_parameters() -> Value {
    json!({"type": "object", "properties": {}})
}

/// Two tools of one name could not be told apart in the answer.
pub(crate) fn no_twins(c: &mut Checker, tools: &[Tool]) -> Option<()> {
    for (index, tool) in tools.iter().enumerate() {
        if tools.iter().take(index).any(|earlier| earlier.name == tool.name) {
            c.problem("value_error", format!("two tools are called `{}`; give each its own name", tool.name), None);
            return None;
        }
    }
    Some(())
}

/// 1 to 128 letters, digits, `_`, `-` and `.`.
pub(crate) fn tool_name(c: &mut Checker, value: Value) -> Option<String> {
    let name = c.string(value)?;
    let good = (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if good {
        return Some(name);
    }
    let msg = "a tool's name has 1 to 128 letters, digits, underscores, dashes or dots";
    c.wrong("string_pattern_mismatch", msg, &Value::String(name))
}

pub(super) fn tool_choice(c: &mut Checker, value: Value) -> Option<ToolChoice> {
    const AUTO: u8 = 0;
    const NONE: u8 = 1;
    const REQUIRED: u8 = 2;
    if value.is_object() {
        let mut fields = c.fields(value)?;
        if fields.peek("type") == Some("allowed_tools") {
            return c.required(&mut fields, "allowed_tools", allowed_tools);
        }
        function_only(c, &mut fields)?;
        return c.required(&mut fields, "function", |c, v| {
            let mut function = c.fields(v)?;
            Some(ToolChoice::Named(c.required(&mut function, "name", Checker::string)?))
        });
    }
    let words = [("auto", AUTO), ("none", NONE), ("any", REQUIRED), ("required", REQUIRED)];
    Some(match c.word(value, &words)? {
        AUTO => ToolChoice::Auto,
        NONE => ToolChoice::None,
        _ => ToolChoice::Required,
    })
}

fn allowed_tools(c: &mut Checker, value: Value) -> Option<ToolChoice> {
    let mut fields = c.fields(value)?;
    let required = c.required(&mut fields, "mode", |c, v| c.word(v, &[("auto", false), ("required", true)]));
    let names = c.required(&mut fields, "tools", |c, v| {
        c.list(v, |c, v| {
            let mut tool = c.fields(v)?;
            function_only(c, &mut tool)?;
            c.required(&mut tool, "function", |c, v| {
                let mut function = c.fields(v)?;
                c.required(&mut function, "name", Checker::string)
            })
        })
    });
    Some(ToolChoice::Allowed { names: names?, required: required? })
}

/// A choice that the tools cannot meet is a mistake worth telling.
pub(crate) fn check_choice(c: &mut Checker, tools: &[Tool], choice: &ToolChoice) {
    let unknown = |name: &String| !tools.iter().any(|tool| tool.name == *name);
    match choice {
        ToolChoice::Allowed { names, .. } => {
            if let Some(name) = names.iter().find(|name| unknown(name)) {
                c.field_problem("tool_choice", "value_error", format!("`{name}` is not among the `tools`"));
            } else if names.is_empty() {
                c.field_problem(
                    "tool_choice",
                    "value_error",
                    "`allowed_tools` allows none; use `tool_choice: \"none\"`",
                );
            }
        }
        ToolChoice::Required if tools.is_empty() => {
            c.field_problem("tool_choice", "value_error", "`tool_choice` asks for a call, but there are no `tools`");
        }
        ToolChoice::Named(name) if unknown(name) => {
            c.field_problem("tool_choice", "value_error", format!("`{name}` is not among the `tools`"));
        }
        _ => {}
    }
}

pub(super) fn tool_calls(c: &mut Checker, value: Value) -> Option<Vec<ToolCall>> {
    c.list(value, |c, v| {
        let mut fields = c.fields(v)?;
        function_only(c, &mut fields)?;
        let id = c.optional(&mut fields, "id", Checker::string).filter(|id| id != "null").unwrap_or_default();
        c.required(&mut fields, "function", |c, v| {
            let mut function = c.fields(v)?;
            let name = c.required(&mut function, "name", Checker::string);
            let arguments = c.required(&mut function, "arguments", |c, v| match v {
                Value::String(text) => Some(text),
                Value::Object(_) => Some(v.to_string()),
                other => c.wrong("string_type", "Input should be JSON text or an object", &other),
            });
            Some(ToolCall { id, name: name?, arguments: arguments? })
        })
    })
}

fn function_only(c: &mut Checker, fields: &mut Fields) -> Option<()> {
    match fields.take("type") {
        None => Some(()),
        Some(Value::String(kind)) if kind == "function" => Some(()),
        Some(Value::String(kind)) => {
            c.field_problem(
                "type",
                "literal_error",
                format!("Input should be 'function'; `{kind}` tools are not served here"),
            );
            None
        }
        Some(_) => {
            c.field_problem("type", "literal_error", "Input should be 'function'");
            None
        }
    }
}
