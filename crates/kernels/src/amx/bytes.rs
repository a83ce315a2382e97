//! Quantised weights times 8-bit activations on tiles: exact sums of a block by one tile product, then the block's scales in vectors.
//! The numerics are those of every other kernel (see `matmul`), so which rows come here is a matter of speed alone.
//!
//! The loop keeps a tile's sixteen rows of sums in registers and walks along the columns; the product of the block after next
//! runs while this block's 16×16 sums are converted, scaled and added. *Estimated* from documented throughputs (Sapphire Rapids),
//! not measured, per 16×16×32: vectors 16 × (convert, multiply, fma) on two ports, 24 cycles; loads 16 (A) + 8 (B) + 16 (sums) + 16
//! (activation scales) on two to three ports, 20 to 28 cycles; the tile product 16, its store 16. So about 28 cycles for 8192
//! products, against 90 with VNNI. Sums in memory instead (2×2 tiles) would spare 16 loads for 16 stores, of which there is one
//! port: 32 cycles.

use super::tiles::{ROWS, Shape, Sums, Tiles};
use crate::simd::Simd;

/// Some consecutive parts (32 columns, or 16 where each half block has its scale) of one panel, as signed bytes.
pub(crate) struct Weights<'a> {
    /// Per part: (part/4, 16, 4).
    pub values: &'a [i8],
    /// Per part.
    pub scales: &'a [[f32; 16]],
    /// Per part, for formats that have them.
    pub minima: &'a [[f32; 16]],
    /// What will be asked for after these.
    pub next: Next,
}

/// Packed weights that come after those at work: asked for part by part, because memory is idle meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Next {
    /// Any address will do: it is a hint.
    pub at: *const u8,
    /// Per part of those at work; 0 for nothing.
    pub bytes: usize,
}

impl Next {
    pub(crate) const NOTHING: Self = Self { at: std::ptr::null(), bytes: 0 };

    #[inline(always)]
    fn ask<S: Simd>(&self, s: S, part: usize) {
        let at = self.at.wrapping_add(part * self.bytes);
        for line in 0..self.bytes.div_ceil(64) {
            s.prefetch(at.wrapping_add(64 * line));
        }
    }
}

/// Rows of activations in blocks of 32.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub quants: &'a [i8],
    /// Per row, `stride` / 32 of them: the scale, and scale · Σq.
    pub scales: &'a [f32],
    pub sums: &'a [f32],
    /// Values from row to row.
    pub stride: usize,
}

/// sums: (rows, 16) += x · w, where `w` begins at column `first` of `x`; a multiple of 32. `PART`: columns of a part, 16 or 32.
///
/// # Panics
/// Where the lengths do not fit, or there are more than `BLOCKS` blocks.
#[inline(always)]
pub(crate) fn multiply<T: Tiles, S: Simd, const PART: usize, const MINIMA: bool>(
    t: &mut T,
    s: S,
    w: &Weights,
    x: &Rows,
    first: usize,
    sums: &mut [[f32; 16]],
) {
    const { assert!(PART == BLOCK || PART == BLOCK / 2) }
    let (parts, blocks) = (w.scales.len(), x.stride / BLOCK);
    assert!(w.values.len() == parts * PART * 16 && (!MINIMA || w.minima.len() == parts), "whole parts");
    assert!(first.is_multiple_of(BLOCK) && first + parts * PART <= x.stride, "the parts lie within a row");
    assert!(parts * PART <= BLOCKS * BLOCK, "few blocks at a time");
    assert!(x.stride.is_multiple_of(BLOCK) && sums.len() * x.stride <= x.quants.len(), "as many rows as sums");
    assert!(sums.len() * blocks <= x.scales.len() && sums.len() * blocks <= x.sums.len(), "each block has its scales");
    if parts == 0 {
        return;
    }
    let mut products = [Sums([[0; 16]; ROWS]); BUFFERS];
    let (whole, rest) = sums.split_at_mut(sums.len() / ROWS * ROWS);
    let left = |row: usize| Left {
        quants: &x.quants[row * x.stride + first..],
        stride: x.stride,
        scales: [&x.scales[row * blocks + first / BLOCK..], &x.sums[row * blocks + first / BLOCK..]],
        steps: [1, blocks],
    };
    let row = whole.len();
    if !whole.is_empty() {
        rows::<T, S, PART, MINIMA, ROWS>(t, s, w, &left(0), whole, w.next, &mut products);
    }
    // Whoever comes first asks for what comes next.
    let next = if whole.is_empty() { w.next } else { Next::NOTHING };
    if rest.len() == ROWS / 2 {
        rows::<T, S, PART, MINIMA, 8>(t, s, w, &left(row), rest, next, &mut products);
    } else if !rest.is_empty() {
        // Sums of rows that are not there are thrown away, but their scales are read.
        let left = left(row);
        let scales = left.scales.map(|scales| transposed(scales, rest.len(), blocks, (parts * PART).div_ceil(BLOCK)));
        let left = Left { scales: [scales[0].as_flattened(), scales[1].as_flattened()], steps: [ROWS, 1], ..left };
        match rest.len() {
            1..=4 => rows::<T, S, PART, MINIMA, 4>(t, s, w, &left, rest, next, &mut products),
            5..=8 => rows::<T, S, PART, MINIMA, 8>(t, s, w, &left, rest, next, &mut products),
            9..=12 => rows::<T, S, PART, MINIMA, 12>(t, s, w, &left, rest, next, &mut products),
            _ => rows::<T, S, PART, MINIMA, ROWS>(t, s, w, &left, rest, next, &mut products),
        }
    }
}

