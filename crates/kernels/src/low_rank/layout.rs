//! How an adapter's matrices lie in memory: one run of bytes for all that products of one input are changed by, so that what is read
//! next is always what lies next. First A of all of them, one below the other, then B of each.
//!
//! A, (rows, cols): panels of 16 rows, at the end one of 8 and one of 4, so that little is filled up. A panel of W rows is the f32
//! scale of each of its sixteen lanes, then for each block of 32 columns W/2 vecs of 64 bytes. With L = 16/W, lane n of vec v is row
//! n / L and columns 4·(L·v + n % L) and the three behind it.
//!
//! B, (outputs, rank): units of 32 outputs. A unit is 32 scales in bf16 (output n, output 16 + n, in turns), then for each half of it
//! ⌈rank/4⌉ vecs: lane n is output n, four columns each.
//!
//! A byte is q + 128, q = round(w / scale) in −127..=127; the scale is the row's largest |w| / 127, of B rounded up to bf16.

use crate::activations::BLOCK;
use crate::low_rank::LowRank;
use crate::panels::WIDTH;
use crate::simd::BYTES;

/// A and B of a product: (rank, cols) and (outputs, rank), row-major.
pub type Matrices<'a> = (&'a [f32], &'a [f32]);

/// The panels that `rows` rows of A take: sixteen rows each, and whether there is one of eight, of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First<'a> {
    pub bytes: &'a [u8],
    pub rows: usize,
    pub blocks: usize,
}

impl<'a> First<'a> {
    fn shape(rows: usize) -> (usize, bool, bool) {
        match (rows / WIDTH, rows % WIDTH) {
            (whole, 0) => (whole, false, false),
            (whole, 1..=4) => (whole, false, true),
            (whole, 5..=8) => (whole, true, false),
            (whole, 9..=12) => (whole, true, true),
            (whole, _) => (whole + 1, false, false),
        }
    }

    pub(crate) fn panels(&self) -> usize {
        let (whole, eight, four) = Self::shape(self.rows);
        whole + usize::from(eight) + usize::from(four)
    }

    /// Width and first row of panel `i`; behind the last one the number of rows.
    pub(crate) fn place(&self, i: usize) -> (usize, usize) {
        let (whole, eight, _) = Self::shape(self.rows);
        match i {
            _ if i >= self.panels() => (0, self.rows),
            _ if i < whole => (WIDTH, WIDTH * i),
            _ if eight && i == whole => (8, WIDTH * whole),
            _ => (4, WIDTH * whole + if eight { 8 } else { 0 }),
        }
    }

    /// Width, first row and bytes of panel `i`.
    pub(crate) fn panel(&self, i: usize) -> (usize, usize, &'a [u8]) {
        let (width, row) = self.place(i);
        let start = i * BYTES + row * self.blocks * BLOCK;
        (width, row, &self.bytes[start..][..BYTES + width * self.blocks * BLOCK])
    }

    fn len(rows: usize, blocks: usize) -> Option<usize> {
        let (whole, eight, four) = Self::shape(rows);
        let (eight, four) = (usize::from(eight), usize::from(four));
        let filled = WIDTH * whole + 8 * eight + 4 * four;
        filled.checked_mul(blocks)?.checked_mul(BLOCK)?.checked_add((whole + eight + four) * BYTES)
    }
}

/// B of one product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Second<'a> {
    pub bytes: &'a [u8],
    pub quads: usize,
}

impl Second<'_> {
    pub(crate) const fn unit_bytes(quads: usize) -> usize {
        BYTES + 2 * quads * BYTES
    }
}

impl<'a, const N: usize> LowRank<'a, N> {
    /// Bytes of what [`LowRank::pack`] writes; `None` where that overflows.
    pub fn bytes_for(cols: usize, rank: usize, widths: [Option<usize>; N]) -> Option<usize> {
        let rows = widths.iter().flatten().count().checked_mul(rank)?;
        let second = |width: &usize| width.div_ceil(UNIT).checked_mul(Second::unit_bytes(rank.div_ceil(4)));
        let mut bytes = First::len(rows, cols.div_ceil(BLOCK))?;
        for width in widths.iter().flatten() {
            bytes = bytes.checked_add(second(width)?)?;
        }
        Some(bytes)
    }

    /// What [`LowRank::pack`] wrote for these sizes; `None` where `bytes` is not as long as that.
    pub fn new(cols: usize, rank: usize, widths: [Option<usize>; N], bytes: &'a [u8]) -> Option<Self> {
        (Self::bytes_for(cols, rank, widths)? == bytes.len()).then_some(Self { cols, rank, widths, bytes })
    }

