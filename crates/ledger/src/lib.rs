//! A site's ledger: an append-only Merkle log on disk in the format of C2SP tlog-tiles, its signed checkpoints, and proofs
//! that anyone verifies offline. Plain threads and files: no HTTP, no async runtime, no policy, no models.
//! Formats and guarantees: docs/ledger.md.
//! Start reading at `tree.rs`, then `log.rs`.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod cbor;
mod checkpoint;
mod entry;
mod error;
mod hash;
mod key;
mod log;
mod note;
mod pack;
mod proof;
mod receipt;
mod recorder;
mod records;
mod session;
mod tile;
mod tlog_proof;
mod tree;
mod witness;

pub use checkpoint::{Checkpoint, Cosignature};
pub use entry::{Admission, Denial, DenialCount, Entry, Tombstone};
pub use error::LedgerError;
pub use hash::{Hash, empty_root, leaf_hash, node_hash};
pub use key::{FileKey, Signer, verify_ed25519};
pub use log::{Clock, Folder, Health, Log, LogSettings, Opened, Published, Ticket, Watch, Written};
pub use note::{KeyKind, Note, NoteSignature, VerifierKey, verified};
pub use pack::{Failure, PackTrust, Report, entries, export, keys, verify};
pub use proof::{verify_consistency, verify_inclusion};
pub use receipt::{Claims, Energy, EnergyGrade, Receipt, Sampling, commitment, new_salt, receipt_hash};
pub use recorder::{Recorded, Recorder};
pub use records::RECORD_LIMIT_BYTES;
pub use session::{SESSION_LEFT_S, SESSION_S, Session};
pub use tile::{BUNDLE_ENTRY_LIMIT_BYTES, TILE_WIDTH, Tile, bundle, bundle_entries, tile_bytes, tile_hashes};
pub use tlog_proof::{TlogProof, Trust};
pub use tree::{Edge, Tiles, Tree};
pub use witness::{AddCheckpoint, Refusal, Seen, Witness, judge};
