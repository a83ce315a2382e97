//! Wire types to what the engine and `text` take: the only place where a request crosses. The slow part (templates,
//! tokenizing, grammars) runs on a blocking thread, a bounded number at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use falaj_engine::Sampling;
use falaj_protocol::chat::{
    ChatRequest, Message as WireMessage, ResponseFormat, Tool as WireTool, ToolCall as WireCall,
    ToolChoice as WireChoice,
};
use falaj_protocol::completions::{CompletionRequest, FimRequest, Prompt};
use falaj_protocol::embeddings::EmbeddingRequest;
use falaj_protocol::messages::MessagesRequest;
use falaj_protocol::sampling::Options;
use falaj_text::{
    Conversation, Grammar, Matcher, Message, Part, Role, Special, TextError, Tool, ToolCall, ToolChoice, ToolSyntax,
};

use serde_json::{Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::body::Parsed;
use crate::error::ApiError;
use crate::generate::{Decode, Job};
use crate::governance::Passage;
use crate::ids;
use crate::registry::{Loan, Served};

pub(crate) async fn chat(app: &App, caller: &Caller, request: Parsed<ChatRequest>) -> Result<Job, ApiError> {
    let (served, passage) = app.enter(caller, &request.model, &request).await?;
    let origin = Origin { passage, arrived: request.arrived };
    blocking(app, request, move |request| {
        let asked = Asked {
            messages: request.messages,
            tools: request.tools,
            choice: request.tool_choice,
            parallel: request.parallel_tool_calls,
            format: request.response_format,
            reasoning_effort: request.reasoning_effort,
        };
        let (prompt, grammar, decode) = asked.prepare(&served)?;
        let constraints = constraints(&served, grammar.as_ref(), request.options.n)?;
        let logprobs = request.logprobs;
        Ok(Job { constraints, decode, logprobs, ..plain(served, vec![prompt], &request.options, origin) })
    })
    .await
}

pub(crate) async fn messages(app: &App, caller: &Caller, request: Parsed<MessagesRequest>) -> Result<Job, ApiError> {
    let (served, passage) = app.enter(caller, &request.model, &request).await?;
    let origin = Origin { passage, arrived: request.arrived };
    blocking(app, request, move |request| {
        let options = Options {
            temperature: request.temperature,
            top_p: request.top_p,
            top_k: request.top_k,
            max_tokens: Some(request.max_tokens),
            stop: request.stop,
            n: 1,
            ..Options::default()
        };
        let asked = Asked {
            messages: request.messages,
            tools: request.tools,
            choice: request.tool_choice,
            parallel: request.parallel_tool_calls,
            format: request.response_format,
            reasoning_effort: None,
        };
        let (prompt, grammar, decode) = asked.prepare(&served)?;
        let constraints = constraints(&served, grammar.as_ref(), 1)?;
        Ok(Job { constraints, decode, ..plain(served, vec![prompt], &options, origin) })
    })
    .await
}

pub(crate) async fn completion(
    app: &App,
    caller: &Caller,
    request: Parsed<CompletionRequest>,
) -> Result<Job, ApiError> {
    let (served, passage) = app.enter(caller, &request.model, &request).await?;
    let origin = Origin { passage, arrived: request.arrived };
    blocking(app, request, move |request| {
        let prompts = request.prompts.into_iter().map(|prompt| match (&request.suffix, prompt) {
            (None, prompt) => tokens(&served, prompt),
            (Some(suffix), Prompt::Text(text)) => fill(&served, &text, suffix),
            (Some(_), Prompt::Tokens(_)) => {
                let reason = "`suffix` goes with text prompts; send text, or leave it out".to_owned();
                Err(ApiError::Unsupported { param: "suffix", reason })
            }
        });
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let logprobs = request.logprobs;
        Ok(Job { logprobs, ..plain(served, prompts, &request.options, origin) })
    })
    .await
}

pub(crate) async fn fim(app: &App, caller: &Caller, request: Parsed<FimRequest>) -> Result<Job, ApiError> {
    let (served, passage) = app.enter(caller, &request.model, &request).await?;
    let origin = Origin { passage, arrived: request.arrived };
    blocking(app, request, move |request| {
        let prompt = fill(&served, &request.prompt, &request.suffix)?;
        Ok(plain(served, vec![prompt], &request.options, origin))
    })
    .await
}

/// Prompts of an embedding request, as tokens.
pub(crate) async fn inputs(
    app: &App,
    served: &Arc<Loan>,
    request: Parsed<EmbeddingRequest>,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let served = Arc::clone(served);
    blocking(app, request, move |request| request.input.into_iter().map(|prompt| tokens(&served, prompt)).collect())
        .await
}

/// Gives the body's memory and the turn back when the work is done, even when the client has left by then.
async fn blocking<R: Send + 'static, T: Send + 'static>(
    app: &App,
    parsed: Parsed<R>,
    work: impl FnOnce(R) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let timeout_ms = app.settings.request_timeout_ms;
    let turn = Arc::clone(&app.preparing).acquire_owned();
    let turn = tokio::time::timeout(Duration::from_millis(timeout_ms), turn).await;
    let turn = turn.map_err(|_| ApiError::TookTooLong { timeout_ms })?.map_err(|_| ApiError::Stopping)?;
    let work = move || {
        let Parsed { request, share, .. } = parsed;
        let result = work(request);
        drop((share, turn));
        result
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "preparing a request panicked");
        Err(ApiError::Internal)
    })
}

