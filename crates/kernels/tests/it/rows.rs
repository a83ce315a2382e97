//! Operations on rows of floats: close to f64, right at every short length and alignment, equal bits on every ISA.

use falaj_kernels::{Ops, RopeLayout, exp};

use crate::random::{Random, all_ops, same_bits};

const EPS: f64 = f32::EPSILON as f64;

/// Runs `f` on all ISAs, at lengths 0..=70 and a longer one, on slices at all alignments of a float.
fn on_every_isa(mut f: impl FnMut(&Ops, usize, usize) -> Vec<f32>) {
    for len in (0..=70).chain([1000]) {
        for offset in [0, 1, 3] {
            let mut first: Option<Vec<f32>> = None;
            for ops in all_ops() {
                let out = f(&ops, len, offset);
                let first = first.get_or_insert_with(|| out.clone());
                same_bits(&out, first, &format!("{ops:?}, {len} from {offset}"));
            }
        }
    }
}

fn close(got: f32, exact: f64, bound: f64) {
    assert!((f64::from(got) - exact).abs() <= bound, "{got:e} for {exact:e}, bound {bound:e}");
}

#[test]
fn dot_is_close_and_exact_on_integers() {
    on_every_isa(|ops, len, offset| {
        let mut random = Random(len as u64);
        let (a, b) = (random.floats(len + offset), random.floats(len + offset));
        let (a, b) = (&a[offset..], &b[offset..]);
        let terms = || a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        let got = ops.dot(a, b);
        close(got, terms().sum(), (len as f64 / 16.0 + 5.0) * EPS * terms().map(f64::abs).sum::<f64>());

        let (a, b) = (random.integers(len, 50), random.integers(len, 50));
        let exact: i64 = a.iter().zip(&b).map(|(a, b)| (a * b) as i64).sum();
        assert_eq!(ops.dot(&a, &b) as i64, exact);
        vec![got]
    });
}

#[test]
fn rms_norm_is_close() {
    on_every_isa(|ops, len, offset| {
        if len == 0 {
            return vec![];
        }
        let mut random = Random(len as u64);
        let (x, w) = (random.floats(3 * len + offset), random.floats(len + offset));
        let (x, w) = (&x[offset..], &w[offset..]);
        let mut out = vec![0.0; 3 * len + offset];
        ops.rms_norm(x, w, 1e-5, &mut out[offset..]);
        for (x, out) in x.chunks(len).zip(out[offset..].chunks(len)) {
            let mean = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / len as f64;
            for ((&x, &w), &got) in x.iter().zip(w).zip(out) {
                let exact = f64::from(x) * f64::from(w) / (mean + f64::from(1e-5f32)).sqrt();
                close(got, exact, (len as f64 / 16.0 + 16.0) * EPS * exact.abs());
            }
        }
        out
    });
}

#[test]
fn rope_rotates_pairs_and_leaves_the_rest() {
    for layout in [RopeLayout::Interleaved, RopeLayout::Halves] {
        on_every_isa(|ops, len, offset| {
            let mut random = Random(len as u64);
            let half = len / 2;
            let mut x = random.floats(len + 3 + offset);
            let before = x.clone();
            let angles = random.floats(half + offset);
            let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
            ops.rope(&mut x[offset..], &cos[offset..], &sin[offset..], layout);
            let (old, new) = (&before[offset..], &x[offset..]);
            for i in 0..half {
                let (a, b) = match layout {
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    RopeLayout::Halves => (i, i + half),
                };
                let (c, s) = (f64::from(cos[offset + i]), f64::from(sin[offset + i]));
                let size = 2.0 * EPS * f64::from(old[a].abs() + old[b].abs());
                close(new[a], f64::from(old[a]) * c - f64::from(old[b]) * s, size);
                close(new[b], f64::from(old[b]) * c + f64::from(old[a]) * s, size);
            }
            assert_eq!(old[2 * half..], new[2 * half..]);
            x
        });
    }
}

