//! The log on disk. An appender thread makes entries durable in groups (`log/appender.rs`, `log/wal.rs`), a publisher thread
//! turns them into tiles and signed checkpoints behind it (`log/publisher.rs`), a third removes old segments. Opening it again after any crash finds every
//! acknowledged entry, or says by name what is wrong.

mod appender;
mod folder;
mod publisher;
mod retirer;
#[cfg(test)]
mod tests;
mod ticket;
mod wal;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use self::appender::{Appender, Pending};
pub use self::folder::Folder;
use self::publisher::{Publisher, Work};
use self::retirer::Retirer;
pub use self::ticket::{Ticket, Watch, Written};
#[cfg(test)]
pub(crate) use self::wal::Fault;
use self::wal::{Scan, Segment};
use crate::checkpoint::Checkpoint;
use crate::error::LedgerError;
use crate::hash::Hash;
use crate::key::Signer;
use crate::note::{Note, VerifierKey, verified};
use crate::tile::{BUNDLE_ENTRY_LIMIT_BYTES, TILE_WIDTH, Tile};
use crate::tree::{Edge, Tiles, Tree, subtree};

/// Seconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Clone, Debug)]
pub struct LogSettings {
    /// What may wait for the disk; one more is [`LedgerError::Busy`].
    pub queue_entries: usize,
    pub queue_bytes: usize,
    /// When a write-ahead segment is full.
    pub segment_bytes: u64,
    /// How long an entry that nobody waits for stays without an fsync, so that it shares the next one.
    pub patience: Duration,
    /// How often a checkpoint is made, if there is something new.
    pub checkpoint_every: Duration,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            queue_entries: 65_536,
            queue_bytes: 32 << 20,
            segment_bytes: 32 << 20,
            patience: Duration::from_millis(5),
            checkpoint_every: Duration::from_secs(1),
        }
    }
}

/// The one writer of a log. Cheap to share behind an `Arc`. Dropping it writes what waits and makes a last checkpoint.
pub struct Log {
    shared: Arc<Shared>,
    publisher: Option<SyncSender<Work>>,
    threads: Vec<JoinHandle<()>>,
    opened: Opened,
    /// Held locked as long as this log lives.
    _lock: File,
    #[cfg(test)]
    pub(crate) faults: wal::Faults,
}

/// What opening found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of a write that was never acknowledged, cut off.
    pub torn_bytes: u64,
    /// Tiles and bundles made again from the segments.
    pub repaired_files: u64,
    /// Entries that no checkpoint covered yet.
    pub unpublished_entries: u64,
}

/// What is wrong now, if anything. An error here goes away when the next attempt succeeds.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Why the last appends failed: [`LedgerError::is_full_disk`] tells the common case.
    pub appending: Option<LedgerError>,
    /// Why tiles or checkpoints are late. Entries are safe in the segments meanwhile.
    pub publishing: Option<LedgerError>,
    /// Why the last checkpoint could not be signed: no admission begins before one is, see [`Log::signed`].
    pub signing: Option<LedgerError>,
    /// Why old segments are still there.
    pub retiring: Option<LedgerError>,
    /// By how much the clock stands behind the last checkpoint.
    pub clock_behind_s: u64,
}

/// A checkpoint that stands on disk.
#[derive(Clone, Debug)]
pub struct Published {
    pub size: u64,
    pub root: Hash,
    pub time_s: u64,
    pub note: Note,
}

struct Shared {
    folder: Folder,
    origin: String,
    clock: Clock,
    settings: LogSettings,
    queue: Mutex<Queue>,
    work: Condvar,
    /// Durable entries.
    size: AtomicU64,
    published: Mutex<Option<Published>>,
    health: Mutex<Health>,
    /// Whether the last checkpoint could not be signed.
    unsigned: AtomicBool,
}

#[derive(Default)]
struct Queue {
    entries: Vec<Pending>,
    bytes: usize,
    closed: bool,
    /// Somebody waits for what is in it.
    urgent: bool,
    /// Counts failed writes: whoever builds on an entry before it is durable must notice them.
    generation: u64,
}

