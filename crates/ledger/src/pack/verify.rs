//! Reads a pack and believes nothing of it: signatures, every hash of every tile, every entry, the chain of receipts. What fails
//! is named by file, entry and place. What the entries mean is in `pack/entries.rs`.

mod entries;

use std::fmt;
use std::fs;
use std::path::Path;

use self::entries::Story;
use super::{PackTrust, cosigned, key_lines};
use crate::checkpoint::Checkpoint;
use crate::error::LedgerError;
use crate::hash::{Hash, leaf_hash};
use crate::log::Folder;
use crate::note::{Note, VerifierKey};
use crate::records::record_path;
use crate::tile::{TILE_WIDTH, Tile, bundle_entries, tile_bytes, tile_hashes};
use crate::tlog_proof::Trust;
use crate::tree::{Edge, Tiles, Tree};

/// What a pack holds, and everything that is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub origin: String,
    pub entries: u64,
    pub sessions: u64,
    pub admissions: u64,
    pub receipts: u64,
    pub tombstones: u64,
    /// Those that were written down one by one.
    pub denials: u64,
    /// Those that were only counted.
    pub denials_counted: u64,
    /// By how much the time of an admission or receipt is before that of an earlier one, at most. Milliseconds pass between a time and
    /// its entry; more is a clock that was set back.
    pub times_back_ms: u64,
    /// Decisions and policies that entries name.
    pub records: u64,
    /// Names of the witnesses that cosigned the last checkpoint.
    pub witnesses: Vec<String>,
    /// Earlier checkpoints that were found to be beginnings of the last.
    pub earlier_checkpoints: u64,
    /// False when the keys are the pack's own: it is whole then, but anybody could have made it.
    pub keys_trusted: bool,
    /// In the order in which they were found, at most 1,000.
    pub failures: Vec<Failure>,
}

