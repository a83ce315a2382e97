//! What outlives its sequence: pages that the store on disk keeps, and pages that somebody pinned.

use std::time::{Duration, Instant};

use falaj_model::PAGE_TOKENS;
use tokio::sync::mpsc;

use super::Scheduler;
use super::admit::CANDIDATES;
use crate::pages::{Page, Parent};
use crate::prefix_store::Found;
use crate::sequence::{Lookup, Sequence};
use crate::stats::Stats;

impl Scheduler {
    /// A page for one holder. What it held is handed to the store before, if there is one.
    pub(super) fn allocate(&mut self) -> Option<Page> {
        if let Some(victim) = self.pages.victim() {
            self.store_page(victim, false);
        }
        self.pages.allocate()
    }

    /// Hands a known page to the store, unless it has it; `wait`: also where it is behind. Returns whether it was handed over.
    fn store_page(&mut self, page: Page, wait: bool) -> bool {
        let Some(store) = &self.store else { return false };
        if self.pages.is_stored(page) {
            return false;
        }
        let (salt, tokens) = self.pages.text(page);
        let mut bytes = vec![0; store.page_bytes()];
        self.cache.read_page(page, &mut bytes);
        let kept = if wait { store.write_waiting(salt, tokens, bytes) } else { store.write(salt, tokens, bytes) };
        if kept {
            self.pages.set_stored(page);
        }
        kept
    }

    /// Hands over all that is known, the most recently used first, as far as there is room and time. At the end.
    pub(super) fn store_everything(&mut self) {
        let Some(store) = &self.store else { return };
        let (begun, most) = (Instant::now(), store.most_pages());
        for page in self.pages.known_pages().into_iter().take(most) {
            if begun.elapsed() > LONGEST_GOODBYE {
                break;
            }
            self.store_page(page, true);
        }
        self.store = None;
    }

    /// Asks the store for what memory does not know of those who wait.
    pub(super) fn ask_store(&mut self) {
        let Some(store) = &mut self.store else { return };
        let page_seconds = self.budget.prompt_seconds(PAGE_TOKENS);
        for sequence in self.waiting.iter_mut().take(CANDIDATES) {
            if sequence.lookup != Lookup::Unasked {
                continue;
            }
            sequence.lookup = Lookup::Done;
            let (known, full) = (sequence.known_prefix(&self.pages), sequence.reusable() / PAGE_TOKENS);
            let tokens = &sequence.tokens[..full * PAGE_TOKENS];
            if sequence.reuses() && known < full && store.ask(sequence.id, sequence.salt, tokens, known, page_seconds) {
                sequence.lookup = Lookup::Asked;
            }
        }
    }

    /// Takes in what the store found.
    pub(super) fn take_found(&mut self) {
        while let Some(found) = self.store.as_mut().and_then(|store| store.found()) {
            let more = found.more;
            let id = found.id;
            let taken = self.take_pages(found);
            if let Some(sequence) = self.waiting.iter_mut().find(|sequence| sequence.id == id) {
                sequence.lookup = if more && taken { Lookup::Unasked } else { Lookup::Done };
            }
        }
    }

    /// Makes pages from disk known, as if a sequence had computed them and ended. Returns whether all found a place.
    fn take_pages(&mut self, found: Found) -> bool {
        let (tokens, []) = found.tokens.as_chunks::<PAGE_TOKENS>() else { return false };
        let mut parent = Parent::Salt(found.salt);
        let mut held = Vec::new();
        let mut contents = found.pages.iter();
        let mut complete = true;
        for (number, tokens) in tokens.iter().enumerate() {
            let page = match self.pages.reuse(parent, tokens) {
                Some(page) => page,
                None if number < found.from => break,
                None => {
                    let Some(bytes) = contents.as_slice().get(number - found.from) else { break };
                    // Those who run come first.
                    let spare = self.pages.available() > self.running.len();
                    let Some(page) = spare.then(|| self.allocate()).flatten() else {
                        complete = false;
                        break;
                    };
                    self.cache.write_page(page, bytes);
                    let page = self.pages.publish(page, parent, tokens);
                    self.pages.set_stored(page);
                    page
                }
            };
            parent = self.pages.as_parent(page);
            held.push(page);
        }
        contents.by_ref().for_each(drop);
        held.into_iter().rev().for_each(|page| self.pages.release(page));
        complete
    }

    /// Keeps the pages of a pin that is computed.
    pub(super) fn keep_pinned(&mut self, mut sequence: Sequence) {
        sequence.keep_full_pages(&mut self.pages);
        if let Some(generation) = sequence.generation() {
            // Nothing more will be told: the stream ends here, while the sequence stays.
            generation.events = mpsc::channel(2).0;
        }
        self.pinned.push(sequence);
        self.count_pinned();
    }

    /// Gives up the pins that were given up.
    pub(super) fn unpin(&mut self) {
        while let Some(id) = self.unpinned.pop() {
            for sequence in self.waiting.iter_mut().chain(&mut self.running).filter(|sequence| sequence.id == id) {
                sequence.pin = false;
            }
            if let Some(place) = self.pinned.iter().position(|sequence| sequence.id == id) {
                self.pinned.swap_remove(place).release(&mut self.pages);
            }
        }
        self.count_pinned();
    }

    /// After everything was forgotten: what is pinned is computed anew.
    pub(super) fn pin_again(&mut self) {
        for mut sequence in std::mem::take(&mut self.pinned) {
            sequence.release(&mut self.pages);
            (sequence.ended, sequence.turn) = (false, 0);
            sequence.preempted = true;
            self.waiting.push_front(sequence);
        }
        self.count_pinned();
    }

    /// At the end: pins are nobody's any more.
    pub(super) fn release_pinned(&mut self) {
        for mut sequence in std::mem::take(&mut self.pinned) {
            sequence.release(&mut self.pages);
        }
        self.count_pinned();
    }

    fn count_pinned(&self) {
        let pages = self.pinned.iter().map(|sequence| sequence.pages.len()).sum();
        Stats::set(&self.shared.stats.pages_pinned, pages);
    }
}

/// A site that stops is waited for.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);