impl Log {
    /// Opens or makes the log `origin` in a folder. The signer is the log's own key: it must be the one of the checkpoint there.
    ///
    /// # Errors
    /// [`LedgerError::InUse`], [`LedgerError::CorruptSegment`], [`LedgerError::TruncatedLog`], [`LedgerError::MissingTile`],
    /// [`LedgerError::CorruptTile`], [`LedgerError::CheckpointMismatch`]: nothing was changed then. A disk that fails.
    pub fn open(
        folder: &Path,
        origin: &str,
        signer: Arc<dyn Signer>,
        clock: Clock,
        settings: LogSettings,
    ) -> Result<Self, LedgerError> {
        let keys = Checkpoint::keys(origin, signer.public_key())?;
        fs::create_dir_all(folder.join("wal")).map_err(LedgerError::io("create", folder))?;
        for durable in [folder, folder.parent().filter(|parent| parent.is_dir()).unwrap_or(folder)] {
            File::open(durable).and_then(|folder| folder.sync_all()).map_err(LedgerError::io("sync", durable))?;
        }
        let lock = lock(folder)?;
        let folder = Folder::new(folder);
        let published = stored_checkpoint(&folder, origin, &keys)?;
        let scans = wal::scan(&folder.path("wal"))?;
        let covered = published.as_ref().map_or(0, |published| published.size);
        let (first, end) = extent(&scans);
        if first.is_none() && published.is_some() && covered > 0 || end < covered {
            return Err(LedgerError::TruncatedLog { path: folder.path("wal"), entries: end, checkpoint: covered });
        }
        if published.is_none() && first.unwrap_or(0) > 0 {
            return Err(mismatch(&folder, "it is missing, and older entries are in tiles only"));
        }
        // Everything from here on can be made again; what stands before was synced before its segment went.
        let start = first.unwrap_or(0).next_multiple_of(TILE_WIDTH);
        if start > end {
            return Err(LedgerError::TruncatedLog { path: folder.path("wal"), entries: end, checkpoint: covered });
        }
        let edge = checked_edge(start, &folder)?;
        let segments = if scans.is_empty() { vec![0] } else { scans.iter().map(|scan| scan.first).collect() };
        let last = scans.last().map(|last| (last.path.clone(), last.whole_bytes));
        let shared = Arc::new(Shared {
            folder,
            origin: origin.to_owned(),
            clock,
            settings,
            queue: Mutex::default(),
            work: Condvar::new(),
            size: AtomicU64::new(end),
            published: Mutex::new(published),
            health: Mutex::default(),
            unsigned: AtomicBool::new(false),
        });
        let mut opened = Opened {
            torn_bytes: scans.last().map_or(0, |last| last.torn_bytes),
            unpublished_entries: end - covered,
            ..Opened::default()
        };
        let (retire, retired) = channel();
        let retirer = Retirer { shared: Arc::clone(&shared), settled: start };
        let mut publisher = Publisher::new(Arc::clone(&shared), signer, edge, segments, retire);
        replay(&mut publisher, scans, start, &shared)?;
        let segment = match last {
            Some((path, whole_bytes)) => Segment::reopen(&path, whole_bytes)?,
            None => Segment::create(&shared.folder.path("wal"), 0)?,
        };
        publisher.flush()?;
        opened.repaired_files = publisher.repaired;
        publisher.opened();
        publisher.publish()?;
        #[cfg(test)]
        let faults = Arc::clone(&segment.faults);
        let (sender, work) = sync_channel(16);
        let appender = Appender::new(Arc::clone(&shared), segment, sender.clone());
        let threads = vec![
            spawn("ledger-append", move || appender.run())?,
            spawn("ledger-publish", move || publisher.run(work))?,
            spawn("ledger-retire", move || retirer.run(retired))?,
        ];
        Ok(Self {
            shared,
            publisher: Some(sender),
            threads,
            opened,
            _lock: lock,
            #[cfg(test)]
            faults,
        })
    }

    /// Queues an entry. The ticket resolves once it is durable.
    ///
    /// # Errors
    /// [`LedgerError::Busy`] when too much waits already; [`LedgerError::EntryTooLarge`].
    pub fn append(&self, entry: Vec<u8>) -> Result<Ticket, LedgerError> {
        self.queue(entry, None, true)
    }

