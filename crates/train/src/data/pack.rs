//! Which examples share a row. Each document of a row sees itself only, so company changes no result, only how much of a
//! batch is padding.

use std::collections::BTreeMap;

use super::order::shuffled;
use super::store::{Kind, Record};

/// A stretch of an example in a row: its predictions `from..from + slots`, of which the first is that of token `from + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub record: u32,
    pub from: u32,
    pub slots: u32,
}

/// Rows of pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packing {
    pieces: Vec<Piece>,
    /// Where each row ends among the pieces.
    ends: Vec<u32>,
}

impl Packing {
    /// Lays the records whose numbers are `members` into rows of `length` predictions: in seeded order, each into the fullest
    /// row that has room (best fit), running text first cut to rows. Nothing is longer than a row but running text. Without
    /// `together`, every piece has a row of its own; pairs always share one.
    pub fn new(records: &[Record], members: &[u32], length: u32, together: bool, seed: u64) -> Self {
        // A unit is a record, or a pair of them.
        let record = |member: u32| records.get(member as usize);
        let units: Vec<u32> = members
            .iter()
            .copied()
            .filter(|member| record(*member).is_some_and(|r| r.kind != Kind::Rejected))
            .collect();
        let mut rows: Vec<Vec<Piece>> = Vec::new();
        // Rows by the room they have left.
        let mut open: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        let mut place = |pieces: &[Piece]| {
            let slots: u32 = pieces.iter().map(|piece| piece.slots).sum();
            let fits = if together { open.range(slots..).next().map(|(room, _)| *room) } else { None };
            let (row, room) = match fits {
                Some(room) => {
                    let list = open.entry(room).or_default();
                    let row = list.pop().unwrap_or(0);
                    if list.is_empty() {
                        open.remove(&room);
                    }
                    (row, room)
                }
                None => {
                    rows.push(Vec::new());
                    (rows.len() - 1, length)
                }
            };
            if let Some(row) = rows.get_mut(row) {
                row.extend_from_slice(pieces);
            }
            if together && room > slots {
                open.entry(room - slots).or_default().push(row);
            }
        };
        for at in shuffled(seed, PACKING, units.len()) {
            let Some(&number) = units.get(at as usize) else { continue };
            let Some(unit) = record(number) else { continue };
            let slots = unit.tokens.saturating_sub(1);
            match unit.kind {
                Kind::Text => {
                    for from in (0..slots).step_by(length.max(1) as usize) {
                        place(&[Piece { record: number, from, slots: (slots - from).min(length) }]);
                    }
                }
                Kind::Chosen => {
                    let other = record(number + 1).map_or(0, |other| other.tokens.saturating_sub(1));
                    let second = Piece { record: number + 1, from: 0, slots: other };
                    place(&[Piece { record: number, from: 0, slots }, second]);
                }
                Kind::Example | Kind::Rejected => place(&[Piece { record: number, from: 0, slots }]),
            }
        }
        let mut packing = Self::default();
        for row in rows {
            packing.pieces.extend(row);
            packing.ends.push(u32::try_from(packing.pieces.len()).unwrap_or(u32::MAX));
        }
        packing
    }

    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    pub fn row(&self, row: usize) -> &[Piece] {
        let end = self.ends.get(row).copied().unwrap_or(0) as usize;
        let start = row.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0) as usize;
        self.pieces.get(start..end).unwrap_or_default()
    }

    /// Predictions in all rows.
    pub fn slots(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.slots)).sum()
    }
}

/// Keeps this order apart from those of the epochs.
const PACKING: u64 = 0x7061_636b;

#[cfg(test)]
mod tests {
    use super::*;

    fn records(sizes: &[(u32, Kind)]) -> Vec<Record> {
        let mut first = 0;
        let mut make = |(tokens, kind): &(u32, Kind)| {
            let record = Record { first, tokens: *tokens, file: 0, kind: *kind };
            first += u64::from(*tokens);
            record
        };
        sizes.iter().map(&mut make).collect()
    }

    fn all(records: &[Record]) -> Vec<u32> {
        (0..records.len() as u32).collect()
    }

    /// Every prediction of every record exactly once, no row too full.
    fn check(records: &[Record], packing: &Packing, length: u32) {
        let mut seen: Vec<Vec<bool>> = records.iter().map(|record| vec![false; record.tokens as usize - 1]).collect();
        for row in 0..packing.rows() {
            let pieces = packing.row(row);
            assert!(!pieces.is_empty() && pieces.iter().map(|piece| piece.slots).sum::<u32>() <= length);
            for piece in pieces {
                for slot in piece.from..piece.from + piece.slots {
                    assert!(!std::mem::replace(&mut seen[piece.record as usize][slot as usize], true));
                }
            }
            for (at, piece) in pieces.iter().enumerate() {
                if records[piece.record as usize].kind == Kind::Chosen {
                    assert_eq!(pieces[at + 1].record, piece.record + 1, "pairs stay together");
                }
            }
        }
        assert!(seen.iter().flatten().all(|slot| *slot));
    }

    #[test]
    fn everything_is_laid_once_and_rows_are_full() {
        let sizes: Vec<_> = (0..2000).map(|at| (2 + (at * 37) % 63, Kind::Example)).collect();
        let records = records(&sizes);
        let packing = Packing::new(&records, &all(&records), 64, true, 3);
        check(&records, &packing, 64);
        let full = packing.slots() as f64 / (packing.rows() * 64) as f64;
        assert!(full > 0.97, "{full}");
        assert_eq!(packing, Packing::new(&records, &all(&records), 64, true, 3));
        assert_ne!(packing, Packing::new(&records, &all(&records), 64, true, 4));
        let apart = Packing::new(&records, &all(&records), 64, false, 3);
        check(&records, &apart, 64);
        assert_eq!(apart.rows(), 2000);
    }

    #[test]
    fn text_is_cut_and_pairs_stay_together() {
        let sizes = [(1000, Kind::Text), (65, Kind::Text), (20, Kind::Chosen), (30, Kind::Rejected), (66, Kind::Text)];
        let records = records(&sizes);
        for together in [true, false] {
            check(&records, &Packing::new(&records, &all(&records), 64, together, 1), 64);
        }
        assert_eq!(Packing::new(&records, &[], 64, true, 1).rows(), 0);
    }
}
