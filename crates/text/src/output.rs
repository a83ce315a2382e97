//! What a model writes, read as it comes: text, thinking, and tool calls whose arguments stream on in fragments.
//! Control tokens never become text.

mod object;

use std::sync::Arc;

use object::{ObjectScanner, Scanned};

use crate::{ChatFormat, Detokenizer, Tokenizer, ToolSyntax};

/// A piece of a model's answer, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// Reasoning, between `[THINK]` and `[/THINK]` or `<think>` and `</think>` tokens.
    Thinking(String),
    /// Calls are numbered from 0. `id` only where the model writes one before the arguments.
    ToolCallStart {
        index: usize,
        id: Option<String>,
        name: String,
    },
    /// A part of the JSON text of the arguments.
    ToolCallArguments {
        index: usize,
        fragment: String,
    },
}

/// Reads tokens of one answer.
#[derive(Debug)]
pub struct OutputParser {
    tokenizer: Arc<Tokenizer>,
    text: Detokenizer,
    syntax: ToolSyntax,
    think: Option<(u32, u32)>,
    hermes: Option<(u32, u32)>,
    state: State,
    calls: usize,
}

#[derive(Debug)]
enum State {
    Text,
    Thinking,
    /// After `[TOOL_CALLS]` in the list syntax. `raw`: what was read since, until a call begins.
    List {
        object: Option<ObjectScanner>,
        raw: String,
        open: bool,
    },
    /// After `[TOOL_CALLS]` in the named syntax.
    Name(String),
    CallId {
        name: String,
        id: String,
    },
    Arguments,
    /// Text that may turn out to be a call: Hermes without tokens of its own (`held` may become `<tool_call>`), or
    /// Llama's bare JSON (the answer has only had white space so far).
    Undecided {
        held: String,
    },
    /// Inside a JSON object that is a call; `raw` as above.
    Object {
        object: ObjectScanner,
        raw: String,
    },
    /// After a Hermes call: its closing tag or the next call.
    AfterObject {
        held: String,
    },
}

impl OutputParser {
    /// `tools_allowed`: without it, call syntax that is plain text stays text, and calls that begin with a control
    /// token are dropped.
    pub fn new(format: &ChatFormat, tokenizer: &Arc<Tokenizer>, tools_allowed: bool) -> Self {
        Self::with_syntax(tokenizer, if tools_allowed { format.tool_syntax() } else { ToolSyntax::None }, false)
    }

    /// For an answer that continues a given text (`prefix: true`): a leading space is kept.
    pub fn continuing(format: &ChatFormat, tokenizer: &Arc<Tokenizer>, tools_allowed: bool) -> Self {
        Self::with_syntax(tokenizer, if tools_allowed { format.tool_syntax() } else { ToolSyntax::None }, true)
    }

    fn with_syntax(tokenizer: &Arc<Tokenizer>, syntax: ToolSyntax, continuing: bool) -> Self {
        let pair = |open: &str, close: &str| tokenizer.named_token(open).zip(tokenizer.named_token(close));
        let text =
            if continuing { Detokenizer::continuing(tokenizer.clone()) } else { Detokenizer::new(tokenizer.clone()) };
        let state = match syntax {
            ToolSyntax::Hermes | ToolSyntax::Llama { .. } => State::Undecided { held: String::new() },
            _ => State::Text,
        };
        Self {
            tokenizer: tokenizer.clone(),
            text,
            syntax,
            think: pair("[THINK]", "[/THINK]").or_else(|| pair("<think>", "</think>")),
            hermes: pair("<tool_call>", "</tool_call>").filter(|_| syntax == ToolSyntax::Hermes),
            state,
            calls: 0,
        }
    }

    /// How many calls have begun.
    pub fn tool_calls(&self) -> usize {
        self.calls
    }

    /// Reads the next token.
    pub fn push(&mut self, token: u32) -> Vec<Piece> {
        let mut out = Vec::new();
        if self.control(token, &mut out) {
            return out;
        }
        let text = self.text.push(token);
        if !text.is_empty() {
            self.read(&text, &mut out);
        }
        out
    }

