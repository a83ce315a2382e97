//! SHA-256 as RFC 6962, section 2.1, uses it: leaves and inner nodes can never be taken for each other.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// 32 bytes of SHA-256. Shows as standard Base64, as notes and proofs write it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

/// What identifies an entry: SHA-256(0x00 ‖ entry).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    joined(&[&[0], entry])
}

/// SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: Hash, right: Hash) -> Hash {
    joined(&[&[1], &left.0, &right.0])
}

/// The root of a tree without entries: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    plain_hash(b"")
}

/// SHA-256 without a prefix.
pub(crate) fn plain_hash(bytes: &[u8]) -> Hash {
    from_digest(digest(&SHA256, bytes))
}

pub(crate) fn joined(pieces: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for piece in pieces {
        context.update(piece);
    }
    from_digest(context.finish())
}

fn from_digest(digest: aws_lc_rs::digest::Digest) -> Hash {
    let mut hash = Hash([0; 32]);
    for (to, from) in hash.0.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    hash
}

impl Hash {
    /// Reads standard Base64 of exactly 32 bytes, strictly: no other text gives the same hash.
    pub fn from_base64(text: &str) -> Option<Self> {
        Some(Self(STANDARD.decode(text).ok()?.try_into().ok()?))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}
