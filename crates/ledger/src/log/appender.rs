//! The thread that owns the segment: takes what has gathered while it was writing, writes it as one frame, and syncs it as soon as
//! somebody waits for that, else within the log's patience. A write that fails takes with it everything that waited, so that nobody's entry follows a lost one.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

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
    shared: Arc<Shared>,
    segment: Segment,
    publisher: SyncSender<Work>,
    /// Written, and not synced yet.
    written: Vec<Pending>,
    /// When the first of them must be.
    due: Option<Instant>,
}

struct Batch {
    entries: Vec<Pending>,
    sync: bool,
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>, segment: Segment, publisher: SyncSender<Work>) -> Self {
        Self { shared, segment, publisher, written: Vec::new(), due: None }
    }

    pub(super) fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            if let Err(error) = self.write(&batch.entries) {
                // What was written before it is not lost.
                self.sync();
                self.fail(batch.entries, &error);
                continue;
            }
            for pending in &batch.entries {
                pending.promise.written();
            }
            self.written.extend(batch.entries);
            if batch.sync {
                self.sync();
            } else {
                self.due.get_or_insert_with(|| Instant::now() + self.shared.settings.patience);
            }
        }
    }

    fn next_batch(&self) -> Option<Batch> {
        let mut queue = locked(&self.shared.queue);
        while queue.entries.is_empty() {
            if queue.closed {
                return (!self.written.is_empty()).then(|| Batch { entries: Vec::new(), sync: true });
            }
            let Some(due) = self.due else {
                queue = self.shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(Batch { entries: Vec::new(), sync: true });
            }
            queue = self.shared.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut bytes = 0;
        let count = queue.entries.iter().take_while(|pending| {
            let before = bytes;
            bytes += pending.entry.len();
            before < FRAME_BYTES
        });
        let count = count.count();
        let sync = queue.urgent || self.due.is_some_and(|due| due <= Instant::now());
        let entries: Vec<Pending> = queue.entries.drain(..count).collect();
        // What is left over is in a hurry too, or nobody knows.
        queue.urgent = !queue.entries.is_empty();
        queue.bytes -= entries.iter().map(|pending| pending.entry.len()).sum::<usize>();
        Some(Batch { entries, sync })
    }

    fn write(&mut self, batch: &[Pending]) -> Result<(), LedgerError> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.segment.length() >= self.shared.settings.segment_bytes {
            self.sync();
            let first = self.shared.size.load(Ordering::Acquire);
            self.segment = Segment::create(&self.shared.folder.path("wal"), first)?;
            // A publisher that is gone has already said why.
            let _ = self.publisher.send(Work::Segment { first });
        }
        let first = self.shared.size.load(Ordering::Acquire) + self.written.len() as u64;
        let entries = batch.iter().map(|pending| pending.entry.as_slice());
        self.segment.write(&frame(first, self.segment.durable(), entries))
    }

    /// Makes durable what was written, and says so to those who wait.
    fn sync(&mut self) {
        self.due = None;
        if self.written.is_empty() {
            return;
        }
        let written = std::mem::take(&mut self.written);
        if let Err(error) = self.segment.sync() {
            return self.fail(written, &error);
        }
        let first = self.shared.size.fetch_add(written.len() as u64, Ordering::AcqRel);
        locked(&self.shared.health).appending = None;
        let (entries, promises): (Vec<_>, Vec<_>) = written.into_iter().map(|it| (it.entry, it.promise)).unzip();
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
        queue.urgent = false;
        queue.generation += 1;
        drop(queue);
        for pending in batch {
            pending.promise.keep(Err(error.clone()));
        }
    }
}
