//! A pack: a log up to one checkpoint as a folder of files, with the keys that signed it, for somebody who has no network and
//! no database. [`export`] writes one, [`verify`] (`pack/verify.rs`) reads it and names whatever does not hold.

mod verify;

use std::fs;
use std::path::Path;

pub use self::verify::{Failure, Report, verify};
use crate::checkpoint::Checkpoint;
use crate::error::LedgerError;
use crate::hash::leaf_hash;
use crate::log::Folder;
use crate::note::{KeyKind, Note, VerifierKey};
use crate::records::record_path;
use crate::tile::{TILE_WIDTH, Tile, bundle, tile_bytes};
use crate::tlog_proof::Trust;
use crate::tree::Tiles;

/// Whom the reader of a pack believes: its log and witnesses, and the site's key that certifies session keys, named as the site.
#[derive(Clone, Debug)]
pub struct PackTrust {
    pub log: Trust,
    pub site: VerifierKey,
}

impl PackTrust {
    /// Reads `log`, `witnesses` and `site`: a key a line, and one in the last.
    ///
    /// # Errors
    /// A file that is missing or holds something else.
    pub fn read(folder: &Folder, quorum: usize) -> Result<Self, LedgerError> {
        let keys = |name: &str| {
            let missing = LedgerError::BadNote { reason: "a file of keys is missing: log, witnesses or site" };
            text(folder.read(name)?.ok_or(missing)?)?.lines().map(str::parse).collect::<Result<Vec<VerifierKey>, _>>()
        };
        let several = LedgerError::BadNote { reason: "`site` is not one key" };
        let [site] = <[VerifierKey; 1]>::try_from(keys("site")?).map_err(|_| several)?;
        Ok(Self { log: Trust { log: keys("log")?, witnesses: keys("witnesses")?, quorum }, site })
    }

    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, folder: &Folder) -> Result<(), LedgerError> {
        folder.write("log", key_lines(&self.log.log).as_bytes())?;
        folder.write("witnesses", key_lines(&self.log.witnesses).as_bytes())?;
        folder.write("site", key_lines(std::slice::from_ref(&self.site)).as_bytes())
    }
}

/// Writes the log up to its last checkpoint into a new folder. Gives how many entries it holds. Only reads `from`, which another
/// process may be writing.
///
/// # Errors
/// A log without a checkpoint, tiles that are missing or damaged, a folder that exists or cannot be written.
pub fn export(from: &Folder, trust: &PackTrust, to: &Path) -> Result<u64, LedgerError> {
    let note = from.read("checkpoint")?.ok_or(LedgerError::NotSigned)?;
    let mut note = text(note)?.parse::<Note>()?;
    let size = Checkpoint::verified(&note, &trust.log.log)?.0.size;
    fs::create_dir(to).map_err(LedgerError::io("create", to))?;
    let pack = Folder::new(to);
    for tile in Tile::all(size) {
        let hashes = from.tile(tile)?;
        if tile.level == 0 {
            let entries = from.bundle(tile)?;
            if entries.iter().map(|entry| leaf_hash(entry)).ne(hashes.iter().copied()) {
                return Err(LedgerError::CorruptTile { path: tile.bundle_path(), reason: "its tile has other hashes" });
            }
            pack.write(&tile.bundle_path(), &bundle(&entries))?;
        }
        pack.write(&tile.path(), &tile_bytes(&hashes))?;
    }
    for cosigned in cosigned(from)? {
        let path = format!("cosigned/{cosigned}");
        let Some(bytes) = from.read(&path)?.filter(|_| cosigned <= size) else { continue };
        if cosigned == size {
            note = text(bytes)?.parse()?;
        } else {
            pack.write(&path, &bytes)?;
        }
    }
    // Some are newer than the checkpoint: no entry of the pack names them, and none misses them.
    for hash in from.records()? {
        if let Some(bytes) = from.record(&hash)? {
            pack.write(&record_path(&hash), &bytes)?;
        }
    }
    trust.write(&Folder::new(&to.join("keys")))?;
    // Last: a pack without it was never finished.
    pack.write("checkpoint", note.to_string().as_bytes())?;
    Ok(size)
}

/// Sizes of the checkpoints that are kept with their cosignatures, ascending.
fn cosigned(folder: &Folder) -> Result<Vec<u64>, LedgerError> {
    let path = folder.path("cosigned");
    let mut sizes = Vec::new();
    if path.is_dir() {
        for item in fs::read_dir(&path).map_err(LedgerError::io("read", &path))? {
            let name = item.map_err(LedgerError::io("read", &path))?.file_name();
            sizes.extend(name.to_str().and_then(crate::checkpoint::decimal));
        }
    }
    sizes.sort_unstable();
    Ok(sizes)
}

