//! What the next step computes: which rows run, which pages they write.
//!
//! Every sequence that decodes has its turn in each step, since it is few rows and somebody waits for each; prompts share
//! the rest of the step's budget. The tenant that has had least comes first (`fair.rs`; who is admitted was charged for its prompt),
//! and of one tenant's the oldest, since of equals that are read together all are done late; but up to half of the budget goes to
//! those that are done sooner than the first, other tenants' before its own, so that none waits long behind a long one and none
//! starves. A prompt whose next page another is just computing waits for it.
//!
//! A turn of a decoding sequence is one row and one more per proposal in `Generation::proposed`, which `propose.rs`
//! fills. They are the inputs of
//! rows that each have logits; drawing (`Generation::turn`) goes from row to row as long as the token drawn is the one
//! proposed, with the random numbers of (seed, position) alone, so that proposals never change a token. Keys and values of
//! rows behind a wrong proposal are written again by the next turn; no such row is ever published to the prefix cache.

use falaj_model::{Batch, PAGE_TOKENS, Want};

use super::Scheduler;
use super::admit::{count_hit, is_ready};
use crate::fair::Cost;
use crate::sequence::{Rows, Sequence, Work};
use crate::stats::Stats;

impl Scheduler {
    /// Most pages that one sequence holds at once. With a window it gives back those behind it, after each step.
    pub(super) fn most_pages(&self) -> usize {
        let window = self.model.config().sliding_window;
        window.map_or(usize::MAX, |window| (window + self.workspace.max_rows()).div_ceil(PAGE_TOKENS) + 2)
    }

    /// Plans the next step and fills the batch with it.
    pub(super) fn fill(&mut self) {
        self.batch.clear();
        self.propose();
        self.plan();
        self.extend_pages();
        self.push_rows();
    }

    /// Decides how many rows each sequence gets.
    pub(super) fn plan(&mut self) {
        self.coming.clear();
        self.prompts.clear();
        let (mut decode_rows, mut streams) = (0, 0);
        for (place, sequence) in self.running.iter_mut().enumerate() {
            (sequence.turn, sequence.rows) = (0, Rows::default());
            // Asked once: a reader that catches up while the step is planned changes nothing.
            if sequence.is_paused() {
                continue;
            }
            if sequence.remaining() > 1 {
                let hit = sequence.reuse_prefix(&mut self.pages);
                if !sequence.preempted {
                    // It was charged for them when it was admitted.
                    self.fair.refund(sequence.account, hit, Cost::Prompt);
                }
                count_hit(&self.shared.stats, sequence, hit);
            }
            if sequence.remaining() > 1 {
                self.prompts.push(place);
            } else {
                sequence.turn = 1 + sequence.generation().map_or(0, |generation| generation.proposed.len());
                decode_rows += sequence.turn;
                streams += 1;
            }
        }
        let room = self.workspace.max_rows().saturating_sub(decode_rows);
        let room = room.min(self.budget.prompt_rows(decode_rows, streams, self.prompts.len()));
        self.plan_prompts(room);
    }

    fn plan_prompts(&mut self, room: usize) {
        let (fair, running) = (&self.fair, &self.running);
        let rank = |place: usize| fair.rank(running[place].account);
        let Some(first) = (0..self.prompts.len()).min_by_key(|number| (rank(self.prompts[*number]), *number)) else {
            return;
        };
        self.prompts.swap(0, first);
        let Some((&mut first, others)) = self.prompts.split_first_mut() else { return };
        let own = running[first].account;
        others.sort_unstable_by_key(|place| {
            let other = &running[*place];
            (other.account == own, rank(*place), other.remaining(), *place)
        });
        let remembers = self.pages.remembers();
        self.coming.extend(self.running[first].next_page().filter(|_| remembers));
        let longest = self.running[first].remaining();
        let beside = room.saturating_sub(longest);
        let mut given = 0;
        for &place in &*others {
            let sequence = &mut self.running[place];
            let next = sequence.next_page().filter(|_| remembers);
            let share = if sequence.remaining() < longest { beside.max(room / 2) } else { beside };
            let left = share.saturating_sub(given);
            if left == 0 || (sequence.may_wait() && next.is_some_and(|next| self.coming.contains(&next))) {
                continue;
            }
            sequence.turn = rows_within(sequence, left);
            given += sequence.turn;
            if sequence.turn >= PAGE_TOKENS {
                self.coming.extend(next);
            }
        }
        let first = &mut self.running[first];
        first.turn = rows_within(first, room - given);
    }

