//! How fast products with panels are: GB/s of weights and GFLOP/s per format, shape and number of activation rows. The weights are
//! many times the caches, so few rows are bound by DRAM. A probe, not the project's bench.
//! `cargo run --release -p falaj-kernels --example matmul_rate [isa [threads [FORMAT,… [rows,…]]]]`.

use std::time::{Duration, Instant};

use falaj_kernels::{
    ActivationKind, Activations, AlignedVec, Format, Isa, Matrix, Ops, Panels, Pool, Product, Then, WeightView,
};

const SHAPES: [(usize, usize); 3] = [(5632, 2048), (2048, 5632), (2048, 2048)];
const WEIGHT_BYTES: usize = 128 << 20;

fn main() {
    let mut words = std::env::args().skip(1);
    let isa = words.next().map_or(Isa::best(), |word| Isa::parse(&word).expect("an isa"));
    let threads = words.next().map_or(2, |word| word.parse().expect("threads is a number"));
    let formats = words.next().unwrap_or("Q4_0,Q8_0,Q4_K,Q5_K,Q6_K,BF16".to_owned());
    let rows = words.next().unwrap_or("1,8,32,512".to_owned());
    let rows: Vec<usize> = rows.split(',').map(|word| word.parse().expect("rows is a number")).collect();
    let (ops, pool) = (Ops::new(isa), Pool::new(threads));
    println!("{isa}, {threads} threads; each cell GB/s of weights and GFLOP/s, median");
    print!("format shape         pack GB/s");
    rows.iter().for_each(|m| print!("  {:>13}", format!("m={m}")));
    println!();
    for format in Format::ALL {
        if !formats.split(',').any(|name| name == format.to_string()) {
            continue;
        }
        for (n, k) in SHAPES {
            shape(&ops, &pool, format, n, k, &rows);
        }
    }
}

fn shape(ops: &Ops, pool: &Pool, format: Format, n: usize, k: usize, rows: &[usize]) {
    let row: Vec<f32> = (0..k).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut bytes = vec![0; format.row_bytes(k).expect("whole blocks")];
    ops.quantize_row(format, &row, &mut bytes);
    let file = bytes.repeat(n);
    let len = Panels::bytes_for(format, n, k).expect("panels");
    let copies = WEIGHT_BYTES.div_ceil(len);
    let mut panels = AlignedVec::<u8>::new(len * copies);
    let matrix = Matrix::new(format, n, k, &file).expect("whole rows");
    panels.chunks_exact_mut(len).for_each(|out| ops.pack(pool, &matrix, out));
    let start = Instant::now();
    panels.chunks_exact_mut(len).for_each(|out| ops.pack(pool, &matrix, out));
    print!("{:6} {n:5} x {k:4} {:10.1}", format.to_string(), panels.len() as f64 / start.elapsed().as_secs_f64() / 1e9);
    for &m in rows {
        let x = row.repeat(m);
        let mut activations = Activations::new(m, k);
        activations.set(ops, pool, &x, m, k, ActivationKind::for_format(format));
        let mut out = AlignedVec::<f32>::new(m * n);
        // A few weights are enough where they are computed with longer than they are read.
        let copies = if m < 64 { copies } else { 2 };
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < 3 || begin.elapsed() < Duration::from_millis(250) {
            let start = Instant::now();
            for bytes in panels.chunks_exact(len).take(copies) {
                let w = WeightView::Panels(Panels::new(format, n, k, bytes).expect("panels"));
                let then = Then::Store;
                ops.matmul(pool, &activations, &mut [Product { w, rows: 0..m, out: &mut out, then }]);
            }
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let seconds = times[times.len() / 2] / copies as f64;
        print!("  {:6.1} {:6.0}", len as f64 / seconds / 1e9, 2.0 * (n * k * m) as f64 / seconds / 1e9);
    }
    println!();
}
