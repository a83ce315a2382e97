//! Paged attention: close to f64, and the same bits for every batch, thread count and ISA, whatever lay in the pages before.

use falaj_kernels::{
    AttentionArgs, AttentionRow, Isa, KvFormat, KvView, Ops, PAGE_TOKENS, Pool, RopeLayout, StoreArgs,
};
use proptest::prelude::*;

use crate::random::{Random, all_ops, same_bits};

const SCALE: f32 = 0.37;

/// One sequence's keys, values and queries: (tokens, heads, dim).
struct Sequence {
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    q: Vec<f32>,
}

/// A sequence's pages, and which they are.
struct Stored {
    format: KvFormat,
    pages: Vec<u8>,
    table: Vec<u32>,
}

impl Sequence {
    fn random(seed: u64, tokens: usize, group: usize, kv_heads: usize, dim: usize) -> Self {
        let mut random = Random(seed);
        let heads = group * kv_heads;
        let halves = |values: Vec<f32>| values.iter().map(|&v| half::f16::from_f32_const(v * 3.0).to_f32()).collect();
        let keys = halves(random.floats(tokens * kv_heads * dim));
        let values = halves(random.floats(tokens * kv_heads * dim));
        Self { tokens, heads, kv_heads, dim, keys, values, q: random.floats(tokens * heads * dim) }
    }

    /// Backwards in pages that held NaN before.
    fn store(&self, ops: &Ops, format: KvFormat) -> Stored {
        let count = self.tokens.div_ceil(PAGE_TOKENS);
        let table: Vec<u32> = (0..count as u32).rev().collect();
        let mut pages = vec![0; count * self.kv_heads * format.block_bytes(self.dim)];
        let nan = vec![f32::NAN; count * PAGE_TOKENS * self.kv_heads * self.dim];
        for (keys, values) in [(&nan, &nan), (&self.keys, &self.values)] {
            let rows: Vec<_> = (0..(keys.len() / self.kv_heads / self.dim) as u32)
                .map(|position| AttentionRow { page_table: &table, position })
                .collect();
            let mut q = vec![0.0; rows.len() * self.heads * self.dim];
            let mut args = StoreArgs {
                q: &mut q,
                k: &mut keys.clone(),
                v: values,
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.dim,
                cos: &[],
                sin: &[],
                rope: RopeLayout::Halves,
                rows: &rows,
                format,
                pages: &mut pages,
            };
            ops.rotate_and_store(&Pool::new(2), &mut args);
        }
        Stored { format, pages, table }
    }

    fn attend(&self, ops: &Ops, threads: usize, stored: &Stored, window: Option<u32>, positions: &[u32]) -> Vec<f32> {
        let row = self.heads * self.dim;
        let q: Vec<f32> = positions.iter().flat_map(|&p| self.q[p as usize * row..][..row].to_vec()).collect();
        let rows: Vec<_> =
            positions.iter().map(|&position| AttentionRow { page_table: &stored.table, position }).collect();
        let args = AttentionArgs {
            q: &q,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.dim,
            kv: KvView { format: stored.format, pages: &stored.pages },
            rows: &rows,
            window,
            scale: SCALE,
        };
        let mut out = vec![f32::NAN; q.len()];
        ops.attention(&Pool::new(threads), &args, &mut out);
        out
    }

    fn exact(&self, position: usize, head: usize, window: Option<u32>) -> Vec<f64> {
        let kv_head = head / (self.heads / self.kv_heads);
        let first = window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
        let q = &self.q[(position * self.heads + head) * self.dim..][..self.dim];
        let vector = |from: &[f32], t: usize| -> Vec<f64> {
            from[(t * self.kv_heads + kv_head) * self.dim..][..self.dim].iter().map(|&v| f64::from(v)).collect()
        };
        let scores: Vec<f64> = (first..=position)
            .map(|t| {
                vector(&self.keys, t).iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum::<f64>() * f64::from(SCALE)
            })
            .collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let mut out = vec![0.0; self.dim];
        for (i, s) in scores.iter().enumerate() {
            for (out, v) in out.iter_mut().zip(vector(&self.values, first + i)) {
                *out += (s - max).exp() / total * v;
            }
        }
        out
    }
}

