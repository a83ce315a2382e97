//! Blobs in a folder: `blobs/ab/abcd…`.

use std::io::{ErrorKind, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use falaj_artifact::Digest;
use futures_util::{StreamExt, stream};
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::{Pieces, gone};
use crate::StoreError;

const PIECE_BYTES: u64 = 64 << 10;

#[derive(Clone, Debug)]
pub(super) struct Disk {
    dir: PathBuf,
}

impl Disk {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(name.get(..2).unwrap_or_default()).join(&name)
    }

    pub(super) async fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.path(digest);
        match fs::metadata(&path).await {
            Ok(about) => Ok(Some(about.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look at", path)(error)),
        }
    }

    /// The reader keeps the file open while it is removed.
    pub(super) async fn read(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<Pieces, StoreError> {
        let path = self.path(digest);
        let mut file = match File::open(&path).await {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(gone(digest)),
            Err(error) => return Err(StoreError::io("open", path)(error)),
        };
        let range = range.unwrap_or(0..u64::MAX);
        if range.start > 0 {
            file.seek(SeekFrom::Start(range.start)).await.map_err(StoreError::io("read", &path))?;
        }
        let left = range.end.saturating_sub(range.start);
        let pieces = stream::try_unfold((file, left, path), async |(mut file, left, path)| {
            let mut piece = Vec::with_capacity(PIECE_BYTES as usize);
            let read = (&mut file).take(left.min(PIECE_BYTES)).read_to_end(&mut piece).await;
            let count = read.map_err(StoreError::io("read", &path))? as u64;
            Ok((count > 0).then(|| (Bytes::from(piece), (file, left - count, path))))
        });
        Ok(pieces.boxed())
    }

    pub(super) async fn copy(&self, digest: &Digest, to: &Path) -> Result<(), StoreError> {
        let from = self.path(digest);
        if fs::hard_link(&from, to).await.is_ok() {
            return Ok(());
        }
        match fs::copy(&from, to).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(gone(digest)),
            Err(error) => Err(StoreError::io("copy", from)(error)),
        }
    }

    pub(super) async fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// `part` lies on the same disk, whole.
    pub(super) async fn keep(&self, part: &Path, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.dir).to_path_buf();
        fs::create_dir_all(&folder).await.map_err(StoreError::io("create", &folder))?;
        fs::rename(part, &path).await.map_err(StoreError::io("write", &path))?;
        // The name itself must survive a power cut, too.
        let handle = File::open(&folder).await.map_err(StoreError::io("open", &folder))?;
        handle.sync_all().await.map_err(StoreError::io("write", &folder))
    }
}
