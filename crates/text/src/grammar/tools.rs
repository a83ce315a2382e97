//! Tool calls as a grammar: the model's own syntax around arguments that fit the tool's schema.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{check_shape, spaced};
use crate::{ChatFormat, TextError, Tool, ToolChoice, ToolSyntax};

/// The Lark grammar, or `None` when nothing is to be restricted.
pub(super) fn grammar(
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    format: &ChatFormat,
) -> Result<Option<String>, TextError> {
    let allowed: Vec<&Tool> = match choice {
        ToolChoice::None => return Ok(None),
        ToolChoice::Auto | ToolChoice::Any => tools.iter().collect(),
        ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
    };
    if allowed.is_empty() {
        return match choice {
            ToolChoice::Auto | ToolChoice::None => Ok(None),
            ToolChoice::Any => Err(refuse("`tool_choice` demands a call, but there are no tools".to_owned())),
            ToolChoice::Named(name) => {
                let known: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
                Err(refuse(format!("`tool_choice` names `{name}`, which is not among the tools: {}", known.join(", "))))
            }
        };
    }
    let auto = *choice == ToolChoice::Auto;
    // A named tool is called once.
    let repeat = parallel && !matches!(choice, ToolChoice::Named(_));
    let mut out = String::new();
    let think = if auto { think_rule(&mut out, format) } else { "" };
    match format.tool_syntax() {
        ToolSyntax::None if auto => return Ok(None),
        ToolSyntax::None => return Err(refuse("this model can't call tools".to_owned())),
        ToolSyntax::List { start, ids } => {
            start_rule(&mut out, auto, think);
            let more = if repeat { "(\", \" call)*" } else { "" };
            let _ = writeln!(out, "calls: <[{start}]> \"[\" call {more} \"]\"");
            let id = if ids { r#"(", \"id\": \"" /[a-zA-Z0-9]{9}/ "\"")?"# } else { "" };
            alternatives(&mut out, &allowed, |name, at| {
                let open = quote(&format!("{{\"name\": {name}, \"arguments\": "));
                format!("{open} args_{at} {id} \"}}\"")
            });
        }
        ToolSyntax::Named { start, args, call_id } => {
            start_rule(&mut out, auto, think);
            let more = if repeat { "+" } else { "" };
            let _ = writeln!(out, "calls: call{more}");
            let id = call_id.map(|token| format!("(<[{token}]> /[a-zA-Z0-9]{{9}}/)?")).unwrap_or_default();
            alternatives(&mut out, &allowed, |name, at| {
                let name: String = serde_json::from_str(name).unwrap_or_default();
                format!("<[{start}]> {} {id} <[{args}]> args_{at}", quote(&name))
            });
        }
        ToolSyntax::Hermes => {
            let token = |name: &str| format.tokenizer().named_token(name).map(|token| format!("<[{token}]>"));
            let (open, close) = (token(HERMES_OPEN), token(HERMES_CLOSE).unwrap_or_else(|| quote(HERMES_CLOSE)));
            let tag = open.clone().unwrap_or_else(|| quote(HERMES_OPEN));
            // Text may hold the tag as plain characters, which would begin a call that nothing checks.
            let text = format!("TEXT: /(.|\\n)+/ & ~/(.|\\n)*{HERMES_OPEN}(.|\\n)*/");
            let _ = match (auto, open) {
                (false, _) => writeln!(out, "start: {tag} calls"),
                (true, Some(open)) => writeln!(out, "start: {think}TEXT? ({open} calls)?\n{text}"),
                // A greedy text would run over a tag of plain characters; this one ends with it.
                (true, None) => {
                    writeln!(out, "start: {think}(TEXT? | lead calls)\nlead[suffix={tag}]: /(.|\\n)*/\n{text}")
                }
            };
            let more = if repeat { format!("({} {tag} call)*", quote("\n")) } else { String::new() };
            let _ = writeln!(out, "calls: call {more}");
            alternatives(&mut out, &allowed, |name, at| {
                let body = quote(&format!("\n{{\"name\": {name}, \"arguments\": "));
                format!("{body} args_{at} {} {close}", quote("}\n"))
            });
        }
        ToolSyntax::Llama { start } => {
            if auto {
                // White space before an object makes it no less a call.
                let _ = writeln!(out, "start: {think}(TEXT? | calls)\nTEXT: /\\s*[^{{\\s](.|\\n)*/");
            } else {
                out.push_str("start: calls\n");
            }
            let tag = start.map(|token| format!("<[{token}]>? ")).unwrap_or_default();
            let _ = writeln!(out, "calls: {tag}call");
            alternatives(&mut out, &allowed, |name, at| {
                let open = quote(&format!("{{\"name\": {name}, \"parameters\": "));
                format!("{open} args_{at} \"}}\"")
            });
        }
    }
    for (at, tool) in allowed.iter().enumerate() {
        let schema = spaced(arguments_schema(tool)?);
        let _ = writeln!(out, "args_{at}: %json {schema}");
    }
    Ok(Some(out))
}

/// Models that were trained to think do it before they answer or call.
fn think_rule(out: &mut String, format: &ChatFormat) -> &'static str {
    let token = |name: &str| format.tokenizer().named_token(name);
    let pair = |open: &str, close: &str| token(open).zip(token(close));
    let Some((open, close)) = pair("[THINK]", "[/THINK]").or_else(|| pair("<think>", "</think>")) else { return "" };
    let _ = writeln!(out, "think: <[{open}]> THOUGHT? <[{close}]>\nTHOUGHT: /(.|\\n)+/");
    "think? "
}

/// For calls that begin with a control token.
fn start_rule(out: &mut String, auto: bool, think: &str) {
    let _ = if auto {
        writeln!(out, "start: {think}TEXT? calls?\nTEXT: /(.|\\n)+/")
    } else {
        writeln!(out, "start: calls")
    };
}

fn alternatives(out: &mut String, tools: &[&Tool], rule: impl Fn(&str, usize) -> String) {
    let names: Vec<String> = (0..tools.len()).map(|at| format!("call_{at}")).collect();
    let _ = writeln!(out, "call: {}", names.join(" | "));
    for (at, tool) in tools.iter().enumerate() {
        let name = Value::from(tool.name.as_str()).to_string();
        let _ = writeln!(out, "call_{at}: {}", rule(&name, at));
    }
}

/// Arguments are an object, even where the schema forgets to say so.
fn arguments_schema(tool: &Tool) -> Result<Value, TextError> {
    check_shape(&tool.parameters)?;
    match &tool.parameters {
        Value::Null | Value::Bool(true) => Ok(json!({"type": "object"})),
        Value::Object(map) => {
            let mut map = map.clone();
            map.entry("type").or_insert_with(|| "object".into());
            // A tool that names its properties and is silent about others has no use for them, and a small model given
            // the freedom invents them without end.
            if tool.strict || map.contains_key("properties") {
                map.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            Ok(Value::Object(map))
        }
        _ => Err(refuse(format!("the parameters of tool `{}` are no JSON schema", tool.name))),
    }
}

/// A Lark string literal; JSON's escapes are Lark's.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

fn refuse(reason: String) -> TextError {
    TextError::Conversation { reason }
}

const HERMES_OPEN: &str = "<tool_call>";
const HERMES_CLOSE: &str = "</tool_call>";
