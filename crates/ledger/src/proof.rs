//! Checking proofs of inclusion and consistency, with nothing but hashes. Making them needs tiles: see `tree.rs`.
//! Source: RFC 9162, sections 2.1.3.2 and 2.1.4.2, whose trees are those of RFC 6962.

use crate::error::LedgerError;
use crate::hash::{Hash, empty_root, node_hash};

/// Does the tree of `size` entries with this `root` hold `leaf` at `index`? `proof` goes from the leaf's sibling upwards.
///
/// # Errors
/// [`LedgerError::BadProof`] when it does not follow.
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: Hash) -> Result<(), LedgerError> {
    if index >= size {
        return Err(bad("the index is not below the size"));
    }
    let (mut position, mut last, mut hash) = (index, size - 1, leaf);
    for &sibling in proof {
        if last == 0 {
            return Err(bad("it is too long"));
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(sibling, hash);
            // A node without a right sibling stands for itself on the levels above, until it is a right child.
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(bad("it is too short"));
    }
    if hash == root { Ok(()) } else { Err(bad("it leads to another root")) }
}

/// Is the tree of `old_size` entries with `old_root` the beginning of the one of `new_size` with `new_root`?
///
/// # Errors
/// [`LedgerError::BadProof`] when it does not follow.
pub fn verify_consistency(
    old_size: u64,
    old_root: Hash,
    new_size: u64,
    new_root: Hash,
    proof: &[Hash],
) -> Result<(), LedgerError> {
    if old_size > new_size {
        return Err(bad("the old tree is the larger one"));
    }
    if old_size == 0 || old_size == new_size {
        if !proof.is_empty() {
            return Err(bad("it is too long"));
        }
        if old_size == 0 && old_root != empty_root() {
            return Err(bad("the empty tree has another root"));
        }
        return if old_size == 0 || old_root == new_root { Ok(()) } else { Err(bad("one size, two roots")) };
    }
    let (mut position, mut last) = (old_size - 1, new_size - 1);
    while position & 1 == 1 {
        position >>= 1;
        last >>= 1;
    }
    let mut rest = proof.iter().copied();
    // When the old tree is one complete subtree, its root is where the walk starts and is left out of the proof.
    let seed = if old_size.is_power_of_two() { old_root } else { rest.next().ok_or(bad("it is empty"))? };
    let (mut old, mut new) = (seed, seed);
    for hash in rest {
        if last == 0 {
            return Err(bad("it is too long"));
        }
        if position & 1 == 1 || position == last {
            old = node_hash(hash, old);
            new = node_hash(hash, new);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(new, hash);
        }
        position >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(bad("it is too short"));
    }
    if old != old_root {
        return Err(bad("it leads to another old root"));
    }
    if new == new_root { Ok(()) } else { Err(bad("it leads to another new root")) }
}

fn bad(reason: &'static str) -> LedgerError {
    LedgerError::BadProof { reason }
}
