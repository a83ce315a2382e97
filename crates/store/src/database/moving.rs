//! From SQLite to PostgreSQL: every table of `tables.rs`, in batches, so that a move that was broken off goes on where it ended.
//! What was moved is compared by counts and digests, read anew on both sides.

use futures_util::TryStreamExt;
use sha2::{Digest as _, Sha256};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::Database;
use super::dialect::Dialect;
use crate::StoreError;

/// Rows of one transaction.
const BATCH: usize = 500;

/// A table on both sides. The digests are over all rows in the order of their keys, and equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub table: &'static str,
    pub rows: u64,
    /// Of them, those that were not there yet.
    pub copied: u64,
    /// SHA-256, in hexadecimal.
    pub digest: String,
}

/// What is told while rows move: the table, and how many of its rows are there. An error breaks the move off.
pub type Progress<'a> = &'a mut (dyn FnMut(&'static str, u64) -> Result<(), StoreError> + Send);

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Integer,
    Real,
}

struct Table {
    name: &'static str,
    /// The first `keys` of them are what rows are told apart and ordered by.
    columns: &'static [(&'static str, Kind)],
    keys: usize,
}

use Kind::{Integer, Real, Text};

/// In an order in which what is referred to comes first.
const TABLES: &[Table] = &[
    Table {
        name: "files",
        columns: &[
            ("seq", Integer),
            ("id", Text),
            ("workspace", Text),
            ("name", Text),
            ("purpose", Text),
            ("sample_type", Text),
            ("bytes", Integer),
            ("lines", Integer),
            ("digest", Text),
            ("created_s", Integer),
            ("expires_s", Integer),
        ],
        keys: 1,
    },
    Table {
        name: "jobs",
        columns: &[
            ("seq", Integer),
            ("id", Text),
            ("workspace", Text),
            ("status", Text),
            ("model", Text),
            ("suffix", Text),
            ("auto_start", Integer),
            ("spec", Text),
            ("created_s", Integer),
            ("modified_s", Integer),
            ("finished_s", Integer),
            ("fine_tuned_model", Text),
            ("trained_tokens", Integer),
            ("estimate", Text),
            ("error", Text),
            ("result_file", Text),
        ],
        keys: 1,
    },
    Table {
        name: "job_events",
        columns: &[
            ("seq", Integer),
            ("id", Text),
            ("job", Text),
            ("created_s", Integer),
            ("name", Text),
            ("message", Text),
            ("data", Text),
        ],
        keys: 1,
    },
    Table {
        name: "job_checkpoints",
        columns: &[
            ("seq", Integer),
            ("id", Text),
            ("job", Text),
            ("created_s", Integer),
            ("step", Integer),
            ("train_loss", Real),
            ("valid_loss", Real),
            ("valid_accuracy", Real),
        ],
        keys: 1,
    },
    Table {
        name: "tuned_models",
        columns: &[
            ("id", Text),
            ("workspace", Text),
            ("job", Text),
            ("root", Text),
            ("created_s", Integer),
            ("name", Text),
            ("description", Text),
            ("archived", Integer),
        ],
        keys: 1,
    },
    Table {
        name: "control",
        columns: &[("kind", Text), ("id", Text), ("owner_kind", Text), ("owner", Text), ("name", Text), ("body", Text)],
        keys: 2,
    },
    Table { name: "control_revision", columns: &[("revision", Integer)], keys: 1 },
    Table { name: "key_use", columns: &[("id", Text), ("used_s", Integer)], keys: 1 },
    Table {
        name: "sessions",
        columns: &[("hash", Text), ("holder", Text), ("created_s", Integer), ("expires_s", Integer)],
        keys: 1,
    },
];

enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Real(Option<f64>),
}

impl Database {
    /// Copies everything to `target`. `site` tells one site's data from another's: a target with data that is not a part of this move
    /// is refused.
    pub(crate) async fn move_to(
        &self,
        target: &Self,
        site: &str,
        progress: Progress<'_>,
    ) -> Result<Vec<Moved>, StoreError> {
        let refused = |reason: &str| StoreError::Refused { what: "move", reason: reason.to_owned() };
        if !matches!((self.dialect, target.dialect), (Dialect::Sqlite, Dialect::Postgres)) {
            return Err(refused("it goes from SQLite to PostgreSQL, and this site's rows are in PostgreSQL already"));
        }
        target.begin_move(site).await?;
        let mut moved = Vec::new();
        // One moment of the source, however long it takes.
        let mut source = self.read().await?;
        for table in TABLES {
            let copied = table.copy(&mut source, target, progress).await?;
            let (rows, here) = table.digest(&mut source).await?;
            let (there_rows, there) = table.digest(&mut *target.pool.acquire().await?).await?;
            if (rows, &here) != (there_rows, &there) {
                let reason = format!(
                    "`{}` has {rows} rows here and {there_rows} there, or other ones: the target was changed by somebody else; take an empty database",
                    table.name
                );
                return Err(StoreError::Refused { what: "move", reason });
            }
            moved.push(Moved { table: table.name, rows, copied, digest: here });
        }
        source.rollback().await?;
        sqlx::query("UPDATE falaj_move SET done = 1").execute(&target.pool).await?;
        Ok(moved)
    }