    /// As [`Log::append`], for entries that build on earlier ones which may not be durable yet: refused with
    /// [`LedgerError::Stale`] if a write has failed since [`Log::generation`] gave this number.
    ///
    /// # Errors
    /// As [`Log::append`], and [`LedgerError::Stale`].
    pub fn append_after(&self, entry: Vec<u8>, generation: u64) -> Result<Ticket, LedgerError> {
        self.queue(entry, Some(generation), true)
    }

    /// As [`Log::append_after`], for an entry that nobody waits for: it is written at once ([`Ticket::written`]), and synced with the
    /// next one that somebody waits for, or after [`LogSettings::patience`].
    ///
    /// # Errors
    /// As [`Log::append_after`].
    pub fn append_lazily(&self, entry: Vec<u8>, generation: u64) -> Result<Ticket, LedgerError> {
        self.queue(entry, Some(generation), false)
    }

    /// How many writes have failed since the log was opened.
    pub fn generation(&self) -> u64 {
        locked(&self.shared.queue).generation
    }

    fn queue(&self, entry: Vec<u8>, generation: Option<u64>, urgent: bool) -> Result<Ticket, LedgerError> {
        if entry.len() > BUNDLE_ENTRY_LIMIT_BYTES {
            return Err(LedgerError::EntryTooLarge { bytes: entry.len(), limit: BUNDLE_ENTRY_LIMIT_BYTES });
        }
        let (ticket, promise) = Ticket::new();
        let mut queue = locked(&self.shared.queue);
        if generation.is_some_and(|generation| generation != queue.generation) {
            return Err(LedgerError::Stale);
        }
        let settings = &self.shared.settings;
        if queue.entries.len() >= settings.queue_entries || queue.bytes + entry.len() > settings.queue_bytes {
            return Err(LedgerError::Busy);
        }
        queue.bytes += entry.len();
        queue.entries.push(Pending { entry, promise });
        let wake = queue.entries.len() == 1;
        queue.urgent |= urgent;
        drop(queue);
        if wake {
            self.shared.work.notify_one();
        }
        Ok(ticket)
    }

    /// Durable entries. The newest may not be in a checkpoint yet.
    pub fn size(&self) -> u64 {
        self.shared.size.load(Ordering::Acquire)
    }

    /// Makes a checkpoint of every entry that is durable now, and waits for it.
    ///
    /// # Errors
    /// A disk that is full or fails, a key that cannot be reached.
    pub fn publish(&self) -> Result<Note, LedgerError> {
        let (reply, answer) = sync_channel(1);
        let gone = || LedgerError::Stopped;
        self.publisher
            .as_ref()
            .ok_or_else(gone)?
            .send(Work::Publish { size: self.size(), reply })
            .map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// The last checkpoint on disk.
    pub fn published(&self) -> Option<Published> {
        locked(&self.shared.published).clone()
    }

    /// The log's files.
    pub fn folder(&self) -> &Folder {
        &self.shared.folder
    }

    /// The tree of the last checkpoint, for proofs.
    pub fn tree(&self) -> Tree<'_, Folder> {
        Tree::new(self.published().map_or(0, |published| published.size), &self.shared.folder)
    }

