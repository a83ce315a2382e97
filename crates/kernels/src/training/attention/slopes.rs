//! The backward pass of attention. Scores are made again, eight rows at a time; shares and slopes of a block of rows are kept as
//! pairs of rows, in which the sums for keys and values read them. What comes out is turned back by the rotation and rounded.
//! Source: Dao et al. 2022, algorithm 4.

use super::{Attention, BLOCK_ROWS, Heads, LANES, Lines, Operand, Packed, Part, ROWS, Then, Values};
use super::{exp2_or_zero, grown, hide, lines, multiply, packed, rows};
use crate::buffer::AlignedVec;
use crate::rope::rope_back;
use crate::simd::Simd;
use crate::training::RopeTable;

/// What the backward pass reads beside.
pub(crate) struct Outputs<'a> {
    pub o: &'a [u16],
    pub lse: &'a [f32],
    pub d_o: &'a [u16],
    /// Of every row.
    pub positions: &'a [u32],
    pub rope: &'a RopeTable,
}

/// See [`super::Scratch`].
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Queries and slopes of the output as right operands: (E, rows).
    queries: AlignedVec<u16>,
    d_outs: AlignedVec<u16>,
    /// (ROWS, keys)
    slopes: AlignedVec<f32>,
    slope_rows: AlignedVec<u16>,
    /// (pairs of rows, keys) pairs
    share_pairs: AlignedVec<u16>,
    slope_pairs: AlignedVec<u16>,
    /// (keys, E)
    d_keys: AlignedVec<f32>,
    d_values: AlignedVec<f32>,
}