/// The entries of a log or a pack up to its checkpoint, in order, by their index. Not compared with the tree: [`verify`] does.
///
/// # Errors
/// A checkpoint or a bundle that cannot be read, or what `each` gives.
pub fn entries<E: From<LedgerError>>(
    folder: &Folder,
    mut each: impl FnMut(u64, Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let note = text(folder.read("checkpoint")?.ok_or(LedgerError::NotSigned)?)?.parse::<Note>()?;
    let size = note.text.parse::<Checkpoint>()?.size;
    for tile in Tile::all(size).take_while(|tile| tile.level == 0) {
        for (index, entry) in (tile.index * TILE_WIDTH..).zip(folder.bundle(tile)?) {
            each(index, entry)?;
        }
    }
    Ok(())
}

/// The keys of a site that signs its log itself: what somebody who trusts it keeps.
///
/// # Errors
/// A name that notes cannot carry.
pub fn keys(origin: &str, site: &str, public_key: [u8; 32]) -> Result<PackTrust, LedgerError> {
    let log = Trust { log: Checkpoint::keys(origin, public_key)?.to_vec(), ..Trust::default() };
    Ok(PackTrust { log, site: VerifierKey::new(site, KeyKind::Ed25519, public_key)? })
}

fn text(bytes: Vec<u8>) -> Result<String, LedgerError> {
    String::from_utf8(bytes).map_err(|_| LedgerError::BadNote { reason: "it is not UTF-8" })
}

fn key_lines(keys: &[VerifierKey]) -> String {
    keys.iter().map(|key| format!("{key}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::entry::{Admission, Entry};
    use crate::hash::empty_root;
    use crate::key::{FileKey, Signer};
    use crate::log::{Log, LogSettings};
    use crate::note::NoteSignature;
    use crate::receipt::Claims;
    use crate::receipt::tests::claims;
    use crate::recorder::Recorder;

    const ORIGIN: &str = "a.example/ledger";

    fn key(seed: u8) -> Arc<FileKey> {
        Arc::new(FileKey::from_seed(&[seed; 32]).unwrap())
    }

    fn trust() -> PackTrust {
        let log = Checkpoint::keys(ORIGIN, key(1).public_key()).unwrap().to_vec();
        let witnesses = vec![VerifierKey::new("w.example/1", KeyKind::Cosignature, key(2).public_key()).unwrap()];
        let site = VerifierKey::new("a.example", KeyKind::Ed25519, key(1).public_key()).unwrap();
        PackTrust { log: Trust { log, witnesses, quorum: 1 }, site }
    }

    fn open(folder: &Path) -> Arc<Log> {
        Arc::new(Log::open(folder, ORIGIN, key(1), Arc::new(|| 1_800_000_000), LogSettings::default()).unwrap())
    }

    fn cosign(log: &Log) {
        let mut note = log.publish().unwrap();
        note.signatures.push(NoteSignature::cosignature("w.example/1", &note.text, 1_800_000_001, &*key(2)).unwrap());
        log.keep_cosigned(&note, &trust().log.log[0], &trust().log.witnesses).unwrap();
    }

    fn admission(number: u8) -> Admission {
        let time_ms = claims(number).time_ms;
        Admission { request_id: [number; 16], time_ms, grant: "g".into(), policy_epoch: 1, decision: empty_root() }
    }

    /// A pack of some served requests with two cosigned checkpoints.
    fn pack(folder: &Path, requests: u8) -> PathBuf {
        let log = open(&folder.join("log"));
        let recorder = Recorder::new(Arc::clone(&log), "a.example", key(1)).unwrap();
        cosign(&log);
        for number in 0..requests {
            recorder.admit(admission(number)).unwrap();
            recorder.record(claims(number)).unwrap().ticket.wait().unwrap();
        }
        cosign(&log);
        log.folder().keep_record(b"a decision").unwrap();
        let to = folder.join("pack");
        assert_eq!(export(log.folder(), &trust(), &to).unwrap(), 2 * u64::from(requests) + 1);
        to
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(folder).unwrap() {
                let path = item.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }

    #[test]
    fn a_whole_pack_holds() {
        let folder = tempfile::tempdir().unwrap();
        let pack = pack(folder.path(), 140);
        let report = verify(&pack, Some(&trust()));
        assert_eq!(report.failures, []);
        assert_eq!((report.entries, report.sessions, report.admissions, report.receipts), (281, 1, 140, 140));
        assert_eq!((report.witnesses.as_slice(), report.earlier_checkpoints), (&["w.example/1".to_owned()][..], 1));
        assert!(report.holds() && report.keys_trusted);
        assert_eq!(report.times_back_ms, 0);
        assert!(verify(&pack, None).holds() && !verify(&pack, None).keys_trusted);
        let mut stranger = trust();
        stranger.log.log = Checkpoint::keys(ORIGIN, key(9).public_key()).unwrap().to_vec();
        assert_eq!(verify(&pack, Some(&stranger)).failures[0].file, "keys/log");
    }

    #[test]
    fn a_clock_that_was_set_back_shows() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder.path().join("log"));
        let recorder = Recorder::new(Arc::clone(&log), "a.example", key(1)).unwrap();
        for (number, later_ms) in [(0, 5_000), (1, 0), (2, 4_000)] {
            let time_ms = claims(number).time_ms + later_ms;
            recorder.admit(Admission { time_ms, ..admission(number) }).unwrap();
            recorder.record(Claims { time_ms, ..claims(number) }).unwrap().ticket.wait().unwrap();
        }
        cosign(&log);
        export(log.folder(), &trust(), &folder.path().join("pack")).unwrap();
        let report = verify(&folder.path().join("pack"), Some(&trust()));
        assert_eq!((report.failures.as_slice(), report.times_back_ms), (&[][..], 5_000));
    }

    /// A flip in any byte of any file is found, and the file that was changed is named.
    #[test]
    fn every_byte_counts() {
        let folder = tempfile::tempdir().unwrap();
        let pack = pack(folder.path(), 1);
        for path in files(&pack) {
            let (good, name) =
                (fs::read(&path).unwrap(), path.strip_prefix(&pack).unwrap().to_str().unwrap().to_owned());
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                fs::write(&path, &bad).unwrap();
                let report = verify(&pack, Some(&trust()));
                let failure = report.failures.first().unwrap_or_else(|| panic!("{name}, byte {at}: nothing was found"));
                assert_eq!(failure.file, name, "byte {at}: {failure}");
                if name == "tile/0/000.p/3" {
                    assert_eq!(failure.offset, Some(at as u64 / 32 * 32), "{failure}");
                    assert_eq!(failure.entry, Some(at as u64 / 32));
                }
            }
            fs::write(&path, &good).unwrap();
            fs::rename(&path, folder.path().join("away")).unwrap();
            if !name.starts_with("cosigned/") && !name.starts_with("records/") {
                assert_eq!(verify(&pack, Some(&trust())).failures[0].file, name);
            }
            fs::rename(folder.path().join("away"), &path).unwrap();
        }
        assert!(verify(&pack, Some(&trust())).holds());
        fs::write(pack.join("note.txt"), b"").unwrap();
        assert_eq!(verify(&pack, Some(&trust())).failures[0].file, "note.txt");
    }

    #[test]
    fn damage_in_a_larger_pack_is_named_to_the_entry() {
        let folder = tempfile::tempdir().unwrap();
        let pack = pack(folder.path(), 140);
        let check = |name: &str, at: usize, entry: Option<u64>, offset: Option<u64>| {
            let path = pack.join(name);
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, bad).unwrap();
            let report = verify(&pack, Some(&trust()));
            fs::write(&path, good).unwrap();
            let failure = &report.failures[0];
            assert_eq!(
                (failure.file.as_str(), failure.entry, failure.offset, report.failures.len()),
                (name, entry, offset, 1)
            );
        };
        let first = crate::tile::bundle_entries(&fs::read(pack.join("tile/entries/000")).unwrap()).unwrap()[0].len();
        check("tile/entries/000", 10, Some(0), Some(0));
        check("tile/entries/000", first + 2 + 9, Some(1), Some(first as u64 + 2));
        check("tile/0/000", 32 * 77 + 5, Some(77), Some(32 * 77));
        check("tile/0/001.p/25", 32 * 24, Some(280), Some(32 * 24));
        check("tile/1/000.p/1", 31, None, Some(0));
    }

    /// What the log's owner could do with the log's own key.
    #[test]
    fn entries_that_tell_no_story_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder.path().join("log"));
        let recorder = Recorder::new(Arc::clone(&log), "a.example", key(1)).unwrap();
        recorder.record(claims(1)).unwrap().ticket.wait().unwrap();
        let receipt = recorder.record(claims(2)).unwrap();
        log.append(Entry::Receipt(receipt.receipt).to_bytes()).unwrap().wait().unwrap();
        let other = Recorder::new(Arc::clone(&log), "b.example", key(1)).unwrap();
        other.record(claims(3)).unwrap().ticket.wait().unwrap();
        log.append(b"\x09anything".to_vec()).unwrap().wait().unwrap();
        cosign(&log);
        export(log.folder(), &trust(), &folder.path().join("pack")).unwrap();
        let found: Vec<String> =
            verify(&folder.path().join("pack"), Some(&trust())).failures.iter().map(|f| f.to_string()).collect();
        expect_test::expect![[r#"
            tile/entries/000.p/7, entry 1, byte 149: its request was never admitted
            tile/entries/000.p/7, entry 2, byte 664: its request was never admitted
            tile/entries/000.p/7, entry 3, byte 1179: receipt 1 does not follow the one before; 2 was expected
            tile/entries/000.p/7, entry 4, byte 1694: the session is of the site `b.example`
            tile/entries/000.p/7, entry 5, byte 1843: its session is not certified before it
            tile/entries/000.p/7, entry 6, byte 2358: the entry cannot be read: its kind is unknown"#]]
        .assert_eq(&found.join("\n"));
    }
}
