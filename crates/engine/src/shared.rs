//! What the handles and the engine thread have in common: one short queue under a lock, and what is counted. The lock is never
//! held while a step runs; every guard is accounted for, so that the trace and a test can show it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::request::{EngineOptions, SubmitError, Tenant};
use crate::sequence::Sequence;
use crate::stats::Stats;
use crate::trace::Trace;

pub(crate) struct Shared {
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
    inbox: Mutex<Inbox>,
    changed: Condvar,
    has_ended: Condvar,
    max_sequences: usize,
    queue_requests: usize,
    #[cfg(test)]
    pub(crate) fault: std::sync::atomic::AtomicBool,
}

pub(crate) struct Inbox {
    arrived: VecDeque<Sequence>,
    /// Requests in `arrived`: a sequence may stand for several choices.
    arrived_requests: usize,
    /// Requests that the engine thread took and has not admitted, in all and by tenant.
    taken: usize,
    taken_by: Vec<(u64, usize)>,
    next_id: u64,
    /// Pins to be given up, and the pages that pins may come to hold.
    unpinned: Vec<u64>,
    pinned_pages: usize,
    stop: Stop,
    ended: bool,
}

impl Inbox {
    fn all(&self) -> usize {
        self.arrived_requests + self.taken
    }

    fn waiting_of(&self, tenant: Tenant) -> usize {
        let arrived = self.arrived.iter().filter(|sequence| sequence.tenant.id == tenant.id);
        let taken = self.taken_by.iter().filter(|(id, _)| *id == tenant.id);
        arrived.map(Sequence::requests).sum::<usize>() + taken.map(|(_, requests)| requests).sum::<usize>()
    }

    /// Until the engine thread has counted for itself.
    fn note_taken(&mut self) {
        self.taken_by.extend(self.arrived.iter().map(|sequence| (sequence.tenant.id, sequence.requests())));
    }
}

/// Sequences that are ever waiting.
pub(crate) fn most_waiting(options: &EngineOptions) -> usize {
    QUEUES * options.queue_requests + options.max_sequences
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    No,
    Drain,
    Now,
}

impl Shared {
    pub(crate) fn new(options: &EngineOptions) -> Self {
        let arrived = VecDeque::with_capacity(most_waiting(options));
        let inbox = Inbox {
            arrived,
            arrived_requests: 0,
            taken: 0,
            taken_by: Vec::new(),
            next_id: 0,
            unpinned: Vec::new(),
            pinned_pages: 0,
            stop: Stop::No,
            ended: false,
        };
        Self {
            stats: Stats::default(),
            trace: Trace::default(),
            inbox: Mutex::new(inbox),
            changed: Condvar::new(),
            has_ended: Condvar::new(),
            max_sequences: options.max_sequences,
            queue_requests: options.queue_requests,
            #[cfg(test)]
            fault: Default::default(),
        }
    }

    /// Queues what `sequence` makes of its number; it stands for `requests` requests of `tenant`, and as many numbers are its own.
    /// A tenant may fill its own queue, and of the whole as much as it leaves: the more tenants wait, the less for each, and
    /// something for who comes next.
    pub(crate) fn enqueue(
        &self,
        tenant: Tenant,
        requests: usize,
        sequence: impl FnOnce(u64) -> Sequence,
    ) -> Result<u64, SubmitError> {
        let mut inbox = self.lock();
        if inbox.stop != Stop::No || inbox.ended {
            return Err(SubmitError::Stopped);
        }
        let free = self.max_sequences.saturating_sub(Stats::get(&self.stats.running) as usize);
        let all = inbox.all().saturating_sub(free);
        let own = (inbox.waiting_of(tenant) + requests).saturating_sub(free);
        let whole = QUEUES * self.queue_requests;
        if own > self.queue_requests.min(whole.saturating_sub(all)) || inbox.all() + requests > whole + free {
            Stats::add(&self.stats.refused, 1);
            let interval_ms = Stats::get(&self.stats.finish_interval_us) / 1000;
            return Err(SubmitError::QueueFull {
                capacity: self.queue_requests,
                retry_after_ms: interval_ms.clamp(SHORTEST_RETRY_MS, LONGEST_RETRY_MS),
            });
        }
        let id = inbox.next_id + 1;
        inbox.next_id += requests as u64;
        inbox.arrived.push_back(sequence(id));
        inbox.arrived_requests += requests;
        Stats::set(&self.stats.waiting, inbox.arrived_requests + inbox.taken);
        drop(inbox);
        self.changed.notify_one();
        Ok(id)
    }

    /// Moves what arrived behind `waiting`. Sleeps first while there is nothing to do (`idle`) and nothing came.
    pub(crate) fn collect(&self, waiting: &mut VecDeque<Sequence>, unpinned: &mut Vec<u64>, idle: bool) -> Stop {
        let mut inbox = self.lock();
        while idle && inbox.arrived.is_empty() && inbox.unpinned.is_empty() && inbox.stop == Stop::No {
            inbox = inbox.wait(&self.changed);
        }
        inbox.note_taken();
        waiting.append(&mut inbox.arrived);
        unpinned.append(&mut inbox.unpinned);
        inbox.taken += std::mem::take(&mut inbox.arrived_requests);
        inbox.stop
    }

