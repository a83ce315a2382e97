//! The write-ahead segments: `wal/<index of the first entry, 20 digits>`, each a sequence of frames, each frame one batch that
//! was made durable by one fsync. They are the truth; tiles and checkpoints follow from them (`publisher.rs`).
//!
//! Frame: `FLJ1`, payload bytes (u32), entries (u32), index of the first (u64), 16 bytes of SHA-256 over all that and the
//! payload; then the payload: entries as in a bundle. All numbers are big-endian.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::LedgerError;
use crate::hash::joined;
use crate::tile::{bundle_entries, push_entry};

const MAGIC: &[u8; 4] = b"FLJ1";
const HEAD_BYTES: usize = 36;

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// What is known to be durable. The file may be longer after a write that failed.
    length: u64,
    torn: bool,
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<std::sync::atomic::AtomicU32>,
}

impl Segment {
    pub(super) fn create(folder: &Path, first: u64) -> Result<Self, LedgerError> {
        let path = folder.join(format!("{first:020}"));
        // What a failed attempt left behind holds nothing that was acknowledged.
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(LedgerError::io("create", &path))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(LedgerError::io("sync", folder))?;
        Ok(Self::new(path, file, 0))
    }

    /// Goes on after `length` bytes, and cuts off what stands behind.
    pub(super) fn reopen(path: &Path, length: u64) -> Result<Self, LedgerError> {
        let file = OpenOptions::new().write(true).open(path).map_err(LedgerError::io("open", path))?;
        let mut segment = Self::new(path.to_path_buf(), file, length);
        segment.torn = true;
        segment.mend()?;
        Ok(segment)
    }

    fn new(path: PathBuf, file: File, length: u64) -> Self {
        Self {
            path,
            file,
            length,
            torn: false,
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Writes one frame and makes it durable, or leaves the segment as it was.
    pub(super) fn write(&mut self, frame: &[u8]) -> Result<(), LedgerError> {
        self.mend()?;
        self.torn = true;
        self.attempt(frame).map_err(LedgerError::io("write", &self.path))?;
        self.length += frame.len() as u64;
        self.torn = false;
        Ok(())
    }

    fn attempt(&mut self, frame: &[u8]) -> std::io::Result<()> {
        #[cfg(test)]
        if self.faults.load(std::sync::atomic::Ordering::SeqCst) > 0 {
            self.faults.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            self.file.write_all(&frame[..frame.len() / 2])?;
            return Err(std::io::Error::from_raw_os_error(28));
        }
        self.file.write_all(frame)?;
        self.file.sync_data()
    }

    fn mend(&mut self) -> Result<(), LedgerError> {
        if !self.torn {
            return Ok(());
        }
        let cut = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        cut.and_then(|_| self.file.sync_all()).map_err(LedgerError::io("cut", &self.path))?;
        self.torn = false;
        Ok(())
    }
}

/// One batch as bytes.
pub(super) fn frame<'a>(first: u64, entries: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    let mut count = 0u32;
    for entry in entries {
        push_entry(&mut bytes, entry);
        count += 1;
    }
    let payload = bytes.split_off(HEAD_BYTES);
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend(MAGIC);
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(count.to_be_bytes());
    frame.extend(first.to_be_bytes());
    let digest = joined(&[&frame, &payload]);
    frame.extend(digest.0.iter().take(16));
    frame.extend(payload);
    frame
}

/// What a segment holds: its entries, and how many of its bytes are whole frames.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) path: PathBuf,
    pub(super) first: u64,
    pub(super) entries: Vec<Vec<u8>>,
    pub(super) whole_bytes: u64,
    pub(super) torn_bytes: u64,
}

/// Reads all segments, oldest first. Only the last may end in a torn frame.
///
/// # Errors
/// [`LedgerError::CorruptSegment`] for damage before the end, or a gap between two segments.
pub(super) fn scan(folder: &Path) -> Result<Vec<Scan>, LedgerError> {
    let mut names = Vec::new();
    for item in fs::read_dir(folder).map_err(LedgerError::io("read", folder))? {
        let item = item.map_err(LedgerError::io("read", folder))?;
        let first = item.file_name().to_str().filter(|name| name.len() == 20).and_then(|name| name.parse::<u64>().ok());
        names.extend(first.map(|first| (first, item.path())));
    }
    names.sort();
    let mut scans: Vec<Scan> = Vec::new();
    let count = names.len();
    for (at, (first, path)) in names.into_iter().enumerate() {
        let scan = read(first, path)?;
        if scan.torn_bytes > 0 && at + 1 < count {
            return Err(LedgerError::CorruptSegment { path: scan.path, offset: scan.whole_bytes });
        }
        if let Some(before) = scans.last()
            && before.first + before.entries.len() as u64 != first
        {
            return Err(LedgerError::CorruptSegment { path: scan.path, offset: 0 });
        }
        scans.push(scan);
    }
    Ok(scans)
}

fn read(first: u64, path: PathBuf) -> Result<Scan, LedgerError> {
    let bytes = fs::read(&path).map_err(LedgerError::io("read", &path))?;
    let (mut entries, mut rest) = (Vec::new(), bytes.as_slice());
    while let Some((batch, after)) = split_frame(rest, Some(first + entries.len() as u64)) {
        entries.extend(batch.into_iter().map(<[u8]>::to_vec));
        rest = after;
    }
    let whole_bytes = (bytes.len() - rest.len()) as u64;
    // A torn write leaves nothing behind itself. A whole frame further on means that what stands before it was damaged.
    let behind = (1..rest.len()).filter_map(|at| rest.get(at..)).filter(|rest| rest.starts_with(MAGIC));
    if behind.into_iter().any(|rest| split_frame(rest, None).is_some()) {
        return Err(LedgerError::CorruptSegment { path, offset: whole_bytes });
    }
    Ok(Scan { path, first, entries, whole_bytes, torn_bytes: rest.len() as u64 })
}

/// The entries of a frame that starts here, and what follows it; none if it is not whole or not the expected one.
fn split_frame(bytes: &[u8], first: Option<u64>) -> Option<(Vec<&[u8]>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (fields, digest) = head.split_at_checked(20)?;
    let (magic, numbers) = fields.split_first_chunk::<4>()?;
    let (length, numbers) = numbers.split_first_chunk::<4>()?;
    let (count, index) = numbers.split_first_chunk::<4>()?;
    let index = u64::from_be_bytes(index.try_into().ok()?);
    let (payload, after) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    if magic != MAGIC || first.is_some_and(|first| first != index) || !joined(&[fields, payload]).0.starts_with(digest)
    {
        return None;
    }
    let entries = bundle_entries(payload)?;
    (entries.len() == u32::from_be_bytes(*count) as usize).then_some((entries, after))
}
