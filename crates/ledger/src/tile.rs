//! Names and bytes of tiles and entry bundles. Source: C2SP tlog-tiles. What their hashes mean is in `tree.rs`.

use crate::error::LedgerError;
use crate::hash::Hash;

/// Hashes of a full tile, entries of a full bundle: a tile is a subtree of height 8.
pub const TILE_WIDTH: u64 = 256;
pub(crate) const TILE_HEIGHT: u32 = 8;
/// An entry's length is a 16-bit number in its bundle.
pub const BUNDLE_ENTRY_LIMIT_BYTES: usize = u16::MAX as usize;

/// One tile of one tree size. `width` is 256, or less for the last one of its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    pub level: u32,
    pub index: u64,
    pub width: u64,
}

impl Tile {
    /// The tile as it stands in a tree of `size` entries; none when that tree has no hash there.
    pub fn within(level: u32, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(TILE_HEIGHT * level).unwrap_or(0);
        let width = hashes.checked_sub(index.checked_mul(TILE_WIDTH)?)?.min(TILE_WIDTH);
        (width > 0).then_some(Self { level, index, width })
    }

    /// All tiles of a tree of `size` entries, lowest level first.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        (0..8).flat_map(move |level| {
            let hashes = size >> (TILE_HEIGHT * level);
            (0..hashes.div_ceil(TILE_WIDTH)).filter_map(move |index| Self::within(level, index, size))
        })
    }

    /// Its path below the log's folder or URL.
    pub fn path(self) -> String {
        format!("tile/{}/{}", self.level, numbered(self.index, self.width))
    }

    /// The path of the bundle with the entries below this tile, if it is of level 0.
    pub fn bundle_path(self) -> String {
        format!("tile/entries/{}", numbered(self.index, self.width))
    }

    pub fn is_full(self) -> bool {
        self.width == TILE_WIDTH
    }

    pub fn full(self) -> Self {
        Self { width: TILE_WIDTH, ..self }
    }
}

/// `x001/x234/067`, and `.p/17` behind it when it is not full.
fn numbered(index: u64, width: u64) -> String {
    let mut text = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    if width == TILE_WIDTH { text } else { format!("{text}.p/{width}") }
}

/// The bytes of a tile, whole or partial.
pub fn tile_bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// # Errors
/// A length other than the tile's.
pub fn tile_hashes(tile: Tile, bytes: &[u8]) -> Result<Vec<Hash>, LedgerError> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() as u64 != tile.width {
        return Err(LedgerError::CorruptTile { path: tile.path(), reason: "its length is wrong" });
    }
    Ok(hashes.iter().map(|&bytes| Hash(bytes)).collect())
}

/// The bytes of a bundle. An entry longer than [`BUNDLE_ENTRY_LIMIT_BYTES`] cannot be here; the log refuses it.
pub fn bundle<T: AsRef<[u8]>>(entries: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.iter().map(|entry| 2 + entry.as_ref().len()).sum());
    for entry in entries {
        push_entry(&mut bytes, entry.as_ref());
    }
    bytes
}

pub(crate) fn push_entry(bytes: &mut Vec<u8>, entry: &[u8]) {
    debug_assert!(entry.len() <= BUNDLE_ENTRY_LIMIT_BYTES);
    bytes.extend((entry.len() as u16).to_be_bytes());
    bytes.extend(entry);
}

/// The entries of a bundle, or none when the bytes are not exactly whole entries.
pub fn bundle_entries(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        bytes = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(Tile { level: 0, index: 1_234_067, width: 256 }.path(), "tile/0/x001/x234/067");
        assert_eq!(Tile { level: 3, index: 5, width: 17 }.path(), "tile/3/005.p/17");
        assert_eq!(Tile { level: 0, index: 1000, width: 256 }.bundle_path(), "tile/entries/x001/000");
    }

    #[test]
    fn seventy_thousand_entries_have_the_tiles_of_the_specification() {
        let tiles: Vec<Tile> = Tile::all(70_000).collect();
        assert_eq!(tiles.iter().filter(|tile| tile.level == 0 && tile.is_full()).count(), 273);
        let others: Vec<String> =
            tiles.iter().filter(|tile| tile.level > 0 || !tile.is_full()).map(|t| t.path()).collect();
        assert_eq!(others, ["tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]);
        let whole: Vec<String> = Tile::all(256).map(Tile::path).collect();
        assert_eq!(whole, ["tile/0/000", "tile/1/000.p/1"]);
        assert_eq!(Tile::all(0).count(), 0);
    }

    #[test]
    fn bundles_are_whole_or_nothing() {
        let bytes = bundle(&[&b"one"[..], b"", b"three"]);
        assert_eq!(bundle_entries(&bytes).unwrap(), [&b"one"[..], b"", b"three"]);
        for cut in [1, 4, bytes.len() - 1] {
            assert!(bundle_entries(&bytes[..cut]).is_none(), "{cut}");
        }
    }
}
