//! From a reply to what it is worth. Every measure of a row is a share, two numbers whose sums over rows divide to the score, so
//! that means, proportions and perplexities add up alike. Models and baselines are scored by the same code.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::interval::{Share, nine_decimals};
use crate::schema::equal;
use crate::suite::{ExpectedCall, Row, Suite, Task};
use crate::text::{f1, nfc, words};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Per token; depends on the tokenizer.
    Perplexity,
    /// Does not.
    BitsPerByte,
    ExactMatch,
    /// The likeliest choice is the right one.
    Acc,
    /// The likeliest per byte is.
    AccNorm,
    /// The right tool is called, or rightly none.
    Tool,
    /// Arguments fit the schema of the tool called.
    ArgumentsValid,
    /// The right tool with equal arguments, where one is to be called.
    ArgumentsEqual,
    /// All of it: the right tool with equal arguments, or rightly none.
    Call,
    /// Words of the span in common with the best answer, where there is one.
    SpanF1,
    /// The span is one of the answers, where there is one.
    SpanExact,
    /// The span stands in the cited passage to the letter, where something was answered.
    Verbatim,
    /// The right passage is cited, where something was answered and there is an answer.
    Citation,
    /// Where it abstained, rightly.
    AbstainPrecision,
    /// Where it should abstain, it did.
    AbstainRecall,
}

/// What a measure's shares are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hits and trials.
    Proportion,
    Mean,
    /// The exponential of a mean.
    Exponential,
}

impl Measure {
    pub fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::BitsPerByte => "bits_per_byte",
            Self::ExactMatch => "exact_match",
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::Tool => "tool",
            Self::ArgumentsValid => "arguments_valid",
            Self::ArgumentsEqual => "arguments_equal",
            Self::Call => "call",
            Self::SpanF1 => "span_f1",
            Self::SpanExact => "span_exact",
            Self::Verbatim => "verbatim",
            Self::Citation => "citation",
            Self::AbstainPrecision => "abstain_precision",
            Self::AbstainRecall => "abstain_recall",
        }
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::Perplexity => Kind::Exponential,
            Self::BitsPerByte | Self::SpanF1 => Kind::Mean,
            _ => Kind::Proportion,
        }
    }

    /// From the ratio of sums to the score.
    pub fn score(self, ratio: f64) -> f64 {
        if self.kind() == Kind::Exponential { ratio.exp() } else { ratio }
    }

    /// Whether less is better.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Perplexity | Self::BitsPerByte)
    }
}

/// What came of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of the suite, from 1.
    pub line: usize,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    pub task: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    pub measures: BTreeMap<Measure, Share>,
    /// What was written; of a call its name and arguments.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answer: Option<String>,
    /// Summed log-probability of each choice, to nine decimals.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub choices: Option<Vec<f64>>,
    /// Why there is no answer; the row counts as wrong where there is a wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// What was replied to a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// Of a text.
    Likelihood {
        nats: f64,
        tokens: usize,
    },
    /// Of each choice, summed.
    Choices(Vec<f64>),
    Answer {
        text: String,
        calls: Vec<Called>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Called {
    pub(crate) name: String,
    /// As written.
    pub(crate) arguments: String,
}

pub(crate) fn outcome(suite: &Suite, row: &Row, reply: Result<Reply, String>) -> Outcome {
    let mut outcome = Outcome {
        line: row.line,
        id: row.id.clone(),
        task: row.task.name().to_owned(),
        language: row.language.clone(),
        group: row.group.clone(),
        measures: BTreeMap::new(),
        answer: None,
        choices: None,
        error: None,
    };
    let (text, calls) = match reply {
        Ok(Reply::Likelihood { nats, tokens }) => {
            if let Task::Perplexity { text } = &row.task {
                outcome.measures.insert(Measure::Perplexity, (nine_decimals(nats), tokens as f64));
                outcome.measures.insert(Measure::BitsPerByte, (nine_decimals(nats / LN_2), text.len() as f64));
            }
            return outcome;
        }
        Ok(Reply::Choices(scores)) => {
            if let Task::MultipleChoice { choices, answer, .. } = &row.task {
                let per_byte = scores.iter().zip(choices).map(|(score, choice)| score / choice.len().max(1) as f64);
                outcome.count(Measure::Acc, true, best(scores.iter().copied()) == Some(*answer));
                outcome.count(Measure::AccNorm, true, best(per_byte) == Some(*answer));
            }
            outcome.choices = Some(scores.into_iter().map(nine_decimals).collect());
            return outcome;
        }
        Ok(Reply::Answer { text, calls }) => {
            outcome.answer = Some(match calls.as_slice() {
                [] => text.clone(),
                calls => {
                    calls.iter().map(|call| format!("{}({})", call.name, call.arguments)).collect::<Vec<_>>().join("\n")
                }
            });
            (text, calls)
        }
        Err(error) => {
            outcome.error = Some(error);
            (String::new(), Vec::new())
        }
    };
    match &row.task {
        Task::Perplexity { .. } => {}
        Task::MultipleChoice { .. } => {
            outcome.count(Measure::Acc, true, false);
            outcome.count(Measure::AccNorm, true, false);
        }
        Task::ExactMatch { answers, .. } => {
            let written = nfc(text.trim());
            outcome.count(Measure::ExactMatch, true, calls.is_empty() && answers.contains(&written));
        }
        Task::ToolCall { expected, .. } => outcome.tool_call(&row.task, &calls, expected.as_ref()),
        Task::Grounded { passages, answers, passage, .. } => {
            let abstained = outcome.error.is_none() && suite.is_abstention(&text);
            let (span, cited) = span(&text);
            outcome.grounded(&Grounded { passages, answers, passage: *passage }, abstained, span, cited);
        }
    }
    outcome
}

struct Grounded<'a> {
    passages: &'a [String],
    answers: &'a [String],
    passage: Option<usize>,
}

