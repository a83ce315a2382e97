//! The thread that owns the usage's tables: takes what gathered while it was writing, writes it as one transaction, keeps the
//! promises. A batch that cannot be written is kept and tried again; until it is written nothing new is opened.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::erase::Whose;
use super::queries::Totals;
use super::sqlite::Tables;
use super::{Entered, MeterSettings, Opened, RequestId, SaltKey, Salts, Settled};
use crate::StoreError;

/// What one transaction holds at most.
const BATCH: usize = 4_096;
/// From so many on, nobody waits for company.
const COMPANY: usize = 512;
/// After a batch that could not be written.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) type Promise = oneshot::Sender<Result<(), StoreError>>;

pub(super) enum Item {
    /// With the ledger's size before its admission, where it has just been let in.
    Open(Arc<Opened>, Option<u64>, Option<Promise>),
    Settle(Box<Settled>, Entered, Option<Promise>),
    Withdraw(RequestId),
    /// Whatever the ledger holds before this index is known here.
    Cover(u64),
    Flush(Promise),
    /// Destroys the salts of whose requests are open, whose ids are answered, and of these rows.
    Erase(Whose, Vec<i64>, oneshot::Sender<Result<Vec<RequestId>, StoreError>>),
    /// Changes the key of salts, and takes what was erased out of the write-ahead log too.
    Forget(Promise),
    #[cfg(test)]
    Pragma(&'static str, Promise),
}

/// What waits for the thread.
#[derive(Debug)]
pub(super) struct Queue {
    settings: MeterSettings,
    waiting: Mutex<Waiting>,
    work: Condvar,
}

struct Waiting {
    items: Vec<Item>,
    /// Somebody waits for what is in it.
    urgent: bool,
    closed: bool,
    /// Why the last batch could not be written.
    failing: Option<Arc<str>>,
    /// What salts of requests are made of. As it stands in the tables: whoever is in them only in part can be made whole.
    salt_key: SaltKey,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} items", self.items.len())
    }
}

impl Queue {
    pub(super) fn new(settings: MeterSettings, salt_key: SaltKey) -> Self {
        let waiting = Waiting { items: Vec::new(), urgent: false, closed: false, failing: None, salt_key };
        Self { settings, waiting: Mutex::new(waiting), work: Condvar::new() }
    }

    pub(super) fn push(&self, item: Item, urgent: bool) -> Result<(), StoreError> {
        self.place(self.locked(), item, urgent)
    }

    /// Opens a request with salts of its own. `since` is asked in the order of the queue: it never falls from one to the next.
    pub(super) fn begin(&self, mut opened: Opened, since: impl FnOnce() -> u64) -> Result<Salts, StoreError> {
        let waiting = self.locked();
        if let Some(reason) = &waiting.failing {
            return Err(StoreError::NotWritten { reason: Arc::clone(reason) });
        }
        let salts = Salts::of(&waiting.salt_key, &opened.request_id);
        (opened.input_salt, opened.output_salt) = (Some(salts.input), Some(salts.output));
        self.place(waiting, Item::Open(Arc::new(opened), Some(since()), None), false)?;
        Ok(salts)
    }

    pub(super) fn salts(&self, id: &RequestId) -> Salts {
        Salts::of(&self.locked().salt_key, id)
    }

