//! The Merkle tree of RFC 6962 over tiles: [`Edge`] grows it and keeps only the unfinished tiles in memory, [`Tree`] reads
//! roots and makes proofs from stored tiles. Checking proofs needs no tiles: `proof.rs`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::error::LedgerError;
use crate::hash::{Hash, empty_root, node_hash};
use crate::tile::{TILE_HEIGHT, TILE_WIDTH, Tile};

/// Where tiles come from: a folder, a pack, memory.
pub trait Tiles {
    /// The `tile.width` hashes of a tile.
    ///
    /// # Errors
    /// A tile that is missing or of another length.
    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, LedgerError>;
}

/// The right edge of a growing tree: for each level the hashes of its last tile, while that is not full.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// Reads the edge of a tree of `size` entries.
    ///
    /// # Errors
    /// Those of `tiles`.
    pub fn read(size: u64, tiles: &impl Tiles) -> Result<Self, LedgerError> {
        let mut levels = Vec::new();
        for level in 0..8 {
            let hashes = size >> (TILE_HEIGHT * level);
            if hashes == 0 {
                break;
            }
            levels.push(match Tile::within(level, hashes / TILE_WIDTH, size) {
                Some(tile) => tiles.tile(tile)?,
                None => Vec::new(),
            });
        }
        Ok(Self { size, levels })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds one leaf; `full` gets each tile that it completes, lowest first.
    pub fn push(&mut self, leaf: Hash, mut full: impl FnMut(Tile, &[Hash])) {
        self.size += 1;
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() <= level {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(level) else { return };
            hashes.push(hash);
            if (hashes.len() as u64) < TILE_WIDTH {
                return;
            }
            let shift = TILE_HEIGHT * (level as u32 + 1);
            full(Tile { level: level as u32, index: (self.size >> shift) - 1, width: TILE_WIDTH }, hashes);
            hash = subtree(hashes);
            hashes.clear();
        }
    }

    /// The unfinished tiles, lowest level first: what a checkpoint of this size needs beside the full ones.
    pub fn partial(&self) -> impl Iterator<Item = (Tile, &[Hash])> {
        self.levels.iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()).map(|(level, hashes)| {
            let index = self.size >> (TILE_HEIGHT * (level as u32 + 1));
            (Tile { level: level as u32, index, width: hashes.len() as u64 }, hashes.as_slice())
        })
    }

    pub fn root(&self) -> Hash {
        let mut root = None;
        for hashes in &self.levels {
            // Complete subtrees of this tile, from the smallest, which stands rightmost.
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let width = 1 << rest.len().trailing_zeros();
                let (before, last) = rest.split_at(rest.len() - width);
                let hash = subtree(last);
                root = Some(root.map_or(hash, |right| node_hash(hash, right)));
                rest = before;
            }
        }
        root.unwrap_or_else(empty_root)
    }
}

/// Root of a complete subtree. hashes: a power of two of them.
pub(crate) fn subtree(hashes: &[Hash]) -> Hash {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level.as_chunks::<2>().0.iter().map(|&[left, right]| node_hash(left, right)).collect();
    }
    level.first().copied().unwrap_or_else(empty_root)
}

/// A tree of a fixed size over stored tiles. Keeps the tiles it has read: make one per proof, or per few.
pub struct Tree<'a, T> {
    size: u64,
    tiles: &'a T,
    read: RefCell<BTreeMap<(u32, u64), Vec<Hash>>>,
}

impl<'a, T: Tiles> Tree<'a, T> {
    pub fn new(size: u64, tiles: &'a T) -> Self {
        Self { size, tiles, read: RefCell::default() }
    }

    /// # Errors
    /// Tiles that are missing or damaged.
    pub fn root(&self) -> Result<Hash, LedgerError> {
        if self.size == 0 { Ok(empty_root()) } else { self.range(0, self.size) }
    }

    /// The leaf hash of entry `index`.
    ///
    /// # Errors
    /// An index that is not below the size; tiles that are missing or damaged.
    pub fn leaf(&self, index: u64) -> Result<Hash, LedgerError> {
        self.node(0, index)
    }

