//! Tiles of sums in registers: rows of a times panels of b, a pair of ks at a time.

use std::cell::RefCell;
use std::ops::Range;

use super::left::{Eight, Left, Prepared, Stepped, prepare};
use super::{Begin, Block, LANES, TargetStart, parts};
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
    let a = Stepped(whole.a, whole.step);
    let out = whole.out.wrapping_add(from * whole.width + panel * LANES);
    let begin = if whole.then == Then::Add { Some((out.cast_const(), whole.width)) } else { None };
    // SAFETY: by the contract.
    unsafe { sums_of::<S, M, Stepped, T, N>(s, multiply, a, from, &b, begin, (TargetStart::F32(out), whole.width)) }
}

struct Place<'a> {
    block: &'a Block<'a>,
    begin: Begin<'a>,
    /// The sums are whole after this part.
    last: bool,
    /// Of a row of sums beside `out`.
    width: usize,
}

impl Place<'_> {
    /// Where the sums of a tile begin, if not at zero, and where they go, each with the distance between its rows.
    fn ends(&self, row: usize, column: usize, sums: *mut f32) -> (Option<Begins>, Goes) {
        let Block { out, rows, columns, .. } = self.block;
        let goes = out.pointer(rows.start + row, column);
        let beside = (sums.wrapping_add(row * self.width + column - columns.start), self.width);
        let begins = match (self.begin, goes) {
            (Begin::Zero, _) => None,
            (Begin::At(begin), _) => Some((begin.as_ptr().wrapping_add(out.at(rows.start + row, column)), out.stride)),
            (Begin::Out, TargetStart::F32(start)) => Some((start.cast_const(), out.stride)),
            (Begin::Out, TargetStart::Bf16(_)) => Some((beside.0.cast_const(), beside.1)),
        };
        match goes {
            TargetStart::Bf16(_) if !self.last => (begins, (TargetStart::F32(beside.0), beside.1)),
            goes => (begins, (goes, out.stride)),
        }
    }
}

type Begins = (*const f32, usize);
type Goes = (TargetStart, usize);

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
    let (count, column) = (block.rows.len(), panel * LANES);
    let is_first = column == block.columns.start;
    let columns = (N * LANES).min(block.columns.end - column);
    // For tiles that go beyond the block's edges.
    let mut room = [[[0.0; LANES]; N]; T];
    for tile in 0..count.div_ceil(ROWS) {
        if is_first {
            // Its rows are new to the caches; other panels find them there.
            a.ask(s, tile + 1, pairs.len());
        }
        let a = a.tile(tile);
        let mut from = 0;
        while from < ROWS && tile * ROWS + from < count {
            let row = tile * ROWS + from;
            let rows = T.min(count - row);
            let (begins, goes) = place.ends(row, column, sums.as_mut_ptr());
            // SAFETY: `a` has the block's rows and these pairs. Where all rows and columns are inside the block, so are the sums'
            // begins and ends: no other task has them. Else they pass through `room`.
            unsafe {
                if rows == T && columns == N * LANES {
                    ask_for_next::<S, T, N>(s, begins, goes);
                    sums_of::<S, M, L::Tile, T, N>(s, multiply, a, from, &b, begins, goes);
                } else {
                    let here = room.as_mut_ptr().cast::<f32>();
                    if let Some(begins) = begins {
                        copy_in(begins, here, N * LANES, rows, columns);
                    }
                    let begins = begins.map(|_| (here.cast_const(), N * LANES));
                    sums_of::<S, M, L::Tile, T, N>(
                        s,
                        multiply,
                        a,
                        from,
                        &b,
                        begins,
                        (TargetStart::F32(here), N * LANES),
                    );
                    copy_out(s, here, N * LANES, goes, rows, columns);
                }
            }
            from += T;
        }
    }
    N
}

