//! Anthropic's messages, which coding tools speak: whole, as named events, and counted.

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use falaj_protocol::Dialect;
use falaj_protocol::messages::{
    AnthropicUsage, Block, Delta, Event, MessageDelta, MessageReply, MessagesRequest, TokenCount,
};
use serde_json::{Map, Value};

use crate::app::App;
use crate::auth::Caller;
use crate::body::Raw;
use crate::convert;
use crate::edge::RequestId;
use crate::error::ApiError;
use crate::generate::{Collected, Counts, Finish, Generation, Piece, Whole};
use crate::ids;
use crate::sse::{self, Frames, Script};

pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    body: Raw,
) -> Result<Response, ApiError> {
    let request = body.parse(MessagesRequest::parse)?;
    let (model, stream) = (request.model.clone(), request.stream);
    let job = convert::messages(&app, &caller, request).await?;
    let generation = Generation::start(&app, job).await?;
    let reply = MessageReply::new(ids::unique("msg_"), model, usage(Counts { generated: 0, ..generation.counts() }));
    if stream {
        let script = MessageScript { reply: Some(reply), request_id: request_id.0, blocks: 0, open: Open::Nothing };
        return Ok(sse::response(generation, script, app.settings.keep_alive_ms));
    }
    let Collected { wholes, counts, receipt } = generation.collect().await?;
    let response = Json(whole(reply, wholes.into_iter().next().unwrap_or_default(), counts)).into_response();
    Ok(sse::with_receipt(response, receipt))
}

/// Exact: the prompt is rendered and encoded as `create` would.
pub(crate) async fn count(State(app): State<App>, caller: Caller, body: Raw) -> Result<Json<TokenCount>, ApiError> {
    let request = body.parse(MessagesRequest::parse_count)?;
    let job = convert::messages(&app, &caller, request).await?;
    Ok(Json(TokenCount { input_tokens: job.prompts.iter().map(|prompt| prompt.len() as u64).sum() }))
}

fn whole(mut reply: MessageReply, whole: Whole, counts: Counts) -> MessageReply {
    if !whole.thinking.is_empty() {
        reply.content.push(Block::Thinking { thinking: whole.thinking, signature: String::new() });
    }
    if !whole.text.is_empty() {
        reply.content.push(Block::Text { text: whole.text });
    }
    for call in whole.calls {
        // Constrained decoding makes arguments an object, unless `max_tokens` cut them.
        let input = serde_json::from_str(&call.arguments).ok().filter(Value::is_object);
        let input = input.unwrap_or_else(|| Value::Object(Map::new()));
        reply.content.push(Block::ToolUse { id: format!("toolu_{}", call.id), name: call.name, input });
    }
    let MessageDelta { stop_reason, stop_sequence } = ending(whole.finish);
    MessageReply { stop_reason, stop_sequence, usage: usage(counts), ..reply }
}

fn usage(counts: Counts) -> AnthropicUsage {
    AnthropicUsage::new(counts.prompt, counts.cached, counts.generated)
}

fn ending(finish: Finish) -> MessageDelta {
    let (reason, stop_sequence) = match finish {
        Finish::Stop => ("end_turn", None),
        Finish::StopString(stop) => ("stop_sequence", Some(stop)),
        Finish::Length => ("max_tokens", None),
        Finish::Context => ("model_context_window_exceeded", None),
        Finish::ToolCalls => ("tool_use", None),
    };
    MessageDelta { stop_reason: Some(reason), stop_sequence }
}

struct MessageScript {
    /// Taken when it is sent.
    reply: Option<MessageReply>,
    request_id: String,
    /// Blocks begun so far.
    blocks: usize,
    open: Open,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    ToolUse,
}

impl MessageScript {
    fn begin(&mut self, block: Block, open: Open, out: &mut Frames) {
        self.end(out);
        send(&Event::ContentBlockStart { index: self.blocks, content_block: block }, out);
        self.blocks += 1;
        self.open = open;
    }

    fn delta(&self, delta: Delta, out: &mut Frames) {
        send(&Event::ContentBlockDelta { index: self.blocks.saturating_sub(1), delta }, out);
    }

    fn end(&mut self, out: &mut Frames) {
        if std::mem::replace(&mut self.open, Open::Nothing) != Open::Nothing {
            send(&Event::ContentBlockStop { index: self.blocks.saturating_sub(1) }, out);
        }
    }
}

fn send(event: &Event, out: &mut Frames) {
    out.named(event.name(), event);
}

impl Script for MessageScript {
    fn open(&mut self, out: &mut Frames) {
        if let Some(reply) = self.reply.take() {
            send(&Event::MessageStart { message: Box::new(reply) }, out);
        }
        send(&Event::Ping, out);
    }

    fn piece(&mut self, _: u32, piece: Piece, counts: Counts, _: bool, out: &mut Frames) {
        match piece {
            // A piece without text only carries log-probabilities, which this dialect has not.
            Piece::Text { text, .. } if text.is_empty() => {}
            Piece::Text { text, .. } => {
                if self.open != Open::Text {
                    self.begin(Block::Text { text: String::new() }, Open::Text, out);
                }
                self.delta(Delta::TextDelta { text }, out);
            }
            Piece::Thinking(text) => {
                if self.open != Open::Thinking {
                    let block = Block::Thinking { thinking: String::new(), signature: String::new() };
                    self.begin(block, Open::Thinking, out);
                }
                self.delta(Delta::ThinkingDelta { thinking: text }, out);
            }
            Piece::CallStart { id, name, .. } => {
                let input = Value::Object(Map::new());
                self.begin(Block::ToolUse { id: format!("toolu_{id}"), name, input }, Open::ToolUse, out);
            }
            Piece::CallArguments { fragment, .. } => self.delta(Delta::InputJsonDelta { partial_json: fragment }, out),
            Piece::End(finish) => {
                self.end(out);
                send(&Event::MessageDelta { delta: ending(finish), usage: usage(counts) }, out);
            }
        }
    }

    fn close(&mut self, _: Counts, out: &mut Frames) {
        send(&Event::MessageStop, out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        out.named_raw("error", &error.envelope(Dialect::Anthropic, &self.request_id));
    }

    fn idle(&mut self, out: &mut Frames) {
        send(&Event::Ping, out);
    }
}