    /// Rounds A (rank, cols) and B (outputs, rank) of each adapted product, whose values must be finite, to eight bits.
    ///
    /// # Panics
    /// Where lengths do not fit together, or `out` is not [`LowRank::bytes_for`] long.
    pub fn pack(cols: usize, rank: usize, products: [Option<Matrices>; N], out: &mut [u8]) {
        let widths = products.map(|product| {
            product.map(|(a, b)| {
                assert!(a.len() == rank * cols && rank > 0 && b.len() % rank == 0, "matrices of this rank");
                b.len() / rank
            })
        });
        assert_eq!(Some(out.len()), Self::bytes_for(cols, rank, widths), "the bytes of all matrices");
        out.fill(ZERO);
        let blocks = cols.div_ceil(BLOCK);
        let rows: Vec<&[f32]> = products.iter().flatten().flat_map(|(a, _)| a.chunks_exact(cols.max(1))).collect();
        let first = First { bytes: &[], rows: if cols == 0 { 0 } else { rows.len() }, blocks };
        let mut rest = out;
        for i in 0..first.panels() {
            let (width, row) = first.place(i);
            let panel;
            (panel, rest) = rest.split_at_mut(BYTES + width * blocks * BLOCK);
            pack_panel(&rows[row..rows.len().min(row + width)], width, panel);
        }
        for (b, width) in products.iter().flatten().map(|(_, b)| b).zip(widths.iter().flatten()) {
            let unit_bytes = Second::unit_bytes(rank.div_ceil(4));
            let second;
            (second, rest) = rest.split_at_mut(width.div_ceil(UNIT) * unit_bytes);
            for (unit, rows) in second.chunks_exact_mut(unit_bytes).zip(b.chunks(UNIT * rank)) {
                pack_unit(rows, rank, unit);
            }
        }
    }

    pub(crate) fn first(&self) -> First<'a> {
        let (rows, blocks) = (self.low_values(), self.cols.div_ceil(BLOCK));
        let len = First::len(rows, blocks).expect("checked when the view was made");
        First { bytes: &self.bytes[..len], rows, blocks }
    }

    pub(crate) fn second(&self, product: usize) -> Option<Second<'a>> {
        let width = self.widths[product]?;
        let quads = self.rank.div_ceil(4);
        let len = |width: usize| width.div_ceil(UNIT) * Second::unit_bytes(quads);
        let before: usize = self.widths[..product].iter().flatten().map(|width| len(*width)).sum();
        Some(Second { bytes: &self.bytes[self.first().bytes.len() + before..][..len(width)], quads })
    }
}

fn pack_panel(rows: &[&[f32]], width: usize, panel: &mut [u8]) {
    let lanes = WIDTH / width;
    let (scales, weights) = panel.split_at_mut(BYTES);
    scales.fill(0);
    for (i, row) in rows.iter().enumerate() {
        let scale = largest(row) / 127.0;
        for lane in i * lanes..(i + 1) * lanes {
            scales[4 * lane..4 * lane + 4].copy_from_slice(&scale.to_le_bytes());
        }
        for (k, w) in row.iter().enumerate() {
            let (vec, at) = (k / (4 * lanes), k % (4 * lanes));
            weights[BYTES * vec + 4 * lanes * i + at] = byte(*w, scale);
        }
    }
}

fn pack_unit(rows: &[f32], rank: usize, unit: &mut [u8]) {
    let quads = rank.div_ceil(4);
    let (scales, weights) = unit.split_at_mut(BYTES);
    scales.fill(0);
    for (n, row) in rows.chunks_exact(rank).enumerate() {
        let (half, lane) = (n / WIDTH, n % WIDTH);
        // Up, so that no value is beyond 127.
        let bits = (largest(row) / 127.0).to_bits().next_multiple_of(1 << 16);
        let scale = f32::from_bits(bits);
        let at = 4 * lane + 2 * half;
        scales[at..at + 2].copy_from_slice(&((bits >> 16) as u16).to_le_bytes());
        for (k, w) in row.iter().enumerate() {
            weights[BYTES * (half * quads + k / 4) + 4 * lane + k % 4] = byte(*w, scale);
        }
    }
}

/// Zero where everything is too small for a scale.
fn largest(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0, |most: f32, w| most.max(w.abs()));
    if largest < SMALLEST { 0.0 } else { largest }
}

fn byte(w: f32, scale: f32) -> u8 {
    if scale == 0.0 {
        return ZERO;
    }
    ((w / scale).round_ties_even().clamp(-127.0, 127.0) as i8).cast_unsigned() ^ ZERO
}

/// Outputs of a unit of B.
pub(crate) const UNIT: usize = 2 * WIDTH;
/// The byte of a zero.
const ZERO: u8 = 128;
const SMALLEST: f32 = 1e-30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_hardly_filled_up() {
        for (rows, filled) in [(16, 16), (8, 8), (24, 24), (4, 4), (12, 12), (3, 4), (48, 48), (30, 32), (9, 12)] {
            let first = First { bytes: &[], rows, blocks: 2 };
            let widths: usize = (0..first.panels()).map(|i| first.place(i).0).sum();
            assert_eq!(widths, filled, "{rows} rows");
            assert_eq!(first.place(first.panels()).1, rows);
        }
    }

    #[test]
    fn a_byte_for_each_value_and_little_more() {
        // 24 rows of 512, three times 96 outputs: two panels' scales, a scale of two bytes for each output.
        let bytes = LowRank::bytes_for(512, 8, [Some(96); 3]);
        assert_eq!(bytes, Some(24 * 512 + 2 * 64 + 3 * 96 * (8 + 2)));
        assert_eq!(LowRank::bytes_for(usize::MAX / 2, 8, [Some(96)]), None);
        assert!(LowRank::new(512, 8, [Some(96); 3], &[0; 64]).is_none());
    }
}
