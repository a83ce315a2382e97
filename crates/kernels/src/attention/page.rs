//! How a page keeps keys and values, and how they get there. A page is (kv_heads) blocks, one after the other; a block
//! holds 16 positions of one kv head: keys, values, and for I8 their scales. What reads it is in `tile.rs`.

use super::{AttentionRow, KvFormat};
use crate::pool::{Parts, Pool};
use crate::rope::{self, RopeLayout};
use crate::simd::{LANES, Simd, load_part};

/// Positions per page: one per lane.
pub const PAGE_TOKENS: usize = LANES;

/// Offsets within a block, in bytes. A group is 16 lanes × 2 elements that meet a pair of numbers in one step.
///
/// - Keys: (head_dim / 2) groups: the lanes are the positions, the pair are dimensions 2i and 2i + 1.
/// - Values: (8, head_dim / 16) groups: the lanes are dimensions, the pair are positions 2i and 2i + 1.
/// - I8: 16 f32, the scales of the keys, and 16 of the values.
///
/// F32 and F16 groups are (2, 16); BF16 and I8 groups are (16, 2). Dimensions that are not there are zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub pairs: usize,
    pub chunks: usize,
    pub group: usize,
    pub values: usize,
    pub scales: usize,
    pub bytes: usize,
}

impl Layout {
    pub(crate) const fn new(format: KvFormat, head_dim: usize) -> Self {
        let (pairs, chunks) = (head_dim.div_ceil(2), head_dim.div_ceil(LANES));
        let group = 2 * LANES * format.element_bytes();
        let values = pairs * group;
        let scales = values + PAGE_TOKENS / 2 * chunks * group;
        let end = scales + if matches!(format, KvFormat::I8) { 2 * PAGE_TOKENS * 4 } else { 0 };
        Self { pairs, chunks, group, values, scales, bytes: end.next_multiple_of(64) }
    }
}

/// New queries, keys and values of one layer. q: (rows, heads, head_dim); k, v: (rows, kv_heads, head_dim); cos, sin: (rows, n/2),
/// n ≤ head_dim. The rows of a sequence come in the order of their positions.
#[derive(Debug)]
pub struct StoreArgs<'a> {
    pub q: &'a mut [f32],
    pub k: &'a mut [f32],
    pub v: &'a [f32],
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub rope: RopeLayout,
    pub rows: &'a [AttentionRow<'a>],
    pub format: KvFormat,
    /// The pages of this layer: (pages, kv_heads, format.block_bytes(head_dim)).
    pub pages: &'a mut [u8],
}

/// What the tasks share: task t does the heads of kv head t, in the order of the rows.
pub(crate) struct Store<'a> {
    q: Parts<'a, f32>,
    k: Parts<'a, f32>,
    v: &'a [f32],
    pages: Parts<'a, u8>,
    rows: &'a [AttentionRow<'a>],
    kv_heads: usize,
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
    rope: RopeLayout,
    format: KvFormat,
}

pub(crate) fn rotate_and_store(pool: &Pool, args: &mut StoreArgs, task: impl Fn(&Store, usize) + Sync) {
    let &mut StoreArgs { heads, kv_heads, head_dim, rows, .. } = args;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "query heads come in groups per kv head");
    assert_eq!(args.q.len(), rows.len() * heads * head_dim, "q is (rows, heads, head_dim)");
    assert_eq!(args.k.len(), rows.len() * kv_heads * head_dim, "k is (rows, kv_heads, head_dim)");
    assert_eq!(args.k.len(), args.v.len(), "keys and values have one shape");
    assert_eq!(args.cos.len(), args.sin.len(), "a sine for each cosine");
    assert!(args.cos.len().is_multiple_of(rows.len().max(1)), "as many angles for each row");
    assert!(2 * args.cos.len() <= rows.len() * head_dim, "a pair of elements per angle");
    if args.k.is_empty() {
        return;
    }
    let store = Store {
        q: Parts::new(args.q, heads / kv_heads * head_dim),
        k: Parts::new(args.k, head_dim),
        v: args.v,
        pages: Parts::new(args.pages, args.format.block_bytes(head_dim)),
        rows,
        kv_heads,
        head_dim,
        cos: args.cos,
        sin: args.sin,
        rope: args.rope,
        format: args.format,
    };
    if rows.len() < FEW_ROWS {
        (0..kv_heads).for_each(|kv_head| task(&store, kv_head));
    } else {
        pool.run(kv_heads, |kv_head, _| task(&store, kv_head));
    }
}

/// Below this a barrier costs more than it saves.
const FEW_ROWS: usize = 4;

#[inline(always)]
pub(crate) fn store_head<S: Simd>(s: S, store: &Store, kv_head: usize) {
    let &Store { kv_heads, head_dim, format, .. } = store;
    let half = store.cos.len() / store.rows.len();
    let layout = Layout::new(format, head_dim);
    for (row, place) in store.rows.iter().enumerate() {
        let (cos, sin) = (&store.cos[row * half..][..half], &store.sin[row * half..][..half]);
        let part = row * kv_heads + kv_head;
        // SAFETY: each kv head has one task, and these parts belong to kv head `part % kv_heads`.
        let (q, k) = unsafe { (store.q.part(part), store.k.part(part)) };
        for head in q.chunks_exact_mut(head_dim) {
            rope::rope(s, head, cos, sin, store.rope);
        }
        rope::rope(s, k, cos, sin, store.rope);
        let position = place.position as usize;
        let page = place.page_table[position / PAGE_TOKENS] as usize;
        // SAFETY: as above.
        let block = unsafe { store.pages.part(page * kv_heads + kv_head) };
        write(s, format, &layout, block, position % PAGE_TOKENS, k, &store.v[part * head_dim..][..head_dim]);
    }
}

