//! Tiles of sums in registers: rows of a times panels of b, a pair of ks at a time.

use std::cell::RefCell;
use std::ops::Range;

use super::left::{Eight, Left, Prepared, Stepped, prepare};
use super::{Begin, Block, LANES, parts};
use crate::buffer::AlignedVec;
use crate::matmul::{Then, grown};
use crate::simd::Simd;

/// Rows of a that are worked on together.
pub(crate) const ROWS: usize = 8;

/// How a pair of ks is added to sixteen sums.
pub(crate) trait Multiply<S: Simd>: Copy {
    /// Sixteen pairs of b, ready.
    type B: Copy;
    fn load(self, s: S, b: &[[u16; 2]; LANES]) -> Self::B;
    /// fma(b₀, a₀, fma(b₁, a₁, sum))
    fn add(self, s: S, sum: S::F, b: Self::B, a: [u16; 2]) -> S::F;
}

/// Two fused multiply-adds: the specification.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Multiplied;

impl<S: Simd> Multiply<S> for Multiplied {
    type B = (S::F, S::F);

    #[inline(always)]
    fn load(self, s: S, b: &[[u16; 2]; LANES]) -> (S::F, S::F) {
        s.bf16_pairs(bytes(b))
    }
    #[inline(always)]
    fn add(self, s: S, sum: S::F, b: (S::F, S::F), a: [u16; 2]) -> S::F {
        let [first, second] = [f32::from_bits(u32::from(a[0]) << 16), f32::from_bits(u32::from(a[1]) << 16)];
        s.fma(b.0, s.splat(first), s.fma(b.1, s.splat(second), sum))
    }
}

/// One instruction; numbers below 2^-126 are taken for zero.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dotted(pub crate::simd::DotBf16);

#[cfg(target_arch = "x86_64")]
impl Multiply<crate::simd::Avx512> for Dotted {
    type B = <crate::simd::Avx512 as Simd>::B;

    #[inline(always)]
    fn load(self, s: crate::simd::Avx512, b: &[[u16; 2]; LANES]) -> Self::B {
        s.load_bytes(bytes(b))
    }
    #[inline(always)]
    fn add(
        self,
        _: crate::simd::Avx512,
        sum: <crate::simd::Avx512 as Simd>::F,
        b: Self::B,
        a: [u16; 2],
    ) -> <crate::simd::Avx512 as Simd>::F {
        self.0.add(sum, b, &a)
    }
}

#[inline(always)]
fn bytes(pairs: &[[u16; 2]; LANES]) -> &[u8; 64] {
    // SAFETY: 16 × 2 × 2 bytes without padding; any bytes are bytes, and they are aligned as bytes are.
    unsafe { &*std::ptr::from_ref(pairs).cast() }
}

/// What a thread keeps between blocks.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// a, packed, of a block and part of the depth.
    pub(super) packed: AlignedVec<u16>,
    /// Sums that are to become bf16.
    pub(super) sums: AlignedVec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Calls `f` with this thread's scratch. It stands outside of what is compiled per ISA: a closure would lose its instructions.
pub(super) fn with_scratch(f: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(f);
}

/// A block of the product, part of the depth after part.
#[inline(always)]
pub(crate) fn block<S: Simd, M: Multiply<S>>(s: S, multiply: M, block: &Block, scratch: &mut Scratch) {
    let Block { rows, columns, .. } = block;
    let last = parts(block.pairs).count() - 1;
    let width = columns.len().next_multiple_of(LANES);
    // Sums go to and fro between `out` and registers; those that end as bf16 stay beside it until the last part.
    let sums = if block.out.is_bf16() { grown(&mut scratch.sums, rows.len() * width) } else { &mut [] };
    for (part, pairs) in parts(block.pairs).enumerate() {
        let begin = if part > 0 { Begin::Out } else { block.begin };
        let place = Place { block, begin, last: part == last, width };
        match prepare(s, block.a, rows.clone(), pairs.clone(), &mut scratch.packed) {
            Prepared::InRows(a) => all_panels(s, multiply, &place, a, &pairs, sums),
            Prepared::SideBySide(a) => all_panels(s, multiply, &place, a, &pairs, sums),
        }
    }
}