/// Values are below 3. F32, F16: a score's error of some 1e-6 weighs them differently by as much. BF16 rounds queries, keys,
/// values and weights by 2^-9 each, I8 keys and values by 1/254 of their largest: the figures measured, doubled.
#[test]
fn is_close_to_f64() {
    let bounds = [(KvFormat::F32, 2e-5), (KvFormat::F16, 2e-5), (KvFormat::BF16, 2e-2), (KvFormat::I8, 4e-2)];
    for (format, bound) in bounds {
        let mut worst = 0.0f64;
        for (group, dim, window) in
            [(1, 16, None), (8, 64, None), (4, 128, Some(100)), (3, 20, Some(5)), (5, 40, Some(1)), (6, 7, Some(70))]
        {
            let sequence = Sequence::random(dim as u64, 150, group, 2, dim);
            let positions: Vec<u32> = (0..150).collect();
            for ops in all_ops() {
                let out = sequence.attend(&ops, 1, &sequence.store(&ops, format), window, &positions);
                for (i, got) in out.chunks(dim).enumerate() {
                    let exact = sequence.exact(i / sequence.heads, i % sequence.heads, window);
                    for (got, exact) in got.iter().zip(exact) {
                        assert!(
                            got.is_finite(),
                            "{format:?} {ops:?} {group} {dim} {window:?} row {}",
                            i / sequence.heads
                        );
                        worst = worst.max((f64::from(*got) - exact).abs());
                    }
                }
            }
        }
        println!("{format:?}: largest difference {worst:.1e}");
        assert!(worst < bound, "{format:?}: {worst:e}");
    }
}

/// Equal scores, and values that every format holds exactly: the mean, exactly.
#[test]
fn the_mean_of_integers_is_exact() {
    let mut sequence = Sequence::random(1, 128, 4, 1, 64);
    sequence.q.fill(0.0);
    sequence.values = Random(2).integers(128 * 64, 1).iter().map(|v| v * 127.0).collect();
    for format in KvFormat::ALL {
        for ops in all_ops() {
            let out = sequence.attend(&ops, 2, &sequence.store(&ops, format), None, &[127]);
            let mean: Vec<f32> =
                (0..64).map(|d| (0..128).map(|t| sequence.values[t * 64 + d]).sum::<f32>() / 128.0).collect();
            for head in out.chunks(64) {
                same_bits(head, &mean, &format!("{format:?} {ops:?}"));
            }
        }
    }
}

