//! The heads of one kv head, of some rows of one sequence, over the pages that they see.
//!
//! For one query vector, in steps of 64 positions that begin at multiples of 64 (every product of pairs as in `pairs.rs`):
//! 1. score[t] = Σ over pairs of dimensions in order, from 0; for I8 times the scale of key t.
//! 2. If the largest visible score · factor (scale · log2 e) exceeds m by more than 8, or in the first step: m becomes
//!    that; l and the sums are multiplied by 2^(old m − m), sums below 2^-100 becoming 0.
//! 3. weight[t] = 2^fma(score, factor, −m), 0 if below 2^-56 or not visible, rounded to bf16 for BF16; lane t % 16 of l adds it.
//!    For I8 it is then multiplied by the scale of value t and rounded to bf16.
//! 4. sum[d] adds weight[t]·v[t][d], in pairs of positions in order.
//!
//! At the end out = sum · (1 / Σ l). A step or page that a row does not see changes none of its bits: its weights are 0.

use std::ops::Range;

use super::page::{Layout, PAGE_TOKENS, flush};
use super::pairs::{Floats, Halves, Pairs};
use super::{AttentionArgs, KvFormat};
use crate::buffer::AlignedVec;
use crate::exp::exp2_lanes;
use crate::pool::Parts;
use crate::simd::{LANES, Simd, load_part};

const STEP_PAGES: usize = 4;
const STEP: usize = STEP_PAGES * PAGE_TOKENS;
/// Query vectors whose sums are in registers together.
const R: usize = 4;

/// Buffers of one task.
#[derive(Default)]
pub(crate) struct Scratch {
    /// (vectors, q_floats): the queries as pairs.
    q: AlignedVec<f32>,
    /// (vectors, chunks · 16): the sums over values.
    sums: AlignedVec<f32>,
    /// (vectors, 16)
    l: AlignedVec<f32>,
    /// (vectors)
    m: AlignedVec<f32>,
    /// (STEP_PAGES, block): pages of I8 as BF16.
    wide: AlignedVec<u8>,
}

/// out: part row · kv_heads + kv_head is (group, head_dim). No other call may have the same row and kv head.
#[inline(always)]
pub(crate) fn attend<S: Simd, B: Pairs<S>>(
    s: S,
    bf16: B,
    args: &AttentionArgs,
    rows: Range<usize>,
    kv_head: usize,
    scratch: &mut Scratch,
    out: &Parts<f32>,
) {
    match args.kv.format {
        KvFormat::F32 => run(s, Floats, args, rows, kv_head, scratch, out),
        KvFormat::F16 => run(s, Halves, args, rows, kv_head, scratch, out),
        KvFormat::BF16 | KvFormat::I8 => run(s, bf16, args, rows, kv_head, scratch, out),
    }
}

fn fit<T: crate::Pod>(buffer: &mut AlignedVec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        *buffer = AlignedVec::new(len);
    }
    &mut buffer[..len]
}

