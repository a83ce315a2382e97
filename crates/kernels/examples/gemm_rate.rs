//! How fast products for training are, against the most that this machine can do: `gemm_rate [threads [isa]]`.

use std::time::Instant;

use falaj_kernels::{Isa, Operand, Ops, OutMut, Pool, Then, Values, probe};

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(2, |text| text.parse().expect("a number of threads"));
    let isa = args.next().map_or(Isa::best(), |text| Isa::parse(&text).expect("an instruction set"));
    let (ops, pool) = (Ops::new(isa), Pool::new(threads));
    let peak = probe::peak_bf16(&pool, isa).ops_per_s;
    println!("{isa}, {threads} threads, bf16 peak {:.0} GFLOP/s", peak / 1e9);
    let tokens = 4096;
    for (out, inner) in [(640, 320), (320, 320), (1536, 320), (320, 768), (8192, 320), (2048, 2048)] {
        let x: Vec<u16> = (0..tokens * inner).map(|i| (0x3f80 + i % 97) as u16).collect();
        let dy: Vec<u16> = (0..tokens * out).map(|i| (0x3e80 + i % 89) as u16).collect();
        let w: Vec<f32> = (0..out * inner).map(|i| (i % 83) as f32 / 83.0).collect();
        let mut y = vec![0u16; tokens * out];
        let mut dx = vec![0f32; tokens * inner];
        let mut dw = vec![0f32; out * inner];
        let weights = Operand::rows(Values::F32(&w), out, inner);
        let forward = best(|| {
            let x = Operand::rows(Values::Bf16(&x), tokens, inner);
            ops.gemm(&pool, x, weights, OutMut::bf16(&mut y), Then::Store);
        });
        let back = best(|| {
            let dy = Operand::rows(Values::Bf16(&dy), tokens, out);
            let w = Operand::transposed(Values::F32(&w), inner, out);
            ops.gemm(&pool, dy, w, OutMut::f32(&mut dx), Then::Store);
        });
        let grad = best(|| {
            let dy = Operand::transposed(Values::Bf16(&dy), out, tokens);
            let x = Operand::transposed(Values::Bf16(&x), inner, tokens);
            ops.gemm(&pool, dy, x, OutMut::f32(&mut dw), Then::Add);
        });
        let flop = 2.0 * (tokens * out * inner) as f64;
        let rates = [forward, back, grad].map(|s| (flop / s / 1e9, 100.0 * flop / s / peak));
        let shown = rates.map(|(rate, share)| format!("{rate:6.0} ({share:3.0} %)")).join("  ");
        println!("{tokens} × {out} × {inner}: forward, dx, dw: {shown} GFLOP/s");
    }
}

fn best(mut run: impl FnMut()) -> f64 {
    run();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
