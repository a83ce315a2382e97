//! One row, asked of a model: text to tokens, tokens to the engine, and what comes back as a reply. Answers are greedy and free:
//! no grammar helps the model.

use std::sync::atomic::{AtomicBool, Ordering};

use falaj_engine::{AdapterHandle, Engine, Event, Request, Sampling, ScoreRequest, Scores, Tenant};
use falaj_text::{
    ChatFormat, Conversation, Message, ModelText, OutputParser, Piece, Special, Tokenizer, Tool, ToolSyntax,
};
use serde::{Deserialize, Serialize};

use crate::score::{Called, Reply};
use crate::suite::{Context, Task, grounded_prompt};

/// What results depend on beside the model and the suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Of one answer.
    pub max_tokens: u32,
    /// Lengths of what is scored beyond this are cut into windows; 0: the model's context.
    pub window_tokens: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_tokens: 256, window_tokens: 0 }
    }
}

/// Why a row has no reply.
pub(crate) enum NoReply {
    Cancelled,
    /// The engine is gone, and so are all other rows.
    Stopped,
    /// This row only.
    Failed(String),
}

/// A model to be asked.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) adapter: Option<&'a AdapterHandle>,
    pub(crate) text: &'a ModelText,
    pub(crate) settings: &'a Settings,
    pub(crate) cancelled: &'a AtomicBool,
}

impl Asked<'_> {
    pub(crate) fn ask(&self, task: &Task) -> Result<Reply, NoReply> {
        match task {
            Task::Perplexity { text } => self.likelihood(text),
            Task::MultipleChoice { context, choices, .. } => self.choices(context, choices),
            Task::ExactMatch { messages, .. } => self.answer(messages.clone(), Vec::new()),
            Task::ToolCall { messages, tools, .. } => self.answer(messages.clone(), tools.clone()),
            Task::Grounded { system, passages, question, .. } => {
                let system = system.iter().map(|system| Message::system(system.clone()));
                let messages = system.chain([Message::user(grounded_prompt(passages, question))]).collect();
                self.answer(messages, Vec::new())
            }
        }
    }

    /// Of the whole text behind the model's beginning of text. Where it is longer than a window, each token behind the first
    /// window has at least half a window before it.
    fn likelihood(&self, text: &str) -> Result<Reply, NoReply> {
        let tokenizer = &*self.text.tokenizer;
        let mut tokens: Vec<u32> = start(tokenizer).into_iter().collect();
        let begun = tokens.len();
        tokens.extend(tokenizer.encode(text, Special::Plain));
        let context = self.engine.context_tokens();
        let window = match self.settings.window_tokens {
            0 => context,
            window => window.clamp(2, context),
        };
        let (mut nats, mut from) = (0.0, begun.max(1));
        while from < tokens.len() {
            let behind = if from <= begun.max(1) { 0 } else { from - window / 2 };
            let end = tokens.len().min(behind + window);
            let piece = tokens.get(behind..end).unwrap_or_default();
            nats -= total(&self.scored(&[(piece.to_vec(), from - behind)])?);
            from = end;
        }
        Ok(Reply::Likelihood { nats, tokens: tokens.len() - begun.max(1).min(tokens.len()) })
    }

    /// Each choice as it would go on from the context.
    fn choices(&self, context: &Context, choices: &[String]) -> Result<Reply, NoReply> {
        let tokenizer = &*self.text.tokenizer;
        let pairs = match context {
            Context::Text(prompt) => {
                choices.iter().map(|choice| continued(tokenizer, prompt, choice)).collect::<Vec<_>>()
            }
            Context::Messages(messages) => {
                let prompt = self.rendered(self.chat()?, messages.clone(), Vec::new())?;
                let first = prompt.len();
                let whole = choices.iter().map(|choice| {
                    let mut tokens = prompt.clone();
                    tokens.extend(tokenizer.encode(choice, Special::Plain));
                    (tokens, first)
                });
                whole.collect()
            }
        };
        let mut sums = Vec::with_capacity(pairs.len());
        for piece in pairs.chunks(AT_ONCE) {
            let scores = self.scored_each(piece)?;
            sums.extend(
                scores.iter().map(|scores| scores.logprobs.iter().map(|logprob| f64::from(*logprob)).sum::<f64>()),
            );
        }
        Ok(Reply::Choices(sums))
    }

    fn answer(&self, messages: Vec<Message>, tools: Vec<Tool>) -> Result<Reply, NoReply> {
        let chat = self.chat()?;
        let calls = !tools.is_empty() && chat.tool_syntax() != ToolSyntax::None;
        if !tools.is_empty() && !calls {
            return Err(NoReply::Failed("the model's chat format has no tools".to_owned()));
        }
        let prompt = self.rendered(chat, messages, tools)?;
        let mut stream = self.engine.submit(Request {
            prompt,
            max_tokens: self.settings.max_tokens,
            sampling: Sampling::default(),
            stop_tokens: self.text.tokenizer.eos_tokens(),
            min_tokens: 0,
            constraint: None,
            tenant: Tenant::default(),
            cache_salt: 0,
            logprobs: None,
            adapter: self.adapter.cloned(),
        })?;
        let mut parser = OutputParser::new(chat, &self.text.tokenizer, calls);
        let mut written = Written::default();
        loop {
            match stream.events.blocking_recv() {
                _ if self.cancelled.load(Ordering::Relaxed) => return Err(NoReply::Cancelled),
                Some(Event::Token { token, .. }) => written.read(parser.push(token)),
                Some(Event::Done { .. }) => break,
                Some(Event::Failed(reason)) => return Err(NoReply::Failed(reason)),
                None => return Err(NoReply::Stopped),
            }
        }
        written.read(parser.finish());
        Ok(Reply::Answer { text: written.text, calls: written.calls })
    }

    fn chat(&self) -> Result<&ChatFormat, NoReply> {
        let none = || NoReply::Failed("the model has no chat format; give it rows with `prompt` or `text`".to_owned());
        self.text.chat.as_ref().ok_or_else(none)
    }

    fn rendered(&self, chat: &ChatFormat, messages: Vec<Message>, tools: Vec<Tool>) -> Result<Vec<u32>, NoReply> {
        let conversation = Conversation { messages, tools, now_s: Some(NOW_S), ..Conversation::default() };
        chat.render(&conversation).map(|prompt| prompt.tokens).map_err(|error| NoReply::Failed(error.to_string()))
    }

    fn scored(&self, pairs: &[(Vec<u32>, usize)]) -> Result<Scores, NoReply> {
        self.scored_each(pairs)?.pop().ok_or(NoReply::Stopped)
    }

    /// All of a few texts, each from its first scored token on.
    fn scored_each(&self, pairs: &[(Vec<u32>, usize)]) -> Result<Vec<Scores>, NoReply> {
        let asked = pairs.iter().map(|(tokens, first)| {
            let adapter = self.adapter.cloned();
            self.engine.score(ScoreRequest {
                tokens: tokens.clone(),
                first: *first,
                adapter,
                ..ScoreRequest::default()
            })
        });
        let waiting = asked.collect::<Result<Vec<_>, _>>()?;
        let mut scores = Vec::with_capacity(waiting.len());
        for reply in waiting {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(NoReply::Cancelled);
            }
            scores.push(reply.blocking_recv().map_err(|_| NoReply::Stopped)?.map_err(NoReply::Failed)?);
        }
        Ok(scores)
    }
}

