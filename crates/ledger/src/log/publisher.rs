//! The thread that follows the segments: hashes entries, puts tiles and bundles in place, signs checkpoints. Everything it writes is a function of the entries; a file that is lost before it was
//! synced is made again from the segments when the log is opened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Instant;

use super::retirer::Retire;
use super::{Published, Shared, locked};
use crate::checkpoint::Checkpoint;
use crate::error::LedgerError;
use crate::hash::leaf_hash;
use crate::key::Signer;
use crate::note::Note;
use crate::tile::{TILE_WIDTH, Tile, bundle, tile_bytes};
use crate::tree::Edge;

/// Files that wait for space. Beyond this the publisher takes no more work, so that appends become busy.
const WAITING_BYTES: usize = 64 << 20;

pub(super) enum Work {
    Entries(Vec<Vec<u8>>),
    /// A new segment begins with this entry.
    Segment {
        first: u64,
    },
    /// Make a checkpoint of at least so many entries, and say so.
    Publish {
        size: u64,
        reply: SyncSender<Result<Note, LedgerError>>,
    },
}

pub(super) struct Publisher {
    pub(super) shared: Arc<Shared>,
    pub(super) signer: Arc<dyn Signer>,
    edge: Edge,
    /// Entries of the bundle that is not full yet.
    tail: Vec<Vec<u8>>,
    /// Full tiles and bundles that are not in place yet, by path.
    waiting: BTreeMap<String, Vec<u8>>,
    waiting_bytes: usize,
    /// First entry of each segment that exists.
    segments: Vec<u64>,
    retirer: Sender<Retire>,
    /// Set while opening: files that were there and held something else, or were not there.
    pub(super) repaired: u64,
    opening: bool,
    asked: Vec<Asked>,
}

type Asked = (u64, SyncSender<Result<Note, LedgerError>>);

impl Publisher {
    /// Begins at an edge of whole bundles.
    pub(super) fn new(
        shared: Arc<Shared>,
        signer: Arc<dyn Signer>,
        edge: Edge,
        segments: Vec<u64>,
        retirer: Sender<Retire>,
    ) -> Self {
        let (tail, waiting) = (Vec::new(), BTreeMap::new());
        let (waiting_bytes, repaired, opening, asked) = (0, 0, true, Vec::new());
        Self { shared, signer, edge, tail, waiting, waiting_bytes, segments, retirer, repaired, opening, asked }
    }

    pub(super) fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Adds an entry; full tiles wait in memory until [`Publisher::flush`].
    pub(super) fn add(&mut self, entry: Vec<u8>) {
        let (waiting, bytes) = (&mut self.waiting, &mut self.waiting_bytes);
        let mut wait = |path: String, file: Vec<u8>| {
            *bytes += file.len();
            waiting.insert(path, file);
        };
        self.edge.push(leaf_hash(&entry), |tile, hashes| wait(tile.path(), tile_bytes(hashes)));
        self.tail.push(entry);
        if self.tail.len() as u64 == TILE_WIDTH {
            let tile = Tile { level: 0, index: self.edge.size() / TILE_WIDTH - 1, width: TILE_WIDTH };
            wait(tile.bundle_path(), bundle(&self.tail));
            self.tail.clear();
        }
    }

    /// Puts full tiles in place.
    pub(super) fn flush(&mut self) -> Result<(), LedgerError> {
        while let Some((path, bytes)) = self.waiting.first_key_value() {
            if self.opening {
                self.repaired += u64::from(repair(&self.shared, path, bytes)?);
            } else {
                self.shared.folder.write(path, bytes)?;
            }
            self.shared.folder.remove_partial(path);
            self.waiting_bytes -= bytes.len();
            self.waiting.pop_first();
        }
        Ok(())
    }

    pub(super) fn opened(&mut self) {
        self.opening = false;
    }