#[inline(always)]
fn run<S: Simd, P: Pairs<S>>(
    s: S,
    p: P,
    args: &AttentionArgs,
    rows: Range<usize>,
    kv_head: usize,
    scratch: &mut Scratch,
    out: &Parts<f32>,
) {
    let (dim, group) = (args.head_dim, args.heads / args.kv_heads);
    let quantized = args.kv.format == KvFormat::I8;
    let stored = Layout::new(args.kv.format, dim);
    let layout = if quantized { Layout::new(KvFormat::BF16, dim) } else { stored };
    let (count, width) = (rows.len() * group, layout.chunks * LANES);
    let padded = count.next_multiple_of(R);
    let q_floats = layout.chunks * LANES / 2 * P::X_FLOATS;

    let q = fit(&mut scratch.q, padded * q_floats);
    let sums = fit(&mut scratch.sums, padded * width);
    let l = fit(&mut scratch.l, padded * LANES);
    let m = fit(&mut scratch.m, padded);
    let wide = fit(&mut scratch.wide, if quantized { STEP_PAGES * layout.bytes } else { 0 });
    sums.fill(0.0);
    l.fill(0.0);
    m.fill(f32::NEG_INFINITY);
    for (j, q) in q.chunks_exact_mut(q_floats).enumerate() {
        for (c, to) in q.chunks_exact_mut(LANES / 2 * P::X_FLOATS).enumerate() {
            let head = (rows.start + j / group) * args.heads + kv_head * group + j % group;
            let v = if j < count {
                let from = &args.q[head * dim..][..dim][c * LANES..];
                load_part(s, &from[..from.len().min(LANES)])
            } else {
                s.splat(0.0)
            };
            p.put(s, if args.kv.format.is_float() { v } else { flush(s, v) }, to);
        }
    }

    let factor = args.scale * std::f32::consts::LOG2_E;
    let table = args.rows[rows.start].page_table;
    let (begin, end) = (args.span(rows.start).0 / STEP, args.span(rows.end - 1).1 / STEP);
    let mut scores = [[0.0f32; STEP]; R];
    let mut weights = [[0.0f32; STEP]; R];
    for step in begin..=end {
        let base = step * STEP;
        let present = pages_of(base, args.span(rows.start).0, args.span(rows.end - 1).1);
        let block = |n: usize| {
            let page = table[step * STEP_PAGES + n.clamp(*present.start(), *present.end())] as usize;
            &args.kv.pages[(page * args.kv_heads + kv_head) * stored.bytes..][..stored.bytes]
        };
        let blocks: [&[u8]; STEP_PAGES] = std::array::from_fn(block);
        let mut groups = blocks;
        if quantized {
            for (block, wide) in blocks.iter().zip(wide.chunks_exact_mut(layout.bytes)) {
                widen(&block[..stored.scales], &mut wide[..layout.scales]);
            }
            groups = std::array::from_fn(|n| &wide[n * layout.bytes..][..layout.bytes]);
        }
        let keys = groups.map(|block| &P::groups(&block[..layout.values])[..layout.pairs]);
        let values =
            groups.map(|block| &P::groups(&block[layout.values..layout.scales])[..PAGE_TOKENS / 2 * layout.chunks]);

        for first in (0..count).step_by(R) {
            let row = |r: usize| rows.start + (first + r).min(count - 1) / group;
            // INVARIANT: rows of a tile have ascending positions, so their spans ascend too.
            let (low, high) = (args.span(row(0)).0, args.span(row(R - 1)).1);
            let sees = |r: usize| {
                let (from, to) = args.span(row(r));
                first + r < count && from < base + STEP && base <= to
            };
            if low >= base + STEP || high < base {
                continue;
            }
            let seen = pages_of(base, low, high);
            let q: [&[f32]; R] = std::array::from_fn(|r| &q[(first + r) * q_floats..][..q_floats]);
            if S::WIDE {
                score::<S, P, STEP_PAGES>(s, p, q, keys, 0, &mut scores);
            } else {
                for n in seen.clone() {
                    score::<S, P, 1>(s, p, q, [keys[n]], n, &mut scores);
                }
            }
            for r in 0..R {
                if !sees(r) {
                    weights[r].fill(0.0);
                    continue;
                }
                let j = first + r;
                let (from, to) = args.span(row(r));
                let visible = (from > base || to < base + STEP - 1).then(|| bounds(base, from, to));
                let scales = quantized.then(|| blocks.map(|block| &block[stored.scales..]));
                let mut sums = Sums {
                    m: &mut m[j],
                    l: l[j * LANES..].first_chunk_mut().expect("a vector of lanes"),
                    values: &mut sums[j * width..][..width],
                };
                soften(s, p, factor, &scores[r], visible.as_ref(), scales, &mut sums, &mut weights[r]);
            }
            let ends = if high < base + STEP { high % PAGE_TOKENS / 2 + 1 } else { PAGE_TOKENS / 2 };
            let sums = &mut sums[first * width..][..R * width];
            let mut c = 0;
            if S::WIDE {
                while c + 4 <= layout.chunks {
                    mix::<S, P, 4>(s, p, &weights, values, seen.clone(), ends, layout.chunks, c, sums);
                    c += 4;
                }
            }
            while c < layout.chunks {
                mix::<S, P, 1>(s, p, &weights, values, seen.clone(), ends, layout.chunks, c, sums);
                c += 1;
            }
        }
    }

    for j in 0..count {
        // SAFETY: this row and kv head are this call's, by its contract.
        let out = unsafe { out.part((rows.start + j / group) * args.kv_heads + kv_head) };
        let out = &mut out[j % group * dim..][..dim];
        let total = s.sum(s.load(l[j * LANES..].first_chunk().expect("a vector of lanes")));
        let inverse = s.splat(1.0 / total);
        for (sum, out) in sums[j * width..][..width].as_chunks().0.iter().zip(out.chunks_mut(LANES)) {
            // Plus 0: whether a zero has a sign depends on how many weights of 0 were added.
            let v = s.fma(s.load(sum), inverse, s.splat(0.0));
            match out.first_chunk_mut() {
                Some(whole) => s.store(v, whole),
                None => crate::simd::store_part(s, v, out),
            }
        }
    }
}

