//! How fast attention reads its cache: GB/s of f16 keys and values for one query row, per ISA.
//! `cargo run --release -p falaj-kernels --example attention_rate [threads]`. A probe, not the project's bench.

use std::time::{Duration, Instant};

use falaj_kernels::{AttentionArgs, AttentionRow, Isa, KvView, Ops, Pool};

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |word| word.parse().expect("threads is a number"));
    let pool = Pool::new(threads);
    println!("{threads} threads; f16, pages of 16; one query row");
    println!("isa      heads/kv  dim  tokens      µs   GB/s");
    for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
        for (heads, kv_heads, dim) in [(32, 8, 128), (16, 4, 64), (8, 8, 64)] {
            for tokens in [256usize, 2048, 8192] {
                let seconds = time(&Ops::new(isa), &pool, heads, kv_heads, dim, tokens);
                let bytes = (tokens * kv_heads * dim * 4) as f64;
                println!(
                    "{:8} {heads:>5}/{kv_heads} {dim:>5} {tokens:>7} {:>7.0} {:>6.1}",
                    isa.name(),
                    seconds * 1e6,
                    bytes / seconds / 1e9
                );
            }
        }
    }
}

fn time(ops: &Ops, pool: &Pool, heads: usize, kv_heads: usize, dim: usize, tokens: usize) -> f64 {
    let store: Vec<u16> = (0..tokens * kv_heads * dim).map(|i| 0x3000 + (i * 37 % 1024) as u16).collect();
    let q: Vec<f32> = (0..heads * dim).map(|i| (i as f32).sin()).collect();
    let page_table: Vec<u32> = (0..tokens as u32 / 16).collect();
    let rows = [AttentionRow { page_table: &page_table, position: tokens as u32 - 1 }];
    let args = AttentionArgs {
        q: &q,
        heads,
        kv_heads,
        head_dim: dim,
        keys: KvView::F16(&store),
        values: KvView::F16(&store),
        page_tokens: 16,
        rows: &rows,
        window: None,
        scale: 0.1,
    };
    let mut out = vec![0.0; q.len()];
    let mut best = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(200) {
        let start = Instant::now();
        ops.attention(pool, &args, &mut out);
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}
