//! What the gate refused, on its way into the ledger. Nobody waits for it: a thread writes, and where more is refused than it should
//! write one by one, the rest of a minute is counted. What could not be written is counted as well, and its count is tried again.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use falaj_govern::Denial;
use falaj_ledger::{DenialCount, Entry, Hash, Log, Ticket};

/// Written one by one, of one actor in a minute.
const OF_AN_ACTOR: u32 = 20;
/// And of all of them together.
const OF_ALL: u32 = 600;
const QUEUE: usize = 256;
const MINUTE_MS: u64 = 60_000;

/// Writes what is left when it is dropped.
pub(super) struct Denials {
    minute: Arc<Mutex<Minute>>,
    queue: Option<SyncSender<Refused>>,
    thread: Option<JoinHandle<()>>,
}

struct Refused {
    request_id: [u8; 16],
    time_ms: u64,
    denial: Denial,
}

/// What one minute has had so far.
#[derive(Default)]
struct Minute {
    /// Since 1970.
    number: u64,
    all: u32,
    by_actor: HashMap<Arc<str>, u32>,
    /// Not written one by one, of this minute or of earlier ones whose count could not be written.
    counted: Option<DenialCount>,
}

impl Denials {
    pub(super) fn start(log: Arc<Log>) -> Self {
        let (queue, refused) = sync_channel(QUEUE);
        let minute = Arc::default();
        let writer = Writer { log, minute: Arc::clone(&minute) };
        let thread = std::thread::Builder::new().name("denials".to_owned()).spawn(move || writer.run(refused));
        match thread {
            Ok(thread) => Self { minute, queue: Some(queue), thread: Some(thread) },
            Err(error) => {
                tracing::error!(%error, "there is no thread that writes denials");
                Self { minute, queue: None, thread: None }
            }
        }
    }

    /// Takes note, at once.
    pub(super) fn note(&self, request_id: [u8; 16], denial: &Denial, time_ms: u64) {
        let mut minute = locked(&self.minute);
        let single = minute.admits(&denial.question().actor, time_ms);
        let sent = single
            && self.queue.as_ref().is_some_and(|queue| {
                let refused = Refused { request_id, time_ms, denial: denial.clone() };
                queue.try_send(refused).is_ok()
            });
        if !sent {
            minute.count(time_ms);
        }
    }
}

impl Drop for Denials {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Minute {
    /// Whether one more is written by itself.
    fn admits(&mut self, actor: &Arc<str>, time_ms: u64) -> bool {
        // Those of two threads may come in another order than their times.
        if time_ms / MINUTE_MS > self.number {
            self.number = time_ms / MINUTE_MS;
            self.all = 0;
            self.by_actor.clear();
        }
        if self.all >= OF_ALL {
            return false;
        }
        let own = self.by_actor.entry(Arc::clone(actor)).or_default();
        if *own >= OF_AN_ACTOR {
            return false;
        }
        *own += 1;
        self.all += 1;
        true
    }

    fn count(&mut self, time_ms: u64) {
        let counted = self.counted.get_or_insert(DenialCount { from_ms: time_ms, until_ms: time_ms, denials: 0 });
        counted.from_ms = counted.from_ms.min(time_ms);
        counted.until_ms = counted.until_ms.max(time_ms);
        counted.denials += 1;
    }

    /// Puts back a count that could not be written.
    fn give_back(&mut self, count: DenialCount) {
        let now = self.counted.get_or_insert(DenialCount { denials: 0, ..count.clone() });
        now.from_ms = now.from_ms.min(count.from_ms);
        now.until_ms = now.until_ms.max(count.until_ms);
        now.denials += count.denials;
    }
}

struct Writer {
    log: Arc<Log>,
    minute: Arc<Mutex<Minute>>,
}

impl Writer {
    fn run(self, refused: Receiver<Refused>) {
        loop {
            match refused.recv_timeout(Duration::from_secs(1)) {
                Ok(refused) => self.write(refused),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.sum_up(u64::MAX),
            }
            self.sum_up(crate::ids::now_ms());
        }
    }

    fn write(&self, Refused { request_id, time_ms, denial }: Refused) {
        let question = denial.question();
        let kept = self.log.folder().keep_record(&denial.record().to_json());
        let entry = falaj_ledger::Denial {
            request_id,
            time_ms,
            actor: question.actor.to_string(),
            action: question.action.word().to_owned(),
            resource: question.target.to_string(),
            policy: denial.policy().to_owned(),
            policy_epoch: denial.epoch().world,
            decision: Hash(*denial.digest().as_bytes()),
        };
        if let Err(error) = kept.and_then(|_| self.log.append(Entry::Denial(entry).to_bytes())?.wait()) {
            tracing::error!(%error, "a denial could not be written by itself, and is counted");
            locked(&self.minute).count(time_ms);
        }
    }

    /// Writes the count of a minute that is over.
    fn sum_up(&self, now_ms: u64) {
        let mut minute = locked(&self.minute);
        let over = minute.counted.as_ref().is_some_and(|count| count.from_ms / MINUTE_MS < now_ms / MINUTE_MS);
        let Some(count) = minute.counted.take_if(|_| over) else { return };
        drop(minute);
        if let Err(error) = self.log.append(Entry::DenialCount(count.clone()).to_bytes()).and_then(Ticket::wait) {
            tracing::error!(%error, "denials were counted, and their count cannot be written now");
            locked(&self.minute).give_back(count);
        }
    }
}

fn locked(minute: &Mutex<Minute>) -> MutexGuard<'_, Minute> {
    minute.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_the_first_are_written_and_the_rest_is_counted() {
        let mut minute = Minute::default();
        let actors: Vec<Arc<str>> = (0..40).map(|number| format!("key_{number}").into()).collect();
        let written = |minute: &mut Minute, actor: usize, times: u32, time_ms: u64| {
            (0..times).filter(|_| minute.admits(&actors[actor], time_ms)).count() as u32
        };
        assert_eq!(written(&mut minute, 0, 1000, 60_000), OF_AN_ACTOR);
        assert_eq!(written(&mut minute, 1, 1, 61_000), 1, "a flood of one hides nobody else's");
        assert_eq!(
            (2..40).map(|actor| written(&mut minute, actor, 1000, 90_000)).sum::<u32>(),
            OF_ALL - OF_AN_ACTOR - 1
        );
        assert_eq!(written(&mut minute, 0, 1000, 120_000), OF_AN_ACTOR, "the next minute begins anew");
        assert_eq!(written(&mut minute, 0, 1, 119_999), 0, "a late one belongs to it");

        for time_ms in [7, 3, 5] {
            minute.count(time_ms);
        }
        let count = minute.counted.take().unwrap();
        assert_eq!(count, DenialCount { from_ms: 3, until_ms: 7, denials: 3 });
        minute.count(9);
        minute.give_back(count);
        assert_eq!(minute.counted, Some(DenialCount { from_ms: 3, until_ms: 9, denials: 4 }));
    }
}