    /// Sleeps until something arrives, at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let inbox = self.lock();
        if inbox.arrived.is_empty() && inbox.stop != Stop::Now {
            inbox.wait_timeout(&self.changed, timeout);
        }
    }

    /// Ends the engine thread's sleep: there is something else to look at.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// `by`: requests that wait, by tenant; gives another list back.
    pub(crate) fn set_waiting(&self, by: &mut Vec<(u64, usize)>) {
        let taken = by.iter().map(|(_, requests)| requests).sum();
        let mut inbox = self.lock();
        inbox.taken = taken;
        std::mem::swap(&mut inbox.taken_by, by);
        Stats::set(&self.stats.waiting, inbox.arrived_requests + taken);
    }

    /// Sets `pages` aside for a pin, of `most` that pins may have; returns how many are left where these are too few.
    pub(crate) fn reserve_pinned(&self, pages: usize, most: usize) -> Result<(), usize> {
        let mut inbox = self.lock();
        let left = most.saturating_sub(inbox.pinned_pages);
        if pages > left {
            return Err(left);
        }
        inbox.pinned_pages += pages;
        Ok(())
    }

    /// Gives back what was set aside, and tells the engine thread which pin ended, if one began.
    pub(crate) fn unpin(&self, id: Option<u64>, pages: usize) {
        let mut inbox = self.lock();
        inbox.pinned_pages -= pages;
        inbox.unpinned.extend(id);
        drop(inbox);
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self, stop: Stop) {
        let mut inbox = self.lock();
        inbox.stop = inbox.stop.max(stop);
        drop(inbox);
        self.changed.notify_one();
    }

    pub(crate) fn wait_for_end(&self) {
        let mut inbox = self.lock();
        while !inbox.ended {
            inbox = inbox.wait(&self.has_ended);
        }
    }

    /// No state behind this lock can be half-written, so a panic elsewhere does not matter.
    pub(crate) fn lock(&self) -> Guard<'_> {
        Guard { inbox: self.inbox.lock().unwrap_or_else(PoisonError::into_inner), _held: Held::begin() }
    }

    #[cfg(test)]
    pub(crate) fn injected_fault(&self) {
        assert!(!self.fault.swap(false, std::sync::atomic::Ordering::SeqCst), "an injected fault");
    }
}

/// The lock, and the account of how long this thread holds it.
pub(crate) struct Guard<'a> {
    // Declared first, so that it is let go before the account closes.
    inbox: MutexGuard<'a, Inbox>,
    _held: Held,
}

impl Guard<'_> {
    fn wait(self, condvar: &Condvar) -> Self {
        let Self { inbox, _held } = self;
        drop(_held);
        let inbox = condvar.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        Self { inbox, _held: Held::begin() }
    }

    fn wait_timeout(self, condvar: &Condvar, timeout: Duration) {
        let Self { inbox, _held } = self;
        drop(_held);
        drop(condvar.wait_timeout(inbox, timeout));
    }
}

impl Deref for Guard<'_> {
    type Target = Inbox;

    fn deref(&self) -> &Inbox {
        &self.inbox
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Inbox {
        &mut self.inbox
    }
}

thread_local! {
    static HELD_NOW: Cell<u32> = const { Cell::new(0) };
    static HELD_FOR: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Locks that this thread holds.
pub(crate) fn locks_held() -> u32 {
    HELD_NOW.get()
}

/// How long this thread held locks since it last asked.
pub(crate) fn take_lock_time() -> Duration {
    HELD_FOR.take()
}

struct Held(Instant);

impl Held {
    fn begin() -> Self {
        HELD_NOW.set(HELD_NOW.get() + 1);
        Self(Instant::now())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD_NOW.set(HELD_NOW.get() - 1);
        HELD_FOR.set(HELD_FOR.get() + self.0.elapsed());
    }
}

/// Tells the handles that the thread is gone, also when it panics. Dropping what arrived closes those streams.
pub(crate) struct EndOfThread(pub(crate) Arc<Shared>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        let mut inbox = self.0.lock();
        inbox.ended = true;
        inbox.stop = Stop::Now;
        inbox.arrived.clear();
        inbox.arrived_requests = 0;
        let stats = &self.0.stats;
        for gauge in [&stats.waiting, &stats.running, &stats.pages_used] {
            Stats::set(gauge, 0);
        }
        self.0.has_ended.notify_all();
    }
}

/// The queues of so many tenants fit into the whole.
const QUEUES: usize = 4;
const SHORTEST_RETRY_MS: u64 = 100;
const LONGEST_RETRY_MS: u64 = 60_000;
