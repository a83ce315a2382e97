//! From this machine's disk to S3: every blob that a file names. What is there already is not sent again, so that a move that was broken
//! off goes on where it ended; at the end each is read back from S3 and compared with its digest.

use falaj_artifact::{Digest, Hasher};
use futures_util::TryStreamExt;
use sqlx::Row;

use super::{Blobs, Place, s3};
use crate::{Moved, Progress, S3Settings, Store, StoreError, place};

impl Store {
    /// Copies all blobs to S3, where this site has them from then on; those on the disk stay, and nobody reads them any more. Run
    /// while nobody else writes to this store.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the blobs are in S3 already; [`StoreError::Damaged`] where bytes are others than their digest says;
    /// [`StoreError::BlobsAway`]; what `progress` says.
    pub async fn move_to_s3(&self, settings: &S3Settings, progress: Progress<'_>) -> Result<Moved, StoreError> {
        let Place::Disk(disk) = &self.blobs.place else {
            let reason = format!("this site has its blobs at {} already", self.blobs.place());
            return Err(StoreError::Refused { what: "move", reason });
        };
        let target = s3::S3::new(settings)?;
        let target = Blobs { parts: self.blobs.parts.clone(), place: Place::S3(target) };
        let rows =
            sqlx::query("SELECT DISTINCT digest FROM files ORDER BY digest").fetch_all(self.database.pool()).await?;
        let (mut seen, mut copied, mut all) = (0, 0, Hasher::default());
        for row in rows {
            let digest = crate::files::digest(row.try_get("digest")?)?;
            let Some(bytes) = disk.size(&digest).await? else { return Err(super::gone(&digest)) };
            if target.size(&digest).await? != Some(bytes) {
                // A disk that lost bits would hand them on under a name that promises others.
                compare(&self.blobs, &digest, "on this disk").await?;
                if let Place::S3(s3) = &target.place {
                    s3.keep(&disk.path(&digest), &digest, bytes).await?;
                }
                copied += 1;
            }
            compare(&target, &digest, "in S3").await?;
            all.update(digest.as_bytes());
            seen += 1;
            progress("blobs", seen)?;
        }
        place::settle(&self.dir, "blobs", &target.place())?;
        Ok(Moved { table: "blobs", rows: seen, copied, digest: all.finish().to_string() })
    }
}

async fn compare(blobs: &Blobs, digest: &Digest, place: &str) -> Result<(), StoreError> {
    let (mut hash, mut pieces) = (Hasher::default(), blobs.read(digest, None).await?);
    while let Some(piece) = pieces.try_next().await? {
        hash.update(&piece);
    }
    if hash.finish() == *digest {
        return Ok(());
    }
    Err(StoreError::Damaged { table: "blobs", reason: format!("`{digest}` {place} has other bytes") })
}
