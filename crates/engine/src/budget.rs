//! How many prompt rows a step takes: as many as keep it within a time that those who read answers accept, by what rows were
//! measured to cost. Where more requests wait for their first token than for the next, readers are asked for more patience;
//! where nobody reads yet, the bound is how long a newcomer waits for the step to end. It changes when a row is computed, never
//! what comes of it.

use std::time::Duration;

/// One per engine.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    step_tokens: usize,
    /// Longest step while more streams run than prompts wait, in seconds; 0: whatever it takes.
    bound: f32,
    /// The same where prompts that wait are in the majority.
    crowd_bound: f32,
    /// Smoothed seconds of a step of decode rows alone, and of each prompt row beside them. 0: not measured yet.
    decode: f32,
    prompt_row: f32,
}

impl Budget {
    pub(crate) fn new(step_tokens: usize, bound_ms: usize, crowd_bound_ms: usize) -> Self {
        let seconds = |ms| ms as f32 / 1000.0;
        let (bound, crowd_bound) = (seconds(bound_ms), seconds(crowd_bound_ms.max(bound_ms)));
        Self { step_tokens, bound, crowd_bound, decode: 0.0, prompt_row: 0.0 }
    }

    /// Prompt rows of a step that has `decode_rows` others, of `streams` sequences, while `prompts` are being read.
    pub(crate) fn prompt_rows(&self, decode_rows: usize, streams: usize, prompts: usize) -> usize {
        let most = self.step_tokens.saturating_sub(decode_rows).max(1);
        if self.bound == 0.0 || self.prompt_row == 0.0 {
            return most;
        }
        let decode = if decode_rows > 0 { self.decode } else { 0.0 };
        // However slow the machine, prompts move: a stream that waits twice as long is better than a prompt that starves.
        let rows = ((self.longest(streams, prompts) - decode).max(0.0) / self.prompt_row) as usize;
        rows.clamp(FEWEST_ROWS.min(most), most)
    }

    /// Seconds that a step may take: the bound, times the prompts that wait per stream that does.
    fn longest(&self, streams: usize, prompts: usize) -> f32 {
        (self.bound * prompts as f32 / streams as f32).clamp(self.bound, self.crowd_bound)
    }

    /// A step took so long.
    pub(crate) fn observe(&mut self, decode_rows: usize, prompt_rows: usize, took: Duration) {
        let took = took.as_secs_f32();
        if prompt_rows == 0 {
            smooth(&mut self.decode, took);
        } else if prompt_rows >= FEWEST_ROWS {
            // Reading the weights is in both; what decoding alone takes is no prompt row's cost.
            let alone = if decode_rows > 0 { self.decode.min(took / 2.0) } else { 0.0 };
            smooth(&mut self.prompt_row, (took - alone) / prompt_rows as f32);
        }
    }

    /// Seconds that computing so many prompt rows takes, as far as it is known.
    pub(crate) fn prompt_seconds(&self, rows: usize) -> Option<f32> {
        (self.prompt_row > 0.0).then_some(self.prompt_row * rows as f32)
    }
}

/// Two pages: fewer rows leave the matrix units idle.
const FEWEST_ROWS: usize = 32;

/// One slow step (a neighbour, a page fault) moves it by a quarter, and is forgotten after a few.
fn smooth(value: &mut f32, measured: f32) {
    *value = if *value == 0.0 { measured } else { *value + (measured - *value) * 0.25 };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which a step takes `base` and `row` per row, with streams running: where the budget settles.
    fn settled(base: f32, row: f32, decode_rows: usize) -> usize {
        let mut budget = Budget::new(512, 200, 800);
        let mut rows = 0;
        for turn in 0..40 {
            rows = if turn % 4 == 0 { 0 } else { budget.prompt_rows(decode_rows, decode_rows, 1) };
            let seconds = base + row * (rows + decode_rows) as f32;
            budget.observe(decode_rows, rows, Duration::from_secs_f32(seconds));
        }
        rows
    }

    #[test]
    fn steps_stay_within_the_bound_where_the_machine_can() {
        // Fast enough for whole steps; 200 ms hold about 170 ms of prompts; too slow for any bound.
        assert_eq!(settled(0.02, 0.0003, 8), 504);
        let rows = settled(0.02, 0.001, 8);
        assert!((150..=190).contains(&rows), "{rows}");
        assert_eq!(settled(0.5, 0.01, 8), FEWEST_ROWS);
    }

    #[test]
    fn nobody_waits_and_nothing_is_known() {
        let mut budget = Budget::new(512, 200, 800);
        let rows = |budget: &Budget, decode| budget.prompt_rows(decode, decode, 1);
        assert_eq!((rows(&budget, 0), rows(&budget, 32), rows(&budget, 512)), (512, 480, 1));
        budget.observe(0, 512, Duration::from_secs(50));
        assert_eq!((rows(&budget, 0), rows(&budget, 1)), (FEWEST_ROWS, FEWEST_ROWS));
        assert_eq!(rows(&Budget::new(16, 200, 800), 1), 15);
        let mut unbounded = Budget::new(512, 0, 800);
        unbounded.observe(1, 511, Duration::from_secs(60));
        assert_eq!((rows(&unbounded, 0), rows(&unbounded, 1)), (512, 511));
    }

    /// At 1 ms a row: a crowd that has just come is read in few steps, one newcomer among many streams in steps of the bound.
    #[test]
    fn the_many_are_not_kept_waiting_by_the_few() {
        let rows = |crowd_ms, streams, prompts| {
            let mut budget = Budget::new(4096, 200, crowd_ms);
            budget.observe(0, 500, Duration::from_millis(500));
            budget.prompt_rows(streams, streams, prompts).div_ceil(10) * 10
        };
        let all = |crowd| {
            [(0, 1), (1, 31), (8, 24), (16, 16), (31, 1)].map(|(streams, prompts)| rows(crowd, streams, prompts))
        };
        assert_eq!(all(800), [800, 800, 600, 200, 200]);
        assert_eq!(all(400), [400, 400, 400, 200, 200]);
        // Readers who want no longer gaps, whoever comes.
        assert_eq!(all(0), [200; 5]);
    }

    /// Eight streams run when 24 prompts of 256 tokens come at once, at 1 ms a row: the longest step, counted in the rows that
    /// every stream waits for, keeps to the setting.
    #[test]
    fn the_longest_gap_of_a_stream_is_the_setting() {
        let longest = |crowd_ms| {
            let mut budget = Budget::new(4096, 200, crowd_ms);
            budget.observe(0, 500, Duration::from_millis(500));
            budget.observe(8, 0, Duration::from_millis(8));
            let (mut left, mut most) = (24 * 256usize, 0);
            while left > 0 {
                let done = 24 - left.div_ceil(256);
                let rows = budget.prompt_rows(8 + done, 8 + done, 24 - done).min(left);
                budget.observe(8 + done, rows, Duration::from_millis((8 + done + rows) as u64));
                (left, most) = (left - rows, most.max(8 + done + rows));
            }
            most
        };
        let gaps = [0, 400, 800].map(longest);
        // 24 prompts for 8 streams: three times 200 at most.
        for (gap, bound) in gaps.into_iter().zip([200, 400, 600]) {
            assert!((bound * 9 / 10..=bound * 11 / 10).contains(&gap), "{gaps:?}");
        }
    }
}
