//! Bytes under their SHA-256: `blobs/ab/abcd…`. A blob appears whole or not at all, and equal bytes are kept once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use falaj_artifact::{Digest, Hasher};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use crate::StoreError;

/// An upload that nobody touched for this long goes on no more.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder of blobs.
#[derive(Clone, Debug)]
pub struct Blobs {
    dir: PathBuf,
}

/// Bytes on their way in. Dropped before [`Upload::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    file: File,
    part: Part,
    hash: Hasher,
    bytes: u64,
    limit_bytes: u64,
}

/// A file that goes away with its owner.
#[derive(Debug)]
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing under this name: then this fails, as it should.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Blobs {
    pub(crate) async fn open(dir: &Path) -> Result<Self, StoreError> {
        let parts = dir.join("parts");
        fs::create_dir_all(&parts).await.map_err(StoreError::io("create", &parts))?;
        // What a killed process left. A day old: another process of this site may be writing the younger ones.
        let mut left = fs::read_dir(&parts).await.map_err(StoreError::io("list", &parts))?;
        while let Some(entry) = left.next_entry().await.map_err(StoreError::io("list", &parts))? {
            let age = entry.metadata().await.ok().and_then(|about| about.modified().ok()?.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                // Whoever comes first removes it.
                let _ = fs::remove_file(entry.path()).await;
            }
        }
        Ok(Self { dir: dir.to_path_buf() })
    }

    /// Begins a blob of at most `limit_bytes`.
    ///
    /// # Errors
    /// When the part file cannot be made.
    pub async fn begin(&self, limit_bytes: u64) -> Result<Upload, StoreError> {
        let path = self.dir.join("parts").join(crate::new_id()?);
        let file = File::create_new(&path).await.map_err(StoreError::io("create", &path))?;
        Ok(Upload { file, part: Part(path), hash: Hasher::default(), bytes: 0, limit_bytes })
    }

    /// Where the blob lies; a reader may keep the file open while it is removed.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(name.get(..2).unwrap_or_default()).join(&name)
    }

    pub(crate) async fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes the bytes of `upload` a blob.
    pub(crate) async fn keep(&self, upload: Upload) -> Result<(Digest, u64), StoreError> {
        let Upload { file, part, hash, bytes, .. } = upload;
        file.sync_all().await.map_err(StoreError::io("write", &part.0))?;
        let digest = hash.finish();
        let path = self.path(&digest);
        let folder = path.parent().unwrap_or(&self.dir).to_path_buf();
        fs::create_dir_all(&folder).await.map_err(StoreError::io("create", &folder))?;
        fs::rename(&part.0, &path).await.map_err(StoreError::io("write", &path))?;
        // The name itself must survive a power cut, too.
        let handle = File::open(&folder).await.map_err(StoreError::io("open", &folder))?;
        handle.sync_all().await.map_err(StoreError::io("write", &folder))?;
        Ok((digest, bytes))
    }
}

impl Upload {
    /// # Errors
    /// More than the limit, or a full disk.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > self.limit_bytes {
            return Err(StoreError::TooLarge { limit_bytes: self.limit_bytes });
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).await.map_err(StoreError::io("write", &self.part.0))
    }

    /// How many bytes have been written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The part file, whole once `flush` was awaited: for those who look into it before it becomes a blob.
    ///
    /// # Errors
    /// A full disk.
    pub async fn flushed(&mut self) -> Result<&Path, StoreError> {
        self.file.flush().await.map_err(StoreError::io("write", &self.part.0))?;
        Ok(&self.part.0)
    }
}