/// dqkv: (T, (H+2K)·E), of which it writes its document's rows, its kv head and its query heads.
///
/// # Safety
/// No other task may have the same document and kv head; the buffer must hold all rows.
#[inline(always)]
pub(crate) unsafe fn backward<S: Simd>(
    s: S,
    args: &Attention,
    outputs: &Outputs,
    part: &Part,
    dqkv: *mut u16,
    scratch: &mut super::Scratch,
) {
    let Heads { heads, kv_heads, head_dim } = args.shape;
    let (group, wide, stride) = (heads / kv_heads, head_dim.next_multiple_of(LANES), heads * head_dim);
    let (document, table) = (part.document, args.table);
    let (key_head, value_head) = (args.key_head(part.kv_head), args.value_head(part.kv_head));
    let super::Scratch { keys, values, across, scores, sums, slopes: own, .. } = scratch;
    let d_keys = grown(&mut own.d_keys, document.len.next_multiple_of(LANES) * wide);
    let d_values = grown(&mut own.d_values, document.len.next_multiple_of(LANES) * wide);
    d_keys.fill(0.0);
    d_values.fill(0.0);
    let sums = grown(sums, ROWS * wide);
    for start in part.rows.clone().step_by(BLOCK_ROWS) {
        let block = start..(start + BLOCK_ROWS).min(part.rows.end);
        let seen = args.seen(&block);
        let width = seen.len().next_multiple_of(LANES);
        let keys = packed(table, &args.rows(document, seen.clone(), key_head), keys);
        let values = packed(table, &args.rows(document, seen.clone(), value_head), values);
        let across = packed(table, &args.across(document, seen.clone(), key_head), across);
        let (scores, slopes) = (grown(scores, ROWS * width), grown(&mut own.slopes, ROWS * width));
        let slope_rows = grown(&mut own.slope_rows, ROWS * width);
        let pairs = block.len().div_ceil(2);
        let share_pairs = grown(&mut own.share_pairs, pairs * width * 2).as_chunks_mut::<2>().0;
        let slope_pairs = grown(&mut own.slope_pairs, pairs * width * 2).as_chunks_mut::<2>().0;
        for head in part.kv_head * group..(part.kv_head + 1) * group {
            for start in block.clone().step_by(ROWS) {
                let eight = args.eight(start, block.end, &seen);
                let count = eight.rows.len();
                let panels = (eight.first / LANES, eight.panels);
                let queries = lines(&args.qkv[args.at(document, start, head)..], args.columns(), count, 0);
                let first = ((document.start + start) * heads + head) * head_dim;
                let d_outs = lines(&outputs.d_o[first..], stride, count, 0);
                // SAFETY: queries, keys, values and outputs have as many pairs.
                unsafe {
                    multiply(table, queries, keys, panels, (0, keys.pairs), scores, width, Then::Store);
                    multiply(table, d_outs, values, panels, (0, keys.pairs), slopes, width, Then::Store);
                }
                let len = eight.panels * LANES;
                for pair in 0..count.div_ceil(2) {
                    let (mut lse, mut delta) = ([0.0; 2], [0.0; 2]);
                    for half in 0..2 {
                        let (i, row) = (2 * pair + half, start + 2 * pair + half);
                        let scores = &mut scores[i * width..][..len];
                        if i < count {
                            hide(args, row, seen.start + eight.first, scores);
                            let at = (document.start + row) * heads + head;
                            lse[half] = outputs.lse[at];
                            let at = at * head_dim;
                            delta[half] =
                                rows::dot_bf16(s, &outputs.o[at..][..head_dim], &outputs.d_o[at..][..head_dim]);
                        } else {
                            // The last pair's other half: no row.
                            scores.fill(f32::NEG_INFINITY);
                        }
                    }
                    let at = ((start - block.start) / 2 + pair) * width + eight.first;
                    let (to_rows, to_next) = slope_rows[2 * pair * width..].split_at_mut(width);
                    through_softmax(
                        s,
                        [&scores[2 * pair * width..][..len], &scores[(2 * pair + 1) * width..][..len]],
                        [&slopes[2 * pair * width..][..len], &slopes[(2 * pair + 1) * width..][..len]],
                        (args.scale, lse, delta),
                        [&mut to_rows[..len], &mut to_next[..len]],
                        [&mut share_pairs[at..][..len], &mut slope_pairs[at..][..len]],
                    );
                }
                let slopes = lines(slope_rows, width, count, 0);
                let pairs = (eight.first / 2, (eight.end - eight.first).div_ceil(2));
                // SAFETY: the slopes go on until the last of sixteen keys.
                unsafe { multiply(table, slopes, across, (0, wide / LANES), pairs, sums, wide, Then::Store) };
                for (i, row) in eight.rows.enumerate() {
                    // SAFETY: inside of `dqkv`, by the contract; the row and the query head are the task's.
                    let to =
                        unsafe { std::slice::from_raw_parts_mut(dqkv.add(args.at(document, row, head)), head_dim) };
                    turn_back(s, outputs, document.start + row, &mut sums[i * wide..][..head_dim], to);
                }
            }
            let queries = packed(table, &args.across(document, block.clone(), head), &mut own.queries);
            let d_outs = &outputs.d_o[((document.start + block.start) * heads + head) * head_dim..];
            let d_outs = Operand::transposed(Values::Bf16(d_outs), head_dim, block.len()).with_stride(stride);
            let d_outs = packed(table, &d_outs, &mut own.d_outs);
            for key in (0..seen.len()).step_by(ROWS) {
                let pairs = pairs_that_see(args, key, &block, &seen);
                let to = (seen.start + key) * wide;
                // SAFETY: these pairs of rows were written for the eight keys (see `pairs_that_see`).
                unsafe {
                    over_rows(table, slope_pairs, width, key, pairs, queries, &mut d_keys[to..], wide);
                    over_rows(table, share_pairs, width, key, pairs, d_outs, &mut d_values[to..], wide);
                }
            }
        }
    }
    for row in 0..document.len {
        let (d_key, d_value) = (&mut d_keys[row * wide..][..head_dim], &d_values[row * wide..][..head_dim]);
        let (key_at, value_at) = (args.at(document, row, key_head), args.at(document, row, value_head));
        // SAFETY: inside of `dqkv`, by the contract; the kv head's rows are the task's.
        let (key, value) = unsafe {
            (
                std::slice::from_raw_parts_mut(dqkv.add(key_at), head_dim),
                std::slice::from_raw_parts_mut(dqkv.add(value_at), head_dim),
            )
        };
        turn_back(s, outputs, document.start + row, d_key, key);
        rows::to_bf16(s, d_value, value);
    }
}

