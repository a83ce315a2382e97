//! `falaj chat`: a conversation in the terminal. Text goes to the terminal as the model wrote it, so that right-to-left
//! scripts are shaped and ordered by the one program that knows how. Commands are in `chat/commands.rs`.

mod commands;
mod editor;

use crate::args;
use crate::builtin;
use crate::context::Context;
use crate::data_dir;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::talk::{Heard, Line, Server, Talker};
use crate::words::Word;
use commands::Command;
use editor::{Editor, Input};
use std::path::Path;
use std::time::Instant;

pub fn chat(context: &Context, options: args::Chat) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut chat = Chat::new(context, options)?;
    data_dir::create(&context.config.data)?;
    let mut editor = Editor::new(&context.config.data.join("chat_history"))?;
    if !context.json {
        output::note(&Word::ChatWelcome.with(&[chat.talker.model()]));
    }
    loop {
        match editor.read()? {
            Input::Text(text) if text.trim().is_empty() => {}
            Input::Text(text) => match Command::parse(&text) {
                Some(Command::Exit) => return Ok(()),
                Some(command) => {
                    if let Err(failure) = chat.obey(command, &runtime) {
                        failure.report(context.json);
                    }
                }
                None => {
                    chat.lines.push(Line { role: "user", content: unquoted(&text) });
                    if let Err(failure) = chat.answer(&runtime) {
                        failure.report(context.json);
                    }
                }
            },
            Input::Interrupted => {}
            Input::End => return Ok(()),
        }
    }
}

struct Chat<'a> {
    context: &'a Context,
    talker: Talker,
    sampling: args::Sampling,
    lines: Vec<Line>,
}

impl<'a> Chat<'a> {
    fn new(context: &'a Context, options: args::Chat) -> Outcome<Self> {
        let talker = match &options.url {
            Some(url) => {
                let server = Server::new(
                    url,
                    key(context, options.key.as_deref(), options.key_file.as_deref(), url)?.as_deref(),
                )?;
                let models = server.models()?;
                let model = match options.model {
                    Some(model) => model,
                    None if models.iter().any(|model| model == builtin::NAME) => builtin::NAME.to_owned(),
                    None => models.into_iter().next().unwrap_or_else(|| builtin::NAME.to_owned()),
                };
                Talker::Remote { server, model }
            }
            None => {
                let model = options.model.as_deref().unwrap_or(builtin::NAME);
                output::note(&Word::ModelLoading.with(&[model]));
                Talker::load(&context.config, model)?
            }
        };
        Ok(Self { context, talker, sampling: options.sampling, lines: Vec::new() })
    }

    /// Asks with the lines so far and prints the answer. Ctrl-C stops it; what came by then stays in the conversation.
    fn answer(&mut self, runtime: &tokio::runtime::Runtime) -> Outcome {
        let mut answer = match self.talker.ask(&self.lines, &self.sampling) {
            Ok(answer) => answer,
            Err(failure) => {
                // The question is forgotten, or the next one would be asked together with what just failed.
                self.lines.pop();
                return Err(failure);
            }
        };
        let mut text = String::new();
        let started = Instant::now();
        let mut note = None;
        let heard = runtime.block_on(async {
            loop {
                tokio::select! {
                    interrupted = tokio::signal::ctrl_c() => {
                        note = Some(Word::ChatStopped.text().to_owned());
                        return interrupted.map_err(Failure::from);
                    }
                    heard = answer.next() => match heard {
                        Some(Heard::Text(piece)) => {
                            if !self.context.json {
                                output::piece(&output::printable(&piece));
                            }
                            text.push_str(&piece);
                        }
                        Some(Heard::Done(ending)) => {
                            note = (ending.reason == "length").then(|| Word::ChatLength.text().to_owned());
                            let seconds = started.elapsed().as_secs_f64();
                            tracing::info!(tokens = ending.completion_tokens, seconds, "answered");
                            return Ok(());
                        }
                        Some(Heard::Failed(reason)) => return Err(Failure::new(reason)),
                        None => return Err(Failure::new(Word::AnswerCutOff.text())),
                    },
                }
            }
        });
        drop(answer);
        if self.context.json {
            output::json(&serde_json::json!({ "role": "assistant", "content": text }));
        } else {
            output::line("");
            if let Some(note) = note {
                output::note(&note);
            }
        }
        if text.is_empty() {
            // Stopped or failed before the first word: as if it had not been asked.
            self.lines.pop();
        } else {
            self.lines.push(Line { role: "assistant", content: text });
        }
        heard
    }

