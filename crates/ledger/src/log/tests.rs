//! The log under crashes, damage, a full disk, a clock that was set back and a second writer.

use std::sync::atomic::{AtomicU64, Ordering};

use super::wal::{Fault, frame};
use super::*;
use crate::hash::leaf_hash;
use crate::key::FileKey;
use crate::proof::{verify_consistency, verify_inclusion};
use crate::tree::tests::Memory;

const ORIGIN: &str = "site.example/ledger";

fn key() -> Arc<FileKey> {
    Arc::new(FileKey::from_seed(&[1; 32]).unwrap())
}

fn at(time: &Arc<AtomicU64>) -> Clock {
    let time = Arc::clone(time);
    Arc::new(move || time.load(Ordering::SeqCst))
}

fn settings() -> LogSettings {
    LogSettings { checkpoint_every: Duration::from_secs(3600), segment_bytes: 4000, ..LogSettings::default() }
}

fn open_at(folder: &Path, time: u64) -> Result<Log, LedgerError> {
    Log::open(folder, ORIGIN, key(), at(&Arc::new(time.into())), settings())
}

fn open_with(folder: &Path, settings: LogSettings) -> Log {
    Log::open(folder, ORIGIN, key(), at(&Arc::new(1_800_000_000.into())), settings).unwrap()
}

fn open(folder: &Path) -> Result<Log, LedgerError> {
    open_at(folder, 1_800_000_000)
}

fn entry(index: u64) -> Vec<u8> {
    format!("entry {index} {}", "x".repeat(index as usize % 40)).into_bytes()
}

fn fill(log: &Log, range: std::ops::Range<u64>) {
    let indexes: Vec<u64> = range.collect();
    for indexes in indexes.chunks(50) {
        let tickets: Vec<Ticket> = indexes.iter().map(|&index| log.append(entry(index)).unwrap()).collect();
        for (&index, ticket) in indexes.iter().zip(tickets) {
            assert_eq!(ticket.wait().unwrap(), index);
        }
    }
}

/// Waits in this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let (mut future, mut context) = (std::pin::pin!(future), std::task::Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// The folder as a kill would leave it: nothing of what the log does when it is dropped.
fn killed(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(from) = folders.pop() {
        let to = copy.path().join(from.strip_prefix(folder).unwrap());
        fs::create_dir_all(&to).unwrap();
        for item in fs::read_dir(&from).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    copy
}

/// The log is whole: `size` entries, the right root, proofs from its tiles.
fn check(log: &Log, size: u64) {
    let (note, all) = (log.publish().unwrap(), (0..size).map(|index| leaf_hash(&entry(index))).collect::<Vec<_>>());
    let keys = Checkpoint::keys(ORIGIN, key().public_key()).unwrap();
    let (checkpoint, _) = Checkpoint::verified(&note, &keys).unwrap();
    let (_, root) = Memory::of(&all);
    assert_eq!((checkpoint.size, checkpoint.root, log.size()), (size, root, size));
    let tree = log.tree();
    for index in (0..size).step_by(97) {
        verify_inclusion(all[index as usize], index, size, &tree.inclusion(index).unwrap(), root).unwrap();
        verify_consistency(index, Memory::of(&all[..index as usize]).1, size, root, &tree.consistency(index).unwrap())
            .unwrap();
        assert_eq!(log.entry(index).unwrap(), entry(index));
    }
}

/// An entry that nobody waits for goes with the next that somebody does, and by itself when none comes.
#[test]
fn lazy_entries_share_a_write_and_do_not_wait_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let patient = LogSettings { patience: Duration::from_secs(3600), ..LogSettings::default() };
    let log = open_with(folder.path(), patient);
    let lazy = log.append_lazily(b"lazy".to_vec(), log.generation()).unwrap();
    assert_eq!(log.append(b"urgent".to_vec()).unwrap().wait().unwrap(), 1);
    assert_eq!(lazy.watch().outcome().unwrap().unwrap(), 0);
    let left = log.append_lazily(b"the last".to_vec(), log.generation()).unwrap();
    drop(log);
    assert_eq!(left.wait().unwrap(), 2, "closing writes what waits");
    let hasty = LogSettings { patience: Duration::from_millis(1), ..LogSettings::default() };
    let log = open_with(folder.path(), hasty);
    assert_eq!(log.append_lazily(b"alone".to_vec(), log.generation()).unwrap().wait().unwrap(), 3);
}

