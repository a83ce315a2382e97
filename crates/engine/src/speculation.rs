//! Speculation: proposals for the next tokens of a sequence, checked as extra rows of its next step. It never changes a
//! token: each row is sampled as it would have been alone, and the first that differs from its proposal ends the turn. What is
//! decided here, from measured step times and measured acceptance, is only how many rows are worth their time.

mod draft;
mod lookup;

pub(crate) use draft::{Draft, Proposable};
pub(crate) use lookup::lookup;

use std::time::Duration;

/// Most proposals for one sequence in one step.
pub(crate) const MOST_PROPOSED: usize = 15;

/// Where proposals come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An earlier place of the same text, with so many agreeing tokens.
    Lookup { agreed: usize },
    /// The draft model.
    Draft,
}

/// How many proposals pay. One per engine.
#[derive(Default)]
pub(crate) struct Speculation {
    steps: StepTimes,
    /// Chance that a proposal is right when all before it were, by the origin's class.
    acceptance: [Chance; CLASSES],
    draft: DraftCost,
    /// Whatever was measured, everything pays: tests do not depend on time.
    #[cfg(test)]
    pub(crate) always: bool,
}

/// Lookups by agreement (1, 2, 3, 4 to 7, 8 and more), then the draft model.
const CLASSES: usize = 6;

impl Speculation {
    /// How many of a sequence's next tokens are worth proposing, in a step that so far has `rows` rows and will bring
    /// `expected` tokens, at most `most`. A further row pays while the tokens it may bring, over the time it adds, exceed what the step does
    /// without it. Proposals of the draft model cost their own time too. Adds the tokens it expects to `expected`.
    pub(crate) fn worth(&self, origin: Origin, rows: usize, most: usize, expected: &mut f32) -> usize {
        #[cfg(test)]
        if self.always {
            return most.min(MOST_PROPOSED);
        }
        let chance = self.acceptance[class(origin)].estimate();
        let proposing = if origin == Origin::Draft { self.draft.round() } else { 0.0 };
        let mut right = 1.0;
        let most = most.min(MOST_PROPOSED);
        for proposed in 0..most {
            right *= chance;
            let now = self.steps.estimate(rows + proposed) + proposing * proposed as f32;
            let more = self.steps.estimate(rows + proposed + 1) + proposing * (proposed + 1) as f32;
            // With the row: (expected + right) / more; without: expected / now.
            if right * now <= *expected * (more - now) {
                return proposed;
            }
            *expected += right;
        }
        most
    }

    /// Whether the draft model may propose a token although that does not seem to pay. What was measured may be of another
    /// text or of a bad moment, so a small share of the time goes into measuring again.
    pub(crate) fn may_try(&self) -> bool {
        self.draft.saved > 0.0
    }

    /// The draft model took so long for so many rounds that brought proposals: none while it reads what it does not know yet.
    /// `tries`: only because of [`Speculation::may_try`].
    pub(crate) fn drafted(&mut self, rounds: usize, took: Duration, tries: bool) {
        self.draft.observe(rounds, took.as_secs_f32());
        if tries {
            let row = self.steps.estimate(2) - self.steps.estimate(1);
            self.draft.saved -= took.as_secs_f32() + row;
        }
    }

    /// What came of `proposed` proposals: the first `accepted` were right.
    pub(crate) fn verified(&mut self, origin: Origin, proposed: usize, accepted: usize) {
        let chance = &mut self.acceptance[class(origin)];
        for number in 0..proposed.min(accepted + 1) {
            chance.observe(number < accepted);
        }
    }

    /// A step of decoding rows only took so long.
    pub(crate) fn stepped(&mut self, rows: usize, took: Duration) {
        self.steps.observe(rows, took.as_secs_f32());
        self.draft.saved = (self.draft.saved + TRYING * took.as_secs_f32()).min(MOST_SAVED);
    }
}

/// What the draft model cost lately, and what may be spent on trying it.
#[derive(Clone, Copy, Debug, Default)]
struct DraftCost {
    /// Fading sums of all of its time and of the rounds that brought proposals.
    seconds: f32,
    rounds: f32,
    /// Seconds that may go into trials.
    saved: f32,
}