/// The pairs of the block's rows that see some of the eight keys from place `key` on: first, and how many. All of them are of eights
/// of rows that computed these keys.
fn pairs_that_see(
    args: &Attention,
    key: usize,
    block: &std::ops::Range<usize>,
    seen: &std::ops::Range<usize>,
) -> (usize, usize) {
    let first = (seen.start + key).max(block.start);
    let mut end = first;
    while end < block.end && args.first_in(end, seen) <= key {
        end += ROWS;
    }
    ((first - block.start) / 2, (end.min(block.end) - first).div_ceil(2))
}

/// out (ROWS, wide) += Σ over pairs of rows of eight columns of `left` times `right`.
///
/// # Safety
/// `left` is (pairs, width), of which the eight columns from `key` on were written for `pairs`.
unsafe fn over_rows(
    table: &crate::ops::Table,
    left: &[[u16; 2]],
    width: usize,
    key: usize,
    (first, pairs): (usize, usize),
    right: Packed,
    out: &mut [f32],
    wide: usize,
) {
    if pairs == 0 {
        return;
    }
    let left = &left[first * width + key..(first + pairs - 1) * width + key + ROWS];
    let mut starts = [std::ptr::null(); ROWS];
    for (i, start) in starts.iter_mut().enumerate() {
        *start = left[i..].as_ptr();
    }
    // SAFETY: the last pair of the last of the eight was just checked.
    unsafe {
        multiply(table, Lines { starts, step: width }, right, (0, wide / LANES), (first, pairs), out, wide, Then::Add);
    }
}

/// Two rows: shares p = exp(scale·score − lse) and slopes p·(slope − delta)·scale, as rows and as pairs of both rows.
#[inline(always)]
fn through_softmax<S: Simd>(
    s: S,
    scores: [&[f32]; 2],
    slopes: [&[f32]; 2],
    (scale, lse, delta): (f32, [f32; 2], [f32; 2]),
    [to_first, to_second]: [&mut [u16]; 2],
    [share_pairs, slope_pairs]: [&mut [[u16; 2]]; 2],
) {
    let (factor, base) = (s.splat(scale), s.splat(scale * std::f32::consts::LOG2_E));
    let lse = [s.splat(lse[0] * std::f32::consts::LOG2_E), s.splat(lse[1] * std::f32::consts::LOG2_E)];
    let delta = [s.splat(delta[0]), s.splat(delta[1])];
    let (score_a, score_b) = (scores[0].as_chunks::<LANES>().0, scores[1].as_chunks::<LANES>().0);
    let (slope_a, slope_b) = (slopes[0].as_chunks::<LANES>().0, slopes[1].as_chunks::<LANES>().0);
    let (to_first, to_second) = (to_first.as_chunks_mut::<LANES>().0, to_second.as_chunks_mut::<LANES>().0);
    let (share_pairs, slope_pairs) = (share_pairs.as_chunks_mut::<LANES>().0, slope_pairs.as_chunks_mut::<LANES>().0);
    for at in 0..score_a.len() {
        let first = exp2_or_zero(s, s.sub(s.mul(s.load(&score_a[at]), base), lse[0]));
        let second = exp2_or_zero(s, s.sub(s.mul(s.load(&score_b[at]), base), lse[1]));
        s.store_bf16_pairs(first, second, &mut share_pairs[at]);
        let first = s.mul(s.mul(first, s.sub(s.load(&slope_a[at]), delta[0])), factor);
        let second = s.mul(s.mul(second, s.sub(s.load(&slope_b[at]), delta[1])), factor);
        s.store_bf16_pairs(first, second, &mut slope_pairs[at]);
        s.store_bf16(first, &mut to_first[at]);
        s.store_bf16(second, &mut to_second[at]);
    }
}

/// to = x turned by minus the row's angles: the rotation's transpose. x is changed.
#[inline(always)]
fn turn_back<S: Simd>(s: S, outputs: &Outputs, row: usize, x: &mut [f32], to: &mut [u16]) {
    let half = x.len() / 2;
    let angles = outputs.positions[row] as usize * half..(outputs.positions[row] as usize + 1) * half;
    rope_back(s, x, &outputs.rope.cos[angles.clone()], &outputs.rope.sin[angles], outputs.rope.layout);
    rows::to_bf16(s, x, to);
}