    /// An entry that a checkpoint covers.
    ///
    /// # Errors
    /// [`LedgerError::BeyondTree`] when none covers it yet; a bundle that is missing or damaged.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, LedgerError> {
        let size = self.published().map_or(0, |published| published.size);
        let beyond = LedgerError::BeyondTree { index, size };
        let tile = Tile::within(0, index / TILE_WIDTH, size).filter(|_| index < size).ok_or(beyond.clone())?;
        self.shared.folder.bundle(tile)?.into_iter().nth((index % TILE_WIDTH) as usize).ok_or(beyond)
    }

    /// Keeps a checkpoint of this log with what witnesses added to it, at `cosigned/<size>`.
    ///
    /// # Errors
    /// A note that this log has not signed; a signature of one of `witnesses` that fails, or none of them.
    pub fn keep_cosigned(&self, note: &Note, key: &VerifierKey, witnesses: &[VerifierKey]) -> Result<(), LedgerError> {
        let (checkpoint, _) = Checkpoint::verified(note, std::slice::from_ref(key))?;
        verified(note, witnesses)?;
        self.shared.folder.write_durably(&format!("cosigned/{}", checkpoint.size), note.to_string().as_bytes())
    }

    /// Whether the log's key signs, as far as the last checkpoint has shown. Tried again with each checkpoint.
    ///
    /// # Errors
    /// Why it does not: then what is durable stays so, and more should not begin.
    pub fn signed(&self) -> Result<(), LedgerError> {
        if !self.shared.unsigned.load(Ordering::Acquire) {
            return Ok(());
        }
        locked(&self.shared.health).signing.clone().map_or(Ok(()), Err)
    }

    pub fn opened(&self) -> Opened {
        self.opened
    }

    pub fn health(&self) -> Health {
        locked(&self.shared.health).clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        locked(&self.shared.queue).closed = true;
        self.shared.work.notify_all();
        self.publisher = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on standard error; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Makes a folder this process's own, for as long as the file lives.
pub(crate) fn lock(folder: &Path) -> Result<File, LedgerError> {
    let path = folder.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = file.map_err(LedgerError::io("create", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            // For whoever comes second. A full disk is no reason to stay away: it is not needed.
            let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = file.take(20).read_to_string(&mut holder);
            Err(LedgerError::InUse { path: folder.to_path_buf(), pid: holder.trim().parse().ok() })
        }
        Err(error) => Err(LedgerError::io("lock", path)(error.into())),
    }
}

fn stored_checkpoint(folder: &Folder, origin: &str, keys: &[VerifierKey]) -> Result<Option<Published>, LedgerError> {
    let Some(bytes) = folder.read("checkpoint")? else { return Ok(None) };
    let note: Option<Note> = String::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    let note = note.ok_or_else(|| mismatch(folder, "it is no signed note"))?;
    let read = Checkpoint::verified(&note, keys);
    let (checkpoint, times) = read.map_err(|_| mismatch(folder, "this log's key has not signed it"))?;
    if checkpoint.origin != origin {
        return Err(mismatch(folder, "it is of another log"));
    }
    let time_s = times.first().map_or(0, |time| time.time_s);
    Ok(Some(Published { size: checkpoint.size, root: checkpoint.root, time_s, note }))
}

fn mismatch(folder: &Folder, reason: &'static str) -> LedgerError {
    LedgerError::CheckpointMismatch { path: folder.path("checkpoint"), reason }
}

/// First entry of the segments, and the end of their last.
fn extent(scans: &[Scan]) -> (Option<u64>, u64) {
    let end = scans.last().map_or(0, |last| last.first + last.entries.len() as u64);
    (scans.first().map(|first| first.first), end)
}

/// The edge at a size of whole bundles, each of its upper hashes compared with the tile that it stands for.
fn checked_edge(size: u64, folder: &Folder) -> Result<Edge, LedgerError> {
    let edge = Edge::read(size, folder)?;
    for (tile, hashes) in edge.partial() {
        for (at, hash) in (0..).zip(hashes) {
            let child = Tile { level: tile.level - 1, index: tile.index * TILE_WIDTH + at, width: TILE_WIDTH };
            if subtree(&folder.tile(child)?) != *hash {
                return Err(LedgerError::CorruptTile {
                    path: child.path(),
                    reason: "the tile above has another hash for it",
                });
            }
        }
    }
    Ok(edge)
}

/// Adds the segments' entries from `start`, and compares with the checkpoint on the way.
fn replay(publisher: &mut Publisher, scans: Vec<Scan>, start: u64, shared: &Shared) -> Result<(), LedgerError> {
    let published = locked(&shared.published).clone();
    let check = |publisher: &Publisher| match &published {
        Some(it) if it.size == publisher.edge().size() && it.root != publisher.edge().root() => {
            Err(mismatch(&shared.folder, "the entries have another root"))
        }
        _ => Ok(()),
    };
    check(publisher)?;
    if let Some(it) = published.as_ref().filter(|it| it.size < start)
        && Tree::new(it.size, &shared.folder).root()? != it.root
    {
        return Err(mismatch(&shared.folder, "the tiles have another root"));
    }
    for scan in scans {
        for (index, entry) in (scan.first..).zip(scan.entries) {
            if index < start {
                continue;
            }
            publisher.add(entry);
            check(publisher)?;
        }
    }
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LedgerError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(LedgerError::io("start the thread", name))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding these; if it did, the values are whole between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