    /// Proof that entry `index` is in this tree, from its sibling upwards. Source: RFC 6962, section 2.1.1.
    ///
    /// # Errors
    /// An index that is not below the size; tiles that are missing or damaged.
    pub fn inclusion(&self, index: u64) -> Result<Vec<Hash>, LedgerError> {
        if index >= self.size {
            return Err(self.beyond(index));
        }
        let (mut start, mut end, mut proof) = (0, self.size, Vec::new());
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                proof.push(self.range(middle, end)?);
                end = middle;
            } else {
                proof.push(self.range(start, middle)?);
                start = middle;
            }
        }
        proof.reverse();
        Ok(proof)
    }

    /// Proof that the tree of the first `old_size` entries is this one's beginning. Source: RFC 6962, section 2.1.2.
    ///
    /// # Errors
    /// A larger old size; tiles that are missing or damaged.
    pub fn consistency(&self, old_size: u64) -> Result<Vec<Hash>, LedgerError> {
        if old_size > self.size {
            return Err(self.beyond(old_size));
        }
        let (mut start, mut end, mut proof, mut whole) = (0, self.size, Vec::new(), true);
        if old_size == 0 {
            return Ok(proof);
        }
        while old_size != end {
            let middle = start + split(end - start);
            if old_size <= middle {
                proof.push(self.range(middle, end)?);
                end = middle;
            } else {
                proof.push(self.range(start, middle)?);
                start = middle;
                whole = false;
            }
        }
        if !whole {
            proof.push(self.range(start, end)?);
        }
        proof.reverse();
        Ok(proof)
    }

    fn beyond(&self, index: u64) -> LedgerError {
        LedgerError::BeyondTree { index, size: self.size }
    }

    /// Merkle tree hash of entries `start..end`, which is a node of the tree or its right edge.
    fn range(&self, start: u64, end: u64) -> Result<Hash, LedgerError> {
        let entries = end - start;
        if entries.is_power_of_two() {
            return self.node(entries.trailing_zeros(), start / entries);
        }
        let middle = start + split(entries);
        Ok(node_hash(self.range(start, middle)?, self.range(middle, end)?))
    }

    /// The `index`th complete subtree of `2^height` entries.
    fn node(&self, height: u32, index: u64) -> Result<Hash, LedgerError> {
        let (level, inner) = (height / TILE_HEIGHT, height % TILE_HEIGHT);
        let first = index << inner;
        let (tile, offset) = (first / TILE_WIDTH, (first % TILE_WIDTH) as usize);
        let mut read = self.read.borrow_mut();
        let hashes = match read.entry((level, tile)) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let tile = Tile::within(level, tile, self.size).ok_or_else(|| self.beyond(index << height))?;
                place.insert(self.tiles.tile(tile)?)
            }
        };
        let hashes = hashes.get(offset..offset + (1 << inner)).ok_or_else(|| self.beyond(index << height))?;
        Ok(subtree(hashes))
    }
}

