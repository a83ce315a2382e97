//! Hashing files with progress, and stamps: what a file system says of a file that was hashed, from which a later run can tell
//! that it is untouched without reading gigabytes again.

use std::fs::{File, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::shown;
use crate::{ArtifactError, Digest, Progress};

/// Adds up the progress of several files.
pub(crate) struct Tally<'a> {
    done_bytes: u64,
    total_bytes: u64,
    report: &'a mut dyn FnMut(Progress<'_>),
}

impl<'a> Tally<'a> {
    pub fn new(total_bytes: u64, report: &'a mut dyn FnMut(Progress<'_>)) -> Tally<'a> {
        Tally { done_bytes: 0, total_bytes, report }
    }

    pub fn add(&mut self, file: &str, bytes: u64) {
        self.done_bytes = self.done_bytes.saturating_add(bytes);
        // A file that grew must not show more than all.
        let done_bytes = self.done_bytes.min(self.total_bytes);
        (self.report)(Progress { file, done_bytes, total_bytes: self.total_bytes });
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashed {
    pub digest: Digest,
    pub size_bytes: u64,
    /// `None` when the file is too fresh to tell a later change from the last one.
    pub stamp: Option<Stamp>,
}

/// Hashes a file. `name` is for messages and progress.
pub(crate) fn hash_file(path: &Path, name: &str, tally: &mut Tally<'_>) -> Result<Hashed, ArtifactError> {
    let file = File::open(path).map_err(ArtifactError::io("open", path))?;
    let about = || file.metadata().map_err(ArtifactError::io("read", path));
    let before = about()?;
    if !before.is_file() {
        return Err(ArtifactError::NotAFile { path: path.to_path_buf() });
    }
    let before = Stamp::of(&before);
    let started = since_epoch(SystemTime::now());
    let mut size_bytes = 0;
    let digest = Digest::of_reader(&file, &mut |done_bytes| {
        tally.add(name, done_bytes - size_bytes);
        size_bytes = done_bytes;
    })
    .map_err(ArtifactError::io("read", path))?;
    let after = Stamp::of(&about()?);
    if !after.was_written_as(&before) {
        return Err(ArtifactError::ChangedWhileRead { file: shown(name) });
    }
    let stamp = (after == before && before.is_settled(started)).then_some(before);
    Ok(Hashed { digest, size_bytes, stamp })
}

/// What changes when a file is written: length, times, identity. The change time counts on Unix because a program can set
/// the modification time back, but not that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    size_bytes: u64,
    modified_ns: u64,
    changed_ns: u64,
    inode: u64,
}

impl Stamp {
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub fn of(about: &Metadata) -> Stamp {
        let modified = about.modified().map_or(Duration::ZERO, since_epoch);
        let modified_ns = u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX);
        #[cfg(unix)]
        let (changed_ns, inode) = {
            use std::os::unix::fs::MetadataExt;
            let seconds = u64::try_from(about.ctime()).unwrap_or(0);
            (seconds.saturating_mul(1_000_000_000).saturating_add(about.ctime_nsec().unsigned_abs()), about.ino())
        };
        #[cfg(not(unix))]
        let (changed_ns, inode) = (modified_ns, 0);
        Stamp { size_bytes: about.len(), modified_ns, changed_ns, inode }
    }

    /// Whether nothing was written between the two. The change time moves for less, such as a hard link that another import
    /// makes meanwhile: then the digest stands, but is not remembered.
    fn was_written_as(&self, before: &Stamp) -> bool {
        Stamp { changed_ns: before.changed_ns, ..*self } == *before
    }

    /// Whether a write after `now` must change the stamp. Clocks of file systems tick: ten milliseconds on Linux, one or two
    /// seconds where the times have no fraction.
    fn is_settled(&self, now: Duration) -> bool {
        let newest_ns = self.modified_ns.max(self.changed_ns);
        let coarse = self.modified_ns.is_multiple_of(1_000_000_000) && self.changed_ns.is_multiple_of(1_000_000_000);
        let tick_ns: u64 = if coarse { 3_000_000_000 } else { 100_000_000 };
        u128::from(newest_ns.saturating_add(tick_ns)) <= now.as_nanos()
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(changed_ns: u64) -> Stamp {
        Stamp { size_bytes: 1, modified_ns: 5, changed_ns, inode: 7 }
    }

    #[test]
    fn a_stamp_settles_when_the_clock_must_have_ticked() {
        let fine = stamp(7_000_000_001);
        assert!(!fine.is_settled(Duration::from_nanos(7_000_000_001)));
        assert!(!fine.is_settled(Duration::from_nanos(7_099_999_999)));
        assert!(fine.is_settled(Duration::from_nanos(7_100_000_001)));
    }

    #[test]
    fn times_without_a_fraction_settle_after_seconds() {
        let coarse = Stamp { modified_ns: 7_000_000_000, ..stamp(7_000_000_000) };
        assert!(!coarse.is_settled(Duration::from_secs(9)));
        assert!(coarse.is_settled(Duration::from_secs(10)));
    }

    #[test]
    fn a_clock_that_ran_backwards_settles_nothing() {
        assert!(!stamp(u64::MAX).is_settled(Duration::from_secs(1)));
    }
}
