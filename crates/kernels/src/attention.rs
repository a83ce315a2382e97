//! Attention of query rows over a paged key-value store. Each row is computed alone and its sums run over positions in a
//! fixed order, so page size, chunking and batch never change a bit.

use std::cell::RefCell;

use crate::pool::Pool;
use crate::simd::{LANES, Simd, store_part};
use crate::softmax::exp_and_sum;

/// How a store keeps its elements. Maths is f32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    F32,
    F16,
}

impl KvFormat {
    pub const fn element_bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
        }
    }
}

/// The keys, or the values, of one layer: (pages, kv_heads, page_tokens, head_dim). F16 as bits.
#[derive(Clone, Copy, Debug)]
pub enum KvView<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
}

impl KvView<'_> {
    fn len(&self) -> usize {
        match self {
            KvView::F32(values) => values.len(),
            KvView::F16(values) => values.len(),
        }
    }
}

/// One query row: the pages of its sequence in order, and its position. It sees the slots
/// `max(0, position + 1 − window)..=position`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    pub page_table: &'a [u32],
    pub position: u32,
}

/// q: (rows.len(), heads, head_dim); head h reads kv head h / (heads / kv_heads).
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs<'a> {
    pub q: &'a [f32],
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub keys: KvView<'a>,
    pub values: KvView<'a>,
    pub page_tokens: usize,
    pub rows: &'a [AttentionRow<'a>],
    pub window: Option<u32>,
    /// Scores are (q · k) · scale, usually 1 / √head_dim.
    pub scale: f32,
}

/// Splits rows and kv heads over the pool and calls `task` for each.
pub(crate) fn attention(
    pool: &Pool,
    args: &AttentionArgs,
    out: &mut [f32],
    task: impl Fn(&AttentionArgs, usize, usize, &mut Vec<f32>, &mut [f32]) + Sync,
) {
    check(args, out);
    let group = args.heads / args.kv_heads * args.head_dim;
    if out.is_empty() || group == 0 {
        return;
    }
    let parts = SharedParts { start: out.as_mut_ptr(), parts: out.len() / group, len: group };
    // A kv head's group of query heads lies together in `out`: part row · kv_heads + kv_head.
    pool.run(parts.parts, |part, _| {
        // SAFETY: the pool gives each part to one task.
        let out = unsafe { parts.part(part) };
        SCORES.with_borrow_mut(|scores| task(args, part / args.kv_heads, part % args.kv_heads, scores, out));
    });
}

thread_local! {
    /// Grows to (query heads per kv head) · (longest context), then stays.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn check(args: &AttentionArgs, out: &[f32]) {
    assert!(args.kv_heads > 0 && args.heads.is_multiple_of(args.kv_heads), "query heads come in groups per kv head");
    assert!(args.page_tokens > 0, "a page holds tokens");
    assert_eq!(args.q.len(), args.rows.len() * args.heads * args.head_dim, "q is (rows, heads, head_dim)");
    assert_eq!(out.len(), args.q.len(), "the result has the shape of q");
    assert_eq!(args.keys.len(), args.values.len(), "keys and values have one shape");
    let page = args.kv_heads * args.page_tokens * args.head_dim;
    assert!(args.window != Some(0), "a window lets a token see itself");
    for row in args.rows {
        let pages = row.position as usize / args.page_tokens + 1;
        assert!(pages <= row.page_table.len(), "position {} has a page", row.position);
        let inside = |&number: &u32| (number as usize + 1) * page <= args.keys.len();
        assert!(first_page(args, row) >= pages || row.page_table[first_page(args, row)..pages].iter().all(inside));
    }
}

fn first_page(args: &AttentionArgs, row: &AttentionRow) -> usize {
    first_position(args, row) / args.page_tokens
}

fn first_position(args: &AttentionArgs, row: &AttentionRow) -> usize {
    args.window.map_or(0, |window| (row.position as usize + 1).saturating_sub(window as usize))
}

/// Equal parts of one buffer that different tasks write.
struct SharedParts {
    start: *mut f32,
    parts: usize,
    len: usize,
}

// SAFETY: tasks write different parts, by the contract of `part`.
unsafe impl Sync for SharedParts {}

impl SharedParts {
    /// # Safety
    /// No two of the returned slices may be of the same part at the same time, nor outlive the buffer.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    unsafe fn part(&self, part: usize) -> &mut [f32] {
        assert!(part < self.parts);
        // SAFETY: inside the buffer, since part < parts; not aliased, by the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(part * self.len), self.len) }
    }
}

/// The query heads of one kv head in one row; out: (group, head_dim).
#[inline(always)]
pub(crate) fn attend<S: Simd>(
    s: S,
    args: &AttentionArgs,
    row: usize,
    kv_head: usize,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    match (args.keys, args.values) {
        (KvView::F32(keys), KvView::F32(values)) => attend_typed(s, args, row, kv_head, keys, values, scores, out),
        (KvView::F16(keys), KvView::F16(values)) => attend_typed(s, args, row, kv_head, keys, values, scores, out),
        _ => panic!("keys and values are kept in one format"),
    }
}

/// An element of a store.
trait Element: Copy + Default {
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::F;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::F {
        s.load(from)
    }
}

impl Element for u16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::F {
        s.load_f16(from)
    }
}