/// Whose request it is and when it came.
struct Origin {
    passage: Passage,
    arrived: Instant,
}

/// A job with nothing but sampling.
fn plain(served: Arc<Loan>, prompts: Vec<Vec<u32>>, options: &Options, origin: Origin) -> Job {
    let temperature = options.temperature.or(served.facts.default_temperature).unwrap_or(1.0);
    Job {
        sampling: Sampling {
            temperature,
            top_k: options.top_k,
            top_p: options.top_p.unwrap_or(1.0),
            min_p: options.min_p.unwrap_or(0.0),
            presence_penalty: options.presence_penalty.unwrap_or(0.0),
            frequency_penalty: options.frequency_penalty.unwrap_or(0.0),
            repetition_penalty: options.repetition_penalty.unwrap_or(1.0),
            logit_bias: options.logit_bias.clone(),
            // One that a request may name: whoever replays this one does.
            seed: options.seed.unwrap_or_else(|| ids::random() >> 1),
        },
        served,
        prompts,
        n: options.n,
        max_tokens: options.max_tokens,
        ends: true,
        min_tokens: options.min_tokens,
        stop: options.stop.clone(),
        constraints: Vec::new(),
        logprobs: None,
        decode: Decode::Plain,
        passage: origin.passage,
        arrived: origin.arrived,
        spent_ns: 0,
    }
}

/// The grammar compiled for each of `n` choices, which go through it each at its own pace.
fn constraints(served: &Served, grammar: Option<&Grammar>, n: u32) -> Result<Vec<Matcher>, ApiError> {
    let Some(grammar) = grammar else { return Ok(Vec::new()) };
    let first = served.grammars.compile(grammar)?;
    let mut matchers: Vec<Matcher> = (1..n).map(|_| first.another()).collect();
    matchers.push(first);
    Ok(matchers)
}

/// What chat's dialects have in common.
struct Asked {
    messages: Vec<WireMessage>,
    tools: Vec<WireTool>,
    choice: WireChoice,
    parallel: bool,
    format: ResponseFormat,
    reasoning_effort: Option<String>,
}