#[test]
fn swiglu_is_close_and_total() {
    on_every_isa(|ops, len, offset| {
        let mut random = Random(len as u64);
        let gate: Vec<f32> = random.floats(len + offset).iter().map(|v| v * 30.0).collect();
        let up = random.floats(len + offset);
        let mut out = gate.clone();
        ops.swiglu(&mut out[offset..], &up[offset..]);
        for i in offset..len + offset {
            let g = f64::from(gate[i]);
            let exact = g / (1.0 + (-g).exp()) * f64::from(up[i]);
            close(out[i], exact, 8.0 * EPS * exact.abs());
        }
        out
    });
    for ops in all_ops() {
        let mut gate = [200.0, -200.0, 0.0, f32::NAN, f32::MAX];
        ops.swiglu(&mut gate, &[1.0; 5]);
        assert_eq!(gate[..3], [200.0, 0.0, 0.0]);
        assert!(gate[3].is_nan());
        assert_eq!(gate[4], f32::MAX);
    }
}

#[test]
fn softmax_is_close_and_sums_to_one() {
    on_every_isa(|ops, len, offset| {
        let mut random = Random(len as u64);
        let mut x: Vec<f32> = random.floats(len + offset).iter().map(|v| v * 20.0).collect();
        if len > 2 {
            x[offset + 1] = f32::NEG_INFINITY;
        }
        let before = x.clone();
        ops.softmax(&mut x[offset..]);
        let max = before[offset..].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let e = |v: f32| (f64::from(v) - f64::from(max)).exp();
        let sum: f64 = before[offset..].iter().map(|&v| e(v)).sum();
        for (&got, &old) in x[offset..].iter().zip(&before[offset..]) {
            // The difference to the maximum is rounded, which the exponential turns into a relative error.
            let exact = e(old) / sum;
            close(got, exact, (len as f64 / 16.0 + 64.0) * EPS * exact);
        }
        assert!(len <= 2 || x[offset + 1] == 0.0);
        x
    });
}

#[test]
fn exp_has_the_same_bits_in_softmax() {
    let mut random = Random(8);
    for ops in all_ops() {
        let x: Vec<f32> = (0..500).map(|_| random.float() * 100.0).map(|v| -v.abs()).chain([0.0]).collect();
        let mut out = x.clone();
        ops.softmax(&mut out);
        let sum = out.iter().map(|&v| f64::from(v)).sum::<f64>();
        assert!((sum - 1.0).abs() < 1e-6);
        let inverse = out[500];
        let expected: Vec<f32> = x.iter().map(|&v| exp(v) * inverse).collect();
        same_bits(&out, &expected, "softmax");
    }
}

#[test]
fn argmax_takes_the_lowest_index_and_ignores_nan() {
    for ops in all_ops() {
        for len in 1..70 {
            let x = Random(len as u64).integers(len, 3);
            let expected = (0..len).rev().max_by(|&a, &b| x[a].total_cmp(&x[b]).then(b.cmp(&a))).unwrap();
            assert_eq!(x[ops.argmax(&x)], x[expected]);
            assert_eq!(ops.argmax(&x), x.iter().position(|v| *v == x[expected]).unwrap());
        }
        let mut x = [f32::NEG_INFINITY; 40];
        assert_eq!(ops.argmax(&x), 0);
        x[17] = f32::NAN;
        x[33] = -1e30;
        assert_eq!(ops.argmax(&x), 33);
        assert_eq!(ops.argmax(&[]), 0);
        assert_eq!(ops.argmax(&[f32::NAN; 20]), 0);
    }
}

#[test]
fn sums_are_added_in_place() {
    on_every_isa(|ops, len, offset| {
        let mut random = Random(len as u64);
        let (mut x, y) = (random.floats(len + offset), random.floats(len + offset));
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 0.3f32.mul_add(*y, x + y)).collect();
        ops.add(&mut x[offset..], &y[offset..]);
        ops.scale_add(&mut x[offset..], 0.3, &y[offset..]);
        same_bits(&x[offset..], &expected[offset..], "add");
        x
    });
}

#[test]
fn halves_round_to_nearest_even() {
    for ops in all_ops() {
        let mut x: Vec<f32> = (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).collect();
        x.retain(|v| !v.is_nan());
        let between: Vec<f32> = x.windows(2).map(|w| (w[0] + w[1]) / 2.0).collect();
        x.extend(between.into_iter().filter(|v| v.is_finite()));
        x.extend([1e9, -1e9, 65519.9, 65520.0, 1e-9]);
        let mut got = vec![0; x.len()];
        ops.to_f16(&x, &mut got);
        for (x, got) in x.iter().zip(got) {
            assert_eq!(got, half::f16::from_f32_const(*x).to_bits(), "{x:e}");
        }
    }
}
