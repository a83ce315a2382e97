//! The thread that owns the segment: takes what has gathered while it was writing, writes it as one frame with one fsync, and
//! keeps the promises. A write that fails takes with it everything that waited, so that nobody's entry follows a lost one.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};

use super::publisher::Work;
use super::ticket::Promise;
use super::wal::{Segment, frame};
use super::{Shared, locked};
use crate::error::LedgerError;

/// What one frame holds at most; one entry more may exceed it.
const FRAME_BYTES: usize = 4 << 20;

pub(super) struct Pending {
    pub(super) entry: Vec<u8>,
    pub(super) promise: Arc<Promise>,
}

pub(super) struct Appender {
    pub(super) shared: Arc<Shared>,
    pub(super) segment: Segment,
    pub(super) publisher: SyncSender<Work>,
}

impl Appender {
    pub(super) fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            let first = self.shared.size.load(Ordering::Acquire);
            match self.write(first, &batch) {
                Ok(()) => self.acknowledge(first, batch),
                Err(error) => self.fail(batch, &error),
            }
        }
    }

    fn next_batch(&self) -> Option<Vec<Pending>> {
        let mut queue = locked(&self.shared.queue);
        while queue.entries.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self.shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        let count = queue.entries.iter().take_while(|pending| {
            let before = bytes;
            bytes += pending.entry.len();
            before < FRAME_BYTES
        });
        let count = count.count();
        let batch: Vec<Pending> = queue.entries.drain(..count).collect();
        queue.bytes -= batch.iter().map(|pending| pending.entry.len()).sum::<usize>();
        Some(batch)
    }

    fn write(&mut self, first: u64, batch: &[Pending]) -> Result<(), LedgerError> {
        if self.segment.length() >= self.shared.settings.segment_bytes {
            self.segment = Segment::create(&self.shared.folder.path("wal"), first)?;
            // A publisher that is gone has already said why.
            let _ = self.publisher.send(Work::Segment { first });
        }
        self.segment.write(&frame(first, batch.iter().map(|pending| pending.entry.as_slice())))
    }

    fn acknowledge(&self, first: u64, batch: Vec<Pending>) {
        self.shared.size.store(first + batch.len() as u64, Ordering::Release);
        locked(&self.shared.health).appending = None;
        let (entries, promises): (Vec<_>, Vec<_>) = batch.into_iter().map(|it| (it.entry, it.promise)).unzip();
        for (index, promise) in (first..).zip(promises) {
            promise.keep(Ok(index));
        }
        // Blocks when the publisher is far behind: the queue fills, and callers hear that we are busy.
        let _ = self.publisher.send(Work::Entries(entries));
    }

    fn fail(&self, mut batch: Vec<Pending>, error: &LedgerError) {
        locked(&self.shared.health).appending = Some(error.clone());
        let mut queue = locked(&self.shared.queue);
        batch.append(&mut queue.entries);
        queue.bytes = 0;
        queue.generation += 1;
        drop(queue);
        for pending in batch {
            pending.promise.keep(Err(error.clone()));
        }
    }
}
