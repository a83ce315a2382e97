//! All rows of a suite, many at a time: threads that mostly wait for the engine, which batches what they ask. What a row gives
//! depends on the row alone, so that their order, and what was done before, change nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use falaj_engine::{AdapterHandle, Engine};
use falaj_text::ModelText;

use crate::EvalError;
use crate::ask::{AT_ONCE, Asked, NoReply, Settings};
use crate::baseline::{Baseline, Unigram};
use crate::score::{Outcome, outcome};
use crate::suite::{Row, Suite};

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub engine: &'a Engine,
    /// Over the engine's model.
    pub adapter: Option<&'a AdapterHandle>,
    pub text: &'a ModelText,
}

/// Who watches, and what is known already.
pub struct Surroundings<'a> {
    /// Outcomes of an earlier run that was stopped, with the same suite, model and settings.
    pub done: Vec<Outcome>,
    /// Set from outside, ends the run between two tokens.
    pub cancelled: &'a AtomicBool,
    /// Each outcome that comes new, as it comes.
    pub watch: &'a mut dyn FnMut(&Outcome),
}

/// Asks every row. The outcomes are in the order of the rows; fewer where it was cancelled.
///
/// # Errors
/// The engine stopped.
pub fn run(
    suite: &Suite,
    subject: Subject,
    settings: &Settings,
    surroundings: Surroundings,
) -> Result<Vec<Outcome>, EvalError> {
    let Surroundings { done, cancelled, watch } = surroundings;
    let mut known: HashMap<usize, Outcome> = done.into_iter().map(|outcome| (outcome.line, outcome)).collect();
    let left: Vec<&Row> = suite.rows.iter().filter(|row| !known.contains_key(&row.line)).collect();
    let options = subject.engine.options();
    let threads = (options.queue_requests / AT_ONCE).clamp(1, 2 * options.max_sequences).min(left.len());
    let asked = Asked { engine: subject.engine, adapter: subject.adapter, text: subject.text, settings, cancelled };
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Nobody runs ahead of who watches: what is told is done, and little else.
        let (sender, outcomes) = mpsc::sync_channel(0);
        for _ in 0..threads {
            let (sender, next, left, stopped) = (sender.clone(), &next, &left, &stopped);
            scope.spawn(move || {
                while let Some(row) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if cancelled.load(Ordering::Relaxed) || stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let reply = match asked.ask(&row.task) {
                        Ok(reply) => Ok(reply),
                        Err(NoReply::Failed(reason)) => Err(reason),
                        Err(NoReply::Cancelled) => return,
                        Err(NoReply::Stopped) => return stopped.store(true, Ordering::Relaxed),
                    };
                    if sender.send(outcome(suite, row, reply)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for outcome in outcomes {
            watch(&outcome);
            known.insert(outcome.line, outcome);
        }
    });
    if stopped.into_inner() {
        return Err(EvalError::EngineStopped);
    }
    Ok(suite.rows.iter().filter_map(|row| known.remove(&row.line)).collect())
}

/// What needs no model: see `baseline.rs`. `text`: whose tokens a text is counted in. Rows of a kind that no baseline exists for
/// are left out.
pub fn baseline(suite: &Suite, text: &ModelText, unigram: Option<&Unigram>) -> Vec<Outcome> {
    let baseline = Baseline::new(suite, &text.tokenizer, unigram);
    let rows = suite.rows.iter().filter_map(|row| Some(outcome(suite, row, Ok(baseline.reply(row)?))));
    rows.collect()
}
