//! What a few lines can do without a model, scored as models are: a model that does no better has learnt nothing of the task.
//! Texts: how often each token occurs. Choices: the place that is most often right. Tools: the one whose name and description share
//! most words with the question, without arguments. Passages: the sentence with most of the question's words.

use std::collections::HashMap;

use falaj_text::{Special, Tokenizer, Tool};

use crate::score::{Called, Reply};
use crate::suite::{Row, Suite, Task};
use crate::text::{common, sentences, words};

/// How often tokens occur in some text.
#[derive(Clone, Debug)]
pub struct Unigram {
    counts: HashMap<u32, u64>,
    total: u64,
}

impl Unigram {
    pub fn of(text: &str, tokenizer: &Tokenizer) -> Self {
        let mut unigram = Self { counts: HashMap::new(), total: 0 };
        unigram.add(&tokenizer.encode(text, Special::Plain));
        unigram
    }

    fn add(&mut self, tokens: &[u32]) {
        for token in tokens {
            *self.counts.entry(*token).or_default() += 1;
        }
        self.total += tokens.len() as u64;
    }

    /// −ln of the tokens' probability, one added to every count; `own` were counted and must not know themselves.
    fn nats(&self, tokens: &[u32], own: bool, vocabulary: usize) -> f64 {
        let mut once: HashMap<u32, u64> = HashMap::new();
        if own {
            tokens.iter().for_each(|token| *once.entry(*token).or_default() += 1);
        }
        let total = self.total - if own { tokens.len() as u64 } else { 0 };
        let share = |token: &u32| {
            let count = self.counts.get(token).copied().unwrap_or(0) - once.get(token).copied().unwrap_or(0);
            (count + 1) as f64 / (total + vocabulary as u64) as f64
        };
        -tokens.iter().map(|token| share(token).ln()).sum::<f64>()
    }
}

pub(crate) struct Baseline<'a> {
    suite: &'a Suite,
    tokenizer: &'a Tokenizer,
    unigram: Unigram,
    /// The counts are of the suite's own texts.
    own: bool,
    majority: usize,
}

impl<'a> Baseline<'a> {
    /// Without counts from elsewhere, a text is judged by the suite's other texts.
    pub(crate) fn new(suite: &'a Suite, tokenizer: &'a Tokenizer, unigram: Option<&Unigram>) -> Self {
        let mut answers: HashMap<usize, usize> = HashMap::new();
        let mut counted = Unigram { counts: HashMap::new(), total: 0 };
        for row in &suite.rows {
            match &row.task {
                Task::Perplexity { text } if unigram.is_none() => counted.add(&tokenizer.encode(text, Special::Plain)),
                Task::MultipleChoice { answer, .. } => *answers.entry(*answer).or_default() += 1,
                _ => {}
            }
        }
        let majority = answers.into_iter().max_by_key(|(place, count)| (*count, std::cmp::Reverse(*place)));
        let own = unigram.is_none();
        let unigram = unigram.cloned().unwrap_or(counted);
        Self { suite, tokenizer, unigram, own, majority: majority.map_or(0, |(place, _)| place) }
    }

    pub(crate) fn reply(&self, row: &Row) -> Option<Reply> {
        match &row.task {
            Task::Perplexity { text } => {
                let tokens = self.tokenizer.encode(text, Special::Plain);
                let nats = self.unigram.nats(&tokens, self.own, self.tokenizer.vocab_size());
                Some(Reply::Likelihood { nats, tokens: tokens.len() })
            }
            Task::MultipleChoice { choices, .. } => {
                let score = |place| if place == self.majority { 0.0 } else { -1e9 };
                Some(Reply::Choices((0..choices.len()).map(score).collect()))
            }
            Task::ToolCall { messages, tools, .. } => {
                let asked = messages.last().map(|last| words(&last.text())).unwrap_or_default();
                let calls = keyword(&asked, tools).map(|name| Called { name, arguments: "{}".to_owned() });
                Some(Reply::Answer { text: String::new(), calls: calls.into_iter().collect() })
            }
            Task::Grounded { passages, question, .. } => {
                let abstention = self.suite.abstains(row.language.as_deref());
                let text = overlap(passages, question).unwrap_or_else(|| abstention.to_owned());
                Some(Reply::Answer { text, calls: Vec::new() })
            }
            Task::ExactMatch { .. } => None,
        }
    }
}

fn keyword(asked: &[String], tools: &[Tool]) -> Option<String> {
    let mut best: Option<(usize, &Tool)> = None;
    for tool in tools {
        let about = words(&format!("{} {}", tool.name.replace('_', " "), tool.description));
        let shared = common(asked, &about);
        if shared > best.map_or(0, |(most, _)| most) {
            best = Some((shared, tool));
        }
    }
    best.map(|(_, tool)| tool.name.clone())
}

/// The best sentence and its passage; none where it has too few of the question's words.
fn overlap(passages: &[String], question: &str) -> Option<String> {
    let asked = words(question);
    let mut best: Option<(usize, &str, usize)> = None;
    for (number, passage) in passages.iter().enumerate() {
        for sentence in sentences(passage) {
            let shared = common(&asked, &words(sentence));
            if best.is_none_or(|(most, ..)| shared > most) {
                best = Some((shared, sentence, number));
            }
        }
    }
    let (shared, sentence, number) = best?;
    (shared as f64 >= LEAST_OVERLAP * asked.len() as f64).then(|| format!("{sentence} [{}]", number + 1))
}

/// Share of the question's words that a sentence must have for an answer.
const LEAST_OVERLAP: f64 = 0.3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_answers_or_abstains() {
        let passages =
            ["The ferry is late. Nobody knows why.".to_owned(), "The van stops at the fish market.".to_owned()];
        assert_eq!(
            overlap(&passages, "Where does the van stop at?").as_deref(),
            Some("The van stops at the fish market. [2]")
        );
        assert_eq!(overlap(&passages, "Who paints red houses in winter?"), None);
    }

    #[test]
    fn keywords_choose_tools() {
        let tool = |name: &str, description: &str| Tool {
            name: name.to_owned(),
            description: description.to_owned(),
            parameters: serde_json::json!({}),
            strict: false,
        };
        let tools = [tool("get_time", "Local time in a city"), tool("get_weather", "Weather in a city")];
        assert_eq!(keyword(&words("what is the weather like"), &tools).as_deref(), Some("get_weather"));
        assert_eq!(keyword(&words("bonjour"), &tools), None);
    }

    #[test]
    fn counts_do_not_know_the_text_itself() {
        let counted = Unigram { counts: HashMap::from([(1, 3), (2, 1)]), total: 4 };
        // Of a vocabulary of two: (3 + 1) / (4 + 2); without itself (2 + 1) / (3 + 2).
        assert!((counted.nats(&[1], false, 2) - -(4.0_f64 / 6.0).ln()).abs() < 1e-12);
        assert!((counted.nats(&[1], true, 2) - -(3.0_f64 / 5.0).ln()).abs() < 1e-12);
    }
}
