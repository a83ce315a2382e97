//! Lines to rows. A line is foreign: it may be too long, not UTF-8, not JSON, or ask for what cannot be scored.

use falaj_artifact::Digest;
use falaj_text::{Message, Role, Tool, ToolCall};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{BadLine, Context, ExpectedCall, Row, Suite, Task};
use crate::EvalError;
use crate::schema::Schema;
use crate::text::nfc;

impl Suite {
    /// Reads a whole file. Lines that are no rows are in `bad`; `name` is used where no header gives one.
    ///
    /// # Errors
    /// More bytes or rows than a suite may have; a header that cannot be used.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, EvalError> {
        if bytes.len() > MOST_BYTES {
            return Err(EvalError::SuiteTooLarge { what: "bytes", got: bytes.len(), most: MOST_BYTES });
        }
        let mut suite = Self {
            name: name.to_owned(),
            digest: Digest::of(bytes),
            rows: Vec::new(),
            bad: Vec::new(),
            abstain: PHRASES.map(|(language, phrase)| (language.to_owned(), phrase.to_owned())).to_vec(),
        };
        let mut shared = Shared::default();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut first = true;
        for (line, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let fields = object(bytes);
            if std::mem::take(&mut first)
                && let Ok(fields) = &fields
                && !fields.contains_key("task")
            {
                shared = suite.header(fields).map_err(|reason| EvalError::Header { line, reason: short(reason) })?;
                continue;
            }
            if suite.rows.len() == MOST_ROWS {
                return Err(EvalError::SuiteTooLarge { what: "rows", got: MOST_ROWS + 1, most: MOST_ROWS });
            }
            match fields.and_then(|fields| row(line, fields, &shared)) {
                Ok(row) => suite.rows.push(row),
                Err(reason) => suite.bad.push(BadLine { line, reason: short(reason) }),
            }
        }
        Ok(suite)
    }

    fn header(&mut self, fields: &Map<String, Value>) -> Result<Shared, String> {
        let header: Header = typed(fields.clone())?;
        self.name = header.suite.unwrap_or_else(|| std::mem::take(&mut self.name));
        for (language, phrase) in header.abstain.unwrap_or_default() {
            let phrase = phrase.as_str().ok_or_else(|| format!("`abstain.{language}` must be a text"))?.to_owned();
            match self.abstain.iter_mut().find(|(known, _)| *known == language) {
                Some((_, known)) => *known = phrase,
                None => self.abstain.push((language, phrase)),
            }
        }
        Ok(Shared { system: header.system, tools: header.tools })
    }
}

