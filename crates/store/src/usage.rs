//! What was used, by whom, for how much: a row per request, sums per minute, receipts, salts.
//! `usage.db` stands apart from the state: one thread writes it in batches (`usage/writer.rs`, `usage/sqlite.rs`), any number
//! of calls read it (`usage/queries.rs`). Start at [`Meter`].
//!
//! Durability: the ledger is the truth, and this follows it some milliseconds behind. What a killed process had not written yet
//! stands in the ledger behind [`Meter::covered`], and who looks it up there opens and settles it again; the requests that it had
//! written and not settled are [`Meter::unsettled`]. The file is whole after a power cut too.

mod checkpoints;
mod erase;
mod queries;
mod sqlite;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::sync::oneshot;

use falaj_artifact::Hasher;
use zeroize::Zeroizing;

pub use self::queries::{By, ReceiptRow, Totals, UsageFilter};
use self::writer::{Item, Queue, Writer};
use crate::StoreError;

/// Which request. Ids that begin with their time (as UUIDv7 do) keep the index small to write, and page in order of time.
pub type RequestId = [u8; 16];

/// A request that was let in. Money is in millionths of the site's currency everywhere here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub request_id: RequestId,
    pub organisation: Arc<str>,
    pub workspace: Arc<str>,
    pub key: Arc<str>,
    /// Milliseconds since 1970. Its minute is the one that is charged.
    pub time_ms: u64,
    pub model: Arc<str>,
    /// Digest of the decision's record, which stands with the ledger.
    pub decision: [u8; 32],
    /// What the receipt's commitments were salted with; `None` once erased.
    pub input_salt: Option<[u8; 32]>,
    pub output_salt: Option<[u8; 32]>,
}

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub request_id: RequestId,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Of the prompt's.
    pub cached_tokens: u64,
    pub money: u64,
    pub energy: Option<MeteredEnergy>,
    /// The signed receipt, as it stands in the ledger.
    pub receipt: Vec<u8>,
    /// Its index there.
    pub entry: u64,
}

/// Microjoules, and how they are known: `A` (a meter) to `E` (an estimate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeteredEnergy {
    pub uj: u64,
    pub grade: char,
}

/// What a receipt's commitments are salted with: 32 bytes each, of a key that is in the tables as long as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salts {
    pub input: [u8; 32],
    pub output: [u8; 32],
}

type SaltKey = Zeroizing<[u8; 32]>;

impl Salts {
    fn of(key: &SaltKey, id: &RequestId) -> Self {
        let salt = |number: u8| {
            let mut hash = Hasher::default();
            [key.as_slice(), id.as_slice(), &[number]].into_iter().for_each(|part| hash.update(part));
            *hash.finish().as_bytes()
        };
        Self { input: salt(0), output: salt(1) }
    }
}

fn new_salt_key() -> Result<SaltKey, StoreError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut_slice()).map_err(|error| StoreError::Random { reason: error.to_string() })?;
    Ok(key)
}

/// Where a receipt stands in the ledger, or how to wait until it does.
pub enum Entered {
    At(u64),
    /// Asked by the thread that writes; may block it for as long as the ledger's fsync takes. Why it is not in the ledger, else.
    When(Box<dyn FnOnce() -> Result<u64, String> + Send>),
    Lost(Arc<str>),
}