impl From<falaj_engine::SubmitError> for NoReply {
    fn from(error: falaj_engine::SubmitError) -> Self {
        match error {
            falaj_engine::SubmitError::Stopped => Self::Stopped,
            error => Self::Failed(error.to_string()),
        }
    }
}

#[derive(Default)]
struct Written {
    text: String,
    calls: Vec<Called>,
}

impl Written {
    /// Thinking is no answer.
    fn read(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text.push_str(&text),
                Piece::Thinking(_) => {}
                Piece::ToolCallStart { name, .. } => self.calls.push(Called { name, arguments: String::new() }),
                Piece::ToolCallArguments { fragment, .. } => {
                    if let Some(call) = self.calls.last_mut() {
                        call.arguments.push_str(&fragment);
                    }
                }
            }
        }
    }
}

/// What a text begins behind: BOS where the model was made with it, else what ended the text before it.
fn start(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.bos().filter(|_| tokenizer.add_bos()).or_else(|| tokenizer.eos()).or_else(|| tokenizer.bos())
}

/// A prompt with a choice behind it, and the choice's first token, cut as lm-evaluation-harness cuts them: blanks at the prompt's
/// end go to the choice, and both are encoded together. Between two words that neither separates there is a space.
fn continued(tokenizer: &Tokenizer, prompt: &str, choice: &str) -> (Vec<u32>, usize) {
    let context = prompt.trim_end();
    let blank = prompt.get(context.len()..).unwrap_or_default();
    let space =
        if blank.is_empty() && !context.is_empty() && !choice.starts_with(char::is_whitespace) { " " } else { blank };
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let mut before: Vec<u32> = bos.into_iter().collect();
    let mut whole = before.clone();
    before.extend(tokenizer.encode(context, Special::Plain));
    whole.extend(tokenizer.encode(&format!("{context}{space}{choice}"), Special::Plain));
    if before.is_empty() {
        // Nothing comes before: what begins a text does.
        let start = start(tokenizer);
        return (start.into_iter().chain(whole).collect(), usize::from(start.is_some()));
    }
    let first = before.len().min(whole.len().saturating_sub(1));
    (whole, first)
}

fn total(scores: &Scores) -> f64 {
    scores.logprobs.iter().map(|logprob| f64::from(*logprob)).sum()
}

/// Requests that one row has with the engine at the same time.
pub(crate) const AT_ONCE: usize = 8;
/// For templates that print the date: the same result tomorrow. 1 January 2026.
const NOW_S: i64 = 1_767_225_600;