impl DraftCost {
    /// Seconds of a round, with its share of reading prompts: where these are long and answers short, a draft model does not pay.
    fn round(self) -> f32 {
        self.seconds / (self.rounds + HOPED_ROUNDS)
    }

    fn observe(&mut self, rounds: usize, seconds: f32) {
        self.seconds += seconds - self.seconds * FADING;
        self.rounds += rounds as f32 - self.rounds * FADING;
    }
}

/// Per run of the draft model.
const FADING: f32 = 1.0 / 512.0;
/// Rounds over which the first reading is spread, before any is known.
const HOPED_ROUNDS: f32 = 256.0;
/// Share of the time of steps that may go into trials, and most seconds of them that can be saved up.
const TRYING: f32 = 0.02;
const MOST_SAVED: f32 = 1.0;

fn class(origin: Origin) -> usize {
    match origin {
        Origin::Lookup { agreed } => match agreed {
            0..=3 => agreed.max(1) - 1,
            4..lookup::LONGEST => 3,
            _ => 4,
        },
        Origin::Draft => 5,
    }
}

/// A smoothed frequency. It starts hopeful, so that a class is tried, and fades, so that a new text is learnt; it never
/// falls so low that a class is not tried again where rows are cheap.
#[derive(Clone, Copy, Debug)]
struct Chance(f32);

impl Default for Chance {
    fn default() -> Self {
        Self(0.6)
    }
}

impl Chance {
    fn estimate(self) -> f32 {
        self.0.max(0.05)
    }

    fn observe(&mut self, right: bool) {
        self.0 += (f32::from(u8::from(right)) - self.0) * 0.05;
    }
}

/// Smoothed seconds of a decoding step, by its rows. Unknown numbers of rows are read off their known neighbours.
struct StepTimes {
    seconds: [f32; KNOWN_ROWS + 1],
}

/// Rows counted one by one; larger steps are estimated from the slope there.
const KNOWN_ROWS: usize = 64;
/// What a row more costs, of a step with one row, while nothing is known: a guess that decides only the first trials.
const UNKNOWN_SLOPE: f32 = 0.1;

impl Default for StepTimes {
    fn default() -> Self {
        Self { seconds: [0.0; KNOWN_ROWS + 1] }
    }
}

impl StepTimes {
    fn observe(&mut self, rows: usize, seconds: f32) {
        let Some(known) = self.seconds.get_mut(rows).filter(|_| rows > 0) else { return };
        // A neighbour process makes single steps slow; a few steps later that is forgotten.
        *known = if *known == 0.0 { seconds } else { *known + (seconds - *known) * 0.1 };
    }

    /// Never falls with more rows: a faster larger step is noise, and would make every proposal seem free.
    fn estimate(&self, rows: usize) -> f32 {
        let rows = rows.max(1);
        let known = |at: &usize| self.seconds[*at] > 0.0;
        let below = (1..=rows.min(KNOWN_ROWS)).rev().find(known);
        let above = (rows + 1..=KNOWN_ROWS).find(known);
        match (below, above) {
            (Some(below), _) if below == rows => self.largest_up_to(rows),
            (Some(below), Some(above)) => {
                let (low, high) = (self.largest_up_to(below), self.largest_up_to(above));
                low + (high - low) * (rows - below) as f32 / (above - below) as f32
            }
            (Some(below), None) => {
                self.largest_up_to(below) * (1.0 + UNKNOWN_SLOPE * (rows - below) as f32 / below as f32)
            }
            (None, Some(above)) => self.seconds[above] / (1.0 + UNKNOWN_SLOPE * (above - rows) as f32),
            (None, None) => 1.0 + UNKNOWN_SLOPE * (rows - 1) as f32,
        }
    }

