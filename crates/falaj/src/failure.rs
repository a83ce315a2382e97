//! Why a command did not succeed: the cause, the next step, and the exit code (2 wrong use, 1 everything else).

use crate::output;
use crate::words::Word;
use std::error::Error;
use std::process::ExitCode;

pub type Outcome<T = ()> = Result<T, Failure>;

#[derive(Debug)]
pub struct Failure {
    code: u8,
    cause: String,
    next: Option<String>,
}

impl Failure {
    /// The world is not as needed: exit code 1.
    pub fn new(cause: impl Into<String>) -> Self {
        Self { code: 1, cause: cause.into(), next: None }
    }

    /// The command or the configuration is wrong: exit code 2.
    pub fn usage(cause: impl Into<String>) -> Self {
        Self { code: 2, cause: cause.into(), next: None }
    }

    /// What to do about it.
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }

    /// What to do about it, where nothing better is known.
    pub fn or_else_next(mut self, step: impl FnOnce() -> Option<String>) -> Self {
        self.next = self.next.or_else(step);
        self
    }

    /// Puts what was being done before the cause.
    pub fn while_doing(mut self, what: &str) -> Self {
        self.cause = format!("{what}: {}", self.cause);
        self
    }

    /// Prints to standard error; JSON when the command was asked for JSON.
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let error = serde_json::json!({ "error": { "message": self.cause, "next_step": self.next } });
            output::note(&error.to_string());
        } else {
            output::note(&format!("{} {}", Word::Error.text(), self.cause));
            if let Some(next) = &self.next {
                output::note(&format!("{} {next}", Word::NextStep.text()));
            }
        }
        ExitCode::from(self.code)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.cause)
    }
}

/// Any library error, its sources appended. (`Failure` is no `Error` itself, as with `anyhow`.)
impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let text = inner.to_string();
            // Some libraries repeat their source in their own message.
            if !cause.contains(&text) {
                cause = format!("{cause}: {text}");
            }
            source = inner.source();
        }
        Self::new(cause)
    }
}

/// Context for results on their way up.
pub trait OrFail<T> {
    fn or_fail(self, what: impl FnOnce() -> String) -> Outcome<T>;
    fn or_next(self, step: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: Into<Failure>> OrFail<T> for Result<T, E> {
    fn or_fail(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| error.into().while_doing(&what()))
    }

    fn or_next(self, step: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| error.into().next(step()))
    }
}