    pub(super) fn run(mut self, work: Receiver<Work>) {
        let mut due = Instant::now() + self.shared.settings.checkpoint_every;
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            let next = if self.waiting_bytes > WAITING_BYTES {
                // No space for tiles: wait for it without taking more.
                std::thread::park_timeout(wait);
                Err(RecvTimeoutError::Timeout)
            } else {
                work.recv_timeout(wait)
            };
            let outcome = match next {
                Ok(Work::Entries(entries)) => {
                    entries.into_iter().for_each(|entry| self.add(entry));
                    self.flush()
                }
                Ok(Work::Segment { first }) => {
                    self.segments.push(first);
                    Ok(())
                }
                Ok(Work::Publish { size, reply }) => {
                    self.asked.push((size, reply));
                    Ok(())
                }
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    match self.publish() {
                        Ok(_) => self.retire(),
                        Err(error) => locked(&self.shared.health).publishing = Some(error),
                    }
                    return;
                }
            };
            let outcome = outcome.and_then(|()| self.answer());
            let outcome = if outcome.is_ok() && Instant::now() >= due {
                due = Instant::now() + self.shared.settings.checkpoint_every;
                self.publish().map(|_| self.retire())
            } else {
                outcome
            };
            if outcome.is_err() {
                due = Instant::now() + self.shared.settings.checkpoint_every;
            }
            locked(&self.shared.health).publishing = outcome.err();
        }
    }

    /// Answers those who asked for a checkpoint of entries that are here by now. An entry is acknowledged before it comes here.
    fn answer(&mut self) -> Result<(), LedgerError> {
        let size = self.edge.size();
        let (ready, later) = std::mem::take(&mut self.asked).into_iter().partition(|(asked, _)| *asked <= size);
        self.asked = later;
        let ready: Vec<Asked> = ready;
        if ready.is_empty() {
            return Ok(());
        }
        let note = self.publish();
        for (_, reply) in ready {
            let _ = reply.send(note.clone());
        }
        note.map(|_| ())
    }

    /// Makes the checkpoint of all entries so far, unless it is there already.
    pub(super) fn publish(&mut self) -> Result<Note, LedgerError> {
        self.flush()?;
        let before = locked(&self.shared.published).clone();
        let size = self.edge.size();
        if let Some(published) = &before
            && published.size == size
        {
            return Ok(published.note.clone());
        }
        for (tile, hashes) in self.edge.partial() {
            self.shared.folder.write(&tile.path(), &tile_bytes(hashes))?;
        }
        if let Some(tile) = Tile::within(0, size / TILE_WIDTH, size) {
            self.shared.folder.write(&tile.bundle_path(), &bundle(&self.tail))?;
        }
        let now = (self.shared.clock)();
        let last = before.map_or(0, |published| published.time_s);
        // Time in checkpoints never runs backwards, whatever the clock does.
        let time_s = now.max(last);
        locked(&self.shared.health).clock_behind_s = time_s - now;
        let origin = self.shared.origin.clone();
        let checkpoint = Checkpoint { origin, size, root: self.edge.root(), extensions: Vec::new() };
        let signed = checkpoint.sign(time_s, &*self.signer);
        locked(&self.shared.health).signing = signed.as_ref().err().cloned();
        self.shared.unsigned.store(signed.is_err(), Ordering::Release);
        let note = signed?;
        self.shared.folder.write_durably("checkpoint", note.to_string().as_bytes())?;
        *locked(&self.shared.published) = Some(Published { size, time_s, root: checkpoint.root, note: note.clone() });
        Ok(note)
    }

    /// Hands over the segments whose every entry is in whole tiles below the checkpoint.
    fn retire(&mut self) {
        let settled = self.edge.size() / TILE_WIDTH * TILE_WIDTH;
        // The last segment is being written and stays.
        let nexts = self.segments.iter().skip(1);
        let old = self.segments.iter().zip(nexts).filter(|&(_, &next)| next <= settled).count();
        if old > 0 {
            let segments = self.segments.drain(..old).collect();
            // A retirer that is gone has said why; the segments stay, and go when the log is opened again.
            let _ = self.retirer.send(Retire { settled, segments });
        }
    }
}

/// Puts a file in place unless it is there as it should be. True if it was not.
fn repair(shared: &Shared, path: &str, bytes: &[u8]) -> Result<bool, LedgerError> {
    if shared.folder.read(path)?.is_some_and(|found| found == bytes) {
        return Ok(false);
    }
    shared.folder.write(path, bytes)?;
    Ok(true)
}
