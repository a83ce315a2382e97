//! From a row to tokens with a weight on each: the model's own chat format for conversations, plain text for the rest.

use std::sync::Arc;

use falaj_artifact::Hasher;
use falaj_text::{ChatFormat, Conversation, Message, ModelText, OutputParser, Piece, Special, TextError, Tokenizer};

use super::row::{Dialogue, Preference};
use super::{Reason, Row};

/// Tokens to learn from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    pub tokens: Vec<u32>,
    /// How much predicting each token counts; that of the first is 0, since nothing predicts it.
    pub weights: Vec<f32>,
}

/// What stays together in a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Unit {
    Example(Example),
    /// Running text: it may be cut anywhere.
    Text(Example),
    /// The preferred answer first.
    Pair([Example; 2]),
}

impl Unit {
    pub fn examples(&self) -> &[Example] {
        match self {
            Unit::Example(example) | Unit::Text(example) => std::slice::from_ref(example),
            Unit::Pair(pair) => pair,
        }
    }

    /// Cuts what a row of `length` predictions has no room for; false where nothing to learn is left.
    pub fn cut(&mut self, length: usize) -> bool {
        let share = length / self.examples().len();
        self.examples_mut().iter_mut().all(|example| {
            example.tokens.truncate(share + 1);
            example.weights.truncate(share + 1);
            example.weights.iter().any(|weight| *weight > 0.0)
        })
    }

    /// Names its content: equal for equal tokens and weights.
    pub fn key(&self) -> [u8; 16] {
        let mut hasher = Hasher::default();
        for example in self.examples() {
            hasher.update(&(example.tokens.len() as u64).to_le_bytes());
            let bytes = example.tokens.iter().zip(&example.weights).flat_map(|(token, weight)| {
                let ([a, b, c, d], [e, f, g, h]) = (token.to_le_bytes(), weight.to_le_bytes());
                [a, b, c, d, e, f, g, h]
            });
            hasher.update(&bytes.collect::<Vec<u8>>());
        }
        let mut key = [0; 16];
        key.iter_mut().zip(hasher.finish().as_bytes()).for_each(|(to, from)| *to = *from);
        key
    }

    fn examples_mut(&mut self) -> &mut [Example] {
        match self {
            Unit::Example(example) | Unit::Text(example) => std::slice::from_mut(example),
            Unit::Pair(pair) => pair,
        }
    }
}

/// Renders rows for one model.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    chat: Option<ChatFormat>,
}

