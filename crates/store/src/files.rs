//! Files that clients uploaded or jobs made: a row each, the bytes in a blob that equal files share.

use falaj_artifact::Digest;
use sqlx::Row;
use sqlx::any::AnyRow;
use tokio::sync::MutexGuard;

use crate::pages::{Statement, Table};
use crate::{Page, Part, Store, StoreError, Upload, new_id, now_s, signed, unsigned};

/// What is said of a file when it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewFile {
    pub name: String,
    /// `fine-tune`, `batch`, …: the client's word.
    pub purpose: String,
    /// What its lines are, as far as known: `instruct`, `pretrain`, `batch_request`, …
    pub sample_type: String,
    pub lines: Option<u64>,
    /// Seconds since 1970; from then on nobody finds it.
    pub expires_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    pub id: String,
    pub name: String,
    pub purpose: String,
    pub sample_type: String,
    pub bytes: u64,
    pub lines: Option<u64>,
    pub digest: Digest,
    pub created_s: u64,
    pub expires_s: Option<u64>,
}

/// All of what is `Some` must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFilter {
    pub purpose: Option<String>,
    pub sample_type: Option<String>,
    /// Part of the name, in any case.
    pub search: Option<String>,
}

const FILES: Table = Table { name: "files", row: "file", owner: "workspace" };

impl Store {
    /// Makes `upload` a file of `workspace`.
    ///
    /// # Errors
    /// A full disk or a failing database; the bytes are then gone.
    pub async fn add_file(&self, workspace: &str, file: &NewFile, upload: Upload) -> Result<StoredFile, StoreError> {
        let whole = upload.finish().await?;
        let (digest, bytes) = (whole.digest, whole.bytes);
        let _pairing = self.pairing(&digest).await;
        self.blobs.keep(whole).await?;
        let (id, created_s) = (new_id()?, now_s());
        let added = sqlx::query(
            "INSERT INTO files (id, workspace, name, purpose, sample_type, bytes, lines, digest, created_s, expires_s)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&id)
        .bind(workspace)
        .bind(&file.name)
        .bind(&file.purpose)
        .bind(&file.sample_type)
        .bind(signed(bytes))
        .bind(file.lines.map(signed))
        .bind(digest.to_string())
        .bind(created_s)
        .bind(file.expires_s.map(signed))
        .execute(self.database.pool())
        .await;
        if let Err(error) = added {
            // Where nobody can say whether another file has these bytes, they stay.
            if let Err(error) = self.drop_blob_if_unused(&digest).await {
                tracing::warn!(%error, "a blob that no file names may stay");
            }
            return Err(error.into());
        }
        self.file(workspace, &id).await
    }

    /// # Errors
    /// [`StoreError::Unknown`] where the workspace has no such file, or it expired.
    pub async fn file(&self, workspace: &str, id: &str) -> Result<StoredFile, StoreError> {
        sqlx::query("SELECT * FROM files WHERE id = $1 AND workspace = $2 AND (expires_s IS NULL OR expires_s > $3)")
            .bind(id)
            .bind(workspace)
            .bind(now_s())
            .fetch_optional(self.database.pool())
            .await?
            .map(|row| read(&row))
            .transpose()?
            .ok_or_else(|| StoreError::Unknown { what: "file", id: id.to_owned() })
    }

    /// # Errors
    /// A failing database, or `page.after` that names no file here.
    pub async fn files(
        &self,
        workspace: &str,
        filter: &FileFilter,
        page: &Page,
    ) -> Result<Part<StoredFile>, StoreError> {
        let matches = |query: &mut Statement| {
            query.push(" AND (expires_s IS NULL OR expires_s > ").number(now_s()).push(")");
            query.equals("purpose", filter.purpose.as_deref());
            query.equals("sample_type", filter.sample_type.as_deref());
            if let Some(search) = filter.search.as_ref().filter(|search| !search.is_empty()) {
                // Not LIKE, whose signs would have to be taken out of what is searched for; and the functions that find one text
                // in another are called differently in SQLite and PostgreSQL.
                query.push(" AND replace(lower(name), lower(").text(search).push("), '') <> lower(name)");
            }
        };
        self.page(FILES, workspace, page, matches, read).await
    }

    /// Removes the file, and its bytes where no other file has the same.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] where the workspace has no such file.
    pub async fn remove_file(&self, workspace: &str, id: &str) -> Result<(), StoreError> {
        let file = self.file(workspace, id).await?;
        sqlx::query("DELETE FROM files WHERE id = $1 AND workspace = $2")
            .bind(id)
            .bind(workspace)
            .execute(self.database.pool())
            .await?;
        let _pairing = self.pairing(&file.digest).await;
        self.drop_blob_if_unused(&file.digest).await
    }

    /// Removes what has expired. Says how many files that were.
    ///
    /// # Errors
    /// A failing database or disk.
    pub async fn sweep_files(&self) -> Result<usize, StoreError> {
        let gone = sqlx::query("DELETE FROM files WHERE expires_s <= $1 RETURNING digest")
            .bind(now_s())
            .fetch_all(self.database.pool())
            .await?;
        for row in &gone {
            let digest = digest(row.try_get("digest")?)?;
            let _pairing = self.pairing(&digest).await;
            self.drop_blob_if_unused(&digest).await?;
        }
        Ok(gone.len())
    }

    /// Whoever holds it is alone with this blob and the rows that name it; others come along with a few other blobs.
    async fn pairing(&self, digest: &Digest) -> Option<MutexGuard<'_, ()>> {
        let [first, ..] = digest.as_bytes();
        Some(self.pairings.get(usize::from(*first) % self.pairings.len().max(1))?.lock().await)
    }

    async fn drop_blob_if_unused(&self, digest: &Digest) -> Result<(), StoreError> {
        let users: i64 = sqlx::query_scalar("SELECT count(*) FROM files WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_one(self.database.pool())
            .await?;
        if users == 0 { self.blobs.remove(digest).await } else { Ok(()) }
    }
}

pub(crate) fn digest(text: &str) -> Result<Digest, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged { table: "files", reason: "a digest is none".to_owned() })
}

fn read(row: &AnyRow) -> Result<StoredFile, StoreError> {
    let unsigned_at = |name: &str| row.try_get::<i64, _>(name).map(unsigned);
    Ok(StoredFile {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        purpose: row.try_get("purpose")?,
        sample_type: row.try_get("sample_type")?,
        bytes: unsigned_at("bytes")?,
        lines: row.try_get::<Option<i64>, _>("lines")?.map(unsigned),
        digest: digest(row.try_get("digest")?)?,
        created_s: unsigned_at("created_s")?,
        expires_s: row.try_get::<Option<i64>, _>("expires_s")?.map(unsigned),
    })
}