impl Entered {
    fn wait(&mut self) -> Result<u64, Arc<str>> {
        if let Self::When(_) = self
            && let Self::When(ask) = std::mem::replace(self, Self::Lost("".into()))
        {
            *self = ask().map_or_else(|reason| Self::Lost(reason.into()), Self::At);
        }
        match self {
            Self::At(entry) => Ok(*entry),
            Self::Lost(reason) => Err(Arc::clone(reason)),
            Self::When(_) => Err("nobody asked".into()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct MeterSettings {
    /// What may wait for the disk; one more is [`StoreError::Busy`].
    pub queue: usize,
    /// How long what nobody waits for waits for company: fewer, larger batches cost less.
    pub patience: Duration,
}

impl Default for MeterSettings {
    fn default() -> Self {
        Self { queue: 65_536, patience: Duration::from_millis(20) }
    }
}

/// The usage of one site. Cheap to share behind an `Arc`. Dropping it writes what waits.
#[derive(Debug)]
pub struct Meter {
    queue: Arc<Queue>,
    writer: Option<std::thread::JoinHandle<()>>,
    reader: SqlitePool,
    unsettled: Vec<Opened>,
    covered: Option<u64>,
    /// Held locked as long as this meter lives.
    _lock: File,
}

impl Meter {
    /// Opens or makes `DIR/usage.db`.
    ///
    /// # Errors
    /// [`StoreError::InUse`] by another process; [`StoreError::Corrupt`]; [`StoreError::NewerSchema`]; a folder that cannot be
    /// written.
    pub async fn start(dir: &Path, settings: MeterSettings) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
        let lock = lock(dir)?;
        let path = dir.join("usage.db");
        let tables = sqlite::Tables::open(&path)?;
        let unsettled = tables.unsettled()?;
        let (covered, salt_key) = tables.progress()?;
        let reader = queries::reader(&path).await?;
        let queue = Arc::new(Queue::new(settings, salt_key));
        let writer = Writer::new(Arc::clone(&queue), tables, &unsettled);
        let writer = std::thread::Builder::new()
            .name("usage".to_owned())
            .spawn(move || writer.run())
            .map_err(StoreError::io("start the writer of", &path))?;
        Ok(Self { queue, writer: Some(writer), reader, unsettled, covered, _lock: lock })
    }

    /// Notes a request that is let in, and gives it its salts. Written after [`MeterSettings::patience`] at most, and not waited for: its
    /// admission must be appended to the ledger behind this call. `since`: how many entries the ledger has now.
    ///
    /// # Errors
    /// [`StoreError::Busy`]; [`StoreError::NotWritten`] while the disk does not take what came before.
    pub fn begin(&self, opened: Opened, since: impl FnOnce() -> u64) -> Result<Salts, StoreError> {
        self.queue.begin(opened, since)
    }

    /// Notes a request that was let in before, with the salts that it says.
    ///
    /// # Errors
    /// [`StoreError::Busy`]. The ticket: [`StoreError::AlreadyOpen`].
    pub fn open(&self, opened: Opened) -> Result<Ticket, StoreError> {
        let (promise, ticket) = oneshot::channel();
        self.queue.push(Item::Open(Arc::new(opened), None, Some(promise)), false)?;
        Ok(Ticket(ticket))
    }

    /// The salts that [`Meter::begin`] gave to a request that it did not come to write down.
    pub fn salts(&self, id: &RequestId) -> Salts {
        self.queue.salts(id)
    }

    /// Notes what a request came to; its minute is the one in which it was opened.
    ///
    /// # Errors
    /// [`StoreError::Busy`]. The ticket: [`StoreError::Unknown`] for what is not open, [`StoreError::NotWritten`] where the receipt
    /// is not in the ledger: the request then stays unsettled.
    pub fn settle(&self, settled: Settled) -> Result<Ticket, StoreError> {
        let (promise, ticket) = oneshot::channel();
        let entered = Entered::At(settled.entry);
        self.queue.push(Item::Settle(Box::new(settled), entered, Some(promise)), false)?;
        Ok(Ticket(ticket))
    }

    /// As [`Meter::settle`], with a receipt that is on its way into the ledger; nobody waits for it.
    ///
    /// # Errors
    /// [`StoreError::Busy`].
    pub fn settle_once(&self, settled: Settled, entered: Entered) -> Result<(), StoreError> {
        self.queue.push(Item::Settle(Box::new(settled), entered, None), false)
    }

    /// Forgets a request that [`Meter::begin`] noted, and that was not let in after all.
    ///
    /// # Errors
    /// [`StoreError::Busy`].
    pub fn withdraw(&self, id: RequestId) -> Result<(), StoreError> {
        self.queue.push(Item::Withdraw(id), false)
    }

    /// Returns when everything that was noted before is written.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let (promise, flushed) = oneshot::channel();
        self.queue.push(Item::Flush(promise), true)?;
        Ticket(flushed).await
    }

    /// Requests whose admission is in the ledger before this entry are all known here. `None`: nobody has said yet.
    pub fn covered(&self) -> Option<u64> {
        self.covered
    }

    /// Says that what the ledger has by now is known here.
    ///
    /// # Errors
    /// [`StoreError::Busy`].
    pub fn cover(&self, size: u64) -> Result<(), StoreError> {
        self.queue.push(Item::Cover(size), false)
    }

    /// What was open when this meter started: requests that ended with their process. Settle each, from the ledger's receipt
    /// where there is one, with zeros where there is none.
    pub fn unsettled(&self) -> &[Opened] {
        &self.unsettled
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.queue.close();
        // The writer may be the last to hold what holds this: it then ends by itself.
        let other = |writer: &std::thread::JoinHandle<()>| writer.thread().id() != std::thread::current().id();
        if let Some(writer) = self.writer.take().filter(other) {
            // A thread that panicked has said so on standard error; there is nobody left to tell.
            let _ = writer.join();
        }
    }
}

/// Resolves when the row is written, or to why it is not. May be dropped: it is written all the same.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<(), StoreError>>);

impl Ticket {
    /// Blocks a thread that runs no futures.
    ///
    /// # Errors
    /// Why the row is not written.
    pub fn wait(self) -> Result<(), StoreError> {
        self.0.blocking_recv().unwrap_or(Err(StoreError::Stopped))
    }
}

impl Future for Ticket {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).unwrap_or(Err(StoreError::Stopped)))
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("usage.lock");
    let file = File::create(&path).map_err(StoreError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: dir.join("usage.db") }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
    }
}
