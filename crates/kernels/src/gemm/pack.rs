//! The right operand in the order in which the sums read it, rounded to bf16: panels of sixteen rows side by side, a pair of ks
//! after the other. Rows and ks beyond the end are zeros. `left.rs` is the other operand.

use std::ops::Range;

use super::{LANES, Operand, Values, round_bf16};
use crate::ops::Table;
use crate::pool::Pool;

/// Panels that a task packs: large enough to be worth a task.
const PANEL_PAIRS: usize = 4096;

/// All of b, in one job.
pub(super) fn pack(table: &Table, pool: &Pool, b: &Operand, pairs: usize, out: &mut [[[u16; 2]; LANES]]) {
    if pairs == 0 {
        return;
    }
    let panels = b.rows.div_ceil(LANES);
    let each = PANEL_PAIRS.div_ceil(pairs);
    let start = Start(out.as_mut_ptr());
    pool.run(panels.div_ceil(each), |task, _| {
        let start = &start;
        for panel in task * each..((task + 1) * each).min(panels) {
            // SAFETY: panel < panels, and the buffer holds `pairs` entries for each; no other task has this panel.
            let to = unsafe { std::slice::from_raw_parts_mut(start.0.add(panel * pairs), pairs) };
            let rows = panel * LANES..((panel + 1) * LANES).min(b.rows);
            // SAFETY: the table's ISA is this CPU's.
            unsafe { (table.gemm_pack)(b, rows, 0..pairs, to) }
        }
    });
}

struct Start(*mut [[u16; 2]; LANES]);

// SAFETY: tasks write different panels (see `pack`).
unsafe impl Sync for Start {}

/// `rows` (at most N) of `from`, `pairs` of it, side by side.
#[inline(always)]
pub(crate) fn pack_columns<const N: usize>(
    from: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    out: &mut [[[u16; 2]; N]],
) {
    match (from.values, from.transposed) {
        (Values::F32(values), false) => in_rows(values, from, rows, pairs, out),
        (Values::Bf16(values), false) => in_rows(values, from, rows, pairs, out),
        (Values::F32(values), true) => transposed(values, from, rows, pairs, out),
        (Values::Bf16(values), true) => transposed(values, from, rows, pairs, out),
    }
}

/// What becomes bf16. A trait, since a closure would be compiled without the instructions of its ISA.
pub(super) trait Bits: Copy {
    fn bits(self) -> u16;
}

impl Bits for f32 {
    #[inline(always)]
    fn bits(self) -> u16 {
        round_bf16(self)
    }
}

impl Bits for u16 {
    #[inline(always)]
    fn bits(self) -> u16 {
        self
    }
}

#[inline(always)]
fn in_rows<T: Bits, const N: usize>(
    values: &[T],
    from: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    out: &mut [[[u16; 2]; N]],
) {
    let ks = (2 * pairs.start).min(from.depth)..(2 * pairs.end).min(from.depth);
    // Pairs wholly beyond the depth, where tiles want more than there are.
    let (out, beyond) = out.split_at_mut(ks.len().div_ceil(2));
    beyond.fill([[0; 2]; N]);
    for (column, i) in rows.clone().enumerate() {
        let row = &values[i * from.stride..][ks.clone()];
        let (whole, odd) = row.as_chunks::<2>();
        for (to, pair) in out.iter_mut().zip(whole) {
            to[column] = [pair[0].bits(), pair[1].bits()];
        }
        if let ([last], Some(to)) = (odd, out.last_mut()) {
            to[column] = [last.bits(), 0];
        }
    }
    for column in rows.len()..N {
        for to in out.iter_mut() {
            to[column] = [0; 2];
        }
    }
}

#[inline(always)]
fn transposed<T: Bits, const N: usize>(
    values: &[T],
    from: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    out: &mut [[[u16; 2]; N]],
) {
    for (to, pair) in out.iter_mut().zip(pairs) {
        if 2 * pair >= from.depth {
            *to = [[0; 2]; N];
            continue;
        }
        let first = &values[2 * pair * from.stride + rows.start..][..rows.len()];
        let second = 2 * pair + 1;
        if second == from.depth {
            *to = [[0; 2]; N];
            for (to, first) in to.iter_mut().zip(first) {
                to[0] = first.bits();
            }
            continue;
        }
        let second = &values[second * from.stride + rows.start..][..rows.len()];
        // The common case has a length that the compiler knows.
        match (<&[T; N]>::try_from(first), <&[T; N]>::try_from(second)) {
            (Ok(first), Ok(second)) => {
                for i in 0..N {
                    to[i] = [first[i].bits(), second[i].bits()];
                }
            }
            _ => {
                *to = [[0; 2]; N];
                for (to, (first, second)) in to.iter_mut().zip(first.iter().zip(second)) {
                    *to = [first.bits(), second.bits()];
                }
            }
        }
    }
}
