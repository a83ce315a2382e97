//! One question, one streamed answer, from a model in this process or from a server. `chat` and `run` speak only this.

mod local;
mod remote;

pub use remote::Server;

use crate::args::Sampling;
use crate::failure::Outcome;
use crate::serving;
use falaj_server::Served;

/// Whom to ask.
pub enum Talker {
    Local(Box<Served>),
    Remote { server: Server, model: String },
}

/// A message of the conversation so far.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    pub role: &'static str,
    pub content: String,
}

/// What comes back, in order: texts, then one of the others.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Text(String),
    Done(Ending),
    Failed(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ending {
    /// `stop` or `length`, as on the wire.
    pub reason: String,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// An answer under way. Dropping it stops it.
pub enum Answer {
    Local(Box<local::LocalAnswer>),
    Remote(tokio::sync::mpsc::Receiver<Heard>),
}

impl Talker {
    pub fn load(config: &crate::config::Config, model: &str) -> Outcome<Self> {
        let place = serving::Place::find(config, model)?;
        Ok(Self::Local(Box::new(serving::load(config, &place)?)))
    }

    pub fn model(&self) -> &str {
        match self {
            Self::Local(served) => &served.facts.id,
            Self::Remote { model, .. } => model,
        }
    }

    /// `sampling.system` comes before `lines`.
    pub fn ask(&self, lines: &[Line], sampling: &Sampling) -> Outcome<Answer> {
        let system = sampling.system.iter().map(|text| Line { role: "system", content: text.clone() });
        let lines: Vec<Line> = system.chain(lines.iter().cloned()).collect();
        match self {
            Self::Local(served) => Ok(Answer::Local(Box::new(local::LocalAnswer::ask(served, &lines, sampling)?))),
            Self::Remote { server, model } => Ok(Answer::Remote(server.ask(model, &lines, sampling)?)),
        }
    }
}

impl Answer {
    /// `None` only after the last one.
    pub async fn next(&mut self) -> Option<Heard> {
        match self {
            Self::Local(answer) => answer.next().await,
            Self::Remote(heard) => heard.recv().await,
        }
    }
}
