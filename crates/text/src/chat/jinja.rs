//! A model's own chat template. The control tokens that the template's source names are replaced by private markers
//! before it is compiled, so that after rendering only they become control tokens; what a message says never does,
//! however the template trims, cuts or joins it.

mod bounded;
mod names;
mod python;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bounded::{Budget, Paying};
use minijinja::value::{Kwargs, Value as Jinja};
use minijinja::{Environment, Error, ErrorKind};
use python::python_str;
use serde_json::{Map, Value, json};

use super::python_json::dumps;
use super::strftime::strftime;
use crate::tokenizer::Segment;
use crate::{Conversation, Message, Part, Role, TextError, Tokenizer};

#[derive(Debug)]
pub(super) struct Template {
    /// With markers for control tokens.
    source: String,
    bos: String,
    eos: String,
    tokenizer: Arc<Tokenizer>,
}

impl Template {
    pub fn new(source: &str, tokenizer: &Arc<Tokenizer>) -> Result<Self, TextError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TextError::TooLarge { what: "the chat template", got: source.len(), max: MAX_TEMPLATE_BYTES });
        }
        let token = |token: Option<u32>| match token {
            Some(token) if tokenizer.is_special(token) => marker(token),
            Some(token) => clean(&String::from_utf8_lossy(tokenizer.token_bytes(token))),
            None => String::new(),
        };
        let template = Self {
            source: without_generation_tags(&mark(source, tokenizer)),
            bos: token(tokenizer.bos()),
            eos: token(tokenizer.eos()),
            tokenizer: tokenizer.clone(),
        };
        let source = &template.source;
        apart(|| bounded::compile(source).map(|_| ()).map_err(|error| broken(&error)))?;
        Ok(template)
    }

    /// `ask`: with what makes the model answer, unless it goes on with the last message.
    pub fn render(&self, conversation: &Conversation, ask: bool) -> Result<Vec<Segment>, TextError> {
        self.compiled(|compiled| compiled.render(conversation, ask))
    }

    /// Lets `work` render any number of conversations, for one compilation and one thread.
    pub fn compiled<T: Send>(
        &self,
        work: impl FnOnce(&Compiled) -> Result<T, TextError> + Send,
    ) -> Result<T, TextError> {
        apart(|| {
            let program = bounded::compile(&self.source).map_err(|error| broken(&error))?;
            work(&Compiled { template: self, program })
        })
    }
}

/// A template, ready to be rendered. Only on the stack that `compiled` gives.
pub(super) struct Compiled<'t> {
    template: &'t Template,
    program: bounded::Compiled<'t>,
}

impl Compiled<'_> {
    pub fn render(&self, conversation: &Conversation, ask: bool) -> Result<Vec<Segment>, TextError> {
        let Self { template, program } = self;
        let continues = conversation.messages.last().is_some_and(|last| last.role == Role::Assistant && last.prefix);
        let mut messages: Vec<Value> = conversation.messages.iter().map(message).collect();
        if continues && let Some(Value::Object(last)) = messages.last_mut() {
            // The prompt ends where this character comes out, whatever the template writes after the message.
            let text = last.get("content").and_then(Value::as_str).unwrap_or("").to_owned();
            last.insert("content".to_owned(), Value::String(text + CUT));
        }
        let tools = if conversation.tools.is_empty() { Value::Null } else { tools(conversation) };
        let now_s = conversation.now_s.unwrap_or_else(clock);
        let mut context: Map<String, Value> = [
            ("messages", messages.into()),
            ("tools", tools),
            ("documents", Value::Null),
            ("add_generation_prompt", (ask && !continues).into()),
            ("continue_final_message", continues.into()),
            ("bos_token", template.bos.clone().into()),
            ("eos_token", template.eos.clone().into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if let Some(effort) = &conversation.reasoning_effort {
            context.insert("reasoning_effort".to_owned(), clean(effort).into());
            context.insert("enable_thinking".to_owned(), (effort != "none").into());
        }
        let environment = environment(now_s, &Budget::new());
        let mut text = bounded::run(program, &environment, Jinja::from_serialize(&context))
            .map_err(|error| refused(&error).unwrap_or_else(|| broken(&error)))?;
        if continues {
            let Some(at) = text.find(CUT) else {
                return Err(TextError::Conversation {
                    reason: "the chat template drops the message to continue".to_owned(),
                });
            };
            text.truncate(at);
        }
        Ok(template.segments(&text))
    }
}

impl Template {
    /// Cuts rendered text at the markers.
    fn segments(&self, text: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(OPEN) {
            let (before, after) = rest.split_at(at);
            plain.push_str(&clean(before));
            let body = after.get(OPEN.len_utf8()..).unwrap_or("");
            let token = body.split_once(CLOSE).and_then(|(digits, tail)| Some((digits.parse::<u32>().ok()?, tail)));
            match token.filter(|(token, _)| self.tokenizer.is_special(*token)) {
                Some((token, tail)) => {
                    if !plain.is_empty() {
                        segments.push(Segment::Text(std::mem::take(&mut plain)));
                    }
                    segments.push(Segment::Control(token));
                    rest = tail;
                }
                None => rest = body,
            }
        }
        plain.push_str(&clean(rest));
        if !plain.is_empty() {
            segments.push(Segment::Text(plain));
        }
        segments
    }
}

/// The environment that Hugging Face's `apply_chat_template` gives.
fn environment(now_s: i64, budget: &Budget) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    bounded::install(&mut environment, budget);
    let paid = budget.clone();
    environment.set_formatter(move |out, _, value| {
        python_str(&mut Paying { out, budget: &paid }, value).map_err(|_| bounded::refuse("it writes too much"))
    });
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    environment.add_function("strftime_now", move |format: String| strftime(&format, now_s));
    environment.add_filter("tojson", |value: Jinja, args: Kwargs| -> Result<String, Error> {
        let indent: Option<usize> = args.get("indent")?;
        let sort: Option<bool> = args.get("sort_keys")?;
        let _: Option<bool> = args.get("ensure_ascii")?;
        args.assert_all_used()?;
        let value =
            serde_json::to_value(&value).map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
        Ok(dumps(&value, indent.map(|indent| indent.min(16)), sort.unwrap_or(false)))
    });
    environment
}

