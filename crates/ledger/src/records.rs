//! What entries name by its SHA-256 and do not hold: decisions, and the policies that they were made under. Small files beside the
//! log, each under its digest, so that each can be checked by itself.

use std::fs;

use crate::error::LedgerError;
use crate::hash::{Hash, plain_hash};
use crate::log::Folder;

const RECORDS: &str = "records";

/// Largest record that is read: what anybody could write must not fill a reader's memory.
pub const RECORD_LIMIT_BYTES: usize = 1 << 20;

impl Folder {
    /// Keeps a record, durably. The same bytes again change nothing.
    ///
    /// # Errors
    /// A disk that is full or fails.
    pub fn keep_record(&self, bytes: &[u8]) -> Result<Hash, LedgerError> {
        let hash = plain_hash(bytes);
        let path = record_path(&hash);
        if !self.path(&path).exists() {
            self.write_durably(&path, bytes)?;
        }
        Ok(hash)
    }

    /// The record with this digest, if it is there.
    ///
    /// # Errors
    /// One whose bytes have another digest; a file that cannot be read.
    pub fn record(&self, hash: &Hash) -> Result<Option<Vec<u8>>, LedgerError> {
        let path = record_path(hash);
        match self.read(&path)? {
            Some(bytes) if plain_hash(&bytes) == *hash => Ok(Some(bytes)),
            Some(_) => Err(LedgerError::BadRecord { what: "record", reason: "its bytes are not those of its name" }),
            None => Ok(None),
        }
    }

    /// Digests of all records, in order.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn records(&self) -> Result<Vec<Hash>, LedgerError> {
        let root = self.path(RECORDS);
        let mut hashes = Vec::new();
        if root.is_dir() {
            for item in fs::read_dir(&root).map_err(LedgerError::io("read", &root))? {
                let name = item.map_err(LedgerError::io("read", &root))?.file_name();
                hashes.extend(name.to_str().and_then(from_hex));
            }
        }
        hashes.sort_unstable_by_key(|hash| hash.0);
        Ok(hashes)
    }
}

pub(crate) fn record_path(hash: &Hash) -> String {
    let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{RECORDS}/{hex}")
}

fn from_hex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(Hash(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_by_its_digest_and_a_changed_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        let hash = folder.keep_record(b"a decision").unwrap();
        assert_eq!(folder.keep_record(b"a decision").unwrap(), hash);
        assert_eq!(folder.records().unwrap(), [hash]);
        assert_eq!(folder.record(&hash).unwrap().unwrap(), b"a decision");
        assert_eq!(folder.record(&Hash([0; 32])).unwrap(), None);
        fs::write(folder.path(&record_path(&hash)), b"another").unwrap();
        assert!(folder.record(&hash).is_err());
    }
}
