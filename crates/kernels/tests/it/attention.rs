//! Paged attention: close to f64, and the same bits for every page size, batch, thread count and ISA.

use falaj_kernels::{AttentionArgs, AttentionRow, KvView, Ops, Pool};
use proptest::prelude::*;

use crate::random::{Random, all_ops, same_bits};

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

impl Sequence {
    fn random(seed: u64, tokens: usize, group: usize, kv_heads: usize, dim: usize) -> Self {
        let mut random = Random(seed);
        let heads = group * kv_heads;
        let halves = |values: Vec<f32>| values.iter().map(|&v| half::f16::from_f32_const(v * 3.0).to_f32()).collect();
        let keys = halves(random.floats(tokens * kv_heads * dim));
        let values = halves(random.floats(tokens * kv_heads * dim));
        Self { tokens, heads, kv_heads, dim, keys, values, q: random.floats(tokens * heads * dim) }
    }

    /// The store in pages, backwards, and the page table.
    fn pages(&self, from: &[f32], page_tokens: usize) -> (Vec<f32>, Vec<u32>) {
        let pages = self.tokens.div_ceil(page_tokens);
        let table: Vec<u32> = (0..pages as u32).rev().collect();
        // What is not written must not be read.
        let mut store = vec![f32::NAN; pages * self.kv_heads * page_tokens * self.dim];
        for t in 0..self.tokens {
            for head in 0..self.kv_heads {
                let page = table[t / page_tokens] as usize;
                let to = ((page * self.kv_heads + head) * page_tokens + t % page_tokens) * self.dim;
                let from = &from[(t * self.kv_heads + head) * self.dim..][..self.dim];
                store[to..to + self.dim].copy_from_slice(from);
            }
        }
        (store, table)
    }

    fn attend(
        &self,
        ops: &Ops,
        threads: usize,
        page_tokens: usize,
        halves: bool,
        window: Option<u32>,
        positions: &[u32],
    ) -> Vec<f32> {
        let (keys, table) = self.pages(&self.keys, page_tokens);
        let (values, _) = self.pages(&self.values, page_tokens);
        let to_f16 = |x: &[f32]| {
            let mut out = vec![0; x.len()];
            ops.to_f16(x, &mut out);
            out
        };
        let (half_keys, half_values) = (to_f16(&keys), to_f16(&values));
        let row = self.heads * self.dim;
        let q: Vec<f32> = positions.iter().flat_map(|&p| self.q[p as usize * row..][..row].to_vec()).collect();
        let rows: Vec<_> = positions.iter().map(|&position| AttentionRow { page_table: &table, position }).collect();
        let args = AttentionArgs {
            q: &q,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.dim,
            keys: if halves { KvView::F16(&half_keys) } else { KvView::F32(&keys) },
            values: if halves { KvView::F16(&half_values) } else { KvView::F32(&values) },
            page_tokens,
            rows: &rows,
            window,
            scale: 0.37,
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
                vector(&self.keys, t).iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum::<f64>() * f64::from(0.37f32)
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

#[test]
fn is_close_to_f64() {
    for (group, dim, window) in [(1, 16, None), (4, 64, None), (3, 20, Some(5)), (5, 40, Some(1)), (6, 7, Some(100))] {
        let sequence = Sequence::random(dim as u64, 33, group, 2, dim);
        let positions: Vec<u32> = (0..33).collect();
        for ops in all_ops() {
            let out = sequence.attend(&ops, 1, 8, true, window, &positions);
            for (i, got) in out.chunks(dim).enumerate() {
                let exact = sequence.exact(i / sequence.heads, i % sequence.heads, window);
                for (got, exact) in got.iter().zip(exact) {
                    // Values are below 3; a score's error of some 1e-6 weighs them differently by as much.
                    assert!((f64::from(*got) - exact).abs() < 2e-5, "{got} {exact} {ops:?} {group} {dim} {window:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn bits_depend_on_the_row_alone(
        tokens in 1usize..70,
        group in 1usize..7,
        kv_heads in 1usize..4,
        dim in prop::sample::select(vec![1usize, 8, 16, 31, 48, 64, 80]),
        window in prop::option::of(1u32..40),
        page_tokens in 1usize..40,
        seed: u64,
    ) {
        let sequence = Sequence::random(seed, tokens, group, kv_heads, dim);
        let all: Vec<u32> = (0..tokens as u32).collect();
        let scalar = Ops::new(falaj_kernels::Isa::Scalar);
        let expected = sequence.attend(&scalar, 1, 16, false, window, &all);
        for ops in all_ops() {
            for halves in [false, true] {
                let out = sequence.attend(&ops, 3, page_tokens, halves, window, &all);
                same_bits(&out, &expected, &format!("{ops:?} f16 {halves}"));
            }
            let last = [tokens as u32 - 1];
            let alone = sequence.attend(&ops, 1, page_tokens, true, window, &last);
            same_bits(&alone, &expected[expected.len() - alone.len()..], "alone");
        }
    }
}

#[test]
#[should_panic(expected = "has a page")]
fn a_position_without_a_page_is_refused() {
    let kv = [0.0; 32];
    let rows = [AttentionRow { page_table: &[0], position: 16 }];
    let args = AttentionArgs {
        q: &[0.0; 2],
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        keys: KvView::F32(&kv),
        values: KvView::F32(&kv),
        page_tokens: 16,
        rows: &rows,
        window: None,
        scale: 1.0,
    };
    Ops::best().attention(&Pool::new(1), &args, &mut [0.0; 2]);
}
