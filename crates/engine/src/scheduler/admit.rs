//! Who of those that wait may run: of the tenant whose turn it is (`fair.rs`), who was preempted first, then whose prompt is known
//! furthest, but nobody is overtaken for ever. Where there is no place or no page, a tenant that has less than its share of them
//! gets what others have beyond theirs: their youngest goes back to the queue, keeps its tokens, and says the same later.

use falaj_model::PAGE_TOKENS;

use super::Scheduler;
use crate::fair::Cost;
use crate::sequence::{Lookup, Sequence};
use crate::stats::Stats;

impl Scheduler {
    /// Admits who waits while there are places and pages.
    pub(super) fn admit(&mut self) {
        self.ask_store();
        self.fair.seat(&mut self.waiting, &self.running);
        while let Some(account) = self.next_tenant() {
            if self.running.len() >= self.max_sequences && !self.displace_for_place(account) {
                return;
            }
            let Some(place) = self.next_of(account) else { return };
            let Some(sequence) = self.waiting.remove(place) else { return };
            if !self.admit_one(account, place, sequence) {
                return;
            }
        }
    }

    /// Whose turn it is, if it is worth looking.
    fn next_tenant(&self) -> Option<usize> {
        if self.running.len() >= self.max_sequences && !self.fair.is_shared() {
            return None;
        }
        let ready = self.waiting.iter().filter(|sequence| is_ready(sequence));
        self.fair.next(ready.filter_map(|sequence| sequence.account))
    }

    /// Which of the tenant's it is.
    fn next_of(&self, account: usize) -> Option<usize> {
        let ready = |sequence: &Sequence| sequence.account == Some(account) && is_ready(sequence);
        let own = || self.waiting.iter().enumerate().filter(|(_, sequence)| ready(sequence));
        let (first, sequence) = own().next()?;
        let places = self.max_sequences.saturating_sub(self.running.len());
        if sequence.preempted || self.waiting.len() <= places || !self.pages.remembers() {
            return Some(first);
        }
        let candidates = || own().take(CANDIDATES);
        if let Some((tired, _)) = candidates().find(|(_, sequence)| sequence.overtaken >= MOST_OVERTAKEN) {
            return Some(tired);
        }
        let known = candidates().map(|(place, sequence)| (place, sequence.known_prefix(&self.pages)));
        // The first among equals.
        known.min_by_key(|(_, known)| std::cmp::Reverse(*known)).map(|(place, _)| place)
    }

    /// Lets a sequence run that waited at `place`, or puts it back.
    fn admit_one(&mut self, account: usize, place: usize, mut sequence: Sequence) -> bool {
        let queried = if sequence.preempted { 0 } else { sequence.tokens.len() };
        let hit = sequence.reuse_prefix(&mut self.pages);
        let mut displaced = 0;
        while !self.fits(&mut sequence) {
            if !self.displace_for_pages(account, &sequence) {
                sequence.release(&mut self.pages);
                self.waiting.insert(place + displaced, sequence);
                return false;
            }
            displaced += 1;
        }
        let passed = self.waiting.iter_mut().take(place + displaced).skip(displaced);
        passed.filter(|passed| passed.account == Some(account)).for_each(|passed| passed.overtaken += 1);
        Stats::add(&self.shared.stats.prefix_query_tokens, queried);
        count_hit(&self.shared.stats, &mut sequence, hit);
        self.fair.admitted(sequence.account);
        // What is computed again after a preemption is nobody's service.
        self.fair.charge(sequence.account, queried.saturating_sub(hit), Cost::Prompt);
        // For all that it may come to hold, so that decoding allocates nothing.
        let most_tokens = sequence.tokens.capacity();
        sequence.pages.reserve_exact(most_tokens.div_ceil(PAGE_TOKENS).saturating_sub(sequence.pages.len()));
        let place = self.running.partition_point(|other| other.id < sequence.id);
        self.running.insert(place, sequence);
        true
    }

    /// Whether there are pages for it. Those who run get what they will ask for, and one page more each, before somebody new comes,
    /// or admission would only cause preemption.
    fn fits(&self, sequence: &mut Sequence) -> bool {
        let others = self.running.iter().map(|other| sequence.pages_in_common(other));
        sequence.expected = if self.pages.remembers() { others.max().unwrap_or(0) } else { 0 };
        let most = self.most_pages();
        let promised: usize = self.running.iter().map(|other| other.pages_to_come(most)).sum();
        self.pages.available() >= sequence.pages_to_come(most) + promised + self.running.len()
    }

    fn displace_for_place(&mut self, claimant: usize) -> bool {
        let running = |account| self.running.iter().filter(|sequence| sequence.account == Some(account)).count();
        let claims = self.fair.may_claim_place(claimant, self.max_sequences);
        let victim = claims.then(|| self.fair.over(claimant, self.max_sequences, running)).flatten();
        victim.is_some_and(|victim| self.displace(victim))
    }

    fn displace_for_pages(&mut self, claimant: usize, sequence: &Sequence) -> bool {
        let (needed, all) = (sequence.pages_needed(), self.pages.total());
        let claims = self.fair.may_claim_pages(claimant, needed, all);
        let held = |account| self.pages_of(Some(account));
        let victim = claims.then(|| self.fair.over(claimant, all, held)).flatten();
        victim.is_some_and(|victim| self.displace(victim))
    }

    /// Sends the youngest that this tenant runs back to the queue.
    fn displace(&mut self, account: usize) -> bool {
        let Some(place) = self.running.iter().rposition(|sequence| sequence.account == Some(account)) else {
            return false;
        };
        let youngest = self.running.remove(place);
        self.preempt(youngest);
        self.fair.displaced(account);
        true
    }

    /// Pages that a tenant's sequences hold. One that several share counts for each.
    pub(super) fn pages_of(&self, account: Option<usize>) -> usize {
        let own = self.running.iter().filter(|sequence| sequence.account == account);
        own.map(Sequence::pages_held).sum()
    }
}

/// Whether it could run if it were admitted now.
pub(super) fn is_ready(sequence: &Sequence) -> bool {
    sequence.lookup != Lookup::Asked && !sequence.is_paused()
}

/// A preempted request finds pages that it made itself: these are not the caller's savings.
pub(super) fn count_hit(stats: &Stats, sequence: &mut Sequence, hit: usize) {
    if hit == 0 || sequence.preempted {
        return;
    }
    Stats::add(&stats.prefix_hit_tokens, hit);
    if let Some(generation) = sequence.generation() {
        generation.count_hit(hit);
    }
}

/// Requests of a tenant that are looked at when one is admitted.
pub(super) const CANDIDATES: usize = 32;
/// How many later requests may be admitted before one because more of their prompts was known.
const MOST_OVERTAKEN: u32 = 16;
