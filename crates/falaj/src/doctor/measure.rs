//! Two rates that bound a model on a CPU: reading memory (decoding) and quantised products (reading prompts). Each takes
//! the best of a few rounds, because whatever else runs can only make it look slower.

use falaj_kernels::{ActivationKind, Activations, Format, Isa, Matrix, Ops, Pool};
use std::hint::black_box;
use std::time::Instant;

#[derive(Debug)]
pub struct Speed {
    pub read_bytes_per_s: f64,
    /// Multiplications and additions counted apart.
    pub matmul_ops_per_s: f64,
}

pub fn measure(isa: Isa, threads: usize) -> Speed {
    let (ops, pool) = (Ops::new(isa), Pool::new(threads));
    Speed { read_bytes_per_s: read_rate(&ops, &pool), matmul_ops_per_s: matmul_rate(&ops, &pool) }
}

fn read_rate(ops: &Ops, pool: &Pool) -> f64 {
    // Beyond any cache. Ones, because untouched pages would all be the same zero page.
    let (a, b) = (vec![1.0f32; READ_VALUES], vec![1.0f32; READ_VALUES]);
    let tasks = READ_VALUES / PIECE_VALUES;
    let seconds = best_of(ROUNDS, || {
        pool.run(tasks, |task, _| {
            let range = task * PIECE_VALUES..(task + 1) * PIECE_VALUES;
            black_box(ops.dot(&a[range.clone()], &b[range]));
        });
    });
    (2 * READ_VALUES * size_of::<f32>()) as f64 / seconds
}

fn matmul_rate(ops: &Ops, pool: &Pool) -> f64 {
    let row = vec![0.5f32; SIDE];
    let mut encoded = vec![0u8; Format::Q8_0.row_bytes(SIDE).expect("a multiple of the block")];
    ops.quantize_row(Format::Q8_0, &row, &mut encoded);
    let bytes = encoded.repeat(SIDE);
    let weights = Matrix::new(Format::Q8_0, SIDE, SIDE, &bytes).expect("as many bytes as rows and columns say");
    let mut x = Activations::new(BATCH, SIDE);
    x.set(ops, pool, &row.repeat(BATCH), BATCH, SIDE, ActivationKind::for_format(Format::Q8_0));
    let mut out = vec![0.0f32; BATCH * SIDE];
    let seconds = best_of(ROUNDS, || ops.matmul_rows(pool, &weights, &x, &mut out));
    (2 * BATCH * SIDE * SIDE) as f64 / seconds
}

/// Seconds of the fastest round, after one to warm up.
fn best_of(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let round = |_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min).max(1e-9)
}

/// 128 MiB twice.
const READ_VALUES: usize = 32 << 20;
const PIECE_VALUES: usize = 64 << 10;
const SIDE: usize = 2048;
const BATCH: usize = 32;
const ROUNDS: usize = 4;