/// By how much (as a power of 2) the largest score may exceed m before m follows.
const MOVES: f32 = 8.0;
const LEAST: f32 = -56.0;

/// The pages of a step that hold some of the positions low..=high.
#[inline(always)]
fn pages_of(base: usize, low: usize, high: usize) -> std::ops::RangeInclusive<usize> {
    let from = low.max(base) - base;
    let to = high.min(base + STEP - 1) - base;
    from / PAGE_TOKENS..=to / PAGE_TOKENS
}

#[inline(always)]
fn score<S: Simd, P: Pairs<S>, const N: usize>(
    s: S,
    p: P,
    q: [&[f32]; R],
    keys: [&[P::Group]; N],
    first: usize,
    scores: &mut [[f32; STEP]; R],
) {
    let mut sums = [[s.splat(0.0); N]; R];
    for i in 0..keys[0].len() {
        // Loops, not closures: what is left uninlined is compiled without the features.
        let mut w = [p.load(s, &keys[0][i]); N];
        for n in 1..N {
            w[n] = p.load(s, &keys[n][i]);
        }
        for r in 0..R {
            let x = P::x(q[r], i);
            for n in 0..N {
                sums[r][n] = p.dot(s, sums[r][n], w[n], x);
            }
        }
    }
    for r in 0..R {
        let (scores, _) = scores[r].as_chunks_mut();
        for n in 0..N {
            s.store(sums[r][n], &mut scores[first + n]);
        }
    }
}

/// sums[r][16 c ..][..16 C] += Σ weights[r][t]·v[t]; of the last page only the first `ends` pairs.
#[inline(always)]
fn mix<S: Simd, P: Pairs<S>, const C: usize>(
    s: S,
    p: P,
    weights: &[[f32; STEP]; R],
    values: [&[P::Group]; STEP_PAGES],
    pages: std::ops::RangeInclusive<usize>,
    ends: usize,
    chunks: usize,
    c: usize,
    sums: &mut [f32],
) {
    let (sums, _) = sums.as_chunks_mut::<LANES>();
    let mut acc = [[s.splat(0.0); C]; R];
    for r in 0..R {
        for i in 0..C {
            acc[r][i] = s.load(&sums[r * chunks + c + i]);
        }
    }
    let last = *pages.end();
    for n in pages {
        for pair in 0..if n == last { ends } else { PAGE_TOKENS / 2 } {
            let groups = &values[n][pair * chunks + c..][..C];
            let mut w = [p.load(s, &groups[0]); C];
            for i in 1..C {
                w[i] = p.load(s, &groups[i]);
            }
            for r in 0..R {
                let x = P::x(&weights[r], n * (PAGE_TOKENS / 2) + pair);
                for i in 0..C {
                    acc[r][i] = p.dot(s, acc[r][i], w[i], x);
                }
            }
        }
    }
    for r in 0..R {
        for i in 0..C {
            s.store(acc[r][i], &mut sums[r * chunks + c + i]);
        }
    }
}