    fn largest_up_to(&self, rows: usize) -> f32 {
        self.seconds[..=rows].iter().copied().fold(0.0, f32::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Origin = Origin::Lookup { agreed: 8 };

    fn learnt(step: impl Fn(usize) -> f32, chance: f32) -> Speculation {
        let mut speculation = Speculation::default();
        for rows in 1..=KNOWN_ROWS {
            speculation.steps.observe(rows, step(rows));
        }
        speculation.acceptance = [Chance(chance); CLASSES];
        speculation
    }

    #[test]
    fn free_rows_are_filled_and_dear_ones_are_not() {
        // One stream on a machine bound by memory: rows cost next to nothing.
        let memory_bound = learnt(|rows| 30.0 + 0.1 * rows as f32, 0.9);
        assert_eq!(memory_bound.worth(LONG, 1, MOST_PROPOSED, &mut 1.0), MOST_PROPOSED);
        // A crowd on a machine bound by arithmetic: every row costs its share, and only certainty would pay.
        let compute_bound = learnt(|rows| rows as f32, 0.9);
        assert_eq!(compute_bound.worth(LONG, 32, MOST_PROPOSED, &mut 32.0), 0);
        // Proposals that are mostly wrong stop paying early, even where a row costs little.
        let unlucky = learnt(|rows| 10.0 + rows as f32, 0.2);
        assert!(unlucky.worth(LONG, 1, MOST_PROPOSED, &mut 1.0) <= 1);
    }

    /// Steps of 30 s and 9 of 10 proposals right; draft models whose rounds take so long, and one that mostly reads.
    #[test]
    fn a_draft_model_pays_or_is_left_alone() {
        let worth = |rounds: usize, seconds: u64| {
            let mut speculation = learnt(|rows| 30.0 + 0.1 * rows as f32, 0.9);
            for _ in 0..1000 {
                speculation.drafted(rounds, Duration::from_secs(seconds), false);
            }
            speculation.worth(Origin::Draft, 1, MOST_PROPOSED, &mut 1.0)
        };
        assert!(worth(4, 4) >= 4, "cheap rounds");
        assert_eq!(worth(4, 160), 0, "rounds dearer than the model's own");
        assert_eq!(worth(0, 30), 0, "prompts read for nothing");
    }

    #[test]
    fn a_draft_model_that_did_not_pay_is_tried_again_at_little_cost() {
        let mut speculation = learnt(|rows| 1.0 + 0.01 * rows as f32, 0.0);
        let (mut time, mut trials) = (0.0, 0.0);
        for _ in 0..20_000 {
            speculation.stepped(1, Duration::from_secs(1));
            time += 1.0;
            if speculation.may_try() {
                speculation.drafted(1, Duration::from_millis(300), true);
                speculation.verified(Origin::Draft, 1, 0);
                trials += 0.3;
            }
        }
        assert_eq!(speculation.worth(Origin::Draft, 1, MOST_PROPOSED, &mut 1.0), 0);
        assert!((0.01 * time..=0.02 * time + 1.0).contains(&trials), "{trials} of {time} s");
        // A text comes that it knows.
        let mut steps = 0;
        while speculation.worth(Origin::Draft, 1, MOST_PROPOSED, &mut 1.0) == 0 {
            speculation.stepped(1, Duration::from_secs(1));
            if speculation.may_try() {
                speculation.drafted(1, Duration::from_millis(300), true);
                speculation.verified(Origin::Draft, 1, 1);
            }
            steps += 1;
            assert!(steps < 2000);
        }
    }

    #[test]
    fn acceptance_is_learnt_by_class() {
        let mut speculation = learnt(|rows| 10.0 + rows as f32, 0.5);
        for _ in 0..200 {
            speculation.verified(LONG, 4, 4);
            speculation.verified(Origin::Draft, 4, 0);
        }
        assert!(speculation.worth(LONG, 1, MOST_PROPOSED, &mut 1.0) >= 8);
        assert_eq!(speculation.worth(Origin::Draft, 1, MOST_PROPOSED, &mut 1.0), 0);
        for _ in 0..200 {
            speculation.verified(LONG, 4, 0);
        }
        assert_eq!(speculation.worth(LONG, 1, MOST_PROPOSED, &mut 1.0), 0);
    }

    #[test]
    fn unknown_steps_are_read_off_their_neighbours() {
        let mut times = StepTimes::default();
        times.observe(1, 10.0);
        times.observe(5, 14.0);
        assert_eq!(times.estimate(3), 12.0);
        assert!(times.estimate(9) > 14.0);
        // Noise never makes a larger step look faster.
        times.observe(6, 1.0);
        assert!(times.estimate(6) >= times.estimate(5));
    }
}
