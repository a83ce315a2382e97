//! The database of a site's state: a file of SQLite, or PostgreSQL 15 and later. How it is opened, and how transactions begin.
//! Where the two differ is in `database/dialect.rs`, the tables are in `database/tables.rs`; `database/moving.rs` goes from one to the other.

mod dialect;
mod moving;
mod tables;

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use sqlx::any::{AnyPoolOptions, install_default_drivers};
use sqlx::{Any, AnyPool, Transaction};

use crate::StoreError;
use dialect::Dialect;
pub use moving::{Moved, Progress};

/// One writer and three readers are what SQLite makes use of.
const SQLITE_CONNECTIONS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 16;
/// How long a call waits for a connection before it says that there is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections to the one or the other; statements are the same for both, with `$1` for parameters.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pool: AnyPool,
    dialect: Dialect,
}

impl Database {
    pub(crate) async fn sqlite(path: &Path) -> Result<Self, StoreError> {
        let url = dialect::sqlite_url(path)?;
        Self::connect(Dialect::Sqlite, SQLITE_CONNECTIONS, &url, path).await
    }

    /// `url` is a secret: it may hold a password.
    pub(crate) async fn postgres(url: &str) -> Result<Self, StoreError> {
        Self::connect(Dialect::Postgres, POSTGRES_CONNECTIONS, url, Path::new("postgres")).await
    }

    async fn connect(dialect: Dialect, connections: u32, url: &str, path: &Path) -> Result<Self, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(install_default_drivers);
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(PATIENCE)
            // A server that was started again has cut all of them: who takes one from the pool gets one that lives.
            .test_before_acquire(true)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    for statement in dialect.settings() {
                        sqlx::query(*statement).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await?;
        let database = Self { pool, dialect };
        database.migrate(path).await?;
        Ok(database)
    }

    /// For single statements.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// A transaction that nobody else's write comes between: it waits for its turn.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let mut transaction = self.pool.begin_with(self.dialect.begin_write()).await?;
        if let Some(lock) = self.dialect.write_lock() {
            sqlx::query(lock).execute(&mut *transaction).await?;
        }
        Ok(transaction)
    }

    /// A transaction in which all reads see the same moment.
    pub(crate) async fn read(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(self.pool.begin_with(self.dialect.begin_read()).await?)
    }

    async fn migrate(&self, path: &Path) -> Result<(), StoreError> {
        // Two processes that open a fresh database at once take turns.
        let mut transaction = self.write().await?;
        let found = self.dialect.version(&mut transaction).await?;
        let known = i64::try_from(tables::STEPS.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(StoreError::NewerSchema { path: path.to_path_buf(), found, known });
        }
        for statement in tables::STEPS.iter().skip(usize::try_from(found).unwrap_or(0)).copied().flatten() {
            // Our own words, without a parameter.
            let statement = sqlx::AssertSqlSafe(self.dialect.table(statement));
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        if found < known {
            self.dialect.set_version(&mut transaction, known).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