impl Asked {
    fn prepare(self, served: &Served) -> Result<(Vec<u32>, Option<Grammar>, Decode), ApiError> {
        let chat = served.text.chat.as_ref().ok_or(TextError::NoChatFormat)?;
        let tools: Vec<Tool> = self.tools.into_iter().map(tool).collect();
        let mut bound: Vec<Tool> = tools.iter().map(bound).collect();
        if let WireChoice::Allowed { names, .. } = &self.choice {
            bound.retain(|tool| names.contains(&tool.name));
        }
        let choice = match self.choice {
            _ if tools.is_empty() => ToolChoice::None,
            WireChoice::Auto | WireChoice::Allowed { required: false, .. } => ToolChoice::Auto,
            WireChoice::None => ToolChoice::None,
            WireChoice::Required | WireChoice::Allowed { required: true, .. } => ToolChoice::Any,
            WireChoice::Named(name) => ToolChoice::Named(name),
        };
        let may_call = choice != ToolChoice::None;
        if may_call && chat.tool_syntax() == ToolSyntax::None {
            let reason = format!("the model `{}` does not call tools; leave out `tools`", served.facts.id);
            return Err(ApiError::Unsupported { param: "tools", reason });
        }
        let response_schema = match &self.format {
            ResponseFormat::JsonSchema { schema, .. } => Some(schema.clone()),
            _ => None,
        };
        let grammar = match self.format {
            // A forced call leaves no room for another format; a free one is checked against its schema only.
            _ if matches!(choice, ToolChoice::Any | ToolChoice::Named(_)) => {
                Grammar::tools(&bound, &choice, self.parallel, chat)?
            }
            ResponseFormat::Text => Grammar::tools(&bound, &choice, self.parallel, chat)?,
            ResponseFormat::JsonObject => Some(Grammar::json_object()),
            ResponseFormat::JsonSchema { schema, strict: true } => Some(Grammar::json_schema(&schema)),
            ResponseFormat::JsonSchema { schema, .. } => Some(Grammar::json_schema(&lenient(&schema))),
            ResponseFormat::Regex(regex) => Some(Grammar::regex(&regex)),
            ResponseFormat::Lark(lark) => Some(Grammar::lark(&lark)),
        };
        let continuing = matches!(self.messages.last(), Some(WireMessage::Assistant { prefix: true, .. }));
        let conversation = Conversation {
            messages: turns(self.messages),
            tools: if may_call { tools } else { Vec::new() },
            reasoning_effort: self.reasoning_effort,
            response_schema,
            now_s: None,
        };
        let prompt = chat.render(&conversation)?;
        Ok((prompt.tokens, grammar, Decode::Chat { tools: may_call, continuing }))
    }
}

fn turns(wire: Vec<WireMessage>) -> Vec<Message> {
    let mut called: Vec<(String, String)> = Vec::new();
    let mut messages = Vec::with_capacity(wire.len());
    for message in wire {
        messages.push(match message {
            WireMessage::System { content } => Message::system(content),
            WireMessage::User { content } => Message::user(content),
            WireMessage::Assistant { content, tool_calls, prefix } => {
                let tool_calls: Vec<ToolCall> = tool_calls.into_iter().map(call).collect();
                called.extend(tool_calls.iter().map(|call| (call.id.clone(), call.name.clone())));
                let content = if content.is_empty() { Vec::new() } else { vec![Part::Text(content)] };
                Message { content, tool_calls, prefix, ..Message::new(Role::Assistant, "") }
            }
            WireMessage::Tool { content, tool_call_id, name } => {
                // Without an id the result answers the oldest call of that name, or simply the last call.
                let id = tool_call_id.map(|id| ids::nine(&id)).or_else(|| called.last().map(|(id, _)| id.clone()));
                let id = id.unwrap_or_else(|| ids::nine("unknown"));
                let name =
                    name.or_else(|| called.iter().rev().find(|(known, _)| *known == id).map(|(_, name)| name.clone()));
                Message::tool(id, name, content)
            }
        });
    }
    messages
}

fn call(wire: WireCall) -> ToolCall {
    // Earlier calls without an id still need one: their results may name none either.
    let id = if wire.id.is_empty() { ids::nine(&wire.name) } else { ids::nine(&wire.id) };
    let arguments = if wire.arguments.trim().is_empty() { "{}".to_owned() } else { wire.arguments };
    ToolCall { id, name: wire.name, arguments }
}

