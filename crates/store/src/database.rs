//! The database file: how it is opened, and its tables. A table changes by a new entry at the end of [`STEPS`], never by an
//! edit of one that was published.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::StoreError;

/// One step per schema version, from version 0 (empty) upwards.
const STEPS: &[&[&str]] = &[
    &[
        "CREATE TABLE files (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        workspace TEXT NOT NULL,
        name TEXT NOT NULL,
        purpose TEXT NOT NULL,
        sample_type TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        lines INTEGER,
        digest TEXT NOT NULL,
        created_s INTEGER NOT NULL,
        expires_s INTEGER
    ) STRICT",
        "CREATE INDEX files_by_workspace ON files (workspace, seq)",
        "CREATE INDEX files_by_digest ON files (digest)",
        "CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        workspace TEXT NOT NULL,
        status TEXT NOT NULL,
        model TEXT NOT NULL,
        suffix TEXT,
        auto_start INTEGER NOT NULL,
        spec TEXT NOT NULL,
        created_s INTEGER NOT NULL,
        modified_s INTEGER NOT NULL,
        finished_s INTEGER,
        fine_tuned_model TEXT,
        trained_tokens INTEGER,
        estimate TEXT,
        error TEXT
    ) STRICT",
        "CREATE INDEX jobs_by_workspace ON jobs (workspace, seq)",
        "CREATE INDEX jobs_by_status ON jobs (status)",
        "CREATE TABLE job_events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        created_s INTEGER NOT NULL,
        name TEXT NOT NULL,
        message TEXT NOT NULL,
        data TEXT
    ) STRICT",
        "CREATE INDEX job_events_by_job ON job_events (job, seq)",
        "CREATE TABLE job_checkpoints (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        created_s INTEGER NOT NULL,
        step INTEGER NOT NULL,
        train_loss REAL,
        valid_loss REAL,
        valid_accuracy REAL,
        UNIQUE (job, step)
    ) STRICT",
        "CREATE TABLE tuned_models (
        id TEXT PRIMARY KEY,
        workspace TEXT NOT NULL,
        job TEXT NOT NULL,
        root TEXT NOT NULL,
        created_s INTEGER NOT NULL,
        name TEXT,
        description TEXT,
        archived INTEGER NOT NULL DEFAULT 0
    ) STRICT",
    ],
    &["ALTER TABLE jobs ADD COLUMN result_file TEXT"],
];

pub(crate) async fn open(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        // Full: what was answered with 200 is there after a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(10));
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
    migrate(&pool, path).await?;
    Ok(pool)
}

async fn migrate(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    // IMMEDIATE: two processes that open a fresh folder at once take turns.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *transaction).await?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::NewerSchema { path: path.to_path_buf(), found, known });
    }
    for statement in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)).copied().flatten() {
        sqlx::query(*statement).execute(&mut *transaction).await?;
    }
    // A pragma takes no parameters; the number is our own.
    sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {known}"))).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}