/// One thing that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub file: String,
    pub entry: Option<u64>,
    /// Byte of the file where it begins, if that is known.
    pub offset: Option<u64>,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(entry) = self.entry {
            write!(f, ", entry {entry}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", byte {offset}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl Report {
    pub fn holds(&self) -> bool {
        self.failures.is_empty()
    }

    fn fail(&mut self, file: impl Into<String>, entry: Option<u64>, offset: Option<u64>, what: impl fmt::Display) {
        if self.failures.len() < FAILURES {
            self.failures.push(Failure { file: file.into(), entry, offset, what: what.to_string() });
        }
    }
}

/// Verifies a pack against the keys that the reader trusts. Without them the pack's own keys are used, and the report says so.
pub fn verify(folder: &Path, trust: Option<&PackTrust>) -> Report {
    let (pack, mut report) = (Folder::new(folder), Report { keys_trusted: trust.is_some(), ..Report::default() });
    let Some(own) = own_keys(&pack, trust, &mut report) else { return report };
    let trust = trust.unwrap_or(&own);
    let Some(checkpoint) = head(&pack, trust, &mut report) else { return report };
    report.origin.clone_from(&checkpoint.origin);
    report.entries = checkpoint.size;
    let mut story = Story::new(&trust.site);
    tree(&pack, &checkpoint, &mut story, &mut report);
    earlier(&pack, &checkpoint, trust, &mut report);
    records(&pack, &mut report);
    strangers(folder, &pack, checkpoint.size, &mut report);
    report
}

/// The keys in the pack, which must be the trusted ones if there are such.
fn own_keys(pack: &Folder, trust: Option<&PackTrust>, report: &mut Report) -> Option<PackTrust> {
    let mut read = |path: &str, expected: Option<&[VerifierKey]>| {
        let keys = text(pack, path).and_then(|text| {
            let keys = text
                .lines()
                .map(str::parse)
                .collect::<Result<Vec<VerifierKey>, _>>()
                .map_err(|error| error.to_string())?;
            if key_lines(&keys) == text { Ok(keys) } else { Err("it is not one key a line".to_owned()) }
        });
        match keys {
            Ok(keys) if expected.is_none_or(|expected| expected == keys) => Some(keys),
            Ok(_) => {
                report.fail(path, None, None, "these are not the keys that you trust");
                None
            }
            Err(what) => {
                report.fail(path, None, None, what);
                None
            }
        }
    };
    let log = read("keys/log", trust.map(|trust| trust.log.log.as_slice()));
    let witnesses = read("keys/witnesses", trust.map(|trust| trust.log.witnesses.as_slice()));
    let site = read("keys/site", trust.map(|trust| std::slice::from_ref(&trust.site)));
    let [site] = <[VerifierKey; 1]>::try_from(site?).ok().or_else(|| {
        report.fail("keys/site", None, None, "it is not one key");
        None
    })?;
    Some(PackTrust { log: Trust { log: log?, witnesses: witnesses?, quorum: 0 }, site })
}

fn head(pack: &Folder, trust: &PackTrust, report: &mut Report) -> Option<Checkpoint> {
    match note(pack, "checkpoint", trust) {
        Ok((checkpoint, witnesses)) => {
            report.witnesses = witnesses;
            Some(checkpoint)
        }
        Err(what) => {
            report.fail("checkpoint", None, None, what);
            None
        }
    }
}

/// A note of the pack, all of whose signatures are of known keys and verify.
fn note(pack: &Folder, path: &str, trust: &PackTrust) -> Result<(Checkpoint, Vec<String>), String> {
    let note: Note = text(pack, path)?.parse().map_err(|error: LedgerError| error.to_string())?;
    let known = |name: &str, id: u32| {
        trust.log.log.iter().chain(&trust.log.witnesses).any(|key| key.name == name && key.id() == id)
    };
    if let Some(line) = note.signatures.iter().find(|line| !known(&line.name, line.key_id)) {
        return Err(format!("a signature of `{}` is of no key in the pack", line.name));
    }
    let (checkpoint, witnesses) = trust.log.checkpoint(&note).map_err(|error| error.to_string())?;
    Ok((checkpoint, witnesses.into_iter().collect()))
}

fn text(pack: &Folder, path: &str) -> Result<String, String> {
    let bytes = pack.read(path).map_err(|error| error.to_string())?.ok_or("it is missing")?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// A hash of a stored tile that differs from the one that its entries give.
struct Differs {
    tile: Tile,
    at: usize,
    /// Where its entry stands in the bundle, for level 0.
    entry_offset: Option<u64>,
}

/// Recomputes the tree from the entries, and finds out who is at fault where tiles, entries and checkpoint disagree.
fn tree(pack: &Folder, checkpoint: &Checkpoint, story: &mut Story, report: &mut Report) {
    let (mut edge, mut differs, mut full) = (Edge::default(), Vec::new(), Vec::new());
    for tile in Tile::all(checkpoint.size).take_while(|tile| tile.level == 0) {
        // A size that the files do not bear out: enough was said.
        if report.failures.len() >= FAILURES {
            return;
        }
        let stored = stored(pack, tile, report);
        let bytes = pack.read(&tile.bundle_path());
        let entries = match &bytes {
            Ok(Some(bytes)) => bundle_entries(bytes).filter(|entries| entries.len() as u64 == tile.width),
            _ => None,
        };
        if entries.is_none() {
            let what = if matches!(bytes, Ok(Some(_))) {
                "it is not made of the right number of entries"
            } else {
                "it is missing"
            };
            report.fail(tile.bundle_path(), Some(tile.index * TILE_WIDTH), Some(0), what);
            story.interrupted();
        }
        let mut offset = 0;
        for at in 0..tile.width as usize {
            let entry = entries.as_ref().and_then(|entries| entries.get(at).copied());
            let kept = stored.as_ref().and_then(|hashes| hashes.get(at).copied());
            let hash = entry.map(leaf_hash);
            if let (Some(hash), Some(kept)) = (hash, kept)
                && hash != kept
            {
                differs.push(Differs { tile, at, entry_offset: Some(offset) });
                story.interrupted();
            } else if let Some(entry) = entry {
                story.tell(&tile.bundle_path(), tile.index * TILE_WIDTH + at as u64, offset, entry, report);
            }
            // Where the bundle cannot be read its tile speaks for it, and the root decides.
            edge.push(hash.or(kept).unwrap_or(Hash([0; 32])), |tile, hashes| {
                if tile.level > 0 {
                    full.push((tile, hashes.to_vec()));
                }
            });
            offset += entry.map_or(0, |entry| entry.len() as u64 + 2);
        }
    }
    full.extend(edge.partial().filter(|(tile, _)| tile.level > 0).map(|(tile, hashes)| (tile, hashes.to_vec())));
    for (tile, hashes) in full {
        if let Some(stored) = stored(pack, tile, report) {
            let wrong = (0..).zip(hashes.iter().zip(&stored)).filter(|(_, (hash, stored))| hash != stored);
            differs.extend(wrong.map(|(at, _)| Differs { tile, at, entry_offset: None }));
        }
    }
    if edge.root() == checkpoint.root {
        // The entries are what was signed, so the tiles are not.
        for Differs { tile, at, .. } in differs {
            let entry = (tile.level == 0).then_some(tile.index * TILE_WIDTH + at as u64);
            report.fail(tile.path(), entry, Some(32 * at as u64), "this hash is not that of the entries below it");
        }
        return;
    }
    // Above a wrong entry every hash is wrong: that would say nothing new.
    let entries = differs.iter().any(|differs| differs.entry_offset.is_some());
    for Differs { tile, at, entry_offset } in
        differs.iter().filter(|differs| !entries || differs.entry_offset.is_some())
    {
        if entry_offset.is_some() {
            let entry = tile.index * TILE_WIDTH + *at as u64;
            report.fail(tile.bundle_path(), Some(entry), *entry_offset, "this entry is not the one in the tree");
        } else {
            report.fail(tile.path(), None, Some(32 * *at as u64), "this hash is not that of the tile below it");
        }
    }
    if report.failures.is_empty() {
        report.fail("checkpoint", None, None, "its root is not that of the entries");
    }
}

fn stored(pack: &Folder, tile: Tile, report: &mut Report) -> Option<Vec<Hash>> {
    let bytes = match pack.read(&tile.path()) {
        Ok(Some(bytes)) => tile_hashes(tile, &bytes).map_err(|error| error.to_string()),
        Ok(None) => Err("it is missing".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    bytes.map_err(|what| report.fail(tile.path(), None, None, what)).ok()
}

/// Earlier checkpoints must be beginnings of the last: their roots follow from the same tiles.
fn earlier(pack: &Folder, checkpoint: &Checkpoint, trust: &PackTrust, report: &mut Report) {
    let sizes = match cosigned(pack) {
        Ok(sizes) => sizes,
        Err(error) => return report.fail("cosigned", None, None, error),
    };
    for size in sizes {
        let path = format!("cosigned/{size}");
        match note(pack, &path, trust) {
            Ok((earlier, _)) if earlier.size != size || earlier.origin != checkpoint.origin => {
                report.fail(path, None, None, "it is of another size or log");
            }
            Ok((earlier, _)) => match Tree::new(size.min(checkpoint.size), &Prefix(pack, checkpoint.size)).root() {
                Ok(root) if root == earlier.root && size <= checkpoint.size => report.earlier_checkpoints += 1,
                Ok(_) => report.fail(path, None, None, "the log of the last checkpoint does not begin like this one"),
                Err(error) => report.fail(path, None, None, error),
            },
            Err(what) => report.fail(path, None, None, what),
        }
    }
}

/// Tiles of a smaller tree out of a pack's, which has those of its own size only.
struct Prefix<'a>(&'a Folder, u64);

impl Tiles for Prefix<'_> {
    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, LedgerError> {
        let missing = || LedgerError::MissingTile { path: tile.path() };
        let own = Tile::within(tile.level, tile.index, self.1).ok_or_else(missing)?;
        let mut hashes = tile_hashes(own, &self.0.read(&own.path())?.ok_or_else(missing)?)?;
        hashes.truncate(tile.width as usize);
        debug_assert_eq!(tile_bytes(&hashes).len() as u64, 32 * tile.width);
        Ok(hashes)
    }
}

/// Each file of a record must have the digest that is its name.
fn records(pack: &Folder, report: &mut Report) {
    let hashes = match pack.records() {
        Ok(hashes) => hashes,
        Err(error) => return report.fail("records", None, None, error),
    };
    for hash in hashes {
        match pack.record(&hash) {
            Ok(_) => report.records += 1,
            Err(error) => report.fail(record_path(&hash), None, None, error),
        }
    }
}

/// Files that no verifier would look at could hold anything: there are none.
fn strangers(root: &Path, pack: &Folder, size: u64, report: &mut Report) {
    if report.failures.len() >= FAILURES {
        return;
    }
    let mut known: Vec<String> = ["checkpoint", "keys/log", "keys/witnesses", "keys/site"].map(str::to_owned).to_vec();
    for tile in Tile::all(size) {
        known.push(tile.path());
        if tile.level == 0 {
            known.push(tile.bundle_path());
        }
    }
    known.extend(cosigned(pack).unwrap_or_default().iter().map(|size| format!("cosigned/{size}")));
    known.extend(pack.records().unwrap_or_default().iter().map(record_path));
    known.sort_unstable();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(items) = fs::read_dir(&folder) else {
            report.fail(folder.display().to_string(), None, None, "it cannot be read");
            continue;
        };
        for path in items.flatten().map(|item| item.path()) {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if known.binary_search(&name).is_err() {
                report.fail(name, None, None, "it does not belong to the pack");
            }
        }
    }
}

const FAILURES: usize = 1000;
