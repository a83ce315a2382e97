//! The step's rows that score a given text: their hidden states go through the head a few at a time, so that a prompt of any
//! length needs no more memory than the step's draws do. What a row gives is what drawing there would have reported.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Scheduler;
use super::turns::Target;
use crate::generation::NOT_NUMBERS;
use crate::sequence::{Scoring, Sequence, Work};

impl Scheduler {
    /// After the draws: the projections take the place of the step's logits.
    pub(super) fn score(&mut self) {
        let scored = catch_unwind(AssertUnwindSafe(|| self.score_rows()));
        let cause = match scored {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => super::panic_message(&*panic),
        };
        let message = format!("scoring failed: {cause}; this is a bug, please report it");
        for scoring in self.running.iter_mut().filter_map(scoring) {
            scoring.failure = Some(message.clone());
        }
    }

    fn score_rows(&mut self) -> Result<(), falaj_model::ModelError> {
        let mut wanted = Vec::new();
        for (number, sequence) in self.running.iter().enumerate() {
            let Work::Score(scoring) = &sequence.work else { continue };
            let positions = sequence.computed..sequence.computed + sequence.rows.count;
            for (row, position) in (sequence.rows.first..).zip(positions).filter(|(_, at)| *at >= scoring.next) {
                let token = sequence.tokens.get(position + 1).copied().unwrap_or(scoring.last);
                wanted.push((number, row, Target { token, top: usize::from(scoring.top) }));
            }
        }
        let (mut rows, mut targets, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for piece in wanted.chunks(self.workspace.max_outputs().min(self.workspace.max_rows())) {
            rows.clear();
            rows.extend(piece.iter().map(|(_, row, _)| *row));
            targets.clear();
            targets.extend(piece.iter().map(|(_, _, target)| *target));
            self.model.project(&mut self.workspace, &rows)?;
            self.turns.score(&self.workspace, &targets, &mut scores);
            for ((number, ..), score) in piece.iter().zip(&scores) {
                let Some(scoring) = self.running.get_mut(*number).and_then(scoring) else { continue };
                match score {
                    Some(score) => scoring.add(score),
                    None => scoring.failure = Some(NOT_NUMBERS.to_owned()),
                }
            }
        }
        Ok(())
    }
}

fn scoring(sequence: &mut Sequence) -> Option<&mut Scoring> {
    match &mut sequence.work {
        Work::Score(scoring) => Some(scoring),
        _ => None,
    }
}