/// What was written survives its process, before any fsync.
#[test]
fn a_written_entry_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_with(folder.path(), LogSettings { patience: Duration::from_secs(3600), ..LogSettings::default() });
    for index in 0..3 {
        let ticket = log.append_lazily(entry(index), log.generation()).unwrap();
        block_on(ticket.written()).unwrap();
        assert!(ticket.watch().outcome().is_none(), "not durable yet");
    }
    assert_eq!(log.size(), 0);
    let copy = killed(folder.path());
    let again = open(copy.path()).unwrap();
    assert_eq!((again.size(), again.opened().torn_bytes), (3, 0));
    check(&again, 3);
}

#[test]
fn a_failed_sync_takes_back_what_it_did_not_cover() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_with(folder.path(), LogSettings { patience: Duration::from_secs(3600), ..LogSettings::default() });
    fill(&log, 0..2);
    log.faults[Fault::Sync as usize].store(1, Ordering::SeqCst);
    let lazy = log.append_lazily(b"lost".to_vec(), log.generation()).unwrap();
    block_on(lazy.written()).unwrap();
    assert!(log.append(b"lost, too".to_vec()).unwrap().wait().is_err());
    assert!(lazy.wait().is_err() && log.health().appending.is_some());
    fill(&log, 2..5);
    check(&open(killed(folder.path()).path()).unwrap(), 5);
    check(&log, 5);
}

/// A full disk takes what it has no room for, not what was written before.
#[test]
fn a_failed_write_leaves_what_was_written_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_with(folder.path(), LogSettings { patience: Duration::from_secs(3600), ..LogSettings::default() });
    let lazy = log.append_lazily(entry(0), log.generation()).unwrap();
    block_on(lazy.written()).unwrap();
    log.faults[Fault::Write as usize].store(1, Ordering::SeqCst);
    assert!(log.append(b"lost".to_vec()).unwrap().wait().is_err());
    assert_eq!(lazy.wait().unwrap(), 0);
    fill(&log, 1..3);
    check(&log, 3);
}

/// A power cut may keep a later frame and lose an earlier one, as long as no fsync lay between them.
#[test]
fn damage_is_told_from_what_was_never_synced() {
    for (durable, corrupt) in [(false, false), (true, true)] {
        let folder = tempfile::tempdir().unwrap();
        let wal = folder.path().join("wal");
        fs::create_dir_all(&wal).unwrap();
        let of = |index: u64, durable: usize| frame(index, durable as u64, [entry(index).as_slice()].into_iter());
        let first = of(0, 0);
        let mut second = of(1, first.len());
        let third = of(2, if durable { first.len() + second.len() } else { first.len() });
        *second.last_mut().unwrap() ^= 1;
        fs::write(wal.join(format!("{:020}", 0)), [first, second, third].concat()).unwrap();
        match open(folder.path()) {
            Ok(log) => {
                assert!(!corrupt);
                assert_eq!(log.size(), 1);
                fill(&log, 1..4);
                check(&log, 4);
            }
            Err(error) => assert!(corrupt && matches!(error, LedgerError::CorruptSegment { .. }), "{error}"),
        }
    }
}

#[test]
fn grows_over_segments_tiles_and_reopenings() {
    let folder = tempfile::tempdir().unwrap();
    let mut size = 0;
    for more in [0, 1, 254, 1, 1, 700, 44] {
        let log = open(folder.path()).unwrap();
        assert_eq!(log.opened(), Opened::default());
        fill(&log, size..size + more);
        size += more;
        check(&log, size);
        assert!(log.entry(size).is_err());
    }
}