fn tool(wire: WireTool) -> Tool {
    Tool { name: wire.name, description: wire.description, parameters: wire.parameters, strict: wire.strict }
}

/// The tool as the grammar should see it. JSON Schema lets an object have more than its `properties`; no caller means that
/// of its arguments, and a model that may write any name at all will. Where schemas are combined, closing one would
/// contradict the others.
fn bound(tool: &Tool) -> Tool {
    let mut parameters = if tool.strict { tool.parameters.clone() } else { lenient(&tool.parameters) };
    if let Value::Object(schema) = &mut parameters
        && schema.contains_key("properties")
        && !["allOf", "anyOf", "oneOf", "$ref"].into_iter().any(|keyword| schema.contains_key(keyword))
    {
        schema.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    Tool { parameters, ..tool.clone() }
}

/// Generators write what no grammar can hold (`uniqueItems`, `not`, patterns that look around). Unless the caller asked
/// for `strict`, that is left out rather than the request refused; everything else still binds.
fn lenient(schema: &Value) -> Value {
    let mut schema = schema.clone();
    drop_look_around(&mut schema);
    if let Value::Object(map) = &mut schema {
        let options = json!({"lenient": true, "coerce_one_of": true, "whitespace_flexible": false,
            "item_separator": ", ", "key_separator": ": "});
        map.insert("x-guidance".to_owned(), options);
    }
    schema
}

/// Nesting is bounded by the JSON reader.
fn drop_look_around(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let looks_around = |pattern: &str| ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|mark| pattern.contains(mark));
            if map.get("pattern").and_then(Value::as_str).is_some_and(looks_around) {
                map.remove("pattern");
            }
            map.values_mut().for_each(drop_look_around);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_look_around),
        _ => {}
    }
}

/// Text as the model saw it in training: after its begin-of-text token, if it has one.
fn tokens(served: &Served, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
    let tokenizer = &served.text.tokenizer;
    let tokens = match prompt {
        Prompt::Tokens(tokens) => tokens,
        Prompt::Text(text) => {
            let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
            bos.into_iter().chain(tokenizer.encode(&text, Special::Plain)).collect()
        }
    };
    // An empty prompt is allowed where the model can begin on its own.
    if !tokens.is_empty() {
        return Ok(tokens);
    }
    let start = tokenizer.bos().or(tokenizer.eos());
    start
        .map(|token| vec![token])
        .ok_or(ApiError::Unsupported { param: "prompt", reason: "the prompt is empty".to_owned() })
}

fn fill(served: &Served, prefix: &str, suffix: &str) -> Result<Vec<u32>, ApiError> {
    let tokens = served.text.chat.as_ref().and_then(|chat| chat.fim(prefix, suffix));
    tokens.ok_or_else(|| {
        let reason = format!("the model `{}` does not fill in the middle; use chat or completions", served.facts.id);
        ApiError::Unsupported { param: "model", reason }
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::{FromRequest, Request};

    use super::*;
    use crate::app::Settings;
    use crate::body::Raw;
    use crate::registry::Registry;

    #[tokio::test]
    async fn a_client_that_left_keeps_its_turn_until_the_work_is_done() {
        let app = App::new(Settings::default(), Registry::new()).expect("sound policies");
        let turns = app.preparing.available_permits();
        let raw = Raw::from_request(Request::new(Body::empty()), &app).await.expect("an empty body");
        let parsed = raw.parse(|_| Ok(())).expect("nothing to parse");
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let (start, started) = tokio::sync::oneshot::channel();
        let of_client = app.clone();
        let client = tokio::spawn(async move {
            let work = move |()| {
                let _ = start.send(());
                let _ = finished.recv();
                Ok(())
            };
            blocking(&of_client, parsed, work).await
        });
        started.await.expect("the work begins");
        client.abort();
        assert!(client.await.is_err(), "the client has left");
        assert_eq!(app.preparing.available_permits(), turns - 1);
        drop(finish);
        let all = u32::try_from(turns).expect("a few");
        assert!(app.preparing.acquire_many(all).await.is_ok());
    }
}