/// Columns of a block of activations.
pub(crate) const BLOCK: usize = 32;
/// Blocks that a call of `multiply` takes at most: with sixteen rows and what comes next, a first-level cache holds them.
pub(crate) const BLOCKS: usize = 16;

/// The activations of a tile, and of those below it.
struct Left<'a> {
    /// From the first column of the first row on.
    quants: &'a [i8],
    stride: usize,
    /// Scales, and scale · Σq.
    scales: [&'a [f32]; 2],
    /// How far apart scales lie, from block to block and from row to row.
    steps: [usize; 2],
}

/// (blocks, 16) of (rows, row_blocks), with zeros for rows that are not there.
fn transposed(scales: &[f32], rows: usize, row_blocks: usize, blocks: usize) -> [[f32; ROWS]; BLOCKS] {
    let mut to = [[0.0; ROWS]; BLOCKS];
    for (r, row) in scales.chunks(row_blocks).take(rows).enumerate() {
        for (to, scale) in to[..blocks].iter_mut().zip(row) {
            to[r] = *scale;
        }
    }
    to
}

/// Parts between a product and the use of its sums: the latency of a load, a product and a store, at 24 cycles a part.
const AHEAD: usize = 2;
/// Sums in flight; a power of two above `AHEAD`.
const BUFFERS: usize = 4;

/// Tiles of R rows, or one of fewer.
#[inline(always)]
fn rows<T: Tiles, S: Simd, const PART: usize, const MINIMA: bool, const R: usize>(
    t: &mut T,
    s: S,
    w: &Weights,
    x: &Left,
    sums: &mut [[f32; 16]],
    next: Next,
    products: &mut [Sums; BUFFERS],
) {
    let (parts, count) = (w.scales.len(), sums.len().min(R));
    let tiles = sums.len().div_ceil(R);
    assert!(R <= ROWS && parts > 0 && (sums.len() == count || sums.len() == tiles * R), "whole tiles, or one");
    assert!(parts * PART * 16 <= w.values.len() && (!MINIMA || w.minima.len() == parts));
    assert!((sums.len() - 1) * x.stride + parts * PART <= x.quants.len());
    let last = (parts * PART).div_ceil(BLOCK) - 1;
    let last = last * x.steps[0] + (tiles * R - 1) * x.steps[1];
    assert!(last < x.scales[0].len() && last < x.scales[1].len());
    t.configure(Shape::Bytes { rows: count as u8, part: PART as u8 });
    let products = products.as_mut_ptr();
    let steps = Steps::of(x.steps[1]);
    let mut ahead = Ahead { tile: 0, part: 0, index: 0, end: tiles * parts };
    for _ in 0..ahead.end.min(AHEAD) {
        // SAFETY: what is ahead is one of `parts` of one of `tiles`, all of which are there, as asserted above.
        unsafe { product::<T, PART, R>(t, w, x, &mut ahead, products) }
    }
    for (tile, sums) in sums.chunks_mut(R).enumerate() {
        let mut acc = [s.splat(0.0); R];
        for r in 0..R {
            if r < count {
                acc[r] = s.load(&sums[r]);
            }
        }
        // By twos, so that sums change registers there and back instead of being moved.
        let mut p = 0;
        while p + 2 <= parts {
            // SAFETY: part p of the tile is there, as asserted above.
            acc =
                unsafe { part::<T, S, PART, MINIMA, R>(t, s, w, x, next, &steps, tile, p, acc, &mut ahead, products) };
            // SAFETY: part p of the tile is there, as asserted above.
            acc = unsafe {
                part::<T, S, PART, MINIMA, R>(t, s, w, x, next, &steps, tile, p + 1, acc, &mut ahead, products)
            };
            p += 2;
        }
        if p < parts {
            // SAFETY: part p of the tile is there, as asserted above.
            acc =
                unsafe { part::<T, S, PART, MINIMA, R>(t, s, w, x, next, &steps, tile, p, acc, &mut ahead, products) };
        }
        for r in 0..R {
            if r < count {
                s.store(acc[r], &mut sums[r]);
            }
        }
    }
}

