//! Any bytes as what a ledger reads from others: the first byte chooses note, checkpoint, key, tlog-proof, add-checkpoint's body,
//! entry, receipt or bundle. What is accepted must be what would be written.

use falaj_ledger::{
    AddCheckpoint, Checkpoint, Entry, Note, Receipt, Session, TlogProof, VerifierKey, bundle, bundle_entries,
};

/// # Panics
/// When two texts mean the same.
pub fn run(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let again = match kind % 8 {
        0 => text.parse::<Note>().map(|note| note.to_string()).ok(),
        1 => text.parse::<Checkpoint>().map(|checkpoint| checkpoint.to_string()).ok(),
        2 => text.parse::<VerifierKey>().map(|key| key.to_string()).ok(),
        3 => text.parse::<TlogProof>().map(|proof| proof.to_string()).ok(),
        4 => AddCheckpoint::parse(text).map(|request| request.body()).ok(),
        5 => {
            if let Ok(entry) = Entry::from_bytes(bytes) {
                assert_eq!(entry.to_bytes(), bytes);
            }
            return;
        }
        6 => {
            let session = Session { site: "a".into(), public_key: [1; 32], from_s: 0, until_s: 1 };
            assert!(Receipt::verified(bytes, &session).is_err(), "nobody has that key");
            let _ = (Receipt::key_id(bytes), Session::verified(bytes, &[1; 32]));
            return;
        }
        _ => {
            if let Some(entries) = bundle_entries(bytes) {
                assert_eq!(bundle(&entries), bytes);
            }
            return;
        }
    };
    if let Some(again) = again {
        assert_eq!(again, text);
    }
}
