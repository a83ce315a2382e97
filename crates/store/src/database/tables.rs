//! The tables of a site's state, in SQLite's words; `dialect.rs` says them in PostgreSQL's. A table changes by a new entry at the
//! end of [`STEPS`], never by an edit of one that was published.

/// One step per schema version, from version 0 (empty) upwards.
pub(super) const STEPS: &[&[&str]] = &[
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
    &[
        "CREATE TABLE control (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        owner_kind TEXT NOT NULL,
        owner TEXT NOT NULL,
        name TEXT,
        body TEXT NOT NULL,
        PRIMARY KEY (kind, id)
    ) STRICT",
        // Those without a name are told apart by their ids.
        "CREATE UNIQUE INDEX control_by_name ON control (kind, owner, name)",
        "CREATE INDEX control_by_owner ON control (owner_kind, owner)",
        "CREATE TABLE control_revision (revision INTEGER NOT NULL) STRICT",
        "INSERT INTO control_revision VALUES (0)",
        "CREATE TABLE key_use (id TEXT PRIMARY KEY, used_s INTEGER NOT NULL) STRICT",
    ],
    &[
        "CREATE TABLE sessions (
        hash TEXT PRIMARY KEY,
        holder TEXT NOT NULL,
        created_s INTEGER NOT NULL,
        expires_s INTEGER NOT NULL
    ) STRICT",
        "CREATE INDEX sessions_by_holder ON sessions (holder)",
    ],
];