#[inline(always)]
fn all_panels<S: Simd, M: Multiply<S>, L: Left>(
    s: S,
    multiply: M,
    place: &Place,
    a: L,
    pairs: &Range<usize>,
    sums: &mut [f32],
) {
    let columns = &place.block.columns;
    let panels = columns.start / LANES..columns.end.div_ceil(LANES);
    let mut panel = panels.start;
    while panel < panels.end {
        panel += match panels.end - panel {
            // Two pairs rather than three and one, which would wait for its sums.
            4 | 2 if S::WIDE => rows_of::<S, M, L, 8, 2>(s, multiply, place, a, pairs, panel, sums),
            3.. if S::WIDE => rows_of::<S, M, L, 8, 3>(s, multiply, place, a, pairs, panel, sums),
            _ if S::WIDE => rows_of::<S, M, L, 8, 1>(s, multiply, place, a, pairs, panel, sums),
            _ => rows_of::<S, M, L, 4, 1>(s, multiply, place, a, pairs, panel, sums),
        };
    }
}

/// Eight rows of a times one, two or three panels of b, laid out by the caller.
pub(crate) struct Tile {
    /// The first pair of each row.
    pub a: [*const [u16; 2]; ROWS],
    /// From a pair of a row to its next.
    pub step: usize,
    pub b: *const [[u16; 2]; LANES],
    /// From a panel to the next.
    pub stride: usize,
    pub pairs: usize,
    pub panels: usize,
    /// (ROWS, width)
    pub out: *mut f32,
    pub width: usize,
    pub then: Then,
}

/// # Safety
/// All that `whole` speaks of must be there, and `out` be the caller's own.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, M: Multiply<S>>(s: S, multiply: M, whole: &Tile) {
    // SAFETY: by the contract.
    unsafe {
        match whole.panels {
            1 if S::WIDE => part_of_tile::<S, M, 8, 1>(s, multiply, whole, 0, 0),
            2 if S::WIDE => part_of_tile::<S, M, 8, 2>(s, multiply, whole, 0, 0),
            3 if S::WIDE => part_of_tile::<S, M, 8, 3>(s, multiply, whole, 0, 0),
            panels => {
                for panel in 0..panels {
                    part_of_tile::<S, M, 4, 1>(s, multiply, whole, 0, panel);
                    part_of_tile::<S, M, 4, 1>(s, multiply, whole, 4, panel);
                }
            }
        }
    }
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn part_of_tile<S: Simd, M: Multiply<S>, const T: usize, const N: usize>(
    s: S,
    multiply: M,
    whole: &Tile,
    from: usize,
    panel: usize,
) {
    let mut b: [&[[[u16; 2]; LANES]]; N] = [&[]; N];
    for n in 0..N {
        // SAFETY: by the contract.
        b[n] = unsafe { std::slice::from_raw_parts(whole.b.add((panel + n) * whole.stride), whole.pairs) };
    }
    let mut acc = [[s.splat(0.0); N]; T];
    if whole.then == Then::Add {
        for t in 0..T {
            for n in 0..N {
                // SAFETY: by the contract.
                acc[t][n] = s.load(unsafe { &*whole.out.add((from + t) * whole.width + (panel + n) * LANES).cast() });
            }
        }
    }
    let a = Stepped(whole.a, whole.step);
    // SAFETY: by the contract.
    unsafe { multiplied::<S, M, Stepped, T, N>(s, multiply, &mut acc, a, from, &b) }
    for t in 0..T {
        for n in 0..N {
            // SAFETY: by the contract.
            s.store(acc[t][n], unsafe { &mut *whole.out.add((from + t) * whole.width + (panel + n) * LANES).cast() });
        }
    }
}

struct Place<'a> {
    block: &'a Block<'a>,
    begin: Begin<'a>,
    /// The sums are whole after this part.
    last: bool,
    /// Of a row of sums beside `out`.
    width: usize,
}

/// All rows of the block times N panels; returns N. T rows of a tile are worked on at once.
#[inline(always)]
fn rows_of<S: Simd, M: Multiply<S>, L: Left, const T: usize, const N: usize>(
    s: S,
    multiply: M,
    place: &Place,
    a: L,
    pairs: &Range<usize>,
    panel: usize,
    sums: &mut [f32],
) -> usize {
    let block = place.block;
    let mut b: [&[[[u16; 2]; LANES]]; N] = [&[]; N];
    for n in 0..N {
        b[n] = &block.b[(panel + n) * block.pairs..][pairs.clone()];
    }
    let tiles = block.rows.len().div_ceil(ROWS);
    for tile in 0..tiles {
        let a = a.tile(tile);
        let mut from = 0;
        while from < ROWS && tile * ROWS + from < block.rows.len() {
            let row = tile * ROWS + from;
            let mut acc = [[s.splat(0.0); N]; T];
            if !matches!(place.begin, Begin::Zero) {
                for t in 0..T {
                    for n in 0..N {
                        acc[t][n] = read(s, place, row + t, panel + n, sums);
                    }
                }
            }
            // SAFETY: `a` has the block's rows and these pairs.
            unsafe { multiplied::<S, M, L::Tile, T, N>(s, multiply, &mut acc, a, from, &b) }
            for t in 0..T {
                for n in 0..N {
                    write(s, place, acc[t][n], row + t, panel + n, sums);
                }
            }
            from += T;
        }
    }
    N
}