impl Outcome {
    /// A trial, if it is one.
    fn count(&mut self, measure: Measure, trial: bool, hit: bool) {
        if trial {
            self.measures.insert(measure, (f64::from(u8::from(hit)), 1.0));
        }
    }

    fn tool_call(&mut self, task: &Task, calls: &[Called], expected: Option<&ExpectedCall>) {
        let Task::ToolCall { tools, schemas, .. } = task else { return };
        let only = if let [call] = calls { Some(call) } else { None };
        let arguments = |call: &Called| serde_json::from_str::<Value>(&call.arguments).ok();
        let right = match (expected, only) {
            (None, _) => calls.is_empty() && self.error.is_none(),
            (Some(expected), Some(call)) => call.name == expected.name,
            (Some(_), None) => false,
        };
        let is_equal = |expected: &ExpectedCall| {
            let written = only.filter(|_| right).and_then(arguments);
            written.is_some_and(|written| equal(&written, &expected.arguments))
        };
        let valid = calls.iter().all(|call| {
            let schema = tools.iter().position(|tool| tool.name == call.name).and_then(|place| schemas.get(place));
            schema.zip(arguments(call)).is_some_and(|(schema, arguments)| schema.allows(&arguments))
        });
        self.count(Measure::Tool, true, right);
        self.count(Measure::ArgumentsValid, !calls.is_empty(), valid);
        self.count(Measure::ArgumentsEqual, expected.is_some(), expected.is_some_and(is_equal));
        self.count(Measure::Call, true, expected.map_or(right, is_equal));
    }

    fn grounded(&mut self, row: &Grounded, abstained: bool, span: &str, cited: Option<usize>) {
        let answerable = !row.answers.is_empty();
        let answered = !abstained && self.error.is_none();
        if answerable {
            let written = words(span);
            let best = row.answers.iter().map(|answer| f1(&written, &words(answer))).fold(0.0, f64::max);
            self.measures.insert(Measure::SpanF1, (if answered { nine_decimals(best) } else { 0.0 }, 1.0));
            let exact = row.answers.iter().any(|answer| words(answer) == written);
            self.count(Measure::SpanExact, true, answered && exact);
        }
        let stands =
            cited.and_then(|cited| row.passages.get(cited)).is_some_and(|passage| nfc(passage).contains(&nfc(span)));
        self.count(Measure::Verbatim, answered, stands && !span.is_empty());
        self.count(Measure::Citation, answered && answerable && row.passage.is_some(), cited == row.passage);
        self.count(Measure::AbstainPrecision, abstained, !answerable);
        self.count(Measure::AbstainRecall, !answerable, abstained);
    }
}

impl Suite {
    /// Whether an answer is one of the phrases that abstain, in whatever language.
    fn is_abstention(&self, text: &str) -> bool {
        let written = words(text);
        self.abstain.iter().any(|(_, phrase)| words(phrase) == written)
    }
}

/// `span [2]` to the span and 1: the passage cited, counted from 0.
fn span(text: &str) -> (&str, Option<usize>) {
    let text = text.trim();
    let cited = text.strip_suffix(']').and_then(|text| text.rsplit_once('['));
    let number = |digits: &str| digits.trim().parse::<usize>().ok()?.checked_sub(1);
    match cited.and_then(|(span, digits)| Some((span, number(digits)?))) {
        Some((span, number)) => (span.trim(), Some(number)),
        None => (text, None),
    }
}

/// The first of the greatest.
fn best(scores: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, score) in scores.enumerate() {
        if best.is_none_or(|(_, most)| score > most) {
            best = Some((place, score));
        }
    }
    best.map(|(place, _)| place)
}

#[cfg(test)]
mod tests;
