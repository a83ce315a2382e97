//! From packed rows to the batches of a job. What step n holds depends on the data, the seed and n alone, so a resumed job
//! sees exactly what an unbroken one would have seen.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use falaj_artifact::{Digest, Hasher};

use super::order::shuffled;
use super::pack::{Packing, Piece};
use super::store::Store;
use crate::{MicroBatch, TrainError};

/// The shape of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of a micro-batch.
    pub rows: usize,
    /// Predictions in a row.
    pub length: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// Several examples share a row.
    pub pack: bool,
    /// What fills the rest of a row; any token of the vocabulary.
    pub padding: u32,
}

/// A micro-batch, and where its documents are. Of preference pairs, those of even number are preferred to the next one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Laid {
    pub batch: MicroBatch,
    /// In the flat list of tokens, in order.
    pub documents: Vec<Range<usize>>,
}

/// The batches of a job.
#[derive(Debug)]
pub struct Batches {
    store: Store,
    groups: Vec<Group>,
    shape: Shape,
    seed: u64,
    walk: Mutex<Walk>,
    orders: Mutex<Vec<Order>>,
}

/// Rows that are drawn from together: a file with its weight, or all files.
#[derive(Debug)]
struct Group {
    packing: Packing,
    share: f64,
}

/// How many rows of each group come before row `row`.
#[derive(Debug, Clone, Default)]
struct Walk {
    row: u64,
    taken: Vec<u64>,
}

#[derive(Debug, Clone)]
struct Order {
    group: usize,
    epoch: u64,
    rows: Arc<Vec<u32>>,
}

