//! What the next step computes: who is admitted, which rows run, which pages they write.
//!
//! Every sequence that decodes has its turn in each step, since it is few rows and somebody waits for each; prompts share
//! the rest of the step's budget. They are read in order of arrival, since of equals that are read together all are done late;
//! but up to half of the budget goes to those that are done sooner than the oldest, so that none waits long behind a long one
//! and none starves. A prompt whose next page another is just computing waits for it.
//!
//! A turn of a decoding sequence is one row and one more per proposal in `Generation::proposed`, which `propose.rs`
//! fills. They are the inputs of
//! rows that each have logits; drawing (`Generation::turn`) goes from row to row as long as the token drawn is the one
//! proposed, with the random numbers of (seed, position) alone, so that proposals never change a token. Keys and values of
//! rows behind a wrong proposal are written again by the next turn; no such row is ever published to the prefix cache.

use falaj_model::{Batch, PAGE_TOKENS, Want};

use super::Scheduler;
use crate::sequence::{Lookup, Rows, Sequence, Work};
use crate::stats::Stats;

impl Scheduler {
    /// Admits who waits while there are places and pages: who was preempted first, then whose prompt is known furthest, but
    /// nobody is overtaken for ever.
    pub(super) fn admit(&mut self) {
        self.ask_store();
        while self.running.len() < self.max_sequences
            && let Some(place) = self.next_to_admit()
            && let Some(mut sequence) = self.waiting.remove(place)
        {
            let queried = if sequence.preempted { 0 } else { sequence.tokens.len() };
            let hit = sequence.reuse_prefix(&mut self.pages);
            let others = self.running.iter().map(|other| sequence.pages_in_common(other));
            sequence.expected = if self.pages.remembers() { others.max().unwrap_or(0) } else { 0 };
            let most = self.most_pages();
            let promised: usize = self.running.iter().map(|other| other.pages_to_come(most)).sum();
            // Those who run get one page more each before somebody new comes, or admission would only cause preemption.
            if self.pages.available() < sequence.pages_to_come(most) + promised + self.running.len() {
                sequence.release(&mut self.pages);
                self.waiting.insert(place, sequence);
                return;
            }
            self.waiting.iter_mut().take(place).for_each(|passed| passed.overtaken += 1);
            Stats::add(&self.shared.stats.prefix_query_tokens, queried);
            count_hit(&self.shared.stats, &mut sequence, hit);
            // For all that it may come to hold, so that decoding allocates nothing.
            let most_tokens = sequence.tokens.capacity();
            sequence.pages.reserve_exact(most_tokens.div_ceil(PAGE_TOKENS).saturating_sub(sequence.pages.len()));
            let place = self.running.partition_point(|other| other.id < sequence.id);
            self.running.insert(place, sequence);
        }
    }

    fn next_to_admit(&self) -> Option<usize> {
        let first = self.waiting.iter().position(is_ready)?;
        let places = self.max_sequences - self.running.len();
        if self.waiting[first].preempted || self.waiting.len() <= places || !self.pages.remembers() {
            return Some(first);
        }
        let candidates = || self.waiting.iter().take(CANDIDATES).enumerate().filter(|(_, sequence)| is_ready(sequence));
        if let Some((tired, _)) = candidates().find(|(_, sequence)| sequence.overtaken >= MOST_OVERTAKEN) {
            return Some(tired);
        }
        let known = candidates().map(|(place, sequence)| (place, sequence.known_prefix(&self.pages)));
        // The first among equals.
        known.rev().max_by_key(|(_, known)| *known).map(|(place, _)| place)
    }

    /// Most pages that one sequence holds at once. With a window it gives back those behind it, after each step.
    fn most_pages(&self) -> usize {
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
        let Some((&mut oldest, others)) = self.prompts.split_first_mut() else { return };
        let remembers = self.pages.remembers();
        self.coming.extend(self.running[oldest].next_page().filter(|_| remembers));
        others.sort_unstable_by_key(|place| (self.running[*place].remaining(), *place));
        let longest = self.running[oldest].remaining();
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
        let oldest = &mut self.running[oldest];
        oldest.turn = rows_within(oldest, room - given);
    }

    /// Gives every sequence the pages that its rows write, alone. Where there is none, who came last is sent back to the
    /// queue.
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
                    None => self.preempt_youngest(),
                },
            }
        }
    }

    fn preempt_youngest(&mut self) {
        if let Some(youngest) = self.running.pop() {
            self.preempt(youngest);
        }
    }

    fn preempt(&mut self, mut sequence: Sequence) {
        sequence.release(&mut self.pages);
        sequence.preempted = true;
        if let Some(generation) = sequence.generation() {
            generation.proposed.clear();
        }
        Stats::add(&self.shared.stats.preemptions, 1);
        // It came before everybody who waits, and after those preempted later in this step.
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

/// Whether it could run if it were admitted now.
fn is_ready(sequence: &Sequence) -> bool {
    sequence.lookup != Lookup::Asked && !sequence.is_paused()
}

/// A preempted request finds pages that it made itself: these are not the caller's savings.
fn count_hit(stats: &Stats, sequence: &mut Sequence, hit: usize) {
    if hit == 0 || sequence.preempted {
        return;
    }
    Stats::add(&stats.prefix_hit_tokens, hit);
    if let Some(generation) = sequence.generation() {
        generation.count_hit(hit);
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

/// Requests that are looked at when one is admitted.
pub(super) const CANDIDATES: usize = 32;
/// How many later requests may be admitted before one because more of their prompts was known.
const MOST_OVERTAKEN: u32 = 16;