/// The next T rows of begins and ends, while these are worked on: rows of sums lie too far apart for the processor to see what comes,
/// and stores that miss the caches wait for each other.
#[inline(always)]
fn ask_for_next<S: Simd, const T: usize, const N: usize>(s: S, begins: Option<Begins>, goes: Goes) {
    match goes {
        (TargetStart::F32(start), stride) => ask_for_rows::<S, T>(s, start.cast(), 4 * stride, 4 * N * LANES),
        (TargetStart::Bf16(start), stride) => ask_for_rows::<S, T>(s, start.cast(), 2 * stride, 2 * N * LANES),
    }
    if let Some((start, stride)) = begins {
        ask_for_rows::<S, T>(s, start.cast(), 4 * stride, 4 * N * LANES);
    }
}

/// `len` bytes of rows T to 2T.
#[inline(always)]
fn ask_for_rows<S: Simd, const T: usize>(s: S, start: *const u8, row: usize, len: usize) {
    for t in T..2 * T {
        for byte in (0..len).step_by(64) {
            s.prefetch(start.wrapping_add(t * row + byte));
        }
    }
}

/// T rows times N panels: sums that begin where `begins` says, to where they go.
///
/// # Safety
/// The tile has as many pairs as each of `b`, and ROWS are T or more beyond `from`. Begins and ends are there, T rows of N · LANES,
/// and the ends are the caller's own.
#[inline(always)]
unsafe fn sums_of<S: Simd, M: Multiply<S>, A: Eight, const T: usize, const N: usize>(
    s: S,
    multiply: M,
    a: A,
    from: usize,
    b: &[&[[[u16; 2]; LANES]]; N],
    begins: Option<Begins>,
    goes: Goes,
) {
    let mut sums = [[s.splat(0.0); N]; T];
    // Nothing else in these loops: they must unroll, or the sums would pass through memory.
    if let Some((start, stride)) = begins {
        for t in 0..T {
            for n in 0..N {
                // SAFETY: by the contract.
                sums[t][n] = s.load(unsafe { &*start.add(t * stride + n * LANES).cast() });
            }
        }
    }
    // SAFETY: by the contract.
    unsafe { multiplied::<S, M, A, T, N>(s, multiply, &mut sums, a, from, b) }
    match goes {
        (TargetStart::F32(start), stride) => {
            for t in 0..T {
                for n in 0..N {
                    // SAFETY: by the contract.
                    s.store(sums[t][n], unsafe { &mut *start.add(t * stride + n * LANES).cast() });
                }
            }
        }
        (TargetStart::Bf16(start), stride) => {
            for t in 0..T {
                for n in 0..N {
                    // SAFETY: by the contract.
                    s.store_bf16(sums[t][n], unsafe { &mut *start.add(t * stride + n * LANES).cast() });
                }
            }
        }
    }
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

/// `columns` of each of `rows` into rows of `width`.
///
/// # Safety
/// All of them are there.
unsafe fn copy_in((start, stride): Begins, to: *mut f32, width: usize, rows: usize, columns: usize) {
    for row in 0..rows {
        // SAFETY: by the contract.
        unsafe { std::ptr::copy_nonoverlapping(start.add(row * stride), to.add(row * width), columns) }
    }
}

/// And back, rounded where they become bf16.
///
/// # Safety
/// All of them are there, and the ends are the caller's own.
#[inline(always)]
unsafe fn copy_out<S: Simd>(s: S, from: *const f32, width: usize, goes: Goes, rows: usize, columns: usize) {
    for row in 0..rows {
        // SAFETY: by the contract.
        let from = unsafe { std::slice::from_raw_parts(from.add(row * width), columns) };
        match goes {
            (TargetStart::F32(start), stride) => {
                // SAFETY: by the contract.
                let to = unsafe { std::slice::from_raw_parts_mut(start.add(row * stride), columns) };
                to.copy_from_slice(from);
            }
            (TargetStart::Bf16(start), stride) => {
                // SAFETY: by the contract.
                let to = unsafe { std::slice::from_raw_parts_mut(start.add(row * stride), columns) };
                for (from, to) in from.chunks(LANES).zip(to.chunks_mut(LANES)) {
                    s.store_bf16_some(s.load_some(from), to);
                }
            }
        }
    }
}