    /// What the end of the answer releases: half a character, or text that never became a call.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut out = Vec::new();
        let text = self.text.finish();
        if !text.is_empty() {
            self.read(&text, &mut out);
        }
        self.leave(&mut out);
        out
    }

    /// Whether the token changed the state instead of giving text.
    fn control(&mut self, token: u32, out: &mut Vec<Piece>) -> bool {
        if let Some((open, close)) = self.think {
            if token == open {
                self.flush(out);
                self.state = State::Thinking;
                return true;
            }
            if token == close {
                self.flush(out);
                self.state = self.resting();
                return true;
            }
        }
        match self.syntax {
            ToolSyntax::List { start, .. } if token == start => {
                self.flush(out);
                self.state = State::List { object: None, raw: String::new(), open: false };
                true
            }
            ToolSyntax::Named { start, .. } if token == start => {
                self.flush(out);
                self.state = State::Name(String::new());
                true
            }
            ToolSyntax::Named { args, .. } if token == args => {
                self.finish_character(out);
                let (id, name) = match std::mem::replace(&mut self.state, State::Arguments) {
                    State::Name(name) => (None, name),
                    State::CallId { name, id } => (Some(id.trim().to_owned()), name),
                    other => {
                        self.state = other;
                        return true;
                    }
                };
                self.begin(id, name.trim().to_owned(), out);
                true
            }
            ToolSyntax::Named { call_id: Some(call_id), .. } if token == call_id => {
                self.finish_character(out);
                if let State::Name(name) = &mut self.state {
                    let name = std::mem::take(name);
                    self.state = State::CallId { name, id: String::new() };
                }
                true
            }
            ToolSyntax::Hermes if self.hermes.is_some_and(|(open, _)| token == open) => {
                self.finish_character(out);
                if let State::Undecided { held } = &mut self.state {
                    // White space before a call belongs to it.
                    held.truncate(held.trim_end().len());
                }
                self.leave(out);
                self.state = State::Object { object: ObjectScanner::new(), raw: String::new() };
                true
            }
            ToolSyntax::Hermes if self.hermes.is_some_and(|(_, close)| token == close) => {
                self.finish_character(out);
                if matches!(self.state, State::Object { .. }) {
                    // Inside a string of the arguments it is text; elsewhere it breaks the object off.
                    self.read("</tool_call>", out);
                    return true;
                }
                self.leave(out);
                self.state = State::AfterObject { held: String::new() };
                true
            }
            ToolSyntax::Llama { start: Some(start) } if token == start => {
                self.flush(out);
                self.state = State::Undecided { held: String::new() };
                true
            }
            _ => self.tokenizer.is_special(token),
        }
    }

    fn begin(&mut self, id: Option<String>, name: String, out: &mut Vec<Piece>) {
        out.push(Piece::ToolCallStart { index: self.calls, id, name });
        self.calls += 1;
    }

    /// The state between calls.
    fn resting(&self) -> State {
        match self.syntax {
            ToolSyntax::Hermes | ToolSyntax::Llama { .. } => State::Undecided { held: String::new() },
            _ => State::Text,
        }
    }

    fn finish_character(&mut self, out: &mut Vec<Piece>) {
        let text = self.text.finish();
        if !text.is_empty() {
            self.read(&text, out);
        }
    }

    fn flush(&mut self, out: &mut Vec<Piece>) {
        self.finish_character(out);
        self.leave(out);
    }

    /// Releases what the state holds back, as text: it did not become a call.
    fn leave(&mut self, out: &mut Vec<Piece>) {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Undecided { held } => push_text(out, &held),
            State::Object { raw, .. } | State::List { raw, .. } => push_text(out, &raw),
            State::AfterObject { held } if !held.trim().is_empty() => push_text(out, &held),
            // A name without arguments is no call; it was never meant as text either.
            _ => {}
        }
    }

    fn read(&mut self, text: &str, out: &mut Vec<Piece>) {
        let mut rest = text;
        while !rest.is_empty() {
            rest = self.step(rest, out);
        }
    }

    /// Reads some of the text in the present state and returns the rest.
    fn step<'t>(&mut self, text: &'t str, out: &mut Vec<Piece>) -> &'t str {
        match &mut self.state {
            State::Text => push_text(out, text),
            State::Thinking => match out.last_mut() {
                Some(Piece::Thinking(before)) => before.push_str(text),
                _ => out.push(Piece::Thinking(text.to_owned())),
            },
            State::Name(name) => name.push_str(text),
            State::CallId { id, .. } => id.push_str(text),
            State::Arguments => push_fragment(out, self.calls.saturating_sub(1), text),
            State::List { .. } => return self.step_list(text, out),
            State::Undecided { .. } => return self.step_undecided(text, out),
            State::Object { .. } => return self.step_object(text, out),
            State::AfterObject { held } => {
                held.push_str(text);
                let seen = held.trim_start();
                if let Some(rest) = seen.strip_prefix("</tool_call>") {
                    let rest = rest.to_owned();
                    self.state = State::AfterObject { held: String::new() };
                    if !rest.is_empty() {
                        self.read(&rest, out);
                    }
                } else if !"</tool_call>".starts_with(seen) {
                    let held = seen.to_owned();
                    self.state = State::Undecided { held: String::new() };
                    self.read(&held, out);
                }
            }
        }
        ""
    }

    fn step_list<'t>(&mut self, text: &'t str, out: &mut Vec<Piece>) -> &'t str {
        let State::List { object, raw, open } = &mut self.state else { return text };
        let Some(scanner) = object else {
            let Some(c) = text.chars().next() else { return "" };
            let rest = text.get(c.len_utf8()..).unwrap_or("");
            match c {
                '[' if !*open => *open = true,
                ']' if *open => {
                    self.state = State::Text;
                    return rest.trim_start();
                }
                ',' | ' ' | '\n' | '\t' | '\r' => {}
                '{' => {
                    *object = Some(ObjectScanner::new());
                    return text;
                }
                _ => {
                    // No call list at all: give the words back as text.
                    let held = std::mem::take(raw);
                    self.state = State::Text;
                    push_text(out, &held);
                    return text;
                }
            }
            if self.calls == 0 {
                raw.push(c);
            }
            return rest;
        };
        let (scanned, rest) = scanner.read(text);
        raw.push_str(text.get(..text.len() - rest.len()).unwrap_or(""));
        let done = scanner.is_done();
        let failed = scanner.is_broken();
        if scanner.has_begun() {
            raw.clear();
        }
        if done {
            *object = None;
        } else if failed {
            let held = std::mem::take(raw);
            self.state = State::Text;
            push_text(out, &held);
            // Whatever follows broken JSON is text, unless a call has already begun in it.
        }
        self.emit(scanned, out);
        rest
    }

    fn step_object<'t>(&mut self, text: &'t str, out: &mut Vec<Piece>) -> &'t str {
        let State::Object { object, raw } = &mut self.state else { return text };
        let (scanned, rest) = object.read(text);
        raw.push_str(text.get(..text.len() - rest.len()).unwrap_or(""));
        if object.has_begun() {
            raw.clear();
        }
        if object.is_done() {
            let held = std::mem::take(raw);
            // An object without a name was no call.
            push_text(out, &held);
            self.state = match self.syntax {
                ToolSyntax::Hermes => State::AfterObject { held: String::new() },
                // Llama separates several calls with semicolons.
                _ => State::Undecided { held: String::new() },
            };
        } else if object.is_broken() {
            let held = std::mem::take(raw);
            self.state = State::Text;
            push_text(out, &held);
        }
        self.emit(scanned, out);
        rest
    }

    fn step_undecided<'t>(&mut self, text: &'t str, out: &mut Vec<Piece>) -> &'t str {
        let State::Undecided { held } = &mut self.state else { return text };
        held.push_str(text);
        if self.syntax == ToolSyntax::Hermes {
            let tag = "<tool_call>";
            if let Some(at) = held.find(tag) {
                let after = held.split_off(at).get(tag.len()..).unwrap_or("").to_owned();
                let before = std::mem::take(held);
                push_text(out, before.trim_end());
                self.state = State::Object { object: ObjectScanner::new(), raw: tag.to_owned() };
                if !after.is_empty() {
                    self.read(&after, out);
                }
                return "";
            }
            // White space before a tag belongs to it; so both are held back.
            let keep = (0..=held.len())
                .filter(|at| held.is_char_boundary(*at))
                .find(|at| held.get(*at..).is_some_and(|tail| tag.starts_with(tail.trim_start())))
                .unwrap_or(held.len());
            let rest = held.split_off(keep);
            let ready = std::mem::replace(held, rest);
            push_text(out, &ready);
            return "";
        }
        let after = held.trim_start_matches(|c: char| c.is_whitespace() || (c == ';' && self.calls > 0));
        if after.starts_with('{') {
            let after = after.to_owned();
            self.state = State::Object { object: ObjectScanner::new(), raw: String::new() };
            self.read(&after, out);
        } else if !after.is_empty() {
            let held = std::mem::take(held);
            self.state = State::Text;
            push_text(out, &held);
        }
        ""
    }

    fn emit(&mut self, scanned: Vec<Scanned>, out: &mut Vec<Piece>) {
        for event in scanned {
            match event {
                Scanned::Begin { id, name } => self.begin(id, name, out),
                Scanned::Arguments(fragment) => push_fragment(out, self.calls.saturating_sub(1), &fragment),
            }
        }
    }
}

fn push_text(out: &mut Vec<Piece>, text: &str) {
    if text.is_empty() {
        return;
    }
    match out.last_mut() {
        Some(Piece::Text(before)) => before.push_str(text),
        _ => out.push(Piece::Text(text.to_owned())),
    }
}

fn push_fragment(out: &mut Vec<Piece>, at: usize, text: &str) {
    if text.is_empty() {
        return;
    }
    match out.last_mut() {
        Some(Piece::ToolCallArguments { index, fragment }) if *index == at => fragment.push_str(text),
        _ => out.push(Piece::ToolCallArguments { index: at, fragment: text.to_owned() }),
    }
}