    /// The mark of a move stands in the target before its first row.
    async fn begin_move(&self, site: &str) -> Result<(), StoreError> {
        let refused = |reason: &str| StoreError::Refused { what: "move", reason: reason.to_owned() };
        let mut transaction = self.write().await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS falaj_move (site TEXT NOT NULL, done BIGINT NOT NULL)")
            .execute(&mut *transaction)
            .await?;
        let mark = sqlx::query("SELECT site, done FROM falaj_move").fetch_optional(&mut *transaction).await?;
        match mark {
            Some(mark) if mark.try_get::<String, _>("site")? != site => {
                return Err(refused("the target holds another site's data; take an empty database"));
            }
            Some(mark) if mark.try_get::<i64, _>("done")? != 0 => {
                return Err(refused(
                    "everything was moved already; `database.url_file` says where this site's rows are",
                ));
            }
            Some(_) => {}
            None => {
                for table in TABLES.iter().filter(|table| table.name != "control_revision") {
                    if table.count(&mut transaction).await? > 0 {
                        return Err(refused(
                            "the target has data that did not come from this site; take an empty database",
                        ));
                    }
                }
                sqlx::query("INSERT INTO falaj_move VALUES ($1, 0)").bind(site).execute(&mut *transaction).await?;
                // Its own row comes with the tables.
                sqlx::query("DELETE FROM control_revision").execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(())
    }
}

impl Table {
    fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    fn order(&self) -> String {
        self.columns.iter().take(self.keys).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    fn select(&self) -> String {
        format!("SELECT {} FROM {} ORDER BY {}", self.names(), self.name, self.order())
    }

    async fn count(&self, connection: &mut AnyConnection) -> Result<i64, StoreError> {
        let statement = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {}", self.name));
        Ok(sqlx::query_scalar(statement).fetch_one(connection).await?)
    }

    /// Rows that were not there yet.
    async fn copy(
        &self,
        source: &mut AnyConnection,
        target: &Database,
        progress: Progress<'_>,
    ) -> Result<u64, StoreError> {
        let places: Vec<String> = (1..=self.columns.len()).map(|at| format!("${at}")).collect();
        let conflict = if self.name == "control_revision" { "" } else { " ON CONFLICT DO NOTHING" };
        let insert = format!("INSERT INTO {} ({}) VALUES ({}){conflict}", self.name, self.names(), places.join(", "));
        let (mut copied, mut seen) = (0, 0);
        if self.name == "control_revision" && self.count(&mut *target.pool.acquire().await?).await? > 0 {
            return Ok(0);
        }
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(self.select())).fetch(source);
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            while batch.len() < BATCH
                && let Some(row) = rows.try_next().await?
            {
                batch.push(self.values(&row)?);
            }
            if batch.is_empty() {
                break;
            }
            seen += batch.len() as u64;
            let mut transaction = target.write().await?;
            for values in batch {
                let mut query = sqlx::query(sqlx::AssertSqlSafe(insert.clone()));
                for value in values {
                    query = match value {
                        Value::Text(text) => query.bind(text),
                        Value::Integer(number) => query.bind(number),
                        Value::Real(number) => query.bind(number),
                    };
                }
                copied += query.execute(&mut *transaction).await?.rows_affected();
            }
            if self.columns.first().is_some_and(|(name, _)| *name == "seq") {
                // What is added later goes on behind what was moved.
                let next =
                    format!("SELECT setval(pg_get_serial_sequence('{0}', 'seq'), max(seq))::text FROM {0}", self.name);
                sqlx::query(sqlx::AssertSqlSafe(next)).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            progress(self.name, seen)?;
        }
        Ok(copied)
    }

    async fn digest(&self, connection: &mut AnyConnection) -> Result<(u64, String), StoreError> {
        let (mut all, mut count) = (Sha256::new(), 0);
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(self.select())).fetch(connection);
        while let Some(row) = rows.try_next().await? {
            count += 1;
            for value in self.values(&row)? {
                let bytes = match value {
                    Value::Text(text) => text.map(String::into_bytes),
                    Value::Integer(number) => number.map(|number| number.to_be_bytes().to_vec()),
                    Value::Real(number) => number.map(|number| number.to_bits().to_be_bytes().to_vec()),
                };
                // Its length first, so that no two rows read the same; one that is absent has none that can be.
                let length = bytes.as_ref().map_or(u64::MAX, |bytes| bytes.len() as u64);
                all.update(length.to_be_bytes());
                all.update(bytes.unwrap_or_default());
            }
        }
        Ok((count, all.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    fn values(&self, row: &AnyRow) -> Result<Vec<Value>, StoreError> {
        let value = |(name, kind): &(&'static str, Kind)| {
            Ok(match kind {
                Text => Value::Text(row.try_get(*name)?),
                Integer => Value::Integer(row.try_get(*name)?),
                Real => Value::Real(row.try_get(*name)?),
            })
        };
        self.columns.iter().map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables;
    use super::*;

    /// A table that is forgotten here would stay behind.
    #[test]
    fn every_table_and_column_is_known() {
        let steps = tables::STEPS.iter().copied().flatten();
        let made = steps.clone().filter_map(|statement| statement.strip_prefix("CREATE TABLE ")?.split(' ').next());
        let made: Vec<&str> = made.collect();
        assert_eq!(made, TABLES.iter().map(|table| table.name).collect::<Vec<_>>());
        let words = steps.map(|statement| statement.split_whitespace().collect::<Vec<_>>());
        let types = words.flatten().filter(|word| ["TEXT", "INTEGER", "REAL"].contains(&word.trim_end_matches(',')));
        assert_eq!(types.count(), TABLES.iter().map(|table| table.columns.len()).sum::<usize>());
    }
}
