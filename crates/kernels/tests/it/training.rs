//! The operations of training: forward against f64, backward against finite differences of the same f64, equal bits on every
//! ISA, for every number of threads, and wherever a document lies in a batch.

use falaj_kernels::{AdamStep, Heads, Isa, Ops, Pool, RopeLayout, RopeTable};

/// Numbers in −1..1.
fn numbers(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|x| ((x.to_bits() + 0x7fff + ((x.to_bits() >> 16) & 1)) >> 16) as u16).collect()
}

fn wide(bits: &[u16]) -> Vec<f64> {
    bits.iter().map(|bits| f64::from(f32::from_bits(u32::from(*bits) << 16))).collect()
}

/// Largest difference, against the largest of what is expected.
fn error<'a>(got: impl IntoIterator<Item = f64>, want: impl IntoIterator<Item = &'a f64>) -> f64 {
    let (mut worst, mut most) = (0.0f64, 0.0f64);
    for (got, want) in got.into_iter().zip(want) {
        worst = worst.max((got - want).abs());
        most = most.max(want.abs());
    }
    worst / most
}

fn singles(values: &[f32]) -> impl Iterator<Item = f64> + '_ {
    values.iter().map(|x| f64::from(*x))
}

/// Slopes of `loss` at `x`, by differences.
fn slopes(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    let step = 1e-5;
    (0..x.len())
        .map(|i| {
            let before = x[i];
            x[i] = before + step;
            let above = loss(&x);
            x[i] = before - step;
            let below = loss(&x);
            x[i] = before;
            (above - below) / (2.0 * step)
        })
        .collect()
}

fn weighted(values: &[f64], weights: &[f64]) -> f64 {
    values.iter().zip(weights).map(|(value, weight)| value * weight).sum()
}

/// Runs `f` on every ISA with one and three threads; what it gives must always be the same bits.
fn everywhere<T: PartialEq + std::fmt::Debug>(f: impl Fn(&Ops, &Pool) -> T) -> T {
    let mut first = None;
    for isa in Isa::available() {
        for threads in [1, 3] {
            let got = f(&Ops::new(isa), &Pool::new(threads));
            match &first {
                None => first = Some(got),
                Some(first) => assert!(got == *first, "{isa}, {threads} threads"),
            }
        }
    }
    first.unwrap()
}

#[test]
fn norm() {
    let (rows, d) = (70, 40);
    let (x, w, dy) = (numbers(1, rows * d), numbers(2, d), bf16(&numbers(3, rows * d)));
    let normed = |x: &[f64], w: &[f64]| -> Vec<f64> {
        x.chunks(d)
            .flat_map(|x| {
                let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / d as f64 + 1e-5).sqrt();
                x.iter().zip(w).map(move |(x, w)| x * rstd * w).collect::<Vec<_>>()
            })
            .collect()
    };
    let (out, dx, dw) = everywhere(|ops, pool| {
        let (mut out, mut rstd) = (vec![0; rows * d], vec![0.0; rows]);
        ops.norm_forward(pool, &x, &w, 1e-5, &mut out, &mut rstd);
        let (mut dx, mut dw) = (vec![1.0; rows * d], vec![2.0; d]);
        let mut bits = vec![7; rows * d];
        ops.norm_backward(pool, &dy, &x, &w, &rstd, &mut dx, &mut bits, &mut dw);
        assert!(bits == bf16(&dx));
        (out, dx, dw)
    });
    let [x, w] = [&x, &w].map(|values| singles(values).collect::<Vec<f64>>());
    let dy = wide(&dy);
    assert!(error(wide(&out), &normed(&x, &w)) < 4e-3);
    assert!(error(singles(&dx).map(|x| x - 1.0), &slopes(&x, |x| weighted(&normed(x, &w), &dy))) < 1e-5);
    assert!(error(singles(&dw).map(|x| x - 2.0), &slopes(&w, |w| weighted(&normed(&x, w), &dy))) < 1e-5);
}