#[test]
fn segments_go_when_their_tiles_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    let often = LogSettings { checkpoint_every: Duration::from_millis(5), ..settings() };
    let log = Log::open(folder.path(), ORIGIN, key(), at(&Arc::default()), often).unwrap();
    fill(&log, 0..2000);
    drop(log);
    let names = |_| fs::read_dir(folder.path().join("wal")).unwrap().count();
    // About 75 kB in segments of 4 kB; at most those of the last unfinished tile are left, and one more.
    assert!(names(()) < 12, "{}", names(()));
    for _ in 0..2 {
        check(&open(folder.path()).unwrap(), 2000);
    }
    // What only tiles hold now is missed when it goes, and by name.
    let copy = killed(folder.path());
    fs::remove_file(copy.path().join("tile/0/003")).unwrap();
    assert!(matches!(open(copy.path()), Err(LedgerError::MissingTile { path }) if path == "tile/0/003"));
    let mut bytes = fs::read(folder.path().join("tile/0/003")).unwrap();
    bytes[77] ^= 1;
    fs::write(folder.path().join("tile/0/003"), bytes).unwrap();
    assert!(matches!(open(folder.path()), Err(LedgerError::CorruptTile { path, .. }) if path == "tile/0/003"));
}

/// Bytes of a segment up to the zeros at its end. No frame here ends in one.
fn written(segment: &Path) -> u64 {
    let bytes = fs::read(segment).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

#[test]
fn a_kill_at_any_byte_keeps_whole_frames_only() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(
        folder.path(),
        ORIGIN,
        key(),
        at(&Arc::default()),
        LogSettings { segment_bytes: 1 << 20, ..settings() },
    );
    let log = log.unwrap();
    let path = folder.path().join("wal/00000000000000000000");
    let mut ends = vec![0];
    for index in 0..7 {
        fill(&log, index..index + 1);
        ends.push(written(&path));
    }
    let end = *ends.last().unwrap();
    for cut in (0..ends[1]).step_by(7).chain(ends.iter().map(|end| end.saturating_sub(1))).chain(ends[6] - 2..=end) {
        let copy = killed(folder.path());
        let segment = copy.path().join("wal/00000000000000000000");
        fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(cut).unwrap();
        let whole = ends.iter().filter(|&&end| end <= cut).count() as u64 - 1;
        let log = open(copy.path()).unwrap();
        assert_eq!((log.size(), log.opened().torn_bytes), (whole, cut - ends[whole as usize]), "cut at {cut}");
        fill(&log, whole..whole + 2);
        check(&log, whole + 2);
    }
}

#[test]
fn unsynced_tiles_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    fill(&log, 0..600);
    log.publish().unwrap();
    let copy = killed(folder.path());
    fs::write(copy.path().join("tile/0/000"), b"").unwrap();
    fs::remove_file(copy.path().join("tile/entries/001")).unwrap();
    fs::remove_file(copy.path().join("tile/1/000.p/2")).unwrap();
    let log = open(copy.path()).unwrap();
    assert_eq!(log.opened().repaired_files, 2);
    fill(&log, 600..601);
    check(&log, 601);
}