/// # Safety
/// The tile has as many pairs as each of `b`, and ROWS are T or more beyond `from`.
#[inline(always)]
unsafe fn multiplied<S: Simd, M: Multiply<S>, A: Eight, const T: usize, const N: usize>(
    s: S,
    multiply: M,
    acc: &mut [[S::F; N]; T],
    a: A,
    from: usize,
    b: &[&[[[u16; 2]; LANES]]; N],
) {
    let mut sums = *acc;
    let len = b[0].len();
    let mut b = *b;
    for b in &mut b {
        *b = &b[..len];
    }
    for k in 0..len {
        // No closures here: they would be compiled without the instructions.
        let mut columns = [multiply.load(s, &b[0][k]); N];
        for n in 1..N {
            columns[n] = multiply.load(s, &b[n][k]);
        }
        for t in 0..T {
            // SAFETY: by the contract.
            let a = unsafe { a.pair(from + t, k) };
            for n in 0..N {
                sums[t][n] = multiply.add(s, sums[t][n], columns[n], a);
            }
        }
    }
    *acc = sums;
}

/// The sums of a row of the block with a panel, zeros beyond its edges.
#[inline(always)]
fn read<S: Simd>(s: S, place: &Place, row: usize, panel: usize, sums: &[f32]) -> S::F {
    let block = place.block;
    if row >= block.rows.len() {
        return s.splat(0.0);
    }
    let column = panel * LANES;
    if let Begin::At(begin) = place.begin {
        let len = LANES.min(block.columns.end - column);
        let from = &begin[block.out.at(block.rows.start + row, column)..][..len];
        return match <&[f32; LANES]>::try_from(from) {
            Ok(from) => s.load(from),
            Err(_) => crate::simd::load_part(s, from),
        };
    }
    if block.out.is_bf16() {
        let at = row * place.width + column - block.columns.start;
        return s.load(sums[at..].first_chunk().unwrap_or(&[0.0; LANES]));
    }
    let len = LANES.min(block.columns.end - column);
    // SAFETY: inside the block, which no other task has.
    let from = unsafe { block.out.f32(block.rows.start + row, column, len) };
    match <&[f32; LANES]>::try_from(&*from) {
        Ok(from) => s.load(from),
        Err(_) => crate::simd::load_part(s, from),
    }
}

#[inline(always)]
fn write<S: Simd>(s: S, place: &Place, acc: S::F, row: usize, panel: usize, sums: &mut [f32]) {
    let block = place.block;
    if row >= block.rows.len() {
        return;
    }
    let column = panel * LANES;
    let len = LANES.min(block.columns.end - column);
    if block.out.is_bf16() {
        if place.last {
            let mut whole = [0.0; LANES];
            s.store(s.round_bf16(acc), &mut whole);
            // SAFETY: inside the block, which no other task has.
            let to = unsafe { block.out.bf16(block.rows.start + row, column, len) };
            match <&mut [u16; LANES]>::try_from(&mut *to) {
                Ok(to) => {
                    for i in 0..LANES {
                        to[i] = (whole[i].to_bits() >> 16) as u16;
                    }
                }
                Err(_) => to.iter_mut().zip(whole).for_each(|(to, sum)| *to = (sum.to_bits() >> 16) as u16),
            }
        } else if let Some(to) = sums[row * place.width + column - block.columns.start..].first_chunk_mut() {
            s.store(acc, to);
        }
        return;
    }
    // SAFETY: inside the block, which no other task has.
    let to = unsafe { block.out.f32(block.rows.start + row, column, len) };
    match <&mut [f32; LANES]>::try_from(&mut *to) {
        Ok(to) => s.store(acc, to),
        Err(_) => crate::simd::store_part(s, acc, to),
    }
}