#[test]
fn swiglu() {
    let (rows, ffn) = (40, 35);
    let (gu, da) = (bf16(&numbers(4, rows * 2 * ffn)), bf16(&numbers(5, rows * ffn)));
    let gated = |gu: &[f64]| -> Vec<f64> {
        let row = |gu: &[f64]| -> Vec<f64> { (0..ffn).map(|i| gu[i] / (1.0 + (-gu[i]).exp()) * gu[ffn + i]).collect() };
        gu.chunks(2 * ffn).flat_map(row).collect()
    };
    let (out, dgu) = everywhere(|ops, pool| {
        let (mut out, mut dgu) = (vec![0; rows * ffn], vec![0; rows * 2 * ffn]);
        ops.swiglu_forward(pool, &gu, ffn, &mut out);
        ops.swiglu_backward(pool, &gu, ffn, &da, &mut dgu);
        (out, dgu)
    });
    let (gu, da) = (wide(&gu), wide(&da));
    assert!(error(wide(&out), &gated(&gu)) < 4e-3);
    assert!(error(wide(&dgu), &slopes(&gu, |gu| weighted(&gated(gu), &da))) < 4e-3);
}

#[test]
fn cross_entropy() {
    let (rows, vocabulary) = (9, 101);
    let logits: Vec<f32> = numbers(6, rows * vocabulary).iter().map(|x| x * 6.0).collect();
    let targets: Vec<u32> = (0..rows as u32).map(|i| i * 11).collect();
    let weights: Vec<f32> = (0..rows).map(|i| i as f32 / 8.0).collect();
    let losses = |logits: &[f64]| -> Vec<f64> {
        let loss = |(logits, target): (&[f64], &u32)| {
            logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[*target as usize]
        };
        logits.chunks(vocabulary).zip(&targets).map(loss).collect()
    };
    let (got, correct, slope) = everywhere(|ops, pool| {
        let (mut got, mut correct) = (vec![0.0; rows], vec![7; rows]);
        let mut slope = vec![0; rows * vocabulary];
        ops.cross_entropy(pool, &logits, &targets, &weights, &mut got, &mut correct, &mut slope);
        (got, correct, slope)
    });
    let (wide_logits, weights): (Vec<f64>, Vec<f64>) = (singles(&logits).collect(), singles(&weights).collect());
    assert!(error(singles(&got), &losses(&wide_logits)) < 1e-6);
    assert!(error(wide(&slope), &slopes(&wide_logits, |logits| weighted(&losses(logits), &weights))) < 4e-3);
    for (row, correct) in correct.iter().enumerate() {
        let logits = &logits[row * vocabulary..][..vocabulary];
        let best = logits.iter().all(|logit| *logit <= logits[targets[row] as usize]);
        assert_eq!(*correct, u8::from(best));
    }
}

/// (T, H·E) of queries, keys and values side by side.
fn attended(qkv: &[f64], at: Heads, starts: &[u32], window: Option<usize>, scale: f64) -> Vec<f64> {
    let (columns, e) = (at.columns(), at.head_dim);
    let mut out = Vec::new();
    for (t, start) in starts.iter().enumerate() {
        for head in 0..at.heads {
            let kv = head / (at.heads / at.kv_heads);
            let first = (*start as usize).max((t + 1).saturating_sub(window.unwrap_or(usize::MAX)));
            let of = |row: usize, head: usize| &qkv[row * columns + head * e..][..e];
            let score = |row| weighted(of(t, head), of(row, at.heads + kv)) * scale;
            let shares: Vec<f64> = (first..=t).map(|row| score(row).exp()).collect();
            let sum: f64 = shares.iter().sum();
            for i in 0..e {
                let value = |row: usize| of(row, at.heads + at.kv_heads + kv)[i];
                out.push((first..=t).zip(&shares).map(|(row, share)| share / sum * value(row)).sum());
            }
        }
    }
    out
}