#[test]
fn damage_and_truncation_have_names() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    fill(&log, 0..300);
    log.publish().unwrap();
    let last = |folder: &Path| {
        let mut all: Vec<_> = fs::read_dir(folder.join("wal")).unwrap().map(|item| item.unwrap().path()).collect();
        all.sort();
        all
    };
    // Cut behind the checkpoint's back.
    let copy = killed(folder.path());
    let path = last(copy.path()).pop().unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(50).unwrap();
    assert!(matches!(open(copy.path()), Err(LedgerError::TruncatedLog { checkpoint: 300, .. })));
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(copy.path()), Err(LedgerError::TruncatedLog { checkpoint: 300, .. })));
    for path in last(copy.path()) {
        fs::remove_file(path).unwrap();
    }
    assert!(matches!(open(copy.path()), Err(LedgerError::TruncatedLog { entries: 0, .. })));
    // A byte flipped in the middle of an old segment, and at the start of the last one.
    for (segment, offset) in [(0, 2000), (last(folder.path()).len() - 1, 40)] {
        let copy = killed(folder.path());
        let path = last(copy.path()).swap_remove(segment);
        let mut bytes = fs::read(&path).unwrap();
        bytes[offset] ^= 1;
        fs::write(&path, bytes).unwrap();
        let found = open(copy.path()).err().unwrap();
        assert!(matches!(&found, LedgerError::CorruptSegment { path: named, .. } if *named == path), "{found}");
    }
    // Another history under the same checkpoint; a checkpoint of another key; none at all.
    let other = tempfile::tempdir().unwrap();
    let fork = open(other.path()).unwrap();
    for index in 0..300 {
        fork.append(entry(index + 1)).unwrap().wait().unwrap();
    }
    let copy = killed(other.path());
    fs::copy(folder.path().join("checkpoint"), copy.path().join("checkpoint")).unwrap();
    assert!(matches!(open(copy.path()), Err(LedgerError::CheckpointMismatch { .. })));
    let stranger = Arc::new(FileKey::from_seed(&[2; 32]).unwrap());
    let copy = killed(folder.path());
    let opened = Log::open(copy.path(), ORIGIN, stranger, at(&Arc::default()), settings());
    assert!(matches!(opened, Err(LedgerError::CheckpointMismatch { .. })));
    fs::write(copy.path().join("checkpoint"), b"x").unwrap();
    assert!(matches!(open(copy.path()), Err(LedgerError::CheckpointMismatch { .. })));
}

#[test]
fn one_writer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    let pid = Some(std::process::id());
    assert!(matches!(open(folder.path()), Err(LedgerError::InUse { pid: holder, .. }) if holder == pid));
    drop(log);
    assert!(open(folder.path()).is_ok());
}

#[test]
fn checkpoint_times_never_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicU64::new(1_800_000_000));
    let log = Log::open(folder.path(), ORIGIN, key(), at(&time), settings()).unwrap();
    fill(&log, 0..1);
    log.publish().unwrap();
    time.store(1_799_990_000, Ordering::SeqCst);
    fill(&log, 1..2);
    log.publish().unwrap();
    assert_eq!((log.published().unwrap().time_s, log.health().clock_behind_s), (1_800_000_000, 10_000));
    drop(log);
    let log = open_at(folder.path(), 1_700_000_000).unwrap();
    fill(&log, 2..3);
    log.publish().unwrap();
    assert_eq!(log.published().unwrap().time_s, 1_800_000_000);
}

#[test]
fn a_full_disk_fails_appends_and_then_they_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    fill(&log, 0..3);
    let before = log.generation();
    log.faults[Fault::Write as usize].store(2, Ordering::SeqCst);
    for _ in 0..2 {
        let failure = log.append(entry(3)).unwrap().wait().unwrap_err();
        assert!(failure.is_full_disk(), "{failure}");
        assert!(log.health().appending.unwrap().is_full_disk());
    }
    assert!(matches!(log.append_after(entry(3), before), Err(LedgerError::Stale)));
    assert_eq!(log.append_after(entry(3), log.generation()).unwrap().wait().unwrap(), 3);
    assert!(log.health().appending.is_none());
    fill(&log, 4..9);
    check(&open(killed(folder.path()).path()).unwrap(), 9);
    check(&log, 9);
}

#[test]
fn a_full_queue_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let tight = LogSettings { queue_bytes: 10, ..settings() };
    let log = Log::open(folder.path(), ORIGIN, key(), at(&Arc::default()), tight).unwrap();
    assert!(matches!(log.append(vec![0; 11]), Err(LedgerError::Busy)));
    assert!(matches!(log.append(vec![0; 65_536]), Err(LedgerError::EntryTooLarge { .. })));
    assert_eq!(log.append(vec![0; 10]).unwrap().wait().unwrap(), 0);
}
