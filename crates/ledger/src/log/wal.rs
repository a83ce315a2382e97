//! The write-ahead segments: `wal/<index of the first entry, 20 digits>`, each a sequence of frames, each frame one batch.
//! An fsync makes those written so far durable. They are the truth; tiles and checkpoints follow from them (`publisher.rs`).
//!
//! Frame: `FLJ2`, payload bytes (u32), entries (u32), index of the first (u64), bytes of this segment that were durable when the
//! frame was written (u64), 16 bytes of SHA-256 over all that and the payload; then the payload: entries as in a bundle. All numbers
//! are big-endian. A power cut may take any of the frames that no fsync covered; damage to one that a later frame says was durable is
//! damage. Behind the last frame there may be zeros: an fsync of bytes that the file has already changes no metadata, which makes it
//! a third faster.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::atomic::Ordering::SeqCst;

use crate::error::LedgerError;
use crate::hash::joined;
use crate::tile::{bundle_entries, push_entry};

const MAGIC: &[u8; 4] = b"FLJ2";
const HEAD_BYTES: usize = 44;
/// How much is filled with zeros at once: as much as there is already, within these bounds.
const FILL_BYTES: (u64, u64) = (16 << 10, 1 << 20);

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// What was written whole. The file may be longer after a write that failed.
    length: u64,
    durable: u64,
    /// How far the file has been filled with zeros.
    filled: u64,
    torn: bool,
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// How many of the next writes and fsyncs fail.
#[cfg(test)]
pub(crate) type Faults = std::sync::Arc<[std::sync::atomic::AtomicU32; 2]>;

#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    Write,
    Sync,
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
            durable: length,
            filled: length,
            torn: false,
            #[cfg(test)]
            faults: Faults::default(),
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// Writes one frame, or leaves the segment as it was.
    pub(super) fn write(&mut self, frame: &[u8]) -> Result<(), LedgerError> {
        self.mend()?;
        self.fill(self.length + frame.len() as u64);
        self.torn = true;
        self.attempt(frame).map_err(LedgerError::io("write", &self.path))?;
        self.length += frame.len() as u64;
        self.torn = false;
        Ok(())
    }

    fn attempt(&mut self, frame: &[u8]) -> std::io::Result<()> {
        #[cfg(test)]
        if self.fails(Fault::Write) {
            self.file.write_all_at(&frame[..frame.len() / 2], self.length)?;
            return Err(std::io::Error::from_raw_os_error(28));
        }
        self.file.write_all_at(frame, self.length)
    }

    /// Sees to it that the file has `end` bytes, and some more for what comes. Where there is no room, what comes will say so.
    fn fill(&mut self, end: u64) {
        if end <= self.filled {
            return;
        }
        let until = end + self.length.clamp(FILL_BYTES.0, FILL_BYTES.1);
        let zeros = vec![0; (until - self.filled.max(self.length)) as usize];
        let filled = self.file.write_all_at(&zeros, self.filled.max(self.length));
        self.filled = if filled.is_ok() { until } else { self.length };
    }

    /// Makes what was written durable, or takes it back.
    pub(super) fn sync(&mut self) -> Result<(), LedgerError> {
        let synced = {
            #[cfg(test)]
            let failed = self.fails(Fault::Sync);
            #[cfg(not(test))]
            let failed = false;
            if failed { Err(std::io::Error::from_raw_os_error(5)) } else { self.file.sync_data() }
        };
        if let Err(error) = synced {
            // Whether the disk has it nobody knows, and a second fsync would not say.
            self.torn = true;
            self.length = self.durable;
            return Err(LedgerError::io("sync", &self.path)(error));
        }
        self.durable = self.length;
        Ok(())
    }

    #[cfg(test)]
    fn fails(&self, fault: Fault) -> bool {
        let count = &self.faults[fault as usize];
        count.try_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    fn mend(&mut self) -> Result<(), LedgerError> {
        if !self.torn {
            return Ok(());
        }
        let cut = self.file.set_len(self.length).and_then(|()| self.file.sync_all());
        cut.map_err(LedgerError::io("cut", &self.path))?;
        (self.filled, self.torn) = (self.length, false);
        Ok(())
    }
}

/// One batch as bytes. `durable`: bytes of its segment that are, before it is written.
pub(super) fn frame<'a>(first: u64, durable: u64, entries: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
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
    frame.extend(durable.to_be_bytes());
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
    while let Some(frame) = split_frame(rest, Some(first + entries.len() as u64)) {
        entries.extend(frame.entries.into_iter().map(<[u8]>::to_vec));
        rest = frame.after;
    }
    let whole_bytes = (bytes.len() - rest.len()) as u64;
    let rest: &[u8] = if rest.iter().all(|byte| *byte == 0) { &[] } else { rest };
    // What no fsync covered may be gone in any order. A frame further on that was written after one means damage.
    let behind = (1..rest.len()).filter_map(|at| rest.get(at..)).filter(|rest| rest.starts_with(MAGIC));
    if behind.filter_map(|rest| split_frame(rest, None)).any(|frame| frame.durable > whole_bytes) {
        return Err(LedgerError::CorruptSegment { path, offset: whole_bytes });
    }
    Ok(Scan { path, first, entries, whole_bytes, torn_bytes: rest.len() as u64 })
}

struct Frame<'a> {
    entries: Vec<&'a [u8]>,
    durable: u64,
    after: &'a [u8],
}

/// The frame that starts here; none if it is not whole or not the expected one.
fn split_frame(bytes: &[u8], first: Option<u64>) -> Option<Frame<'_>> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (fields, digest) = head.split_at_checked(28)?;
    let (magic, numbers) = fields.split_first_chunk::<4>()?;
    let (length, numbers) = numbers.split_first_chunk::<4>()?;
    let (count, numbers) = numbers.split_first_chunk::<4>()?;
    let (index, durable) = numbers.split_first_chunk::<8>()?;
    let (index, durable) = (u64::from_be_bytes(*index), u64::from_be_bytes(durable.try_into().ok()?));
    let (payload, after) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    if magic != MAGIC || first.is_some_and(|first| first != index) || !joined(&[fields, payload]).0.starts_with(digest)
    {
        return None;
    }
    let entries = bundle_entries(payload)?;
    (entries.len() == u32::from_be_bytes(*count) as usize).then_some(Frame { entries, durable, after })
}