/// Positions and a table by which nothing turns.
fn still(rows: usize, head_dim: usize) -> (Vec<u32>, RopeTable) {
    let (cos, sin) = (vec![1.0; head_dim / 2], vec![0.0; head_dim / 2]);
    (vec![0; rows], RopeTable { cos, sin, layout: RopeLayout::Halves })
}

fn starts(lengths: &[usize]) -> Vec<u32> {
    let mut all = Vec::new();
    for length in lengths {
        let start = all.len() as u32;
        all.extend(std::iter::repeat_n(start, *length));
    }
    all
}

#[test]
fn attention_and_its_slopes() {
    for (at, window) in [
        (Heads { heads: 4, kv_heads: 2, head_dim: 10 }, None),
        (Heads { heads: 1, kv_heads: 1, head_dim: 16 }, Some(5)),
        (Heads { heads: 3, kv_heads: 1, head_dim: 4 }, Some(20)),
    ] {
        let starts = starts(&[7, 1, 18]);
        let rows = starts.len();
        let qkv = bf16(&numbers(7, rows * at.columns()).iter().map(|x| x * 2.0).collect::<Vec<_>>());
        let d_o = bf16(&numbers(8, rows * at.heads * at.head_dim));
        let (positions, still) = still(rows, at.head_dim);
        let (o, dqkv) = everywhere(|ops, pool| {
            let (mut o, mut lse) = (vec![0; d_o.len()], vec![0.0; rows * at.heads]);
            let mut dqkv = vec![9; qkv.len()];
            ops.attention_forward(pool, &qkv, &at, &starts, window, 0.3, &mut o, &mut lse);
            let forward = (&o[..], &lse[..]);
            ops.attention_backward(pool, &qkv, &at, &starts, window, 0.3, forward, &d_o, &positions, &still, &mut dqkv);
            (o, dqkv)
        });
        let (qkv, d_o) = (wide(&qkv), wide(&d_o));
        let exact = |qkv: &[f64]| attended(qkv, at, &starts, window, 0.3);
        assert!(error(wide(&o), &exact(&qkv)) < 1e-2, "{at:?}");
        let slope = slopes(&qkv, |qkv| weighted(&exact(qkv), &d_o));
        // bf16 shares and slopes: two to three decimal digits of the largest.
        assert!(error(wide(&dqkv), &slope) < 1.5e-2, "{at:?} {}", error(wide(&dqkv), &slope));
    }
}

#[test]
fn long_documents_cross_blocks_and_keep_their_bits_wherever_they_lie() {
    let at = Heads { heads: 2, kv_heads: 1, head_dim: 8 };
    for window in [None, Some(150)] {
        let length = 301;
        let document = numbers(9, length * at.columns());
        let slope = bf16(&numbers(10, length * at.heads * at.head_dim));
        let run = |before: usize, after: usize| {
            let starts = starts(&[before, length, after]);
            let rows = starts.len();
            let mut qkv = bf16(&numbers(11, rows * at.columns()));
            qkv[before * at.columns()..][..document.len()].copy_from_slice(&bf16(&document));
            let mut d_o = bf16(&numbers(12, rows * at.heads * at.head_dim));
            let (positions, still) = still(rows, at.head_dim);
            d_o[before * at.heads * at.head_dim..][..slope.len()].copy_from_slice(&slope);
            let (o, dqkv) = everywhere(|ops, pool| {
                let (mut o, mut lse) = (vec![0; d_o.len()], vec![0.0; rows * at.heads]);
                let mut dqkv = vec![0; qkv.len()];
                ops.attention_forward(pool, &qkv, &at, &starts, window, 0.4, &mut o, &mut lse);
                let forward = (&o[..], &lse[..]);
                ops.attention_backward(
                    pool, &qkv, &at, &starts, window, 0.4, forward, &d_o, &positions, &still, &mut dqkv,
                );
                (o, dqkv)
            });
            let o = o[before * at.heads * at.head_dim..][..slope.len()].to_vec();
            (o, dqkv[before * at.columns()..][..document.len()].to_vec())
        };
        let alone = run(0, 0);
        let exact = attended(&wide(&bf16(&document)), at, &starts(&[length]), window, 0.4);
        assert!(error(wide(&alone.0), &exact) < 1e-2);
        assert!(alone == run(37, 0));
        assert!(alone == run(5, 130));
    }
}