/// Scores that grow all the time move the maximum often; scores that fall make weights that vanish.
#[test]
fn growing_and_falling_scores_are_close_to_f64() {
    for sign in [1.0, -1.0] {
        let mut sequence = Sequence::random(5, 300, 8, 1, 64);
        sequence.q.fill(1.0);
        for (t, key) in sequence.keys.chunks_mut(64).enumerate() {
            key.fill(sign * (t / 4) as f32 / 8.0);
        }
        let exact = sequence.exact(299, 3, None);
        for format in [KvFormat::F32, KvFormat::F16, KvFormat::BF16] {
            let outs: Vec<_> = all_ops()
                .iter()
                .map(|ops| sequence.attend(ops, 1, &sequence.store(ops, format), None, &[299]))
                .collect();
            for out in &outs {
                same_bits(out, &outs[0], &format!("{format:?}"));
                for (got, exact) in out[3 * 64..][..64].iter().zip(&exact) {
                    let bound = if format == KvFormat::BF16 { 2e-2 } else { 1e-4 };
                    assert!((f64::from(*got) - exact).abs() < bound, "{format:?} {sign} {got} {exact}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn bits_depend_on_the_row_alone(
        tokens in 1usize..200,
        group in 1usize..10,
        kv_heads in 1usize..4,
        dim in prop::sample::select(vec![1usize, 8, 16, 31, 48, 64, 80, 128]),
        window in prop::option::of(1u32..140),
        seed: u64,
    ) {
        let sequence = Sequence::random(seed, tokens, group, kv_heads, dim);
        let all: Vec<u32> = (0..tokens as u32).collect();
        let scalar = Ops::new(Isa::Scalar);
        let mut floats = Vec::new();
        for format in KvFormat::ALL {
            let expected = sequence.attend(&scalar, 1, &sequence.store(&scalar, format), window, &all);
            match format {
                KvFormat::F32 => floats.clone_from(&expected),
                KvFormat::F16 => same_bits(&expected, &floats, "values that f16 holds"),
                KvFormat::BF16 | KvFormat::I8 => {}
            }
            for ops in all_ops() {
                let stored = sequence.store(&ops, format);
                let out = sequence.attend(&ops, 3, &stored, window, &all);
                same_bits(&out, &expected, &format!("{ops:?} {format:?}"));
                let row = sequence.heads * dim;
                for position in [tokens - 1, seed as usize % tokens] {
                    let alone = sequence.attend(&ops, 1, &stored, window, &[position as u32]);
                    same_bits(&alone, &expected[position * row..][..row], &format!("{ops:?} {format:?} alone"));
                }
                let start = seed as usize / 7 % tokens;
                let chunk = sequence.attend(&ops, 1, &stored, window, &all[start..]);
                same_bits(&chunk, &expected[start * row..], &format!("{ops:?} {format:?} chunk"));
            }
        }
    }
}

#[test]
fn a_store_rotates_as_rope_does() {
    let (heads, kv_heads, dim, rows) = (6, 2, 20, 9);
    let mut random = Random(3);
    let (q, k, v) =
        (random.floats(rows * heads * dim), random.floats(rows * kv_heads * dim), random.floats(rows * kv_heads * dim));
    let (cos, sin) = (random.floats(rows * 8), random.floats(rows * 8));
    let table = [0];
    let places: Vec<_> = (0..rows as u32).map(|position| AttentionRow { page_table: &table, position }).collect();
    for ops in all_ops() {
        for rope in [RopeLayout::Halves, RopeLayout::Interleaved] {
            let (mut got_q, mut got_k) = (q.clone(), k.clone());
            let mut pages = vec![0; kv_heads * KvFormat::F32.block_bytes(dim)];
            let (q_in, k_in) = (&mut got_q, &mut got_k);
            let mut args = StoreArgs {
                q: q_in,
                k: k_in,
                v: &v,
                heads,
                kv_heads,
                head_dim: dim,
                cos: &cos,
                sin: &sin,
                rope,
                rows: &places,
                format: KvFormat::F32,
                pages: &mut pages,
            };
            ops.rotate_and_store(&Pool::new(2), &mut args);
            let (mut q, mut k) = (q.clone(), k.clone());
            for (row, (q, k)) in q.chunks_mut(heads * dim).zip(k.chunks_mut(kv_heads * dim)).enumerate() {
                for head in q.chunks_mut(dim).chain(k.chunks_mut(dim)) {
                    ops.rope(head, &cos[row * 8..][..8], &sin[row * 8..][..8], rope);
                }
            }
            same_bits(&got_q, &q, "q");
            same_bits(&got_k, &k, "k");
        }
    }
}

#[test]
#[should_panic(expected = "has a page")]
fn a_position_without_a_page_is_refused() {
    let pages = vec![0; KvFormat::F32.block_bytes(2)];
    let rows = [AttentionRow { page_table: &[0], position: 16 }];
    let args = AttentionArgs {
        q: &[0.0; 2],
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        kv: KvView { format: KvFormat::F32, pages: &pages },
        rows: &rows,
        window: None,
        scale: 1.0,
    };
    Ops::best().attention(&Pool::new(1), &args, &mut [0.0; 2]);
}