/// What a header says for rows that do not say it themselves.
#[derive(Default)]
struct Shared {
    system: Option<String>,
    tools: Option<Vec<WireTool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    suite: Option<String>,
    abstain: Option<Map<String, Value>>,
    system: Option<String>,
    tools: Option<Vec<WireTool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PerplexityRow {
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExactRow {
    messages: Vec<WireMessage>,
    answers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChoiceRow {
    prompt: Option<String>,
    messages: Option<Vec<WireMessage>>,
    choices: Vec<String>,
    answer: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolRow {
    messages: Vec<WireMessage>,
    tools: Option<Vec<WireTool>>,
    // A `null` that is written says that nothing may be called; one that is missing is a mistake.
    #[serde(deserialize_with = "Option::deserialize")]
    expected: Option<WireExpected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroundedRow {
    passages: Vec<String>,
    question: String,
    answers: Vec<String>,
    passage: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireExpected {
    name: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

#[derive(Clone, Deserialize)]
struct WireTool {
    function: WireFunction,
}

#[derive(Clone, Deserialize)]
struct WireFunction {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

#[derive(Deserialize)]
struct WireMessage {
    role: String,
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    tool_calls: Vec<WireCall>,
    tool_call_id: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct WireCall {
    #[serde(default)]
    id: String,
    function: WireCalled,
}

#[derive(Deserialize)]
struct WireCalled {
    name: String,
    arguments: Value,
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if bytes.len() > MOST_LINE_BYTES {
        return Err(format!("the line has {} bytes; a row has at most {MOST_LINE_BYTES}", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to() + 1))?;
    match serde_json::from_str(text).map_err(|error| format!("not JSON: {}", plain(&error)))? {
        Value::Object(fields) => Ok(fields),
        _ => Err("not a JSON object".to_owned()),
    }
}

/// `serde_json` counts lines within the one line that it was given.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) if error.column() > 0 => format!("{what} at column {}", error.column()),
        _ => text,
    }
}

/// A reason may quote what is wrong, however long that is.
fn short(reason: String) -> String {
    match reason.char_indices().nth(MOST_REASON_CHARS) {
        Some((end, _)) => format!("{}…", reason.get(..end).unwrap_or_default()),
        None => reason,
    }
}

fn typed<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
}

fn row(line: usize, mut fields: Map<String, Value>, shared: &Shared) -> Result<Row, String> {
    let mut word = |field: &str| match fields.shift_remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) if field == "id" => Ok(Some(number.to_string())),
        Some(_) => Err(format!("`{field}` must be a text")),
    };
    let (id, language, group, task) = (word("id")?, word("language")?, word("group")?, word("task")?);
    let task = task.ok_or("`task` is missing; it says how the row is scored")?;
    let task = match task.as_str() {
        "perplexity" => perplexity(typed(fields)?),
        "exact_match" => exact(typed(fields)?, shared),
        "multiple_choice" => choice(typed(fields)?, shared),
        "tool_call" => tool_call(typed(fields)?, shared),
        "grounded" => grounded(typed(fields)?, shared),
        other => Err(format!("no task is called `{other}`; known are {TASKS}")),
    }?;
    Ok(Row { line, id, language, group, task })
}

fn perplexity(row: PerplexityRow) -> Result<Task, String> {
    not_blank("text", &row.text)?;
    Ok(Task::Perplexity { text: row.text })
}

fn exact(row: ExactRow, shared: &Shared) -> Result<Task, String> {
    if row.answers.is_empty() {
        return Err("`answers` is empty; give at least one".to_owned());
    }
    let answers = row.answers.iter().map(|answer| nfc(answer.trim())).collect();
    Ok(Task::ExactMatch { messages: dialogue(row.messages, shared)?, answers })
}

fn choice(row: ChoiceRow, shared: &Shared) -> Result<Task, String> {
    let context = match (row.prompt, row.messages) {
        (Some(prompt), None) => Context::Text(prompt),
        (None, Some(messages)) => Context::Messages(dialogue(messages, shared)?),
        _ => return Err("give either `prompt` or `messages`".to_owned()),
    };
    let count = row.choices.len();
    if !(2..=MOST_CHOICES).contains(&count) {
        return Err(format!("`choices` has {count}; it takes 2 to {MOST_CHOICES}"));
    }
    row.choices.iter().try_for_each(|choice| not_blank("choices", choice))?;
    if row.answer >= count {
        return Err(format!("`answer` is {}, but the choices are numbered 0 to {}", row.answer, count - 1));
    }
    Ok(Task::MultipleChoice { context, choices: row.choices, answer: row.answer })
}

fn tool_call(row: ToolRow, shared: &Shared) -> Result<Task, String> {
    let wire = row.tools.or_else(|| shared.tools.clone()).unwrap_or_default();
    if wire.is_empty() {
        return Err("`tools` is empty, and the header has none".to_owned());
    }
    let tools: Vec<Tool> = wire.into_iter().map(tool).collect();
    let schemas = tools.iter().map(|tool| {
        Schema::new(&tool.parameters).map_err(|reason| format!("the parameters of `{}`: {reason}", tool.name))
    });
    let schemas: Vec<Schema> = schemas.collect::<Result<_, _>>()?;
    let expected = row.expected.map(|call| ExpectedCall { name: call.name, arguments: Value::Object(call.arguments) });
    if let Some(call) = &expected {
        let place = tools.iter().position(|tool| tool.name == call.name);
        let schema = place.and_then(|place| schemas.get(place));
        let schema = schema.ok_or_else(|| format!("`expected.name` is `{}`, which is none of `tools`", call.name))?;
        if !schema.allows(&call.arguments) {
            return Err(format!("`expected.arguments` do not fit the parameters of `{}`", call.name));
        }
    }
    Ok(Task::ToolCall { messages: dialogue(row.messages, shared)?, tools, schemas, expected })
}

fn grounded(row: GroundedRow, shared: &Shared) -> Result<Task, String> {
    if row.passages.is_empty() {
        return Err("`passages` is empty".to_owned());
    }
    not_blank("question", &row.question)?;
    row.passages.iter().try_for_each(|passage| not_blank("passages", passage))?;
    row.answers.iter().try_for_each(|answer| not_blank("answers", answer))?;
    if row.passage.is_some_and(|passage| passage >= row.passages.len()) {
        return Err(format!("`passage` must be a number from 0 to {}", row.passages.len() - 1));
    }
    let GroundedRow { passages, question, answers, passage } = row;
    Ok(Task::Grounded { system: shared.system.clone(), passages, question, answers, passage })
}

fn tool(wire: WireTool) -> Tool {
    let WireFunction { name, description, parameters } = wire.function;
    Tool { name, description, parameters: Value::Object(parameters), strict: false }
}

/// Ends with somebody the model is to answer.
fn dialogue(wire: Vec<WireMessage>, shared: &Shared) -> Result<Vec<Message>, String> {
    let mut messages = wire.into_iter().map(message).collect::<Result<Vec<_>, _>>()?;
    if !messages.last().is_some_and(|last| matches!(last.role, Role::User | Role::Tool)) {
        return Err("`messages` must end with a message of `user` or `tool`".to_owned());
    }
    if let Some(system) = &shared.system
        && messages.iter().all(|message| message.role != Role::System)
    {
        messages.insert(0, Message::system(system.clone()));
    }
    Ok(messages)
}

fn message(wire: WireMessage) -> Result<Message, String> {
    let content = wire.content.unwrap_or_default();
    Ok(match wire.role.as_str() {
        "system" | "developer" => Message::system(content),
        "user" => Message::user(content),
        "assistant" => {
            Message { tool_calls: wire.tool_calls.into_iter().map(call).collect(), ..Message::assistant(content) }
        }
        "tool" => Message::tool(wire.tool_call_id.unwrap_or_default(), wire.name, content),
        other => return Err(format!("no message is of `{other}`; known are `system`, `user`, `assistant` and `tool`")),
    })
}

fn call(wire: WireCall) -> ToolCall {
    let arguments = match wire.function.arguments {
        Value::String(text) => text,
        other => other.to_string(),
    };
    ToolCall { id: wire.id, name: wire.function.name, arguments }
}

fn not_blank(field: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() { Err(format!("`{field}` has a blank text")) } else { Ok(()) }
}

/// What falaj-seed says; a header may say otherwise.
const PHRASES: [(&str, &str); 3] = [
    ("en", "The passages do not answer this."),
    ("fr", "Les passages ne répondent pas à cette question."),
    ("ar", "المقاطع لا تجيب عن هذا السؤال."),
];
const TASKS: &str = "`perplexity`, `exact_match`, `multiple_choice`, `tool_call` and `grounded`";
const MOST_BYTES: usize = 256 << 20;
const MOST_ROWS: usize = 1_000_000;
const MOST_LINE_BYTES: usize = 16 << 20;
const MOST_REASON_CHARS: usize = 400;
const MOST_CHOICES: usize = 64;
