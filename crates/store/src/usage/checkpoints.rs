//! Moving the write-ahead log into the file takes an fsync of everything that changed. A thread with a connection of its own
//! does that beside the writer; the writer then moves the little that came meanwhile, after which the log starts over.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::StoreError;

/// After so many rows: some thousand pages.
const ROWS: usize = 4_096;

pub(super) struct Checkpoints {
    /// `None` while it is being dropped.
    ask: Option<SyncSender<()>>,
    done: Receiver<()>,
    running: bool,
    rows: usize,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let (ask, asked) = sync_channel::<()>(1);
        let (tell, done) = sync_channel(1);
        let file = path.to_path_buf();
        let run = move || {
            while asked.recv().is_ok() {
                // Opened anew each time: a connection that stays would keep the last one from tidying up.
                if let Ok(connection) = Connection::open(&file) {
                    passive(&connection);
                }
                let _ = tell.send(());
            }
        };
        let thread = std::thread::Builder::new().name("usage-checkpoint".to_owned()).spawn(run);
        let thread = thread.map_err(StoreError::io("start the checkpoints of", path))?;
        Ok(Self { ask: Some(ask), done, running: false, rows: 0, thread: Some(thread) })
    }

    /// To be called by the writer between its transactions.
    pub(super) fn wrote(&mut self, rows: usize, connection: &Connection) {
        self.rows += rows;
        if self.running && self.done.try_recv().is_ok() {
            self.running = false;
            self.rows = 0;
            passive(connection);
        }
        if !self.running && self.rows >= ROWS {
            self.running = self.ask.as_ref().is_some_and(|ask| ask.try_send(()).is_ok());
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

/// Waits for nobody. What fails is tried again with the next rows: nothing is lost while the log stays.
fn passive(connection: &Connection) {
    let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
}
