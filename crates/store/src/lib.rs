//! What a site remembers: tenants and their keys, files, jobs with their events and checkpoints, what fine-tuned models are
//! called. Rows in SQLite or PostgreSQL, bytes on disk or in S3 under their digest. Every query names its workspace: nothing of another
//! one is ever found. Nobody's API and no policy here. Start at [`Store`]; the tables are in `database/tables.rs`.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod blobs;
mod budgets;
mod control;
mod database;
mod error;
mod files;
mod jobs;
mod models;
mod pages;
mod place;
mod sessions;
mod usage;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;
use zeroize::Zeroizing;

use database::Database;

pub use blobs::{Blobs, Pieces, S3Credentials, S3Settings, Upload};
pub use budgets::{Amounts, Budgets, Exceeded, Limit, Per, Remaining, Reservation, Scope, Used, What, Window, Windows};
pub use control::{
    ApiKey, ArtifactFacts, Control, DEFAULT_WORKSPACE, Directory, GrantTerms, LimitOf, Member, NewKey, OPERATOR,
    Organisation, Pepper, Price, Role, Secret, ServiceAccount, User, Workspace,
};
pub use database::{Moved, Progress};
pub use error::StoreError;
pub use files::{FileFilter, NewFile, StoredFile};
pub use jobs::{Checkpoint, Event, Job, JobChange, JobFilter, NewJob};
pub use models::{ModelChange, TunedModel};
pub use sessions::Session;
pub use usage::{
    By, Entered, Meter, MeterSettings, MeteredEnergy, Opened, ReceiptRow, RequestId, Salts, Settled, Ticket, Totals,
    UsageFilter,
};

/// The state of one site, in one folder. Cheap to share behind an `Arc`; all calls may run at once.
#[derive(Debug)]
pub struct Store {
    database: Database,
    blobs: Blobs,
    dir: PathBuf,
    pepper: Pepper,
    /// Held while a row and the blob that it names are added or removed together: one for some of the blobs.
    pairings: [Mutex<()>; 64],
}

/// What of a site's state is not in its folder.
#[derive(Clone, Default)]
pub struct Places {
    /// Address of PostgreSQL 15 or later. It holds a password where the server asks for one: it is in no message.
    pub database: Option<Zeroizing<String>>,
    pub blobs: Option<S3Settings>,
}

impl Places {
    /// Whether the site in this folder has its blobs on the disk, or none yet.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn has_blobs_on_disk(dir: &Path) -> Result<bool, StoreError> {
        place::is_disk(dir, "blobs")
    }
}

impl Store {
    /// Opens or makes `DIR/state.db` and `DIR/blobs`, and brings an older database up to date.
    ///
    /// # Errors
    /// A folder that cannot be written, a damaged database, or one of a newer Falaj.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_at(dir, &Places::default()).await
    }

    /// As [`Store::open`], with rows or bytes elsewhere; the pepper stays in `dir`. S3 is not asked for anything yet.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] where no database answers; [`StoreError::Refused`] where this site's rows or blobs are in another
    /// place than here; those of [`Store::open`].
    pub async fn open_at(dir: &Path, places: &Places) -> Result<Self, StoreError> {
        let blobs = Blobs::open(&dir.join("blobs"), places.blobs.as_ref()).await?;
        place::agree(dir, "blobs", &blobs.place())?;
        place::agree(dir, "rows", if places.database.is_some() { "postgres" } else { "disk" })?;
        let database = match &places.database {
            Some(url) => Database::postgres(url).await?,
            None => Database::sqlite(&dir.join("state.db")).await?,
        };
        let pepper = Pepper::open(&dir.join("key.pepper"))?;
        Ok(Self { database, blobs, dir: dir.to_path_buf(), pepper, pairings: std::array::from_fn(|_| Mutex::new(())) })
    }

    /// Copies all rows to PostgreSQL, whose own site this one then is. Broken off, it goes on where it ended; run while nobody else
    /// writes to this store. `url` is in no message.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: a target that has other data, or one to which everything was moved before.
    pub async fn move_to_postgres(&self, url: &str, progress: Progress<'_>) -> Result<Vec<Moved>, StoreError> {
        let target = Database::postgres(url).await?;
        // A site keeps its pepper: it tells this one from any other.
        let site = falaj_artifact::Digest::from_bytes(self.pepper.hash("the site of a move")).to_string();
        let moved = self.database.move_to(&target, &site, progress).await?;
        place::settle(&self.dir, "rows", "postgres")?;
        Ok(moved)
    }

    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }
}

/// Which part of a list, as both vendors' clients ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Only what comes behind the row with this id, in the list's order.
    pub after: Option<String>,
    pub skip: u64,
    pub take: u32,
    /// Newest first; otherwise oldest first.
    pub newest_first: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self { after: None, skip: 0, take: 100, newest_first: true }
    }
}

/// One part of a list, and how much the whole holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Part<T> {
    pub rows: Vec<T>,
    /// Rows that match the filter, on all pages.
    pub total: u64,
    /// Some come behind these.
    pub has_more: bool,
}

/// A fresh identifier: a random UUID (RFC 9562, version 4).
///
/// # Errors
/// When the system gives no random bytes.
pub fn new_id() -> Result<String, StoreError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Random { reason: error.to_string() })?;
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{number:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    Ok([part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-"))
}

/// Seconds since 1970.
pub(crate) fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// SQLite's integers are signed; ours count things.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
