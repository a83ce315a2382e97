//! The slash commands of a chat, and how a conversation is written to a file.

use crate::args::Sampling;
use crate::talk::Line;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Reset,
    System(String),
    Models,
    Model(String),
    Save(PathBuf),
    SaveWhere,
    Retry,
    Exit,
    Unknown(String),
}

impl Command {
    /// `None` for what is meant for the model: anything that does not begin with one slash and a letter.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let rest = text.strip_prefix('/').filter(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()))?;
        let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let value = value.trim().to_owned();
        Some(match name {
            "help" => Self::Help,
            "reset" | "clear" => Self::Reset,
            "system" => Self::System(value),
            "model" | "models" if value.is_empty() => Self::Models,
            "model" => Self::Model(value),
            "save" if value.is_empty() => Self::SaveWhere,
            "save" => Self::Save(PathBuf::from(value)),
            "retry" => Self::Retry,
            "exit" | "quit" | "bye" => Self::Exit,
            // A path such as /etc/hosts is a question about a file, not a mistyped command.
            _ if name.contains('/') => return None,
            _ => Self::Unknown(format!("/{name}")),
        })
    }
}

/// JSON for a path that ends in `.json`, Markdown for others.
pub fn transcript(path: &Path, model: &str, sampling: &Sampling, lines: &[Line]) -> String {
    let system = sampling.system.iter().map(|text| Line { role: "system", content: text.clone() });
    let lines: Vec<Line> = system.chain(lines.iter().cloned()).collect();
    if path.extension().is_some_and(|extension| extension == "json") {
        return format!("{:#}\n", json!({ "model": model, "messages": lines }));
    }
    let mut text = format!("# {model}\n");
    for line in lines {
        text.push_str(&format!("\n## {}\n\n{}\n", line.role, line.content));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_questions() {
        assert_eq!(Command::parse("/help"), Some(Command::Help));
        assert_eq!(
            Command::parse(" /system Answer in French. "),
            Some(Command::System("Answer in French.".to_owned()))
        );
        assert_eq!(Command::parse("/model"), Some(Command::Models));
        assert_eq!(Command::parse("/save a b.md"), Some(Command::Save("a b.md".into())));
        assert_eq!(Command::parse("/hlep"), Some(Command::Unknown("/hlep".to_owned())));
        for question in ["what is 1/2?", "/etc/hosts is what?", "//", "/ hm", "مرحبا /help"] {
            assert_eq!(Command::parse(question), None, "{question}");
        }
    }

    #[test]
    fn transcripts_hold_everything() {
        let sampling = Sampling { system: Some("Be brief.".to_owned()), max_tokens: 1, temperature: 0.0, seed: 0 };
        let lines = [Line { role: "user", content: "مرحبا".to_owned() }];
        let markdown = transcript(Path::new("a.md"), "m", &sampling, &lines);
        assert_eq!(markdown, "# m\n\n## system\n\nBe brief.\n\n## user\n\nمرحبا\n");
        let json: serde_json::Value =
            serde_json::from_str(&transcript(Path::new("a.json"), "m", &sampling, &lines)).unwrap();
        assert_eq!(json["messages"][1]["content"], "مرحبا");
    }
}
