//! The usage's tables in SQLite, as their one writer sees them. By `rusqlite`, because the pool's driver hands each statement
//! to another thread, which costs more than the statement.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};
use zeroize::Zeroizing;

use super::checkpoints::Checkpoints;
use super::writer::Changes;
use super::{Opened, SaltKey, new_salt_key};
use crate::{StoreError, signed, unsigned};

/// One step per schema version, from version 0 (empty) upwards; never edited once published.
const STEPS: &[&str] = &[
    "
    CREATE TABLE unsettled (
        request_id BLOB PRIMARY KEY,
        organisation TEXT NOT NULL,
        workspace TEXT NOT NULL,
        key TEXT NOT NULL,
        time_ms INTEGER NOT NULL,
        model TEXT NOT NULL,
        decision BLOB NOT NULL,
        input_salt BLOB,
        output_salt BLOB
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE requests (
        seq INTEGER PRIMARY KEY,
        request_id BLOB NOT NULL,
        organisation TEXT NOT NULL,
        workspace TEXT NOT NULL,
        key TEXT NOT NULL,
        time_ms INTEGER NOT NULL,
        model TEXT NOT NULL,
        decision BLOB NOT NULL,
        input_salt BLOB,
        output_salt BLOB,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        money INTEGER NOT NULL,
        energy_uj INTEGER,
        energy_grade TEXT,
        entry INTEGER NOT NULL,
        receipt BLOB NOT NULL
    ) STRICT;
    CREATE INDEX requests_by_workspace ON requests (workspace, request_id);
    CREATE TABLE minutes (
        minute INTEGER NOT NULL,
        key TEXT NOT NULL,
        workspace TEXT NOT NULL,
        organisation TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        money INTEGER NOT NULL,
        energy_uj INTEGER NOT NULL,
        unmetered INTEGER NOT NULL,
        PRIMARY KEY (minute, key, workspace, organisation, model)
    ) STRICT, WITHOUT ROWID;
",
    // The worst of the minute's figures; NULL where none is known.
    "ALTER TABLE minutes ADD COLUMN energy_grade TEXT;",
    "CREATE TABLE progress (id INTEGER PRIMARY KEY CHECK (id = 1), covered INTEGER, salt_key BLOB NOT NULL) STRICT;",
];

const OPEN: &str = "INSERT INTO unsettled VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
const CLOSE: &str = "DELETE FROM unsettled WHERE request_id = ?1";
const SETTLE: &str = "INSERT INTO requests VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
                      ?16, ?17)";
const COUNT: &str = "INSERT INTO minutes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
    ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        money = money + excluded.money, energy_uj = energy_uj + excluded.energy_uj,
        unmetered = unmetered + excluded.unmetered,
        energy_grade = max(coalesce(energy_grade, excluded.energy_grade), coalesce(excluded.energy_grade, energy_grade))";
const COVER: &str = "UPDATE progress SET covered = max(coalesce(covered, 0), ?1)";
const SALT_KEY: &str = "UPDATE progress SET salt_key = ?1";
const ERASE_OPEN: &str = "UPDATE unsettled SET input_salt = NULL, output_salt = NULL WHERE request_id = ?1";
const ERASE: &str = "UPDATE requests SET input_salt = NULL, output_salt = NULL WHERE seq = ?1";

pub(super) struct Tables {
    /// Goes before the connection: the last one to close the file tidies up.
    checkpoints: Checkpoints,
    connection: Connection,
    path: PathBuf,
}

