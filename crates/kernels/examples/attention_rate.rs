//! How fast attention is, per format and ISA, for 32 query heads over 4 kv heads of size 64 (or as given): a prompt's last 64
//! rows in GFLOP/s, and one decoded row in GB/s of keys and values that are in no cache.
//! `cargo run --release -p falaj-kernels --example attention_rate [threads [head_dim [isa]]]`. A probe, not the project's bench.

use std::time::{Duration, Instant};

use falaj_kernels::{AlignedVec, AttentionArgs, AttentionRow, Isa, KvFormat, KvView, Ops, PAGE_TOKENS, Pool};

const HEADS: usize = 32;
const KV_HEADS: usize = 4;
const PROMPT_ROWS: usize = 64;
/// More than a last-level cache.
const STORE_BYTES: usize = 192 << 20;

fn main() {
    let number = |n: usize, or: usize| std::env::args().nth(n).map_or(or, |word| word.parse().expect("a number"));
    let (threads, dim) = (number(1, 2), number(2, 64));
    let only = std::env::args().nth(3);
    let pool = Pool::new(threads);
    println!("{threads} threads, {HEADS} heads over {KV_HEADS} of {dim}");
    println!("isa     kv    tokens  prompt: ms  GFLOP/s  decode: µs   GB/s");
    for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
        if only.as_ref().is_some_and(|only| *only != isa.name()) {
            continue;
        }
        for format in KvFormat::ALL {
            let mut store = AlignedVec::<u8>::new(STORE_BYTES);
            store.fill(0x3c);
            for tokens in [512, 4096, 8192, 32768] {
                let ops = Ops::new(isa);
                let prompt = time(&ops, &pool, format, &store, dim, tokens, PROMPT_ROWS);
                let decode = time(&ops, &pool, format, &store, dim, tokens, 1);
                let flops = (PROMPT_ROWS * HEADS * dim * 4 * (tokens - PROMPT_ROWS / 2)) as f64;
                let bytes = (tokens / PAGE_TOKENS * KV_HEADS * format.block_bytes(dim)) as f64;
                println!(
                    "{:7} {:5} {tokens:>6} {:>11.2} {:>8.0} {:>11.0} {:>6.1}",
                    isa.name(),
                    format!("{format:?}"),
                    prompt * 1e3,
                    flops / prompt / 1e9,
                    decode * 1e6,
                    bytes / decode / 1e9
                );
            }
        }
    }
}

/// Median seconds of the last `count` rows of a context of `tokens`, each time in another part of the store.
fn time(ops: &Ops, pool: &Pool, format: KvFormat, store: &[u8], dim: usize, tokens: usize, count: usize) -> f64 {
    let q: Vec<f32> = (0..count * HEADS * dim).map(|i| (i as f32).sin()).collect();
    let pages = tokens / PAGE_TOKENS;
    let bytes = pages * KV_HEADS * format.block_bytes(dim);
    let page_table: Vec<u32> = (0..pages as u32).collect();
    let position = |row: usize| (tokens - count + row) as u32;
    let rows: Vec<_> =
        (0..count).map(|row| AttentionRow { page_table: &page_table, position: position(row) }).collect();
    let mut out = vec![0.0; q.len()];
    let mut times = Vec::new();
    let start = Instant::now();
    for layer in store.chunks_exact(bytes).cycle() {
        let args = AttentionArgs {
            q: &q,
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: dim,
            kv: KvView { format, pages: layer },
            rows: &rows,
            window: None,
            scale: 0.1,
        };
        let begin = Instant::now();
        ops.attention(pool, &args, &mut out);
        times.push(begin.elapsed());
        if start.elapsed() > Duration::from_millis(250) && times.len() > 2 {
            break;
        }
    }
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