/// Sixteen elements of a vector from lane group `chunk` on, zeros beyond its end.
#[inline(always)]
fn load_chunk<S: Simd, E: Element>(s: S, vector: &[E], chunk: usize) -> S::F {
    let rest = &vector[chunk * LANES..];
    match rest.first_chunk() {
        Some(whole) => E::load(s, whole),
        None => {
            let mut padded = [E::default(); LANES];
            padded[..rest.len()].copy_from_slice(rest);
            E::load(s, &padded)
        }
    }
}

#[inline(always)]
fn attend_typed<S: Simd, E: Element>(
    s: S,
    args: &AttentionArgs,
    row: usize,
    kv_head: usize,
    keys: &[E],
    values: &[E],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let dim = args.head_dim;
    let group = args.heads / args.kv_heads;
    let q = &args.q[(row * args.heads + kv_head * group) * dim..][..group * dim];
    let row = &args.rows[row];
    let first = first_position(args, row);
    let count = row.position as usize + 1 - first;
    if scores.len() < group * count {
        scores.resize(group * count, 0.0);
    }
    let scores = &mut scores[..group * count];
    let places = Places {
        page_table: row.page_table,
        stride: args.kv_heads * args.page_tokens * dim,
        head_at: kv_head * args.page_tokens * dim,
        page_tokens: args.page_tokens,
        dim,
        page: first / args.page_tokens,
        slot: first % args.page_tokens,
    };

    let mut head = 0;
    while head < group {
        let q = &q[head * dim..];
        if head + TOGETHER <= group {
            score::<S, E, TOGETHER>(s, args.scale, dim, q, keys, places, &mut scores[head * count..], count);
            head += TOGETHER;
        } else {
            score::<S, E, 1>(s, args.scale, dim, q, keys, places, &mut scores[head * count..], count);
            head += 1;
        }
    }
    let mut head = 0;
    while head < group {
        let heads = if head + TOGETHER <= group { TOGETHER } else { 1 };
        let weights = &mut scores[head * count..][..heads * count];
        let mut inverses = [0.0; TOGETHER];
        for (weights, inverse) in weights.chunks_exact_mut(count).zip(&mut inverses) {
            *inverse = 1.0 / exp_and_sum(s, weights);
        }
        let out = &mut out[head * dim..];
        if heads == TOGETHER {
            mix::<S, E, TOGETHER>(s, dim, weights, &inverses, values, places, out, count);
        } else {
            mix::<S, E, 1>(s, dim, weights, &inverses, values, places, out, count);
        }
        head += heads;
    }
}

/// Where one position after the other of a kv head lies.
#[derive(Clone, Copy)]
struct Places<'a> {
    page_table: &'a [u32],
    stride: usize,
    head_at: usize,
    page_tokens: usize,
    dim: usize,
    page: usize,
    slot: usize,
}

impl Places<'_> {
    #[inline(always)]
    fn next(&mut self) -> usize {
        if self.slot == self.page_tokens {
            (self.page, self.slot) = (self.page + 1, 0);
        }
        let place = self.page_table[self.page] as usize * self.stride + self.head_at + self.slot * self.dim;
        self.slot += 1;
        place
    }
}

/// Query heads that share each load of a key or value.
const TOGETHER: usize = 4;

/// scores[h][t] = (q[h] · k[t]) · scale, each a dot product as in `elementwise::dot`; t counts from the first visible position.
#[inline(always)]
fn score<S: Simd, E: Element, const H: usize>(
    s: S,
    scale: f32,
    dim: usize,
    q: &[f32],
    keys: &[E],
    mut places: Places,
    scores: &mut [f32],
    count: usize,
) {
    for t in 0..count {
        let key = &keys[places.next()..][..dim];
        let mut sums = [s.splat(0.0); H];
        for chunk in 0..dim.div_ceil(LANES) {
            let k = load_chunk(s, key, chunk);
            for h in 0..H {
                let q = load_chunk(s, &q[h * dim..][..dim], chunk);
                sums[h] = s.fma(q, k, sums[h]);
            }
        }
        for h in 0..H {
            scores[h * count + t] = s.sum(sums[h]) * scale;
        }
    }
}

/// out[h] = (Σ_t weights[h][t]·v[t]) · inverses[h], summed in the order of t.
#[inline(always)]
fn mix<S: Simd, E: Element, const H: usize>(
    s: S,
    dim: usize,
    weights: &[f32],
    inverses: &[f32; TOGETHER],
    values: &[E],
    places: Places,
    out: &mut [f32],
    count: usize,
) {
    for chunk in (0..dim.div_ceil(LANES)).step_by(2) {
        let second = (chunk + 1) * LANES < dim;
        let mut sums = [[s.splat(0.0); 2]; H];
        let mut places = places;
        for t in 0..count {
            let value = &values[places.next()..][..dim];
            let v = [load_chunk(s, value, chunk), if second { load_chunk(s, value, chunk + 1) } else { s.splat(0.0) }];
            for h in 0..H {
                let weight = s.splat(weights[h * count + t]);
                sums[h][0] = s.fma(weight, v[0], sums[h][0]);
                sums[h][1] = s.fma(weight, v[1], sums[h][1]);
            }
        }
        for h in 0..H {
            let out = &mut out[h * dim..][..dim];
            let inverse = s.splat(inverses[h]);
            for (i, out) in out[chunk * LANES..].chunks_mut(LANES).take(2).enumerate() {
                store_part(s, s.mul(sums[h][i], inverse), out);
            }
        }
    }
}