/// One position's key and value. Whatever lay in the odd half of an even slot's pairs is zero after it, so that no reader of
/// this slot meets what an earlier owner left.
#[inline(always)]
fn write<S: Simd>(s: S, format: KvFormat, layout: &Layout, block: &mut [u8], slot: usize, k: &[f32], v: &[f32]) {
    let (keys, rest) = block.split_at_mut(layout.values);
    let (values, scales) = rest.split_at_mut(layout.scales - layout.values);
    let values = &mut values[slot / 2 * layout.chunks * layout.group..][..layout.chunks * layout.group];
    let pair = slot % 2;
    match format {
        KvFormat::F32 => {
            let same = |v: S::F| lanes(s, v).map(f32::to_le_bytes);
            write_key(s, keys, slot, k, apart::<4>, same);
            write_value(s, values, pair, v, apart::<4>, same);
        }
        KvFormat::F16 => {
            // Kept finite: an infinity would reach rows that must not see it, as 0·∞.
            let most = s.splat(65504.0);
            let halves = |v: S::F| {
                let mut out = [0; LANES];
                s.store_f16(s.min(most, s.max(s.sub(s.splat(0.0), most), v)), &mut out);
                out.map(u16::to_le_bytes)
            };
            write_key(s, keys, slot, k, apart::<2>, halves);
            write_value(s, values, pair, v, apart::<2>, halves);
        }
        KvFormat::BF16 => {
            let high =
                |v: S::F| lanes(s, s.round_bf16(flush(s, v))).map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes());
            write_key(s, keys, slot, k, together::<2>, high);
            write_value(s, values, pair, v, together::<2>, high);
        }
        KvFormat::I8 => {
            let (of_keys, of_values) = scales.split_at_mut(4 * PAGE_TOKENS);
            let (inverse, scale) = scale(k);
            of_keys[4 * slot..][..4].copy_from_slice(&scale.to_le_bytes());
            write_key(s, keys, slot, k, together::<1>, |v| integers(s, v, inverse));
            let (inverse, scale) = self::scale(v);
            of_values[4 * slot..][..4].copy_from_slice(&scale.to_le_bytes());
            write_value(s, values, pair, v, together::<1>, |v| integers(s, v, inverse));
        }
    }
}

#[inline(always)]
fn apart<const N: usize>(lane: usize, half: usize) -> usize {
    (half * LANES + lane) * N
}

#[inline(always)]
fn together<const N: usize>(lane: usize, half: usize) -> usize {
    (lane * 2 + half) * N
}

#[inline(always)]
fn write_key<S: Simd, const N: usize>(
    s: S,
    keys: &mut [u8],
    slot: usize,
    k: &[f32],
    place: impl Fn(usize, usize) -> usize,
    convert: impl Fn(S::F) -> [[u8; N]; LANES],
) {
    for (k, groups) in k.chunks(LANES).zip(keys.chunks_mut(LANES * LANES * N)) {
        let elements = convert(load_part(s, k));
        for (pair, group) in elements.as_chunks::<2>().0.iter().zip(groups.chunks_exact_mut(2 * LANES * N)) {
            for (half, element) in pair.iter().enumerate() {
                group[place(slot, half)..][..N].copy_from_slice(element);
            }
        }
    }
}

#[inline(always)]
fn write_value<S: Simd, const N: usize>(
    s: S,
    values: &mut [u8],
    pair: usize,
    v: &[f32],
    place: impl Fn(usize, usize) -> usize,
    convert: impl Fn(S::F) -> [[u8; N]; LANES],
) {
    for (v, group) in v.chunks(LANES).zip(values.chunks_exact_mut(2 * LANES * N)) {
        for (lane, element) in convert(load_part(s, v)).iter().enumerate() {
            group[place(lane, pair)..][..N].copy_from_slice(element);
            if pair == 0 {
                group[place(lane, 1)..][..N].fill(0);
            }
        }
    }
}

#[inline(always)]
fn lanes<S: Simd>(s: S, v: S::F) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    s.store(v, &mut out);
    out
}

/// What is below 2^-56 becomes +0. Products of what is left are multiples of 2^-126, so no sum of them is subnormal, and
/// instructions that flush subnormals agree with those that don't.
#[inline(always)]
pub(crate) fn flush<S: Simd>(s: S, v: S::F) -> S::F {
    s.keep_from(v, s.abs(v), s.splat(1.0 / (1u64 << 56) as f32))
}

/// 127 / amax, and amax / 127, which is NaN if one of x is.
#[inline(always)]
fn scale(x: &[f32]) -> (f32, f32) {
    if x.iter().any(|v| v.is_nan()) {
        return (0.0, f32::NAN);
    }
    let most = x.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    (if most > 0.0 { 127.0 / most } else { 0.0 }, most / 127.0)
}

#[inline(always)]
fn integers<S: Simd>(s: S, v: S::F, inverse: f32) -> [[u8; 1]; LANES] {
    // A tiny amax has an infinite inverse; the bounds keep its integers in range.
    let v = s.min(s.splat(127.0), s.max(s.splat(-127.0), s.round(s.mul(v, s.splat(inverse)))));
    lanes(s, v).map(|v| [(v as i8).cast_unsigned()])
}
