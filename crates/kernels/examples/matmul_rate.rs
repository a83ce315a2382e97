//! How fast products are: GB/s of weights with one activation row, GFLOP/s with 256, per ISA and format.
//! `cargo run --release -p falaj-kernels --example matmul_rate [threads [isa]]`. A probe, not the project's bench.

use std::time::{Duration, Instant};

use falaj_kernels::{ActivationKind, Activations, Format, Isa, Matrix, Ops, Pool};

const COLS: usize = 4096;

fn main() {
    let mut words = std::env::args().skip(1);
    let threads = words.next().map_or(2, |word| word.parse().expect("threads is a number"));
    let chosen = words.next().map(|word| Isa::parse(&word).expect("isa is scalar, avx2 or avx512"));
    let pool = Pool::new(threads);
    println!(
        "{threads} threads, {COLS} columns, best of many; decode over 256 MiB of weights (DRAM) and over 1 MiB (cache)"
    );
    println!("isa      format  DRAM GB/s  cache GB/s  m=8 GFLOP/s  m=256 GFLOP/s");
    for isa in Isa::available() {
        if chosen.map_or(isa == Isa::Scalar, |chosen| chosen != isa) {
            continue;
        }
        let ops = Ops::new(isa);
        for format in Format::ALL {
            let rate = |bytes: usize| {
                let (bytes, seconds) = time(&ops, &pool, format, bytes / format.row_bytes(COLS).unwrap(), 1);
                bytes as f64 / seconds / 1e9
            };
            let flops = |m: usize| {
                // Short runs, so that the best one saw no neighbour.
                let rows = 64;
                let (_, seconds) = time(&ops, &pool, format, rows, m);
                2.0 * (rows * COLS * m) as f64 / seconds / 1e9
            };
            println!(
                "{:8} {:6} {:10.1} {:11.1} {:12.0} {:14.0}",
                isa.name(),
                format.to_string(),
                rate(256 << 20),
                rate(1 << 20),
                flops(8),
                flops(256)
            );
        }
    }
}

/// Bytes of the weights, and the best time of one product without preparing the activations, which several share.
fn time(ops: &Ops, pool: &Pool, format: Format, rows: usize, m: usize) -> (usize, f64) {
    let row: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut row_bytes = vec![0; format.row_bytes(COLS).unwrap()];
    ops.quantize_row(format, &row, &mut row_bytes);
    let bytes = row_bytes.repeat(rows);
    let w = Matrix::new(format, rows, COLS, &bytes).unwrap();
    let x = row.repeat(m);
    let mut activations = Activations::new(m, COLS);
    activations.set(ops, pool, &x, m, COLS, ActivationKind::for_format(format));
    let mut out = vec![0.0; m * rows];
    let mut best = Duration::MAX;
    let start = Instant::now();
    let mut runs = 0;
    while runs < 3 || start.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        ops.matmul_rows(pool, &w, &activations, &mut out);
        best = best.min(start.elapsed());
        runs += 1;
    }
    (bytes.len(), best.as_secs_f64())
}