impl Encoder {
    pub fn new(text: &ModelText) -> Self {
        Self { tokenizer: text.tokenizer.clone(), chat: text.chat.clone() }
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// `prompt` as a user would ask it, up to where the answer begins; plain text for a model that knows no chats.
    ///
    /// # Errors
    /// A chat format that cannot render it.
    pub fn question(&self, prompt: &str) -> Result<Vec<u32>, TextError> {
        let Some(chat) = &self.chat else {
            let tokens = self.tokenizer.encode(prompt, Special::Plain);
            return Ok(self.plain(tokens, true, false).tokens);
        };
        let conversation = Conversation { messages: vec![Message::user(prompt)], ..Conversation::default() };
        Ok(chat.render(&conversation)?.tokens)
    }

    /// What a model wrote, as people read it.
    pub fn said(&self, tokens: &[u32]) -> String {
        let Some(chat) = &self.chat else { return self.tokenizer.decode(tokens) };
        let mut parser = OutputParser::new(chat, &self.tokenizer, false);
        let mut pieces: Vec<Piece> = tokens.iter().flat_map(|token| parser.push(*token)).collect();
        pieces.extend(parser.finish());
        let texts = pieces.into_iter().filter_map(|piece| match piece {
            Piece::Text(text) | Piece::Thinking(text) => Some(text),
            Piece::ToolCallStart { .. } | Piece::ToolCallArguments { .. } => None,
        });
        texts.collect()
    }

    /// The units of a row: one, unless the chat format writes history in another way than the last turn.
    ///
    /// # Errors
    /// Why nothing can be learnt from it.
    pub fn encode(&self, row: &Row) -> Result<Vec<Unit>, Reason> {
        let mut units = match row {
            Row::Text { text, begins, ends } => {
                let tokens = self.tokenizer.encode(text, Special::Plain);
                vec![Unit::Text(self.plain(tokens, *begins, *ends))]
            }
            Row::Completion { prompt, completion } => vec![Unit::Example(self.completion(prompt, completion))],
            Row::Alpaca { instruction, input, output } => {
                let gap = if input.trim().is_empty() { "" } else { "\n\n" };
                let question = format!("{instruction}{gap}{input}");
                match &self.chat {
                    Some(_) => {
                        let messages = vec![Message::user(question), Message::assistant(output.as_str())];
                        let conversation = Conversation { messages, ..Conversation::default() };
                        let units = self.dialogue(&Dialogue { conversation, weights: vec![0.0, 1.0] })?;
                        units.into_iter().map(Unit::Example).collect()
                    }
                    None => vec![Unit::Example(self.completion(&format!("{question}\n\n"), output))],
                }
            }
            Row::Dialogue(dialogue) => self.dialogue(dialogue)?.into_iter().map(Unit::Example).collect(),
            Row::Preference(Preference::Texts { prompt, answers: [chosen, rejected] }) => {
                vec![Unit::Pair([self.completion(prompt, chosen), self.completion(prompt, rejected)])]
            }
            Row::Preference(Preference::Dialogues(pair)) => {
                let [chosen, rejected] = &**pair;
                // Where an answer takes several lessons, the last one is the whole.
                let whole = |dialogue| self.dialogue(dialogue)?.pop().ok_or(Reason::NothingToLearn);
                vec![Unit::Pair([whole(chosen)?, whole(rejected)?])]
            }
        };
        for example in units.iter_mut().flat_map(Unit::examples_mut) {
            if let Some(first) = example.weights.first_mut() {
                *first = 0.0;
            }
            if example.weights.iter().all(|weight| *weight == 0.0) {
                return Err(Reason::NothingToLearn);
            }
        }
        Ok(units)
    }

    /// All of it learnt, between BOS and EOS where the model has them.
    fn plain(&self, tokens: Vec<u32>, begins: bool, ends: bool) -> Example {
        let bos = self.tokenizer.bos().filter(|_| begins && self.tokenizer.add_bos());
        let eos = self.tokenizer.eos().filter(|_| ends);
        let tokens: Vec<u32> = bos.into_iter().chain(tokens).chain(eos).collect();
        Example { weights: vec![1.0; tokens.len()], tokens }
    }

    /// The completion and the end are learnt, after the tokens that the prompt alone would have.
    fn completion(&self, prompt: &str, completion: &str) -> Example {
        let (tokens, ends) = self.tokenizer.encode_joined(&[prompt, completion]);
        let mut example = self.plain(tokens, true, true);
        let bos = usize::from(self.tokenizer.add_bos());
        let prompt = bos + ends.first().copied().unwrap_or(0);
        example.weights.iter_mut().take(prompt).for_each(|weight| *weight = 0.0);
        example
    }

    fn dialogue(&self, dialogue: &Dialogue) -> Result<Vec<Example>, Reason> {
        let fail = |error: TextError| Reason::NotRendered { detail: error.to_string().chars().take(300).collect() };
        let chat = self.chat.as_ref().ok_or(TextError::NoChatFormat).map_err(fail)?;
        let weight = |message: usize| dialogue.weights.get(message).copied().unwrap_or(0.0);
        let conversation = Conversation { now_s: Some(DATE_S), ..dialogue.conversation.clone() };
        let lessons = chat.lessons(&conversation, |message| weight(message) > 0.0).map_err(fail)?;
        if lessons.is_empty() {
            return Err(Reason::NothingToLearn);
        }
        let examples = lessons.into_iter().map(|lesson| {
            let mut weights = vec![0.0; lesson.tokens.len()];
            for answer in lesson.answers {
                if let Some(part) = weights.get_mut(answer.tokens) {
                    part.fill(weight(answer.message));
                }
            }
            Example { tokens: lesson.tokens, weights }
        });
        Ok(examples.collect())
    }
}

/// For templates that print the date: 2026-01-01, so that the same data gives the same tokens on every day.
const DATE_S: i64 = 1_767_225_600;

#[cfg(test)]
pub(super) mod tests;
