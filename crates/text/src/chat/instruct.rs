//! Mistral's instruct formats, v1 to v15, token by token as `mistral-common` makes them. A format is a walk over the
//! messages; the versions differ in where system prompt and tools stand and in how calls and results are written.

mod turns;

use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use turns::{Content, Turn, turns};

use super::{ToolSyntax, python_dumps};
use crate::tokenizer::Segment;
use crate::{Conversation, Part, TextError, Tokenizer, ToolCall};

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

    pub fn has_fim(&self) -> bool {
        self.version >= InstructVersion::V2
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
        let (turns, system) = turns(&conversation.messages, self.version)?;
        let is_user = |turn: &Turn| matches!(turn, Turn::User(_));
        let first_user = turns.iter().position(is_user);
        let last_user = turns.iter().rposition(is_user);
        let mut results = 0;
        for (at, turn) in turns.iter().enumerate() {
            let before_last_user = last_user.is_some_and(|last| at < last);
            match turn {
                Turn::System(parts) => {
                    if self.version >= InstructVersion::V15 && parts.iter().any(|part| !matches!(part, Part::Text(_))) {
                        return Err(conversation_error("this model's system prompt holds text only"));
                    }
                    out.push(self.control("[SYSTEM_PROMPT]")?);
                    self.parts(parts, &mut out)?;
                    out.push(self.control("[/SYSTEM_PROMPT]")?);
                }
                Turn::User(text) => {
                    let (first, last) = (first_user == Some(at), last_user == Some(at));
                    self.user(text, conversation, first, last, system.as_deref(), &mut out)?;
                }
                Turn::Assistant { content, calls, prefix } => {
                    results = 0;
                    self.assistant(content, calls, *prefix, before_last_user, &mut out)?;
                }
                Turn::Tool { id, name, content } => {
                    results += 1;
                    if self.version == InstructVersion::V2 && !before_last_user && results > 1 {
                        return Err(conversation_error("this model (instruct v2) takes one tool result per turn"));
                    }
                    self.tool(id.as_deref(), name.as_deref(), content, before_last_user, &mut out)?;
                }
            }
        }
        Ok(out)
    }

    fn user(
        &self,
        text: &str,
        conversation: &Conversation,
        first: bool,
        last: bool,
        system: Option<&str>,
        out: &mut Vec<Segment>,
    ) -> Result<(), TextError> {
        let with_system = |here: bool| match system.filter(|_| here) {
            Some(system) => format!("{system}\n\n{text}"),
            None => text.to_owned(),
        };
        if self.version == InstructVersion::V1 {
            push(out, format!("[INST] {} [/INST]", with_system(first)));
            return Ok(());
        }
        if if self.version >= InstructVersion::V13 { first } else { last } {
            if !conversation.tools.is_empty() {
                out.push(self.control("[AVAILABLE_TOOLS]")?);
                push(out, tools_json(conversation));
                out.push(self.control("[/AVAILABLE_TOOLS]")?);
            }
            if let Some(settings) = self.settings(conversation)? {
                out.push(self.control("[MODEL_SETTINGS]")?);
                push(out, settings);
                out.push(self.control("[/MODEL_SETTINGS]")?);
            }
        }
        out.push(self.control("[INST]")?);
        push(out, with_system(last));
        out.push(self.control("[/INST]")?);
        Ok(())
    }

    /// v15: the settings that the model takes, by name; what it does not take is left out.
    fn settings(&self, conversation: &Conversation) -> Result<Option<String>, TextError> {
        if self.version < InstructVersion::V15 {
            return Ok(None);
        }
        let settings = self.tokenizer.tekken().and_then(|facts| facts.settings.as_ref());
        let mut map = Map::new();
        if let (Some(schema), Some(_)) = (&conversation.response_schema, settings.and_then(|s| s.json_schema.as_ref()))
        {
            map.insert("json_schema".to_owned(), schema.clone());
        }
        // A vocabulary that came without its settings says nothing of what is allowed.
        match settings.and_then(|settings| settings.reasoning_effort.as_ref()) {
            Some(known) => {
                let effort = conversation.reasoning_effort.as_ref().or(known.default.as_ref());
                if let Some(effort) = effort {
                    if !known.values.contains(effort) {
                        let values = known.values.join("`, `");
                        let reason = format!("this model's reasoning effort is one of `{values}`, not `{effort}`");
                        return Err(conversation_error(&reason));
                    }
                    map.insert("reasoning_effort".to_owned(), effort.clone().into());
                }
            }
            None if settings.is_none() => {
                if let Some(effort) = &conversation.reasoning_effort {
                    map.insert("reasoning_effort".to_owned(), effort.clone().into());
                }
            }
            None => {}
        }
        Ok((!map.is_empty()).then(|| python_dumps(&Value::Object(map), None, false)))
    }

    fn assistant(
        &self,
        content: &Content,
        calls: &[ToolCall],
        prefix: bool,
        before_last_user: bool,
        out: &mut Vec<Segment>,
    ) -> Result<(), TextError> {
        let empty = matches!(content, Content::Text(text) if text.is_empty());
        if calls.is_empty() && empty {
            return Err(conversation_error("an assistant message needs text or tool calls"));
        }
        if self.version == InstructVersion::V1 && !calls.is_empty() {
            return Err(conversation_error("this model (instruct v1) can't call tools"));
        }
        if self.version < InstructVersion::V7 && !calls.is_empty() && !empty {
            let reason = "this model's assistant turns hold either text or tool calls, not both";
            return Err(conversation_error(reason));
        }
        if self.version == InstructVersion::V2 && !calls.is_empty() && before_last_user {
            return Ok(());
        }
        match content {
            Content::Text(_) if empty => {}
            Content::Text(text) if self.version == InstructVersion::V1 => push(out, text.clone()),
            Content::Text(text) => push(out, text.trim_end_matches(' ').to_owned()),
            Content::Parts(parts) => self.parts(parts, out)?,
        }
        if !calls.is_empty() {
            self.calls(calls, out)?;
        }
        if !prefix {
            out.push(Segment::Control(self.eos));
        }
        Ok(())
    }

    fn calls(&self, calls: &[ToolCall], out: &mut Vec<Segment>) -> Result<(), TextError> {
        if self.version < InstructVersion::V11 {
            let calls: Value = calls
                .iter()
                .map(|call| {
                    let mut value = Map::new();
                    value.insert("name".to_owned(), call.name.clone().into());
                    value.insert("arguments".to_owned(), parse_or_text(&call.arguments));
                    if self.version >= InstructVersion::V3 && has_id(&call.id) {
                        value.insert("id".to_owned(), nine_alphanumerics(&call.id).into());
                    }
                    Value::Object(value)
                })
                .collect();
            out.push(self.control("[TOOL_CALLS]")?);
            push(out, python_dumps(&calls, None, false));
            return Ok(());
        }
        for call in calls {
            out.push(self.control("[TOOL_CALLS]")?);
            push(out, call.name.clone());
            if self.version == InstructVersion::V11 && has_id(&call.id) {
                out.push(self.control("[CALL_ID]")?);
                push(out, nine_alphanumerics(&call.id));
            }
            out.push(self.control("[ARGS]")?);
            push(out, python_dumps(&parse_or_text(&call.arguments), None, false));
        }
        Ok(())
    }

    fn tool(
        &self,
        id: Option<&str>,
        name: Option<&str>,
        content: &str,
        before_last_user: bool,
        out: &mut Vec<Segment>,
    ) -> Result<(), TextError> {
        let id = || {
            id.map(nine_alphanumerics)
                .ok_or_else(|| conversation_error("a tool message needs the `tool_call_id` of the call it answers"))
        };
        match self.version {
            InstructVersion::V1 => return Err(conversation_error("this model (instruct v1) can't use tools")),
            InstructVersion::V2 if before_last_user => return Ok(()),
            _ => out.push(self.control("[TOOL_RESULTS]")?),
        }
        match self.version {
            InstructVersion::V1 | InstructVersion::V2 => {
                let result = json!([{"name": name, "content": parse_or_text(content)}]);
                push(out, python_dumps(&result, None, false));
            }
            InstructVersion::V3 => {
                let result = json!({"content": parse_or_text(content), "call_id": id()?});
                push(out, python_dumps(&result, None, false));
            }
            InstructVersion::V7 | InstructVersion::V11 => {
                push(out, id()?);
                out.push(self.control("[TOOL_CONTENT]")?);
                push(out, content.to_owned());
            }
            InstructVersion::V13 | InstructVersion::V15 => push(out, content.to_owned()),
        }
        out.push(self.control("[/TOOL_RESULTS]")?);
        Ok(())
    }

    /// Each part is encoded on its own.
    fn parts(&self, parts: &[Part], out: &mut Vec<Segment>) -> Result<(), TextError> {
        for part in parts {
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
/// `mark` puts the package's mark before the suffix, which keeps a SentencePiece vocabulary from putting a space there.
pub(super) fn fim(tokenizer: &Tokenizer, prefix: &str, suffix: &str, mark: bool) -> Option<Vec<u32>> {
    let suffix_token = tokenizer.special_id("[SUFFIX]")?;
    let prefix_token = tokenizer.special_id("[PREFIX]")?;
    let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
    tokens.push(suffix_token);
    if mark && !suffix.is_empty() {
        let marked = tokenizer.encode_segments(&[Segment::Text(format!("☺{suffix}"))]);
        // The package takes the mark for two tokens, whatever the vocabulary.
        tokens.extend(marked.get(2..).unwrap_or_default());
    } else {
        tokens.extend(tokenizer.encode_segments(&[Segment::Text(suffix.to_owned())]));
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

/// Models saw ids of nine alphanumerics only; another dialect's id becomes one, the same in call and result.
fn nine_alphanumerics(id: &str) -> String {
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    // FNV-1a, written in base 62.
    let mut hash =
        id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut text = String::new();
    for _ in 0..9 {
        let digit = u8::try_from(hash % 62).unwrap_or(0);
        hash /= 62;
        text.push(char::from(match digit {
            0..10 => b'0' + digit,
            10..36 => b'A' + digit - 10,
            _ => b'a' + digit - 36,
        }));
    }
    text
}

fn push(out: &mut Vec<Segment>, text: String) {
    out.push(Segment::Text(text));
}

fn conversation_error(reason: &str) -> TextError {
    TextError::Conversation { reason: reason.to_owned() }
}