#[test]
fn rotation_and_its_slopes() {
    let at = Heads { heads: 2, kv_heads: 1, head_dim: 12 };
    let (positions, starts) = ([0, 3, 1, 2], [0; 4]);
    let angle = |i: usize| (i / 6) as f64 * 0.1_f64.powi((i % 6) as i32);
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        let cos = (0..24).map(|i| angle(i).cos() as f32).collect();
        let table = RopeTable { cos, sin: (0..24).map(|i| angle(i).sin() as f32).collect(), layout };
        let qkv = bf16(&numbers(13, positions.len() * at.columns()));
        let d_o = bf16(&numbers(14, positions.len() * at.heads * at.head_dim));
        let turned_by = |qkv: &[f64]| -> Vec<f64> {
            let mut qkv = qkv.to_vec();
            for (row, position) in qkv.chunks_mut(at.columns()).zip(positions) {
                for head in row.chunks_mut(12).take(3) {
                    for i in 0..6 {
                        let (a, b) = if layout == RopeLayout::Halves { (i, i + 6) } else { (2 * i, 2 * i + 1) };
                        let (sin, cos) = angle(position as usize * 6 + i).sin_cos();
                        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
                    }
                }
            }
            qkv
        };
        let (turned, back) = everywhere(|ops, pool| {
            let mut turned = qkv.clone();
            ops.rope_forward(pool, &mut turned, &at, &positions, &table);
            let (mut o, mut lse) = (vec![0; d_o.len()], vec![0.0; 4 * at.heads]);
            ops.attention_forward(pool, &turned, &at, &starts, None, 0.3, &mut o, &mut lse);
            let mut back = vec![0; qkv.len()];
            let forward = (&o[..], &lse[..]);
            ops.attention_backward(
                pool, &turned, &at, &starts, None, 0.3, forward, &d_o, &positions, &table, &mut back,
            );
            (turned, back)
        });
        let (qkv, d_o) = (wide(&qkv), wide(&d_o));
        assert!(error(wide(&turned), &turned_by(&qkv)) < 4e-3);
        let loss = |qkv: &[f64]| weighted(&attended(&turned_by(qkv), at, &starts, None, 0.3), &d_o);
        assert!(error(wide(&back), &slopes(&qkv, loss)) < 1.5e-2, "{layout:?}");
    }
}

#[test]
fn adamw_and_sums_of_squares() {
    let len = 40_003;
    let (p, g) = (numbers(14, len), numbers(15, len));
    let step =
        AdamStep { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.1, bias1: 0.1, bias2: 0.01, clip: 0.5 };
    let (new, m, v, squares) = everywhere(|ops, pool| {
        let (mut p, mut m, mut v) = (p.clone(), vec![0.0; len], vec![0.0; len]);
        ops.adamw(pool, &mut p, &g, &mut m, &mut v, &step);
        (p, m, v, ops.sum_squares(pool, &g).to_bits())
    });
    let exact: f64 = singles(&g).map(|g| g * g).sum();
    assert!((f64::from_bits(squares) / exact - 1.0).abs() < 1e-6);
    for i in 0..len {
        let (p, g) = (f64::from(p[i]), f64::from(g[i]) * 0.5);
        // At the first step both moments, corrected, are the gradient's own.
        let want = p - 1e-2 * (g / (g.abs() + 1e-8) + 0.1 * p);
        assert!((f64::from(new[i]) - want).abs() < 2e-6, "{i}: {} {want}", new[i]);
        assert!((f64::from(m[i]) - 0.1 * g).abs() < 1e-7 && (f64::from(v[i]) - 0.01 * g * g).abs() < 1e-8);
    }
}
