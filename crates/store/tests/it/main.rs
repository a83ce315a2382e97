//! The store as `server` uses it: real SQLite, real PostgreSQL, real files, a server that speaks S3.

mod blobs;
mod control;
mod files;
mod jobs;
mod postgres;
mod s3;
mod usage;
mod usage_crash;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use falaj_store::{Places, Store};

/// A folder that goes away with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("falaj-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) async fn open(&self) -> Store {
        let database = postgres::database_of(&self.0).map(Into::into);
        Store::open_at(&self.0, &Places { database, blobs: blobs::place_of(&self.0) }).await.unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