fn message(message: &Message) -> Value {
    let mut map = Map::new();
    map.insert("role".to_owned(), message.role.as_str().into());
    map.insert("content".to_owned(), clean(&message.text()).into());
    let thinking: String = message
        .content
        .iter()
        .filter_map(|part| match part {
            Part::Thinking { text, .. } => Some(clean(text)),
            Part::Text(_) => None,
        })
        .collect();
    if !thinking.is_empty() {
        map.insert("reasoning_content".to_owned(), thinking.into());
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            // Templates write arguments with `tojson`; a text that is no JSON stays a text.
            let arguments = serde_json::from_str(&call.arguments).unwrap_or_else(|_| call.arguments.clone().into());
            json!({
                "id": clean(&call.id),
                "type": "function",
                "function": {"name": clean(&call.name), "arguments": clean_json(arguments)},
            })
        });
        map.insert("tool_calls".to_owned(), calls.collect());
    }
    if let Some(id) = &message.tool_call_id {
        map.insert("tool_call_id".to_owned(), clean(id).into());
    }
    if let Some(name) = &message.name {
        map.insert("name".to_owned(), clean(name).into());
    }
    Value::Object(map)
}

fn tools(conversation: &Conversation) -> Value {
    conversation
        .tools
        .iter()
        .map(|tool| {
            json!({
                "type": "function",
                "function": {
                    "name": clean(&tool.name),
                    "description": clean(&tool.description),
                    "parameters": clean_json(tool.parameters.clone()),
                },
            })
        })
        .collect()
}

/// Replaces the control tokens that the template's source names.
fn mark(source: &str, tokenizer: &Tokenizer) -> String {
    let mut out = String::with_capacity(source.len());
    for segment in tokenizer.split_controls(source) {
        match segment {
            Segment::Text(text) => out.push_str(&clean(&text)),
            Segment::Control(token) => {
                let name = String::from_utf8_lossy(tokenizer.token_bytes(token));
                // A name that could be part of the template's own syntax stays as it is.
                let word = name.chars().all(|c| c.is_alphanumeric() || c == '_' || c.is_whitespace());
                if word || name.contains(['{', '}', '%', '\'', '"', '\\']) {
                    out.push_str(&name);
                } else {
                    out.push_str(&marker(token));
                }
            }
        }
    }
    out
}

/// Drops `{% generation %}` and its end: Hugging Face's mark for training masks, which writes nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        let Some((body, after)) = tag.split_once("%}") else {
            out.push_str("{%");
            rest = tag;
            continue;
        };
        let word = body.trim_start_matches('-').trim_end_matches('-').trim();
        let kept = match word {
            "generation" => body.replace("generation", "if true"),
            "endgeneration" => body.replace("endgeneration", "endif"),
            _ => body.to_owned(),
        };
        out.push_str("{%");
        out.push_str(&kept);
        out.push_str("%}");
        rest = after;
    }
    out.push_str(rest);
    out
}

fn marker(token: u32) -> String {
    format!("{OPEN}{token}{CLOSE}")
}

/// Takes the private characters out of foreign text. They are noncharacters: no text needs them.
fn clean(text: &str) -> String {
    text.chars().map(|c| if ('\u{FDD0}'..='\u{FDD7}').contains(&c) { '\u{FFFD}' } else { c }).collect()
}

fn clean_json(value: Value) -> Value {
    match value {
        Value::String(text) => clean(&text).into(),
        Value::Array(list) => list.into_iter().map(clean_json).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (clean(&key), clean_json(value))).collect(),
        other => other,
    }
}

fn clock() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|now| i64::try_from(now.as_secs()).ok()).unwrap_or(0)
}

/// What `raise_exception` was given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn refused(error: &Error) -> Option<TextError> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return Some(TextError::Refused { message: message.chars().take(500).collect() });
        }
        source = inner.source();
    }
    None
}

fn broken(error: &Error) -> TextError {
    let reason: String =
        format!("{error}").chars().filter(|c| !('\u{FDD0}'..='\u{FDD7}').contains(c)).take(300).collect();
    TextError::Template { reason }
}

/// Runs a template's compiler or machine on a stack of known size.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, TextError> + Send) -> Result<T, TextError> {
    let failed = |reason: &str| TextError::Template { reason: reason.to_owned() };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".to_owned()).stack_size(STACK_BYTES);
        let handle = thread.spawn_scoped(scope, work).map_err(|_| failed("no thread can be started for it"))?;
        handle.join().unwrap_or_else(|_| Err(failed("it breaks the template engine")))
    })
}

const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
const CUT: &str = "\u{FDD2}";

const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// Instructions; a conversation of a thousand messages with tools takes about a tenth.
const FUEL: u64 = 4_000_000;
const RECURSION: usize = 64;
/// For the compiler's and the machine's recursion, whatever thread asks.
const STACK_BYTES: usize = 32 << 20;
