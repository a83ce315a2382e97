//! How fast weights come from a file into panels, and what memory that takes: maps FILE, takes its bytes for matrices of
//! one format after the other, packs them and releases what it has packed.
//! `cargo run --release -p falaj-kernels --example pack_rate FILE [format [threads [columns]]]`. A probe, not the project's bench.

use std::time::Instant;

use falaj_kernels::{AlignedVec, Format, MappedFile, Matrix, Ops, Panels, Pool};

const ROWS: usize = 5632;

fn main() {
    let mut words = std::env::args().skip(1);
    let path = words.next().expect("FILE [format [threads [columns]]]");
    let format = words.next().unwrap_or_else(|| "Q8_0".into());
    let format = Format::ALL.into_iter().find(|f| f.to_string() == format).expect("a format with panels, such as Q8_0");
    let pool =
        Pool::new(words.next().map_or_else(Pool::available_threads, |n| n.parse().expect("threads is a number")));
    let cols: usize = words.next().map_or(2048, |n| n.parse().expect("columns is a number"));
    let ops = Ops::best();

    let start = Instant::now();
    let file = MappedFile::open(path.as_ref()).expect("the file can be mapped");
    file.advise_needed();
    file.advise_sequential();
    let bytes = format.row_bytes(cols).expect("columns are whole blocks") * ROWS;
    let out_bytes = Panels::bytes_for(format, ROWS, cols).expect("a format with panels");
    let mut packed = Vec::new();
    for at in (0..file.len() - file.len() % bytes).step_by(bytes) {
        let w = Matrix::new(format, ROWS, cols, &file[at..at + bytes]).expect("the bytes of one matrix");
        let mut out = AlignedVec::new(out_bytes);
        ops.pack(&pool, &w, &mut out);
        file.release(at..at + bytes);
        packed.push(out);
    }
    let (seconds, bytes) = (start.elapsed().as_secs_f64(), packed.len() * bytes);
    println!(
        "{format}, {cols} columns, {} threads: {} MB in {seconds:.2} s, {:.2} GB/s; {} at most, of which the panels {} MB",
        pool.threads(),
        bytes / 1_000_000,
        bytes as f64 / seconds / 1e9,
        most_memory(),
        packed.len() * out_bytes / 1_000_000
    );
}

/// As Linux says it, in kB.
fn most_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown memory".into(), |line| line.trim().to_owned())
}