    fn place(&self, mut waiting: MutexGuard<'_, Waiting>, item: Item, urgent: bool) -> Result<(), StoreError> {
        if waiting.closed {
            return Err(StoreError::Stopped);
        }
        if waiting.items.len() >= self.settings.queue {
            return Err(StoreError::Busy);
        }
        waiting.items.push(item);
        // The thread sleeps without a limit when there is nothing, and for its patience when nothing is urgent.
        let wake = waiting.items.len() == 1 || waiting.items.len() == COMPANY || urgent && !waiting.urgent;
        waiting.urgent |= urgent;
        drop(waiting);
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    /// The thread writes what waits, and ends.
    pub(super) fn close(&self) {
        self.locked().closed = true;
        self.work.notify_all();
    }

    /// Moves what waits behind what is in `batch` still; false at the end.
    fn take(&self, batch: &mut Vec<Item>) -> bool {
        let mut waiting = self.locked();
        let patience = if waiting.failing.is_some() {
            PAUSE
        } else {
            let nothing = |waiting: &mut Waiting| waiting.items.is_empty() && !waiting.closed;
            waiting = self.work.wait_while(waiting, nothing).unwrap_or_else(PoisonError::into_inner);
            self.settings.patience
        };
        let patient = |waiting: &mut Waiting| !waiting.urgent && !waiting.closed && waiting.items.len() < COMPANY;
        let mut waiting =
            self.work.wait_timeout_while(waiting, patience, patient).unwrap_or_else(PoisonError::into_inner).0;
        let count = waiting.items.len().min(BATCH);
        batch.extend(waiting.items.drain(..count));
        waiting.urgent = !waiting.items.is_empty();
        !batch.is_empty()
    }

    fn locked(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while holding it; if it did, the values are whole between statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a batch changes in the tables.
#[derive(Default)]
pub(super) struct Changes<'a> {
    /// Openings that no settlement of the same batch follows.
    pub(super) opened: Vec<Arc<Opened>>,
    /// Settlements, and whether their opening stands in the tables.
    pub(super) settled: Vec<(Arc<Opened>, &'a Settled, bool)>,
    pub(super) minutes: HashMap<Minute, Totals>,
    pub(super) withdrawn: Vec<RequestId>,
    pub(super) erased_open: Vec<RequestId>,
    pub(super) erased_rows: Vec<&'a [i64]>,
    /// Whatever the ledger holds before this index is in the tables then.
    pub(super) covered: Option<u64>,
    pub(super) salt_key: Option<&'a SaltKey>,
}

/// What sums are kept for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Minute {
    pub(super) minute: u64,
    pub(super) organisation: Arc<str>,
    pub(super) workspace: Arc<str>,
    pub(super) key: Arc<str>,
    pub(super) model: Arc<str>,
}

pub(super) struct Writer {
    queue: Arc<Queue>,
    tables: Tables,
    /// What is open, and whether it stands in the tables (or only in this batch).
    open: HashMap<RequestId, (Arc<Opened>, bool)>,
    /// `open` may not be what the tables hold: a write failed.
    stale: bool,
}

impl Writer {
    pub(super) fn new(queue: Arc<Queue>, tables: Tables, unsettled: &[Opened]) -> Self {
        let open = unsettled.iter().map(|opened| (opened.request_id, (Arc::new(opened.clone()), true))).collect();
        Self { queue, tables, open, stale: false }
    }

    pub(super) fn run(mut self) {
        let (mut batch, mut refused) = (Vec::new(), HashMap::new());
        while self.queue.take(&mut batch) {
            #[cfg(test)]
            self.pragmas(&mut batch);
            refused.clear();
            match self.attempt(&mut batch, &mut refused) {
                Ok(erased) => {
                    for (at, item) in batch.drain(..).enumerate() {
                        self.keep(item, refused.remove(&at).map_or(Ok(()), Err), &erased);
                    }
                }
                Err(error) => {
                    self.stale = true;
                    let reason: Arc<str> = error.to_string().into();
                    let closed = {
                        let mut waiting = self.queue.locked();
                        if waiting.failing.is_none() {
                            tracing::error!(%error, "usage cannot be written: nothing new is let in until it can");
                        }
                        waiting.failing = Some(Arc::clone(&reason));
                        waiting.closed && waiting.items.is_empty()
                    };
                    batch = batch.into_iter().filter_map(|item| kept(item, &reason)).collect();
                    // What is lost here stands in the ledger, where the next start finds it.
                    if closed {
                        return;
                    }
                }
            }
        }
    }

    fn attempt(
        &mut self,
        batch: &mut Vec<Item>,
        refused: &mut HashMap<usize, StoreError>,
    ) -> Result<Vec<RequestId>, StoreError> {
        if !batch.iter().any(|item| matches!(item, Item::Forget(_))) {
            let erased = self.write(batch, None, refused)?;
            self.queue.locked().failing = None;
            return Ok(erased);
        }
        // Nobody takes the old key meanwhile, and whoever took it is written down before it goes.
        let queue = Arc::clone(&self.queue);
        let mut waiting = queue.locked();
        batch.append(&mut waiting.items);
        let salt_key = super::new_salt_key()?;
        let erased = self.write(batch, Some(&salt_key), refused)?;
        (waiting.salt_key, waiting.failing, waiting.urgent) = (salt_key, None, false);
        Ok(erased)
    }

    /// Tells who waits. Whoever dropped a ticket does not want to know: what `send` says is nobody's.
    fn keep(&self, item: Item, outcome: Result<(), StoreError>, erased: &[RequestId]) {
        match item {
            Item::Open(_, _, Some(promise)) | Item::Settle(_, _, Some(promise)) | Item::Flush(promise) => {
                let _ = promise.send(outcome);
            }
            Item::Open(..) | Item::Settle(..) => {
                if let Err(error) = outcome {
                    tracing::error!(%error, "usage was not written");
                }
            }
            Item::Erase(_, _, promise) => {
                let _ = promise.send(Ok(erased.to_vec()));
            }
            Item::Forget(promise) => {
                let _ = promise.send(self.tables.forget());
            }
            Item::Withdraw(_) | Item::Cover(_) => {}
            #[cfg(test)]
            Item::Pragma(..) => {}
        }
    }

    #[cfg(test)]
    fn pragmas(&self, batch: &mut Vec<Item>) {
        let (pragmas, rest) = std::mem::take(batch).into_iter().partition(|item| matches!(item, Item::Pragma(..)));
        *batch = rest;
        let pragmas: Vec<Item> = pragmas;
        for item in pragmas {
            if let Item::Pragma(pragma, promise) = item {
                let _ = promise.send(self.tables.pragma(pragma));
            }
        }
    }

    /// One transaction. `refused` gets what cannot be, by its place in the batch. Answers which open requests lost their salts.
    fn write(
        &mut self,
        batch: &mut [Item],
        salt_key: Option<&SaltKey>,
        refused: &mut HashMap<usize, StoreError>,
    ) -> Result<Vec<RequestId>, StoreError> {
        for (at, item) in batch.iter_mut().enumerate() {
            if let Item::Settle(settled, entered, _) = item {
                match entered.wait() {
                    Ok(entry) => settled.entry = entry,
                    Err(reason) => drop(refused.insert(at, StoreError::NotWritten { reason })),
                }
            }
        }
        if self.stale {
            let open = self.tables.unsettled()?.into_iter();
            self.open = open.map(|opened| (opened.request_id, (Arc::new(opened), true))).collect();
            self.stale = false;
        }
        let mut changes = Changes { salt_key, ..Changes::default() };
        for (at, item) in batch.iter().enumerate() {
            match item {
                Item::Open(opened, since, _) => {
                    changes.covered = changes.covered.max(*since);
                    match self.open.entry(opened.request_id) {
                        Entry::Vacant(place) => {
                            place.insert((Arc::clone(opened), false));
                        }
                        Entry::Occupied(_) => {
                            refused.insert(at, StoreError::AlreadyOpen { id: hex(&opened.request_id) });
                        }
                    }
                }
                // It is not in the ledger: the request stays open.
                Item::Settle(..) if refused.contains_key(&at) => {}
                Item::Settle(settled, ..) => match self.open.remove(&settled.request_id) {
                    Some((opened, stored)) => {
                        changes.minutes.entry(minute(&opened)).or_default().add(settled);
                        changes.settled.push((opened, settled, stored));
                    }
                    None => {
                        let id = hex(&settled.request_id);
                        refused.insert(at, StoreError::Unknown { what: "open request", id });
                    }
                },
                Item::Erase(whose, rows, _) => {
                    for (id, (opened, _)) in self.open.iter_mut().filter(|(_, (opened, _))| whose.salts(opened)) {
                        let opened = Arc::make_mut(opened);
                        (opened.input_salt, opened.output_salt) = (None, None);
                        changes.erased_open.push(*id);
                    }
                    changes.erased_rows.push(rows);
                }
                Item::Withdraw(id) => {
                    if let Some((_, true)) = self.open.remove(id) {
                        changes.withdrawn.push(*id);
                    }
                }
                Item::Cover(size) => changes.covered = changes.covered.max(Some(*size)),
                Item::Flush(_) | Item::Forget(_) => {}
                #[cfg(test)]
                Item::Pragma(..) => {}
            }
        }
        for item in batch.iter() {
            if let Item::Open(opened, ..) = item
                && let Some((opened, stored @ false)) = self.open.get_mut(&opened.request_id)
            {
                *stored = true;
                changes.opened.push(Arc::clone(opened));
            }
        }
        self.tables.apply(&changes)?;
        Ok(changes.erased_open)
    }
}

/// What is tried again. Whoever waits for something else hears why it was not done.
fn kept(item: Item, reason: &Arc<str>) -> Option<Item> {
    let error = || StoreError::NotWritten { reason: Arc::clone(reason) };
    match item {
        Item::Open(..) | Item::Settle(..) | Item::Withdraw(_) | Item::Cover(_) => return Some(item),
        Item::Flush(promise) | Item::Forget(promise) => drop(promise.send(Err(error()))),
        Item::Erase(_, _, promise) => drop(promise.send(Err(error()))),
        #[cfg(test)]
        Item::Pragma(..) => {}
    }
    None
}

fn minute(opened: &Opened) -> Minute {
    Minute {
        minute: opened.time_ms / 60_000,
        organisation: Arc::clone(&opened.organisation),
        workspace: Arc::clone(&opened.workspace),
        key: Arc::clone(&opened.key),
        model: Arc::clone(&opened.model),
    }
}

pub(super) fn hex(id: &RequestId) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}
