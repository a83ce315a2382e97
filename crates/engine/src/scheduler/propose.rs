//! Proposals for the sequences that decode, before a step is planned: what text lookup or the draft model has to say, as far
//! as measured times and acceptance say that it pays. While prompts are read nothing is proposed: such steps are bound by
//! arithmetic, and every row costs its share.

use std::time::Instant;

use super::Scheduler;
use crate::generation::Generation;
use crate::sequence::{Sequence, Work};
use crate::speculation::{Origin, Proposable, lookup};
use crate::stats::Stats;

impl Scheduler {
    /// Fills `Generation::proposed` of sequences that decode (`remaining() == 1`, something generated): together at most
    /// `max_rows - running`, and so that each keeps to its context, its events' room (2 beyond its proposals), its
    /// `max_tokens` and the workspace's outputs.
    pub(super) fn propose(&mut self) {
        #[cfg(test)]
        if let Some(proposer) = self.proposer {
            return self.propose_by(proposer);
        }
        if !self.speculates || self.running.iter().any(|sequence| sequence.remaining() > 1) {
            return;
        }
        let mut rows = self.running.len();
        let mut left = self.workspace.max_outputs().min(self.workspace.max_rows()).saturating_sub(rows);
        let (mut expected, mut rounds, mut tries) = (rows as f32, 0, false);
        for sequence in &mut self.running {
            let Work::Generate(generation) = &mut sequence.work else { continue };
            generation.proposed.clear();
            (generation.origin, generation.wanted) = (None, 0);
            let room = room(generation).min(left);
            let found = lookup(&sequence.tokens, SHORTEST).filter(|_| room > 0);
            let mut proposals = 0;
            if let Some((next, agreed)) = found {
                let origin = Origin::Lookup { agreed };
                proposals = self.speculation.worth(origin, rows, room, &mut expected);
                // A text that repeats itself goes on with what it repeats.
                generation.proposed.extend(next.iter().cycle().take(proposals));
                generation.origin = Some(origin);
            }
            if proposals == 0 && self.draft.is_some() {
                proposals = self.speculation.worth(Origin::Draft, rows, room, &mut expected);
                if proposals == 0 && room > 0 && rounds == 0 && self.speculation.may_try() {
                    (proposals, tries) = (1, true);
                }
                (generation.origin, generation.wanted) = (Some(Origin::Draft), proposals);
                rounds = rounds.max(proposals);
            }
            (rows, left) = (rows + proposals, left - proposals);
        }
        if let Some(draft) = self.draft.as_mut().filter(|_| rounds > 0) {
            let begun = Instant::now();
            match draft.propose(&mut self.running) {
                Ok(rounds) => {
                    let took = begun.elapsed();
                    self.speculation.drafted(rounds, took, tries);
                    Stats::add(&self.shared.stats.draft_us, took.as_micros() as usize);
                }
                // Nothing is lost but speed.
                Err(error) => {
                    tracing::warn!(%error, "the draft model failed and is left alone from now on");
                    self.draft = None;
                }
            }
        }
    }

    #[cfg(test)]
    fn propose_by(&mut self, proposer: fn(&[u32], &mut Vec<u32>)) {
        for sequence in &mut self.running {
            let decodes = sequence.remaining() == 1;
            let Work::Generate(generation) = &mut sequence.work else { continue };
            if decodes && generation.generated > 0 && generation.room() > 8 {
                generation.proposed.clear();
                proposer(&sequence.tokens, &mut generation.proposed);
                generation.proposed.truncate(generation.max_tokens - generation.generated - 1);
            }
        }
    }
}

/// Proposals that a generation could use: the tokens that it may draw after the next one, if its reader can take them all.
fn room(generation: &Generation) -> usize {
    let tokens = generation.max_tokens.saturating_sub(generation.generated + 1);
    if generation.generated == 0 { 0 } else { tokens.min(generation.room().saturating_sub(2)) }
}

impl Proposable for Sequence {
    fn id(&self) -> u64 {
        self.id
    }

    fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn wanted(&self) -> usize {
        match &self.work {
            Work::Generate(generation) => generation.wanted,
            Work::Embed(_) | Work::Score(_) | Work::Away => 0,
        }
    }

    fn propose(&mut self, token: u32) {
        if let Work::Generate(generation) = &mut self.work {
            generation.proposed.push(token);
        }
    }

    fn proposed(&self) -> &[u32] {
        match &self.work {
            Work::Generate(generation) => &generation.proposed,
            Work::Embed(_) | Work::Score(_) | Work::Away => &[],
        }
    }
}

/// Tokens that must agree before a lookup is listened to.
const SHORTEST: usize = 2;