impl Batches {
    /// `weights`: one per file, the share of rows that come from it; none: all files are one.
    ///
    /// # Errors
    /// `NoData` where there is nothing to draw from.
    pub fn new(store: Store, shape: Shape, seed: u64, weights: Option<&[f64]>) -> Result<Self, TrainError> {
        let length = u32::try_from(shape.length).unwrap_or(u32::MAX);
        let members = |file: Option<usize>| -> Vec<u32> {
            let records = store.records().iter().zip(0..);
            records
                .filter(|(record, _)| file.is_none_or(|file| usize::from(record.file) == file))
                .map(|(_, at)| at)
                .collect()
        };
        let pack = |file| Packing::new(store.records(), &members(file), length, shape.pack, seed);
        let mut groups: Vec<Group> = match weights {
            None => vec![Group { packing: pack(None), share: 1.0 }],
            Some(weights) => weights
                .iter()
                .enumerate()
                .map(|(file, share)| Group { packing: pack(Some(file)), share: *share })
                .collect(),
        };
        groups.retain(|group| group.packing.rows() > 0 && group.share > 0.0);
        let whole: f64 = groups.iter().map(|group| group.share).sum();
        groups.iter_mut().for_each(|group| group.share /= whole);
        if groups.is_empty() {
            return Err(TrainError::NoData);
        }
        let walk = Walk { row: 0, taken: vec![0; groups.len()] };
        Ok(Self { store, groups, shape, seed, walk: Mutex::new(walk), orders: Mutex::default() })
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Rows of one pass over everything.
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|group| group.packing.rows() as u64).sum()
    }

    /// Share of the rows' places that hold a prediction.
    pub fn fill(&self) -> f64 {
        let slots: u64 = self.groups.iter().map(|group| group.packing.slots()).sum();
        slots as f64 / (self.rows() * self.shape.length as u64).max(1) as f64
    }

    /// Steps that see everything `epochs` times; the last one is filled up from the next epoch.
    pub fn steps(&self, epochs: f64) -> u64 {
        let rows = self.rows() as f64 * epochs;
        (rows / (self.shape.rows * self.shape.accumulate) as f64).ceil().max(1.0) as u64
    }

    /// The micro-batches of step `step`, the first being 0.
    ///
    /// # Errors
    /// `Io`, `DataDamaged`.
    pub fn step(&self, step: u64) -> Result<Vec<MicroBatch>, TrainError> {
        Ok(self.laid(step)?.into_iter().map(|laid| laid.batch).collect())
    }

    /// The same, with the places of the documents.
    ///
    /// # Errors
    /// Those of [`Batches::step`].
    pub fn laid(&self, step: u64) -> Result<Vec<Laid>, TrainError> {
        let rows: Vec<&[Piece]> = self.rows_of(step).into_iter().map(|(group, row)| self.pieces(group, row)).collect();
        rows.chunks(self.shape.rows.max(1)).map(|rows| self.lay(rows)).collect()
    }

    /// The first `most` rows of one pass, in an order of their own, the last micro-batch padded: for evaluation. 0: all.
    ///
    /// # Errors
    /// Those of [`Batches::step`].
    pub fn sample(&self, most: usize) -> impl Iterator<Item = Result<Laid, TrainError>> {
        let all: Vec<(usize, usize)> = self
            .groups
            .iter()
            .enumerate()
            .flat_map(|(group, rows)| (0..rows.packing.rows()).map(move |row| (group, row)))
            .collect();
        let order = shuffled(self.seed, SAMPLE, all.len());
        let most = if most == 0 { all.len() } else { most.min(all.len()) };
        let chosen: Vec<(usize, usize)> =
            order.iter().take(most).filter_map(|at| all.get(*at as usize).copied()).collect();
        let rows = self.shape.rows.max(1);
        let batches = chosen.len().div_ceil(rows);
        (0..batches).map(move |batch| {
            let some = chosen.iter().skip(batch * rows).take(rows);
            let mut pieces: Vec<&[Piece]> = some.map(|(group, row)| self.pieces(*group, *row)).collect();
            pieces.resize(rows, &[]);
            self.lay(&pieces)
        })
    }

    /// Names the content and the exact order of the first `steps` steps.
    pub fn order_digest(&self, steps: u64) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(self.store.digest().as_bytes());
        for shape in [self.shape.rows, self.shape.length, self.shape.accumulate] {
            hasher.update(&(shape as u64).to_le_bytes());
        }
        for group in &self.groups {
            for row in 0..group.packing.rows() {
                let pieces = group.packing.row(row);
                let bytes =
                    pieces.iter().flat_map(|piece| [piece.record, piece.from, piece.slots]).flat_map(u32::to_le_bytes);
                hasher.update(&bytes.collect::<Vec<u8>>());
                hasher.update(&[0xff]);
            }
        }
        for step in 0..steps {
            for (group, row) in self.rows_of(step) {
                hasher.update(&(group as u32).to_le_bytes());
                hasher.update(&(row as u32).to_le_bytes());
            }
        }
        hasher.finish()
    }

    fn pieces(&self, group: usize, row: usize) -> &[Piece] {
        self.groups.get(group).map_or(&[], |group| group.packing.row(row))
    }

    /// (group, row) of every row of a step.
    fn rows_of(&self, step: u64) -> Vec<(usize, usize)> {
        let count = (self.shape.rows * self.shape.accumulate) as u64;
        let first = step * count;
        let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        if self.groups.len() == 1 {
            *walk = Walk { row: first, taken: vec![first] };
        } else if walk.row > first {
            *walk = Walk { row: 0, taken: vec![0; self.groups.len()] };
        }
        while walk.row < first {
            self.draw(&mut walk);
        }
        (0..count).map(|_| self.draw(&mut walk)).collect()
    }

    /// The next row: of the group that is furthest behind its share.
    fn draw(&self, walk: &mut Walk) -> (usize, usize) {
        let due = (walk.row + 1) as f64;
        let behind = self.groups.iter().zip(&walk.taken).map(|(group, taken)| group.share * due - *taken as f64);
        // The first of equals.
        let best =
            behind.enumerate().fold((0, f64::NEG_INFINITY), |best, (at, by)| if by > best.1 { (at, by) } else { best });
        let (group, _) = best;
        walk.row += 1;
        let Some(taken) = walk.taken.get_mut(group) else { return (0, 0) };
        let drawn = *taken;
        *taken += 1;
        let rows = self.groups.get(group).map_or(1, |group| group.packing.rows()).max(1) as u64;
        let order = self.order(group, drawn / rows, rows as usize);
        (group, order.get((drawn % rows) as usize).copied().unwrap_or(0) as usize)
    }

    /// The order of a group's rows in an epoch.
    fn order(&self, group: usize, epoch: u64, rows: usize) -> Arc<Vec<u32>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = orders.iter().find(|order| (order.group, order.epoch) == (group, epoch)) {
            return known.rows.clone();
        }
        let rows = Arc::new(shuffled(self.seed, (epoch << 16) | group as u64, rows));
        orders.retain(|order| order.group != group || order.epoch + 1 == epoch);
        orders.push(Order { group, epoch, rows: rows.clone() });
        rows
    }

    /// Rows laid end to end.
    fn lay(&self, rows: &[&[Piece]]) -> Result<Laid, TrainError> {
        let mut laid = Laid::default();
        let Laid { batch, documents } = &mut laid;
        for (row, pieces) in rows.iter().enumerate() {
            for piece in *pieces {
                let damaged = || TrainError::DataDamaged { path: "index".into() };
                let record = self.store.records().get(piece.record as usize).ok_or_else(damaged)?;
                let example = self.store.read(record, piece.from, piece.slots + 1)?;
                let start = batch.tokens.len();
                let slots = piece.slots as usize;
                batch.tokens.extend(example.tokens.iter().take(slots));
                batch.targets.extend(example.tokens.iter().skip(1));
                batch.weights.extend(example.weights.iter().skip(1));
                batch.starts.resize(start + slots, start as u32);
                batch.positions.extend(0..piece.slots);
                documents.push(start..start + slots);
            }
            // Padding sees itself alone and counts nothing.
            let end = (row + 1) * self.shape.length;
            batch.starts.extend((batch.tokens.len() as u32)..end as u32);
            batch.tokens.resize(end, self.shape.padding);
            batch.targets.resize(end, self.shape.padding);
            batch.weights.resize(end, 0.0);
            batch.positions.resize(end, 0);
        }
        Ok(laid)
    }
}

/// Keeps the order of samples apart from those of epochs.
const SAMPLE: u64 = 0x7361_6d70_6c65;

#[cfg(test)]
mod tests;