impl Tables {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| failure(path, error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(32);
        // Checkpoints are made by `checkpoints.rs`; this number is for when that cannot.
        let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON; \
                       PRAGMA wal_autocheckpoint = 50000; PRAGMA temp_store = MEMORY; PRAGMA busy_timeout = 250;";
        connection.execute_batch(pragmas).map_err(failed)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(StoreError::NewerSchema { path: path.to_path_buf(), found, known });
        }
        let steps = STEPS.iter().skip(usize::try_from(found).unwrap_or(0)).copied().collect::<String>();
        let migration = format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {known}; COMMIT");
        connection.execute_batch(&migration).map_err(failed)?;
        let first = "INSERT INTO progress VALUES (1, NULL, ?1) ON CONFLICT DO NOTHING";
        connection.execute(first, [new_salt_key()?.as_slice()]).map_err(failed)?;
        Ok(Self { checkpoints: Checkpoints::start(path)?, connection, path: path.to_path_buf() })
    }

    /// What is open, oldest first.
    pub(super) fn unsettled(&self) -> Result<Vec<Opened>, StoreError> {
        let mut query = self
            .connection
            .prepare("SELECT * FROM unsettled ORDER BY time_ms, request_id")
            .map_err(|e| self.failure(e))?;
        let rows = query.query_map([], opened).and_then(Iterator::collect);
        rows.map_err(|error| self.failure(error))
    }

    /// How many entries of the ledger are known, and the key of salts.
    pub(super) fn progress(&self) -> Result<(Option<u64>, SaltKey), StoreError> {
        let read = |row: &Row<'_>| Ok((row.get::<_, Option<i64>>(0)?, Zeroizing::new(row.get::<_, [u8; 32]>(1)?)));
        let found = self.connection.query_row("SELECT covered, salt_key FROM progress", [], read);
        let (covered, salt_key) = found.map_err(|error| self.failure(error))?;
        Ok((covered.map(unsigned), salt_key))
    }

    /// All of it, or nothing.
    pub(super) fn apply(&mut self, changes: &Changes<'_>) -> Result<(), StoreError> {
        let written = self.transaction(changes);
        if written.is_err() && !self.connection.is_autocommit() {
            // If this fails too, the next BEGIN does, and says so.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        if written.is_ok() {
            self.checkpoints.wrote(changes.opened.len() + changes.settled.len(), &self.connection);
        }
        written.map_err(|error| self.failure(error))
    }

    fn transaction(&self, changes: &Changes<'_>) -> rusqlite::Result<()> {
        let statement = |text: &'static str| self.connection.prepare_cached(text);
        statement("BEGIN IMMEDIATE")?.execute([])?;
        if !changes.settled.is_empty() {
            let (mut close, mut settle) = (statement(CLOSE)?, statement(SETTLE)?);
            for (opened, it, stored) in &changes.settled {
                if *stored {
                    close.execute([it.request_id.as_slice()])?;
                }
                let mut grade = [0; 4];
                let energy = it.energy.map(|energy| (signed(energy.uj), &*energy.grade.encode_utf8(&mut grade)));
                settle.execute(params![
                    it.request_id.as_slice(),
                    &*opened.organisation,
                    &*opened.workspace,
                    &*opened.key,
                    signed(opened.time_ms),
                    &*opened.model,
                    opened.decision.as_slice(),
                    opened.input_salt.as_ref().map(<[u8; 32]>::as_slice),
                    opened.output_salt.as_ref().map(<[u8; 32]>::as_slice),
                    signed(it.prompt_tokens),
                    signed(it.completion_tokens),
                    signed(it.cached_tokens),
                    signed(it.money),
                    energy.map(|(uj, _)| uj),
                    energy.map(|(_, grade)| grade),
                    signed(it.entry),
                    it.receipt.as_slice(),
                ])?;
            }
        }
        // Behind the settlements: an id may come again in the same batch.
        if !changes.opened.is_empty() {
            let mut open = statement(OPEN)?;
            for it in &changes.opened {
                open.execute(params![
                    it.request_id.as_slice(),
                    &*it.organisation,
                    &*it.workspace,
                    &*it.key,
                    signed(it.time_ms),
                    &*it.model,
                    it.decision.as_slice(),
                    it.input_salt.as_ref().map(<[u8; 32]>::as_slice),
                    it.output_salt.as_ref().map(<[u8; 32]>::as_slice),
                ])?;
            }
        }
        if !changes.minutes.is_empty() {
            let mut count = statement(COUNT)?;
            for (of, sums) in &changes.minutes {
                count.execute(params![
                    signed(of.minute),
                    &*of.key,
                    &*of.workspace,
                    &*of.organisation,
                    &*of.model,
                    signed(sums.requests),
                    signed(sums.prompt_tokens),
                    signed(sums.completion_tokens),
                    signed(sums.cached_tokens),
                    signed(sums.money),
                    signed(sums.energy_uj),
                    signed(sums.unmetered),
                    sums.energy_grade.map(String::from),
                ])?;
            }
        }
        for id in &changes.withdrawn {
            statement(CLOSE)?.execute([id.as_slice()])?;
        }
        for id in &changes.erased_open {
            statement(ERASE_OPEN)?.execute([id.as_slice()])?;
        }
        for row in changes.erased_rows.iter().copied().flatten() {
            statement(ERASE)?.execute([row])?;
        }
        if let Some(covered) = changes.covered {
            statement(COVER)?.execute([signed(covered)])?;
        }
        if let Some(key) = changes.salt_key {
            statement(SALT_KEY)?.execute([key.as_slice()])?;
        }
        statement("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Empties the write-ahead log, where old copies of rows stand.
    pub(super) fn forget(&self) -> Result<(), StoreError> {
        let busy = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        match busy.map_err(|error| self.failure(error))? {
            0 => Ok(()),
            _ => Err(StoreError::Busy),
        }
    }

    #[cfg(test)]
    pub(super) fn pragma(&self, pragma: &str) -> Result<(), StoreError> {
        self.connection.execute_batch(pragma).map_err(|error| self.failure(error))
    }

    fn failure(&self, error: rusqlite::Error) -> StoreError {
        failure(&self.path, error)
    }
}

fn opened(row: &Row<'_>) -> rusqlite::Result<Opened> {
    Ok(Opened {
        request_id: row.get(0)?,
        organisation: row.get(1)?,
        workspace: row.get(2)?,
        key: row.get(3)?,
        time_ms: unsigned(row.get(4)?),
        model: row.get(5)?,
        decision: row.get(6)?,
        input_salt: row.get(7)?,
        output_salt: row.get(8)?,
    })
}

fn failure(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path, reason: error.to_string() }
        }
        _ => StoreError::Usage { path, reason: error.to_string() },
    }
}
