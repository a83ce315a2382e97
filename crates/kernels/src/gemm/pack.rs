//! The right operand in the order in which the sums read it, rounded to bf16: panels of sixteen rows side by side, a pair of ks
//! after the other. Rows and ks beyond the end are zeros. `left.rs` is the other operand.

use std::ops::Range;

use super::{LANES, Operand, Values};
use crate::format::blocks::f32_to_bf16;
use crate::ops::Table;
use crate::pool::{Parts, Pool};
use crate::simd::Simd;

/// Panels that a task packs: large enough to be worth a task.
const PANEL_PAIRS: usize = 4096;

/// All of b, in one job.
pub(super) fn pack(table: &Table, pool: &Pool, b: &Operand, pairs: usize, out: &mut [[[u16; 2]; LANES]]) {
    if pairs == 0 {
        return;
    }
    let panels = b.rows.div_ceil(LANES);
    let each = PANEL_PAIRS.div_ceil(pairs);
    let out = Parts::new(&mut out[..panels * pairs], pairs);
    pool.run(panels.div_ceil(each), |task, _| {
        for panel in task * each..((task + 1) * each).min(panels) {
            let rows = panel * LANES..((panel + 1) * LANES).min(b.rows);
            // SAFETY: no other task has this panel; the table's ISA is this CPU's.
            unsafe { (table.gemm_pack)(b, rows, 0..pairs, out.part(panel)) }
        }
    });
}

/// `rows` (at most sixteen) of `from`, `pairs` of it, side by side.
#[inline(always)]
pub(crate) fn pack_columns<S: Simd>(
    s: S,
    from: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    out: &mut [[[u16; 2]; LANES]],
) {
    match (from.values, from.transposed) {
        (Values::F32(values), false) => in_rows(s, values, from, rows, pairs, out),
        (Values::Bf16(values), false) => in_rows(s, values, from, rows, pairs, out),
        (Values::F32(values), true) => transposed(s, values, from, rows, pairs, out),
        (Values::Bf16(values), true) => transposed(s, values, from, rows, pairs, out),
    }
}

/// What becomes bf16.
pub(super) trait Number: Copy {
    const ZERO: Self;
    fn lanes<S: Simd>(s: S, from: &[Self; LANES]) -> S::F;
    fn bits(self) -> u16;
}

impl Number for f32 {
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn lanes<S: Simd>(s: S, from: &[f32; LANES]) -> S::F {
        s.load(from)
    }
    #[inline(always)]
    fn bits(self) -> u16 {
        f32_to_bf16(self)
    }
}

impl Number for u16 {
    const ZERO: u16 = 0;

    #[inline(always)]
    fn lanes<S: Simd>(s: S, from: &[u16; LANES]) -> S::F {
        s.load_bf16(from)
    }
    #[inline(always)]
    fn bits(self) -> u16 {
        self
    }
}

/// Up to sixteen numbers, then zeros.
#[inline(always)]
pub(super) fn some<S: Simd, T: Number>(s: S, from: &[T]) -> S::F {
    match from.first_chunk() {
        Some(from) => T::lanes(s, from),
        None => {
            let mut padded = [T::ZERO; LANES];
            padded[..from.len()].copy_from_slice(from);
            T::lanes(s, &padded)
        }
    }
}

#[inline(always)]
fn in_rows<S: Simd, T: Number>(
    s: S,
    values: &[T],
    from: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    out: &mut [[[u16; 2]; LANES]],
) {
    let ks = 2 * pairs.start..(2 * pairs.end).min(from.depth);
    for (column, i) in rows.clone().enumerate() {
        let row = &values[i * from.stride..][ks.clone()];
        let (whole, rest) = row.as_chunks::<{ 2 * LANES }>();
        for (from, to) in whole.iter().zip(out.as_chunks_mut::<LANES>().0) {
            // Rounded sixteen at a time, then each pair to its place.
            let (mut low, mut high) = ([0; LANES], [0; LANES]);
            s.store_bf16(some(s, &from[..LANES]), &mut low);
            s.store_bf16(some(s, &from[LANES..]), &mut high);
            let (to_low, to_high) = to.split_at_mut(LANES / 2);
            for (to, pair) in to_low.iter_mut().zip(low.as_chunks::<2>().0) {
                to[column] = *pair;
            }
            for (to, pair) in to_high.iter_mut().zip(high.as_chunks::<2>().0) {
                to[column] = *pair;
            }
        }
        for (to, pair) in out[whole.len() * LANES..].iter_mut().zip(rest.chunks(2)) {
            to[column] = [pair[0].bits(), if pair.len() > 1 { pair[1].bits() } else { 0 }];
        }
    }
    for column in rows.len()..LANES {
        for to in out.iter_mut() {
            to[column] = [0; 2];
        }
    }
}

#[inline(always)]
fn transposed<S: Simd, T: Number>(
    s: S,
    values: &[T],
    from: &Operand,
    rows: Range<usize>,
    pairs: Range<usize>,
    out: &mut [[[u16; 2]; LANES]],
) {
    for (to, pair) in out.iter_mut().zip(pairs) {
        for k in [2 * (pair + AHEAD), 2 * (pair + AHEAD) + 1] {
            // Lines lie too far apart for the processor to see what comes.
            s.prefetch(values.as_ptr().wrapping_add(k * from.stride + rows.start).cast());
        }
        let first = some(s, &values[2 * pair * from.stride + rows.start..][..rows.len()]);
        let second = match 2 * pair + 1 < from.depth {
            true => some(s, &values[(2 * pair + 1) * from.stride + rows.start..][..rows.len()]),
            false => s.splat(0.0),
        };
        s.store_bf16_pairs(first, second, to);
    }
}

/// Pairs that are asked for before they are packed.
pub(super) const AHEAD: usize = 8;