/// The largest power of two below `entries`, which is at least 2.
fn split(entries: u64) -> u64 {
    1 << (u64::BITS - 1 - (entries - 1).leading_zeros())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::hash::leaf_hash;
    use crate::proof::{verify_consistency, verify_inclusion};

    /// Tiles in memory, full and partial, as a log of exactly these entries has them.
    pub struct Memory(pub HashMap<Tile, Vec<Hash>>);

    impl Memory {
        pub fn of(leaves: &[Hash]) -> (Self, Hash) {
            let (mut edge, mut tiles) = (Edge::default(), HashMap::new());
            for &leaf in leaves {
                edge.push(leaf, |tile, hashes| {
                    tiles.insert(tile, hashes.to_vec());
                });
            }
            tiles.extend(edge.partial().map(|(tile, hashes)| (tile, hashes.to_vec())));
            (Self(tiles), edge.root())
        }
    }

    impl Tiles for Memory {
        fn tile(&self, tile: Tile) -> Result<Vec<Hash>, LedgerError> {
            self.0.get(&tile).cloned().ok_or(LedgerError::MissingTile { path: tile.path() })
        }
    }

    /// RFC 6962's definition, word for word: the oracle.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(mth(left), mth(right))
            }
        }
    }

    fn hex(text: &str) -> Hash {
        let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect();
        Hash(bytes.try_into().unwrap())
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|index| leaf_hash(&index.to_be_bytes())).collect()
    }

    /// The eight entries and roots that implementations of RFC 6962 share as their reference.
    #[test]
    fn roots_of_the_eight_reference_entries() {
        let entries: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut edge = Edge::default();
        assert_eq!(edge.root(), hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
        for (entry, root) in entries.iter().zip(roots) {
            edge.push(leaf_hash(entry), |_, _| {});
            assert_eq!(edge.root(), hex(root), "size {}", edge.size());
        }
    }

    #[test]
    fn small_trees_have_all_proofs() {
        let all = leaves(40);
        for size in 0..=40 {
            let (tiles, root) = Memory::of(&all[..size]);
            let tree = Tree::new(size as u64, &tiles);
            assert_eq!((tree.root().unwrap(), root), (mth(&all[..size]), root));
            for index in 0..size {
                let proof = tree.inclusion(index as u64).unwrap();
                verify_inclusion(all[index], index as u64, size as u64, &proof, root).unwrap();
            }
            for old in 0..=size {
                let proof = tree.consistency(old as u64).unwrap();
                verify_consistency(old as u64, mth(&all[..old]), size as u64, root, &proof).unwrap();
            }
            assert!(tree.inclusion(size as u64).is_err());
            assert!(tree.consistency(size as u64 + 1).is_err());
        }
    }

    #[test]
    fn an_edge_that_was_read_grows_like_one_that_was_never_stored() {
        let all = leaves(65_900);
        for size in [0, 1, 255, 256, 257, 65_535] {
            let (tiles, root) = Memory::of(&all[..size]);
            let mut edge = Edge::read(size as u64, &tiles).unwrap();
            assert_eq!(edge.root(), root);
            let end = size + 300;
            for &leaf in &all[size..end] {
                edge.push(leaf, |_, _| {});
            }
            assert_eq!(edge.root(), mth(&all[..end]), "from {size}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn proofs_hold_and_nothing_near_them_does(size in 1usize..1500, a in any::<u64>(), b in any::<u64>(), flip in any::<u64>()) {
            let all = leaves(size);
            let (tiles, root) = Memory::of(&all);
            let tree = Tree::new(size as u64, &tiles);
            prop_assert_eq!(root, mth(&all));
            let (index, old) = (a % size as u64, b % size as u64 + 1);
            let old_root = mth(&all[..old as usize]);
            let (inclusion, consistency) = (tree.inclusion(index).unwrap(), tree.consistency(old).unwrap());
            prop_assert!(verify_inclusion(all[index as usize], index, size as u64, &inclusion, root).is_ok());
            prop_assert!(verify_consistency(old, old_root, size as u64, root, &consistency).is_ok());
            prop_assert!(verify_inclusion(leaf_hash(b"other"), index, size as u64, &inclusion, root).is_err());
            prop_assert!(verify_inclusion(all[index as usize], index, size as u64, &inclusion, old_root).is_err() || old == size as u64);
            if size > 1 {
                let at = (flip / 256) as usize % inclusion.len();
                let mut wrong = inclusion.clone();
                wrong[at].0[flip as usize % 32] ^= 1;
                prop_assert!(verify_inclusion(all[index as usize], index, size as u64, &wrong, root).is_err());
                prop_assert!(verify_inclusion(all[index as usize], index, size as u64, &inclusion[1..], root).is_err());
                let other = (index + 1) % size as u64;
                prop_assert!(verify_inclusion(all[index as usize], other, size as u64, &inclusion, root).is_err());
            }
            let mut long = inclusion;
            long.push(root);
            prop_assert!(verify_inclusion(all[index as usize], index, size as u64, &long, root).is_err());
            for at in 0..consistency.len() {
                let mut wrong = consistency.clone();
                wrong[at].0[flip as usize % 32] ^= 1;
                prop_assert!(verify_consistency(old, old_root, size as u64, root, &wrong).is_err());
            }
            let mut long = consistency;
            long.push(root);
            prop_assert!(verify_consistency(old, old_root, size as u64, root, &long).is_err());
        }
    }
}
