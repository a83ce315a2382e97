//! The thread that makes whole tiles durable and then removes the segments they came from. It has its own thread because that
//! is thousands of syncs at once, which neither appends nor checkpoints should wait for.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::{Shared, locked};
use crate::error::LedgerError;
use crate::tile::{TILE_WIDTH, Tile};

/// Segments, by their first entry, that may go once everything below `settled` is durable in tiles and bundles.
pub(super) struct Retire {
    /// A multiple of 256, not above the checkpoint's size.
    pub(super) settled: u64,
    pub(super) segments: Vec<u64>,
}

pub(super) struct Retirer {
    pub(super) shared: Arc<Shared>,
    /// Every tile and bundle below this entry is durable.
    pub(super) settled: u64,
}

impl Retirer {
    /// What fails stays on the disk and goes when the log is opened again.
    pub(super) fn run(mut self, work: Receiver<Retire>) {
        for Retire { settled, segments } in work {
            let outcome =
                self.settle(settled).and_then(|()| segments.into_iter().try_for_each(|first| self.remove(first)));
            locked(&self.shared.health).retiring = outcome.err();
        }
    }

    fn remove(&self, first: u64) -> Result<(), LedgerError> {
        let path = self.shared.folder.path(&format!("wal/{first:020}"));
        fs::remove_file(&path).map_err(LedgerError::io("remove", &path))
    }

    fn settle(&mut self, settled: u64) -> Result<(), LedgerError> {
        let mut parents = BTreeSet::new();
        for level in 0..8 {
            let tiles = |size: u64| (size >> (8 * level)) / TILE_WIDTH;
            for index in tiles(self.settled)..tiles(settled) {
                let tile = Tile { level, index, width: TILE_WIDTH };
                let bundle = (level == 0).then(|| tile.bundle_path());
                for path in bundle.into_iter().chain([tile.path()]) {
                    self.shared.folder.sync(&path)?;
                    parents.insert(path.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default());
                }
            }
        }
        for parent in parents {
            self.shared.folder.sync(&parent)?;
            self.shared.folder.sync_parents(&parent)?;
        }
        self.settled = settled;
        Ok(())
    }
}