/// Part p of a tile: its sums converted, scaled and added, while the product of the part that is ahead runs.
///
/// # Safety
/// That of `product`; and `p` must be the part AHEAD before, whose scales `x` has for R rows.
#[inline(always)]
unsafe fn part<T: Tiles, S: Simd, const PART: usize, const MINIMA: bool, const R: usize>(
    t: &mut T,
    s: S,
    w: &Weights,
    x: &Left,
    next: Next,
    steps: &Steps,
    tile: usize,
    p: usize,
    mut acc: [S::F; R],
    ahead: &mut Ahead,
    products: *mut Sums,
) -> [S::F; R] {
    if ahead.index < ahead.end {
        // SAFETY: by the contract.
        unsafe { product::<T, PART, R>(t, w, x, ahead, products) }
    }
    if tile == 0 {
        next.ask(s, p);
    }
    let index = tile * w.scales.len() + p;
    let block = p * PART / BLOCK * x.steps[0] + tile * R * x.steps[1];
    let scales = s.load(&w.scales[p]);
    // SAFETY: by the contract; the buffer was filled AHEAD parts ago in the rows of the shape, and holds numbers in the others.
    unsafe {
        let (from, ints) = (x.scales[0].as_ptr().add(opaque(block)), &*products.add(index % BUFFERS));
        for r in 0..R {
            let scale = s.mul(scales, s.splat(*steps.row(from, r)));
            acc[r] = s.fma(s.to_float(s.load_int(&ints.0[r])), scale, acc[r]);
        }
    }
    if MINIMA {
        let minima = s.load(&w.minima[p]);
        // SAFETY: by the contract.
        unsafe {
            let from = x.scales[1].as_ptr().add(opaque(block));
            for r in 0..R {
                acc[r] = s.fnma(minima, s.splat(*steps.row(from, r)), acc[r]);
            }
        }
    }
    acc
}

/// The part whose product comes next.
struct Ahead {
    tile: usize,
    part: usize,
    /// Among the parts of all tiles.
    index: usize,
    end: usize,
}

/// The part that is ahead into buffer index % BUFFERS, by turns through the two sets of tiles; then the next one is ahead.
///
/// # Safety
/// The part must be inside `values`, and inside as many rows of `quants` from tile · R on as `t` is configured for; `products` are
/// all buffers.
#[inline(always)]
unsafe fn product<T: Tiles, const PART: usize, const R: usize>(
    t: &mut T,
    w: &Weights,
    x: &Left,
    ahead: &mut Ahead,
    products: *mut Sums,
) {
    // SAFETY: by the contract.
    unsafe {
        let a = x.quants.as_ptr().add(ahead.tile * R * x.stride + ahead.part * PART);
        let b = w.values.as_ptr().add(ahead.part * PART * 16);
        let c = products.add(ahead.index % BUFFERS);
        if ahead.index.is_multiple_of(2) {
            t.bytes::<0>(a, x.stride, b, c);
        } else {
            t.bytes::<1>(a, x.stride, b, c);
        }
    }
    ahead.index += 1;
    ahead.part += 1;
    if ahead.part == w.scales.len() {
        (ahead.tile, ahead.part) = (ahead.tile + 1, 0);
    }
}

/// Bytes from row to row, times one, three, five and seven: an x86 address adds one of them, once, twice or four times, to one of two
/// bases, so that sixteen rows take six registers. The compiler would rather keep sixteen pointers, in memory.
struct Steps([usize; 4]);

impl Steps {
    #[inline(always)]
    fn of(step: usize) -> Self {
        let bytes = step * size_of::<f32>();
        Self([opaque(bytes), opaque(3 * bytes), opaque(5 * bytes), opaque(7 * bytes)])
    }

    /// # Safety
    /// Row r must be there.
    #[inline(always)]
    unsafe fn row(&self, from: *const f32, r: usize) -> *const f32 {
        let [one, three, five, seven] = self.0;
        // SAFETY: by the contract.
        unsafe {
            let from = if r < 8 { from } else { from.byte_add(8 * one) };
            match r % 8 {
                0 => from,
                1 => from.byte_add(one),
                2 => from.byte_add(2 * one),
                3 => from.byte_add(three),
                4 => from.byte_add(4 * one),
                5 => from.byte_add(five),
                6 => from.byte_add(2 * three),
                _ => from.byte_add(seven),
            }
        }
    }
}

/// The same value, of which the compiler does not know where it came from.
#[inline(always)]
fn opaque(mut value: usize) -> usize {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) }
    value
}