/// What one query vector has summed.
struct Sums<'a> {
    m: &'a mut f32,
    l: &'a mut [f32; LANES],
    values: &'a mut [f32],
}

/// Steps 2 and 3: scores to weights.
#[inline(always)]
fn soften<S: Simd, P: Pairs<S>>(
    s: S,
    p: P,
    factor: f32,
    scores: &[f32; STEP],
    visible: Option<&[f32; STEP]>,
    scales: Option<[&[u8]; STEP_PAGES]>,
    sums: &mut Sums,
    weights: &mut [f32; STEP],
) {
    let (scores, _) = scores.as_chunks::<LANES>();
    let mut x = [s.splat(0.0); STEP_PAGES];
    for n in 0..STEP_PAGES {
        x[n] = s.load(&scores[n]);
        if let Some(scales) = scales {
            x[n] = s.mul(x[n], lanes(s, scales[n]));
        }
        if let Some(visible) = visible {
            // Whatever lies where nothing was written, even NaN, becomes −∞.
            x[n] = s.min(x[n], s.load(&visible.as_chunks().0[n]));
        }
    }
    let most = s.largest(s.max(s.max(x[0], x[1]), s.max(x[2], x[3]))) * factor;
    if most > *sums.m + MOVES || *sums.m == f32::NEG_INFINITY {
        let shrink = s.splat(*sums.m - most);
        rescale(s, s.keep_from(exp2_lanes(s, shrink), shrink, s.splat(LEAST)), sums);
        *sums.m = most;
    }
    let mut total = s.load(sums.l);
    for (n, to) in weights.chunks_exact_mut(LANES / 2 * P::X_FLOATS).take(STEP_PAGES).enumerate() {
        let x = s.fma(x[n], s.splat(factor), s.splat(-*sums.m));
        let e = exp2_lanes(s, x);
        if let Some(scales) = scales {
            total = s.add(total, s.keep_from(e, x, s.splat(LEAST)));
            let values = lanes(s, &scales[n][4 * PAGE_TOKENS..]);
            p.put(s, flush(s, s.keep_from(s.mul(e, values), x, s.splat(LEAST))), to);
        } else {
            total = s.add(total, p.put(s, s.keep_from(e, x, s.splat(LEAST)), to));
        }
    }
    s.store(total, sums.l);
}

#[inline(always)]
fn lanes<S: Simd>(s: S, bytes: &[u8]) -> S::F {
    s.load_f32_bytes(bytes.first_chunk().expect("sixteen f32"))
}

/// +∞ where a row sees from..=to, −∞ elsewhere.
#[inline(always)]
fn bounds(base: usize, from: usize, to: usize) -> [f32; STEP] {
    let mut bounds = [f32::NEG_INFINITY; STEP];
    let from = from.max(base) - base;
    bounds[from..=to.min(base + STEP - 1) - base].fill(f32::INFINITY);
    bounds
}

#[inline(always)]
fn rescale<S: Simd>(s: S, shrink: S::F, sums: &mut Sums) {
    s.store(s.mul(s.load(sums.l), shrink), sums.l);
    // Above this a sum's last bit is above the smallest normal number (see `flush`).
    let least = s.splat(1.0 / (1u128 << 100) as f32);
    for sum in sums.values.as_chunks_mut().0 {
        let v = s.mul(s.load(sum), shrink);
        s.store(s.keep_from(v, s.abs(v), least), sum);
    }
}

/// Integers as bf16, exactly.
#[inline(always)]
fn widen(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.iter().zip(to.as_chunks_mut::<2>().0) {
        *to = ((f32::from(from.cast_signed()).to_bits() >> 16) as u16).to_le_bytes();
    }
}