    fn obey(&mut self, command: Command, runtime: &tokio::runtime::Runtime) -> Outcome {
        match command {
            Command::Exit => {}
            Command::Help => output::note(Word::ChatHelp.text()),
            Command::Reset => {
                self.lines.clear();
                output::note(Word::ChatReset.text());
            }
            Command::System(text) => {
                self.lines.clear();
                let word = if text.is_empty() { Word::ChatSystemCleared } else { Word::ChatSystemSet };
                self.sampling.system = Some(text).filter(|text| !text.is_empty());
                output::note(word.text());
            }
            Command::Models => {
                for model in self.models()? {
                    let mark = if model == self.talker.model() { "*" } else { " " };
                    output::note(&format!("{mark} {model}"));
                }
            }
            Command::Model(name) => {
                self.talker = match &self.talker {
                    Talker::Remote { server, .. } => Talker::Remote { server: server.clone(), model: name },
                    Talker::Local(_) => Talker::load(&self.context.config, &name)?,
                };
                output::note(&Word::ChatModelNow.with(&[self.talker.model()]));
            }
            Command::Save(path) => {
                let text = commands::transcript(&path, self.talker.model(), &self.sampling, &self.lines);
                std::fs::write(&path, text).or_fail(|| format!("`{}`", path.display()))?;
                output::note(&Word::ChatSaved.with(&[&path.display().to_string()]));
            }
            Command::SaveWhere => output::note(Word::ChatSaveHow.text()),
            Command::Retry => {
                if self.lines.last().is_some_and(|line| line.role == "assistant") {
                    self.lines.pop();
                }
                if self.lines.is_empty() {
                    output::note(Word::ChatNothingToRetry.text());
                } else {
                    // The same seed would only repeat the answer.
                    self.sampling.seed = self.sampling.seed.wrapping_add(1);
                    self.answer(runtime)?;
                }
            }
            Command::Unknown(name) => output::note(&Word::ChatUnknownCommand.with(&[&name])),
        }
        Ok(())
    }

    fn models(&self) -> Outcome<Vec<String>> {
        if let Talker::Remote { server, .. } = &self.talker {
            return server.models();
        }
        let mut names = vec![builtin::NAME.to_owned()];
        if let Some(catalog) = crate::serving::catalog(&self.context.config)? {
            names.extend(catalog.list()?.models.into_iter().map(|manifest| manifest.name));
        }
        Ok(names)
    }
}

/// `--key`, `--key-file`, or, for a server on this machine, the key that `falaj up` made here.
pub fn key(context: &Context, key: Option<&str>, key_file: Option<&Path>, url: &str) -> Outcome<Option<String>> {
    if let Some(key) = key {
        return Ok(Some(key.trim().to_owned()));
    }
    let own = || {
        let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"]
            .iter()
            .any(|start| url.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])));
        Some(context.config.server.key_file.clone()).filter(|path| local && path.is_file())
    };
    let Some(path) = key_file.map(Path::to_owned).or_else(own) else { return Ok(None) };
    let text = std::fs::read_to_string(&path).or_fail(|| format!("`{}`", path.display()))?;
    Ok(Some(text.trim().to_owned()))
}

/// Takes away the marks of a longer text: `"""` around it, `\` at line ends.
fn unquoted(text: &str) -> String {
    let trimmed = text.trim();
    match trimmed.strip_prefix("\"\"\"").and_then(|rest| rest.strip_suffix("\"\"\"")) {
        Some(inner) => inner.trim_matches('\n').to_owned(),
        None => trimmed.replace("\\\n", "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_texts_lose_their_marks() {
        assert_eq!(unquoted("\"\"\"\nسطر\nآخر\n\"\"\""), "سطر\nآخر");
        assert_eq!(unquoted("one \\\ntwo"), "one \ntwo");
        assert_eq!(unquoted(" C:\\dir "), "C:\\dir");
    }
}
