//! Mistral's instruct formats, v1 to v15, token by token as `mistral-common` makes them. A format is a walk over the
//! messages; the versions differ in where system prompt and tools stand and in how calls and results are written.

use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{ToolSyntax, python_dumps};
use crate::tokenizer::Segment;
use crate::{Conversation, Message, Part, Role, TextError, Tokenizer};

/// Versions of Mistral's instruct format. Source: mistral-common, `TokenizerVersion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstructVersion {
    /// `[INST] … [/INST]` as text; no tools.
    V1,
    /// Control tokens; tools before the last user message.
    V2,
    /// Calls and results carry ids.
    V3,
    /// System prompt between tokens of its own.
    V7,
    /// `[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`.
    V11,
    /// Tools before the first user message; no call ids; `[THINK]`.
    V13,
    /// `[MODEL_SETTINGS]`.
    V15,
}

impl FromStr for InstructVersion {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        // `v7m1` is v7 with image tokens.
        let number = text.trim_start_matches('v').split('m').next().unwrap_or("");
        Ok(match number {
            "1" => Self::V1,
            "2" => Self::V2,
            "3" => Self::V3,
            "7" => Self::V7,
            "11" => Self::V11,
            "13" => Self::V13,
            "15" => Self::V15,
            _ => {
                let text: String = text.chars().take(20).collect();
                let reason =
                    format!("instruct version `{text}` is unknown; known ones are v1, v2, v3, v7, v11, v13, v15");
                return Err(TextError::File { format: "Mistral", reason });
            }
        })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Instruct {
    version: InstructVersion,
    tokenizer: Arc<Tokenizer>,
    bos: u32,
    eos: u32,
}

impl Instruct {
    pub fn new(version: InstructVersion, tokenizer: &Arc<Tokenizer>) -> Result<Self, TextError> {
        let end = |token: Option<u32>, name: &str| {
            token.ok_or(TextError::MissingToken { name: name.to_owned(), needed_by: "Mistral instruct format" })
        };
        let instruct = Self {
            version,
            tokenizer: tokenizer.clone(),
            bos: end(tokenizer.bos(), "<s>")?,
            eos: end(tokenizer.eos(), "</s>")?,
        };
        use InstructVersion::{V2, V7, V11, V15};
        let needed: [(InstructVersion, &[&str]); 4] = [
            (
                V2,
                &[
                    "[INST]",
                    "[/INST]",
                    "[AVAILABLE_TOOLS]",
                    "[/AVAILABLE_TOOLS]",
                    "[TOOL_RESULTS]",
                    "[/TOOL_RESULTS]",
                    "[TOOL_CALLS]",
                ],
            ),
            (V7, &["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]),
            (V11, &["[ARGS]", "[CALL_ID]"]),
            (V15, &["[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"]),
        ];
        for (since, names) in needed {
            if version >= since {
                for name in names {
                    instruct.control(name)?;
                }
            }
        }
        Ok(instruct)
    }

    pub fn tool_syntax(&self) -> ToolSyntax {
        let token = |name| self.tokenizer.special_id(name);
        match (self.version, token("[TOOL_CALLS]"), token("[ARGS]")) {
            (InstructVersion::V1, ..) | (_, None, _) => ToolSyntax::None,
            (InstructVersion::V2, Some(start), _) => ToolSyntax::List { start, ids: false },
            (InstructVersion::V11, Some(start), Some(args)) => {
                ToolSyntax::Named { start, args, call_id: token("[CALL_ID]") }
            }
            (InstructVersion::V13 | InstructVersion::V15, Some(start), Some(args)) => {
                ToolSyntax::Named { start, args, call_id: None }
            }
            (_, Some(start), _) => ToolSyntax::List { start, ids: true },
        }
    }

    pub fn render(&self, conversation: &Conversation) -> Result<Vec<Segment>, TextError> {
        let mut out = vec![Segment::Control(self.bos)];
        let messages = &conversation.messages;
        let users = || messages.iter().enumerate().filter(|(_, message)| message.role == Role::User);
        let first_user = users().next().map(|(at, _)| at);
        let last_user = users().next_back().map(|(at, _)| at);
        let system: Vec<String> =
            messages.iter().filter(|message| message.role == Role::System).map(Message::text).collect();
        let system = (!system.is_empty()).then(|| system.join("\n\n"));
        for (at, message) in messages.iter().enumerate() {
            let before_last_user = last_user.is_some_and(|last| at < last);
            match message.role {
                Role::System => self.system(message, &mut out)?,
                Role::User => {
                    let (first, last) = (first_user == Some(at), last_user == Some(at));
                    self.user(message, conversation, first, last, system.as_deref(), &mut out)?;
                }
                Role::Assistant => self.assistant(message, before_last_user, &mut out)?,
                Role::Tool => self.tool(message, before_last_user, &mut out)?,
            }
        }
        Ok(out)
    }

    fn system(&self, message: &Message, out: &mut Vec<Segment>) -> Result<(), TextError> {
        if self.version >= InstructVersion::V7 {
            out.push(self.control("[SYSTEM_PROMPT]")?);
            self.parts(message, out)?;
            out.push(self.control("[/SYSTEM_PROMPT]")?);
        }
        Ok(())
    }

    fn user(
        &self,
        message: &Message,
        conversation: &Conversation,
        first: bool,
        last: bool,
        system: Option<&str>,
        out: &mut Vec<Segment>,
    ) -> Result<(), TextError> {
        let text = message.text();
        if self.version == InstructVersion::V1 {
            let text = match system.filter(|_| first) {
                Some(system) => format!("{system}\n\n{text}"),
                None => text,
            };
            push(out, format!("[INST] {text} [/INST]"));
            return Ok(());
        }
        let tools_here = if self.version >= InstructVersion::V13 { first } else { last };
        if tools_here {
            if !conversation.tools.is_empty() {
                out.push(self.control("[AVAILABLE_TOOLS]")?);
                push(out, tools_json(conversation));
                out.push(self.control("[/AVAILABLE_TOOLS]")?);
            }
            if self.version >= InstructVersion::V15
                && let Some(effort) = &conversation.reasoning_effort
            {
                out.push(self.control("[MODEL_SETTINGS]")?);
                push(out, python_dumps(&json!({"reasoning_effort": effort}), None, false));
                out.push(self.control("[/MODEL_SETTINGS]")?);
            }
        }
        out.push(self.control("[INST]")?);
        match system.filter(|_| last && self.version < InstructVersion::V7) {
            Some(system) => push(out, format!("{system}\n\n{text}")),
            None => push(out, text),
        }
        out.push(self.control("[/INST]")?);
        Ok(())
    }

    fn assistant(&self, message: &Message, before_last_user: bool, out: &mut Vec<Segment>) -> Result<(), TextError> {
        let text = message.text();
        let has_content = message.content.iter().any(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        if message.tool_calls.is_empty() && !has_content {
            return Err(conversation_error("an assistant message needs text or tool calls"));
        }
        match self.version {
            InstructVersion::V1 => {
                if !message.tool_calls.is_empty() {
                    return Err(conversation_error("this model (instruct v1) can't call tools"));
                }
                push(out, text);
            }
            InstructVersion::V2 | InstructVersion::V3 => {
                if !message.tool_calls.is_empty() && has_content {
                    let reason = "this model's assistant messages hold either text or tool calls, not both";
                    return Err(conversation_error(reason));
                }
                if message.tool_calls.is_empty() {
                    push(out, text.trim_end_matches(' ').to_owned());
                } else if self.version == InstructVersion::V2 && before_last_user {
                    return Ok(());
                } else {
                    self.calls(message, out)?;
                }
            }
            _ => {
                if has_content {
                    if message.content.iter().any(|part| matches!(part, Part::Thinking { .. })) {
                        self.parts(message, out)?;
                    } else {
                        push(out, text.trim_end_matches(' ').to_owned());
                    }
                }
                if !message.tool_calls.is_empty() {
                    self.calls(message, out)?;
                }
            }
        }
        if !message.prefix {
            out.push(Segment::Control(self.eos));
        }
        Ok(())
    }

    fn calls(&self, message: &Message, out: &mut Vec<Segment>) -> Result<(), TextError> {
        if self.version < InstructVersion::V11 {
            let calls: Value = message
                .tool_calls
                .iter()
                .map(|call| {
                    let mut value = json!({"name": call.name, "arguments": parse_or_text(&call.arguments)});
                    if self.version >= InstructVersion::V3 && has_id(&call.id) {
                        value["id"] = call.id.clone().into();
                    }
                    value
                })
                .collect();
            out.push(self.control("[TOOL_CALLS]")?);
            push(out, python_dumps(&calls, None, false));
            return Ok(());
        }
        for call in &message.tool_calls {
            out.push(self.control("[TOOL_CALLS]")?);
            push(out, call.name.clone());
            if self.version == InstructVersion::V11 && has_id(&call.id) {
                out.push(self.control("[CALL_ID]")?);
                push(out, call.id.clone());
            }
            out.push(self.control("[ARGS]")?);
            push(out, python_dumps(&parse_or_text(&call.arguments), None, false));
        }
        Ok(())
    }

    fn tool(&self, message: &Message, before_last_user: bool, out: &mut Vec<Segment>) -> Result<(), TextError> {
        let text = message.text();
        let id = || {
            message
                .tool_call_id
                .clone()
                .ok_or_else(|| conversation_error("a tool message needs the `tool_call_id` of the call it answers"))
        };
        let open = match self.version {
            InstructVersion::V1 => return Err(conversation_error("this model (instruct v1) can't use tools")),
            InstructVersion::V2 if before_last_user => return Ok(()),
            _ => self.control("[TOOL_RESULTS]")?,
        };
        out.push(open);
        match self.version {
            InstructVersion::V1 | InstructVersion::V2 => {
                let result = json!([{"name": message.name, "content": parse_or_text(&text)}]);
                push(out, python_dumps(&result, None, false));
            }
            InstructVersion::V3 => {
                let result = json!({"content": parse_or_text(&text), "call_id": id()?});
                push(out, python_dumps(&result, None, false));
            }
            InstructVersion::V7 | InstructVersion::V11 => {
                push(out, id()?);
                out.push(self.control("[TOOL_CONTENT]")?);
                push(out, text);
            }
            InstructVersion::V13 | InstructVersion::V15 => push(out, text),
        }
        out.push(self.control("[/TOOL_RESULTS]")?);
        Ok(())
    }

    /// Each part is encoded on its own.
    fn parts(&self, message: &Message, out: &mut Vec<Segment>) -> Result<(), TextError> {
        for part in &message.content {
            match part {
                Part::Text(text) => push(out, text.clone()),
                Part::Thinking { text, closed } => {
                    if self.version < InstructVersion::V13 {
                        return Err(conversation_error("this model takes no thinking parts"));
                    }
                    out.push(self.control("[THINK]")?);
                    push(out, text.clone());
                    if *closed {
                        out.push(self.control("[/THINK]")?);
                    }
                }
            }
        }
        Ok(())
    }

    fn control(&self, name: &str) -> Result<Segment, TextError> {
        self.tokenizer
            .special_id(name)
            .map(Segment::Control)
            .ok_or_else(|| TextError::MissingToken { name: name.to_owned(), needed_by: "Mistral instruct format" })
    }
}

/// `[SUFFIX]suffix[PREFIX]prefix` after BOS. Source: mistral-common, `encode_fim`.
pub(super) fn fim(tokenizer: &Tokenizer, prefix: &str, suffix: &str) -> Option<Vec<u32>> {
    let suffix_token = tokenizer.special_id("[SUFFIX]")?;
    let prefix_token = tokenizer.special_id("[PREFIX]")?;
    let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
    tokens.push(suffix_token);
    if !suffix.is_empty() {
        // The mark keeps a SentencePiece vocabulary from putting a space before the suffix; it is two tokens long.
        let marked = tokenizer.encode_segments(&[Segment::Text(format!("☺{suffix}"))]);
        tokens.extend(marked.get(2..).unwrap_or_default());
    }
    tokens.push(prefix_token);
    tokens.extend(tokenizer.encode_segments(&[Segment::Text(prefix.to_owned())]));
    Some(tokens)
}

fn tools_json(conversation: &Conversation) -> String {
    let tools: Value = conversation
        .tools
        .iter()
        .map(|tool| {
            json!({
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            })
        })
        .collect();
    python_dumps(&tools, None, false)
}

fn parse_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn has_id(id: &str) -> bool {
    !id.is_empty() && id != "null"
}

fn push(out: &mut Vec<Segment>, text: String) {
    out.push(Segment::Text(text));
}

fn conversation_error(reason: &str) -> TextError {
    TextError::Conversation { reason: reason.to_owned() }
}
