//! Tiles, bundles and notes as files below one folder, at the paths of C2SP tlog-tiles, so that a web server can serve the
//! folder as it is. Reads trust nothing; files appear whole or not at all.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::LedgerError;
use crate::hash::Hash;
use crate::tile::{TILE_WIDTH, Tile, bundle_entries, tile_hashes};
use crate::tree::{Tiles, subtree};

#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The bytes of a file, or none if there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self, relative: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let path = self.path(relative);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(LedgerError::io("read", path)(error)),
        }
    }

    /// Puts a file in place in one step. Not durable before [`Folder::sync`].
    ///
    /// # Errors
    /// A disk that is full or fails.
    pub fn write(&self, relative: &str, bytes: &[u8]) -> Result<(), LedgerError> {
        self.place(relative, bytes, false)
    }

    /// As [`Folder::write`], and durable when it returns.
    ///
    /// # Errors
    /// A disk that is full or fails.
    pub fn write_durably(&self, relative: &str, bytes: &[u8]) -> Result<(), LedgerError> {
        self.place(relative, bytes, true)?;
        self.sync_parents(relative)
    }

    fn place(&self, relative: &str, bytes: &[u8], durable: bool) -> Result<(), LedgerError> {
        let path = self.path(relative);
        let new = path.with_extension("new");
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(LedgerError::io("create", parent))?;
        let mut file = File::create(&new).map_err(LedgerError::io("create", &new))?;
        file.write_all(bytes).map_err(LedgerError::io("write", &new))?;
        if durable {
            file.sync_all().map_err(LedgerError::io("sync", &new))?;
        }
        fs::rename(&new, &path).map_err(LedgerError::io("rename", &new))
    }

    /// Makes a file and the names that lead to it durable.
    ///
    /// # Errors
    /// A file that is gone, a disk that fails.
    pub fn sync(&self, relative: &str) -> Result<(), LedgerError> {
        let path = self.path(relative);
        File::open(&path).and_then(|file| file.sync_all()).map_err(LedgerError::io("sync", &path))
    }

    pub(crate) fn sync_parents(&self, relative: &str) -> Result<(), LedgerError> {
        for parent in Path::new(relative).ancestors().skip(1) {
            let path = self.root.join(parent);
            File::open(&path).and_then(|file| file.sync_all()).map_err(LedgerError::io("sync", &path))?;
        }
        Ok(())
    }

    /// Removes the partial forms of a tile or bundle, now that it is full.
    pub(crate) fn remove_partial(&self, full: &str) {
        // They are in nobody's way: what cannot be removed now stays.
        let _ = fs::remove_dir_all(self.path(&format!("{full}.p")));
    }

    /// The entries of the bundle below a tile of level 0. Not compared with the tree.
    ///
    /// # Errors
    /// A bundle that is missing, or holds another number of entries.
    pub fn bundle(&self, tile: Tile) -> Result<Vec<Vec<u8>>, LedgerError> {
        let (path, bytes) = match self.read(&tile.bundle_path())? {
            Some(bytes) => (tile.bundle_path(), bytes),
            // A partial bundle may be gone once the full one is there.
            None => match self.read(&tile.full().bundle_path())? {
                Some(bytes) => (tile.full().bundle_path(), bytes),
                None => return Err(LedgerError::MissingTile { path: tile.bundle_path() }),
            },
        };
        let width = if path == tile.bundle_path() { tile.width } else { TILE_WIDTH };
        match bundle_entries(&bytes) {
            Some(entries) if entries.len() as u64 == width => {
                Ok(entries.into_iter().take(tile.width as usize).map(<[u8]>::to_vec).collect())
            }
            _ => Err(LedgerError::CorruptTile { path, reason: "it is not made of the right number of entries" }),
        }
    }

    /// Another form of a partial tile: the full one, or a wider partial one.
    fn wider(&self, tile: Tile) -> Result<Option<Vec<Hash>>, LedgerError> {
        let mut widths = vec![TILE_WIDTH];
        if let Ok(items) = fs::read_dir(self.path(&format!("{}.p", tile.full().path()))) {
            let names = items.flatten().map(|item| item.file_name());
            widths.extend(
                names.filter_map(|name| name.to_str()?.parse::<u64>().ok()).filter(|&width| width > tile.width),
            );
        }
        for width in widths {
            let wide = Tile { width, ..tile };
            if let Some(bytes) = self.read(&wide.path())? {
                let mut hashes = tile_hashes(wide, &bytes)?;
                hashes.truncate(tile.width as usize);
                return Ok(Some(hashes));
            }
        }
        Ok(None)
    }
}

impl Tiles for Folder {
    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, LedgerError> {
        if let Some(bytes) = self.read(&tile.path())? {
            return tile_hashes(tile, &bytes);
        }
        if tile.is_full() {
            return Err(LedgerError::MissingTile { path: tile.path() });
        }
        if let Some(hashes) = self.wider(tile)? {
            return Ok(hashes);
        }
        let below = tile.level.checked_sub(1).ok_or(LedgerError::MissingTile { path: tile.path() })?;
        let children =
            (0..tile.width).map(|at| Tile { level: below, index: tile.index * TILE_WIDTH + at, width: TILE_WIDTH });
        children.map(|child| Ok(subtree(&self.tile(child)?))).collect()
    }
}
