//! An answer from a model in this process: conversation to tokens, tokens to text. Tool calls are not offered here, so
//! all that the model writes is text.

use super::{Ending, Heard, Line};
use crate::args::Sampling;
use crate::failure::{Failure, Outcome};
use crate::words::Word;
use falaj_engine::{Event, FinishReason, Request, Stream, Tenant};
use falaj_server::Served;
use falaj_text::{Conversation, Message, OutputParser, Piece, Special};
use std::collections::VecDeque;

pub struct LocalAnswer {
    stream: Stream,
    parser: Parser,
    /// Heard but not yet asked for.
    ready: VecDeque<Heard>,
    over: bool,
}

enum Parser {
    Chat(Box<OutputParser>),
    /// A base model: no template, the text goes on.
    Plain(falaj_text::Detokenizer),
}

impl LocalAnswer {
    pub fn ask(served: &Served, lines: &[Line], sampling: &Sampling) -> Outcome<Self> {
        let tokenizer = &served.text.tokenizer;
        let (prompt, parser) = match &served.text.chat {
            Some(format) => {
                let messages = lines.iter().map(|line| match line.role {
                    "system" => Message::system(&line.content),
                    "assistant" => Message::assistant(&line.content),
                    _ => Message::user(&line.content),
                });
                let conversation = Conversation { messages: messages.collect(), ..Conversation::default() };
                let prompt = format.render(&conversation)?;
                (prompt.tokens, Parser::Chat(Box::new(OutputParser::new(format, tokenizer, false))))
            }
            None => {
                let text: Vec<_> = lines.iter().map(|line| line.content.as_str()).collect();
                let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
                let mut prompt: Vec<u32> = bos.into_iter().collect();
                prompt.extend(tokenizer.encode(&text.join("\n"), Special::Plain));
                (prompt, Parser::Plain(falaj_text::Detokenizer::continuing(tokenizer.clone())))
            }
        };
        let stream = served.engine.submit(Request {
            prompt,
            max_tokens: sampling.max_tokens,
            sampling: falaj_engine::Sampling {
                temperature: sampling.temperature,
                seed: sampling.seed,
                ..falaj_engine::Sampling::default()
            },
            stop_tokens: tokenizer.eos_tokens(),
            min_tokens: 0,
            constraint: None,
            tenant: Tenant::default(),
            cache_salt: 0,
            adapter: served.adapter.clone(),
            logprobs: None,
        });
        let stream = stream.map_err(|error| Failure::new(error.to_string()))?;
        Ok(Self { stream, parser, ready: VecDeque::new(), over: false })
    }

    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.ready.pop_front() {
                return Some(heard);
            }
            if self.over {
                return None;
            }
            match self.stream.events.recv().await {
                Some(Event::Token { token, .. }) => {
                    let text = self.parser.push(token);
                    self.hear(text);
                }
                Some(Event::Done { reason, usage }) => {
                    let text = self.parser.finish();
                    self.hear(text);
                    self.end(Heard::Done(Ending {
                        reason: match reason {
                            FinishReason::Stop => "stop",
                            FinishReason::Length => "length",
                        }
                        .to_owned(),
                        prompt_tokens: usage.prompt_tokens.into(),
                        completion_tokens: usage.completion_tokens.into(),
                    }));
                }
                Some(Event::Failed(reason)) => self.end(Heard::Failed(reason)),
                None => self.end(Heard::Failed(Word::AnswerCutOff.text().to_owned())),
            }
        }
    }

    fn hear(&mut self, text: String) {
        if !text.is_empty() {
            self.ready.push_back(Heard::Text(text));
        }
    }

    fn end(&mut self, heard: Heard) {
        self.ready.push_back(heard);
        self.over = true;
    }
}

impl Parser {
    fn push(&mut self, token: u32) -> String {
        match self {
            Self::Chat(parser) => written(parser.push(token)),
            Self::Plain(detokenizer) => detokenizer.push(token),
        }
    }

    fn finish(&mut self) -> String {
        match self {
            Self::Chat(parser) => written(parser.finish()),
            Self::Plain(detokenizer) => detokenizer.finish(),
        }
    }
}

fn written(pieces: Vec<Piece>) -> String {
    let text = pieces.into_iter().filter_map(|piece| match piece {
        Piece::Text(text) | Piece::Thinking(text) => Some(text),
        // None: no tools were offered.
        Piece::ToolCallStart { .. } | Piece::ToolCallArguments { .. } => None,
    });
    text.collect()
}
