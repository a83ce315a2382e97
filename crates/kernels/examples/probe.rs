//! Prints what the machine can do at most: `cargo run --release -p falaj-kernels --example probe [THREADS]`.
#![forbid(unsafe_code)]

use falaj_kernels::{Isa, Pool, probe};

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or_else(Pool::available_threads);
    let pool = Pool::new(threads);
    println!("threads {threads}: read {:.1} GB/s", probe::read_bandwidth(&pool) / 1e9);
    for isa in Isa::available() {
        for (what, peak) in [
            ("int8", probe::peak_int8(&pool, isa)),
            ("f32", probe::peak_f32(&pool, isa)),
            ("bf16", probe::peak_bf16(&pool, isa)),
        ] {
            println!("{isa} {what}: {:.0} Gop/s ({})", peak.ops_per_s / 1e9, peak.instruction);
        }
    }
}
