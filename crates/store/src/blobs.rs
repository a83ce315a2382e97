//! Bytes under their SHA-256, on this machine's disk (`blobs/disk.rs`) or in S3 (`blobs/s3.rs`). A blob appears whole or not at
//! all, and equal bytes are kept once. What comes in is a part on this machine's disk until its end tells its name.

mod disk;
mod moving;
mod s3;
mod transport;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use falaj_artifact::{Digest, Hasher};
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use crate::StoreError;
use disk::Disk;
pub use s3::{S3Credentials, S3Settings};

/// An upload that nobody touched for this long goes on no more.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The blobs of one site.
#[derive(Clone, Debug)]
pub struct Blobs {
    /// A folder of what comes in.
    parts: PathBuf,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Disk(Disk),
    S3(s3::S3),
}

/// Pieces of a blob, in order.
pub type Pieces = BoxStream<'static, Result<Bytes, StoreError>>;

/// Bytes on their way in. Dropped before [`Upload::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    file: File,
    part: Part,
    hash: Hasher,
    bytes: u64,
    limit_bytes: u64,
}

/// All bytes of an upload, on the disk, and their name.
#[derive(Debug)]
pub(crate) struct Whole {
    part: Part,
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
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
    /// In `dir`, or in S3 with `dir` for what comes in. Asks nobody: S3 may be away.
    pub(crate) async fn open(dir: &Path, s3: Option<&S3Settings>) -> Result<Self, StoreError> {
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
        let place = match s3 {
            Some(settings) => Place::S3(s3::S3::new(settings)?),
            None => Place::Disk(Disk::new(dir)),
        };
        Ok(Self { parts, place })
    }

    /// Begins a blob of at most `limit_bytes`.
    ///
    /// # Errors
    /// When the part file cannot be made.
    pub async fn begin(&self, limit_bytes: u64) -> Result<Upload, StoreError> {
        let path = self.parts.join(crate::new_id()?);
        let file = File::create_new(&path).await.map_err(StoreError::io("create", &path))?;
        Ok(Upload { file, part: Part(path), hash: Hasher::default(), bytes: 0, limit_bytes })
    }

    /// All of a blob, or a part of it, as whoever takes the pieces asks for them.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] where there is none; [`StoreError::BlobsAway`], of pieces too. A range that is empty or begins
    /// behind the end.
    pub async fn read(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<Pieces, StoreError> {
        match &self.place {
            Place::Disk(disk) => disk.read(digest, range).await,
            Place::S3(s3) => s3.read(digest, range).await,
        }
    }

    /// Makes a blob a file at `to`: by a link where that is possible, and compared with its digest where it came over a network.
    ///
    /// # Errors
    /// Those of [`Blobs::read`], and [`StoreError::Damaged`] where S3 gave other bytes.
    pub async fn copy(&self, digest: &Digest, to: &Path) -> Result<(), StoreError> {
        if let Place::Disk(disk) = &self.place {
            return disk.copy(digest, to).await;
        }
        let mut pieces = self.read(digest, None).await?;
        let mut file = File::create(to).await.map_err(StoreError::io("create", to))?;
        let mut hash = Hasher::default();
        while let Some(piece) = pieces.try_next().await? {
            hash.update(&piece);
            file.write_all(&piece).await.map_err(StoreError::io("write", to))?;
        }
        file.flush().await.map_err(StoreError::io("write", to))?;
        if hash.finish() == *digest {
            return Ok(());
        }
        let _ = fs::remove_file(to).await;
        Err(StoreError::Damaged { table: "blobs", reason: format!("`{digest}` in S3 has other bytes") })
    }

    /// Whether whoever keeps the blobs answers, and lets us in.
    ///
    /// # Errors
    /// [`StoreError::BlobsAway`].
    pub async fn probe(&self) -> Result<(), StoreError> {
        match &self.place {
            Place::Disk(_) => Ok(()),
            Place::S3(s3) => s3.size(&Digest::of(b"")).await.map(drop),
        }
    }

    /// What is written down beside the rows, so that nobody looks for blobs where they are not: `disk`, or the address in S3.
    pub(crate) fn place(&self) -> String {
        match &self.place {
            Place::Disk(_) => "disk".to_owned(),
            Place::S3(s3) => s3.address().to_owned(),
        }
    }

    /// How many bytes a blob has; `None` where there is none.
    pub(crate) async fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        match &self.place {
            Place::Disk(disk) => disk.size(digest).await,
            Place::S3(s3) => s3.size(digest).await,
        }
    }

    pub(crate) async fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        match &self.place {
            Place::Disk(disk) => disk.remove(digest).await,
            Place::S3(s3) => s3.remove(digest).await,
        }
    }

    /// Makes the bytes of an upload a blob.
    pub(crate) async fn keep(&self, whole: Whole) -> Result<(), StoreError> {
        match &self.place {
            Place::Disk(disk) => disk.keep(&whole.part.0, &whole.digest).await,
            Place::S3(s3) => s3.keep(&whole.part.0, &whole.digest, whole.bytes).await,
        }
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

    /// Everything has come, and is on the disk.
    pub(crate) async fn finish(self) -> Result<Whole, StoreError> {
        self.file.sync_all().await.map_err(StoreError::io("write", &self.part.0))?;
        Ok(Whole { digest: self.hash.finish(), part: self.part, bytes: self.bytes })
    }
}

fn gone(digest: &Digest) -> StoreError {
    StoreError::Unknown { what: "blob", id: digest.to_string() }
}