    /// Gives every sequence the pages that its rows write, alone. Where there is none, of the tenant that holds most for its weight
    /// (of the lowest band) who came last is sent back to the queue.
    pub(super) fn extend_pages(&mut self) {
        let mut number = 0;
        while let Some(sequence) = self.running.get(number) {
            let needed = (sequence.computed + sequence.turn).div_ceil(PAGE_TOKENS);
            let first = sequence.computed / PAGE_TOKENS;
            let shared = sequence.pages.get(first).copied().filter(|page| self.pages.holders(*page) > 1);
            if sequence.turn == 0 || (sequence.pages.len() >= needed && shared.is_none()) {
                number += 1;
                continue;
            }
            let page = self.allocate();
            let sequence = &mut self.running[number];
            match (page, shared) {
                (Some(page), Some(shared)) => {
                    // Copied when written: other choices of the same prompt go on from the same beginning.
                    self.cache.copy_page(shared, page);
                    self.pages.release(shared);
                    sequence.pages[first] = page;
                }
                (Some(page), None) => sequence.pages.push(page),
                (None, _) => match sequence.generation().filter(|generation| !generation.proposed.is_empty()) {
                    Some(generation) => {
                        generation.proposed.clear();
                        sequence.turn = 1;
                    }
                    None => number -= usize::from(self.preempt_greediest().is_some_and(|place| place < number)),
                },
            }
        }
    }

    /// Returns the place where it ran.
    fn preempt_greediest(&mut self) -> Option<usize> {
        let patience = |sequence: &Sequence| self.fair.patience(sequence.account, self.pages_of(sequence.account));
        let running = self.running.iter().enumerate();
        let (place, _) = running.max_by_key(|(place, sequence)| (patience(sequence), *place))?;
        let sequence = self.running.remove(place);
        self.preempt(sequence);
        Some(place)
    }

    pub(super) fn preempt(&mut self, mut sequence: Sequence) {
        sequence.release(&mut self.pages);
        sequence.preempted = true;
        if let Some(generation) = sequence.generation() {
            generation.proposed.clear();
        }
        Stats::add(&self.shared.stats.preemptions, 1);
        // It came before everybody of its tenant who waits, and after those preempted later in this step.
        self.waiting.push_front(sequence);
    }

    /// Takes the pages of a sequence whose reader is behind, where nobody runs and somebody else could. Returns whether one gave
    /// way: without this, a reader that waits for one stream before it reads the next might wait for ever.
    pub(super) fn preempt_paused(&mut self) -> bool {
        if !self.waiting.iter().any(is_ready) {
            return false;
        }
        let Some(place) = self.running.iter().rposition(Sequence::is_paused) else { return false };
        let paused = self.running.remove(place);
        self.preempt(paused);
        true
    }

    /// The rows as planned.
    pub(super) fn push_rows(&mut self) {
        let (mut prompt_rows, mut decode_rows) = (0, 0);
        for sequence in self.running.iter_mut().filter(|sequence| sequence.turn > 0) {
            let decodes = sequence.remaining() == 1;
            *(if decodes { &mut decode_rows } else { &mut prompt_rows }) += sequence.turn as u32;
            push_rows(&mut self.batch, sequence);
        }
        (self.step.prompt_rows, self.step.decode_rows) = (prompt_rows, decode_rows);
    }
}

/// As many of a sequence's remaining rows as there is room for, up to a page's end where it goes on later: only full pages
/// can be shared.
fn rows_within(sequence: &Sequence, room: usize) -> usize {
    if sequence.remaining() <= room {
        return sequence.remaining();
    }
    let end = sequence.computed + room;
    let page_end = end - end % PAGE_TOKENS;
    if page_end > sequence.computed { page_end - sequence.computed } else { room }
}

fn push_rows(batch: &mut Batch, sequence: &mut Sequence) {
    let end = sequence.computed + sequence.turn;
    batch.sequence(&sequence.pages[..end.div_ceil(PAGE_TOKENS)]);
    if let Some(adapter) = &sequence.adapter {
        batch.adapt(adapter);
    }
    sequence.rows = Rows { first: batch.rows(), count: sequence.turn, outputs: 0 };
    let last = sequence.tokens.len() - 1;
    for position in sequence.computed..end {
        let (token, want) = match &sequence.work {
            Work::Generate(generation) => {
                let proposed = || generation.proposed.get(position - last - 1).copied();
                let token = if position > last { proposed() } else { Some(sequence.tokens[position]) };
                let draws = position >= last && generation.max_tokens > 0;
                (token, if draws { Want::Logits } else { Want::Nothing })
            }
            Work::Embed(pooling) if position >= pooling.pooled => (Some(sequence.tokens[position]), Want::Hidden),
            Work::Score(scoring) if position >= scoring.next => (Some(sequence.tokens[position]), Want::Hidden),
            Work::Embed(_) | Work::Score(_) | Work::Away => (Some(sequence.tokens[position]), Want::Nothing),
        };
        sequence.rows.outputs += usize::from(want == Want::Logits);
        batch.push(token.unwrap_or_default(), position as u32, want);
    }
}
