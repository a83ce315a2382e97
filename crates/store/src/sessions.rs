//! Sessions of people who have signed in: 256 random bits that their browser keeps, and of which the database has a keyed hash.
//! Whoever is removed or signed out has none from that moment on, in every process.

use falaj_artifact::Digest;
use sqlx::Row;

use crate::{Secret, Store, StoreError, now_s, signed, unsigned};

/// That somebody has signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Id of a user.
    pub holder: String,
    /// Seconds since 1970.
    pub created_s: u64,
    pub expires_s: u64,
}

impl Store {
    /// Begins a session of `lasts_s` seconds. The secret is known now and never again.
    ///
    /// # Errors
    /// When the system gives no random bytes; a failing database.
    pub async fn begin_session(&self, holder: &str, lasts_s: u64) -> Result<(Session, Secret), StoreError> {
        let secret = Secret::random()?;
        let created_s = unsigned(now_s());
        let session = Session { holder: holder.to_owned(), created_s, expires_s: created_s.saturating_add(lasts_s) };
        let mut transaction = self.database.write().await?;
        sqlx::query("DELETE FROM sessions WHERE expires_s <= $1").bind(now_s()).execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO sessions (hash, holder, created_s, expires_s) VALUES ($1, $2, $3, $4)")
            .bind(self.session_hash(secret.expose()))
            .bind(holder)
            .bind(signed(session.created_s))
            .bind(signed(session.expires_s))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok((session, secret))
    }

    /// The session with this secret, if it lasts.
    ///
    /// # Errors
    /// A failing database.
    pub async fn session(&self, secret: &str) -> Result<Option<Session>, StoreError> {
        let row = sqlx::query("SELECT holder, created_s, expires_s FROM sessions WHERE hash = $1 AND expires_s > $2")
            .bind(self.session_hash(secret))
            .bind(now_s())
            .fetch_optional(self.database.pool())
            .await?;
        let read = |row: sqlx::any::AnyRow| {
            let (created_s, expires_s) = (unsigned(row.try_get("created_s")?), unsigned(row.try_get("expires_s")?));
            Ok(Session { holder: row.try_get("holder")?, created_s, expires_s })
        };
        row.map(read).transpose()
    }

    /// # Errors
    /// A failing database.
    pub async fn end_session(&self, secret: &str) -> Result<(), StoreError> {
        let hash = self.session_hash(secret);
        sqlx::query("DELETE FROM sessions WHERE hash = $1").bind(hash).execute(self.database.pool()).await?;
        Ok(())
    }

    /// Ends all sessions of a user, and says how many there were.
    ///
    /// # Errors
    /// A failing database.
    pub async fn end_sessions(&self, holder: &str) -> Result<u64, StoreError> {
        let ended = sqlx::query("DELETE FROM sessions WHERE holder = $1 AND expires_s > $2")
            .bind(holder)
            .bind(now_s())
            .execute(self.database.pool())
            .await?;
        Ok(ended.rows_affected())
    }

    /// Another hash than a key's of the same secret: neither opens what the other does.
    fn session_hash(&self, secret: &str) -> String {
        Digest::from_bytes(self.pepper.hash(&format!("session {secret}"))).to_string()
    }
}
