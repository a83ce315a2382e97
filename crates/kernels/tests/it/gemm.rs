//! Products for training: every layout, kind and shape has the bits of the specification, on every ISA.

use falaj_kernels::{Isa, Operand, Ops, OutMut, Packed, Pool, Then, Values};

/// Numbers in −2..2 that are not all bf16.
fn numbers(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// An operand's numbers as bf16 would have them: (rows, depth).
fn plain(operand: &Operand) -> Vec<f32> {
    let at = |i: usize, k: usize| {
        let at = if operand.transposed { k * operand.stride + i } else { i * operand.stride + k };
        match operand.values {
            Values::F32(values) => widened(bf16(values[at])),
            Values::Bf16(values) => widened(values[at]),
        }
    };
    (0..operand.rows).flat_map(|i| (0..operand.depth).map(move |k| at(i, k))).collect()
}

/// The specification.
fn expected(a: &Operand, b: &Operand, begin: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let (rows, columns, depth) = (a.rows, b.rows, a.depth);
    let (a, b) = (plain(a), plain(b));
    let mut out = Vec::new();
    for i in 0..rows {
        for j in 0..columns {
            let (a, b) = (&a[i * depth..][..depth], &b[j * depth..][..depth]);
            let mut sum = begin(i, j);
            for (a, b) in a.chunks(2).zip(b.chunks(2)) {
                if let ([_, a], [_, b]) = (a, b) {
                    sum = b.mul_add(*a, sum);
                }
                sum = b[0].mul_add(a[0], sum);
            }
            out.push(sum);
        }
    }
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_layout_and_shape_has_the_bits_of_the_specification() {
    let shapes =
        [(1, 1, 1), (3, 5, 2), (8, 48, 64), (9, 50, 33), (20, 7, 257), (100, 33, 300), (13, 100, 700), (4, 4, 0)];
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Amx) {
        for threads in [1, 3] {
            let (ops, pool) = (Ops::new(isa), Pool::new(threads));
            for (case, (rows, columns, depth)) in shapes.into_iter().enumerate() {
                let (x, w) = (numbers(1, (rows + 3) * (depth + 3)), numbers(2, (columns + 5) * (depth + 3)));
                let half: Vec<u16> = x.iter().map(|x| bf16(*x)).collect();
                for transposed in [false, true] {
                    let of = |values, rows| match transposed {
                        false => Operand::rows(values, rows, depth).with_stride(depth + 2),
                        true => Operand::transposed(values, rows, depth).with_stride(rows + 1),
                    };
                    for values in [Values::F32(&x), Values::Bf16(&half)] {
                        let (a, b) = (of(values, rows), of(Values::F32(&w), columns));
                        let name = format!("{isa} {threads} {case} {transposed} {values:.0?}");
                        let want = expected(&a, &b, |_, _| 0.0);
                        let mut out = vec![7.0; rows * columns];
                        ops.gemm(&pool, a, b, OutMut::f32(&mut out), Then::Store);
                        assert!(bits(&out) == bits(&want), "{name}");
                        let mut panels = vec![7; Packed::len_of(columns, depth) + 3];
                        let packed = ops.pack_right(&pool, b, &mut panels);
                        out.fill(7.0);
                        ops.gemm(&pool, a, packed, OutMut::f32(&mut out), Then::Store);
                        assert!(bits(&out) == bits(&want), "{name}, packed before");
                        let mut out = vec![7; rows * columns];
                        ops.gemm(&pool, a, b, OutMut::bf16(&mut out), Then::Store);
                        assert!(out == want.iter().map(|x| bf16(*x)).collect::<Vec<_>>(), "{name}");
                        let before = numbers(3, rows * (columns + 2));
                        let mut out = before.clone();
                        let place = OutMut::f32(&mut out).with_stride(columns + 2);
                        ops.gemm(&pool, a, b, place, Then::Add);
                        let want = expected(&a, &b, |i, j| before[i * (columns + 2) + j]);
                        let mut apart = vec![7.0; before.len()];
                        let place = OutMut::f32(&mut apart).with_stride(columns + 2).onto(&before);
                        ops.gemm(&pool, a, b, place, Then::Store);
                        for (apart, out) in apart.chunks(columns + 2).zip(out.chunks(columns + 2)) {
                            assert!(bits(&apart[..columns]) == bits(&out[..columns]), "{name}");
                        }
                        for (i, row) in out.chunks(columns + 2).enumerate() {
                            assert!(bits(&row[..columns]) == bits(&want[i * columns..][..columns]), "{name}");
                            // Beyond the columns nothing is touched.
                            assert_eq!(row[columns..], before[i * (columns + 2) + columns..][..2]);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn halves_of_a_depth_add_up_to_the_whole() {
    let (ops, pool) = (Ops::best(), Pool::new(2));
    let (rows, columns, depth) = (24, 40, 600);
    let (x, w) = (numbers(4, rows * depth), numbers(5, columns * depth));
    let mut whole = vec![0.0; rows * columns];
    let [a, b] =
        [(&x, rows), (&w, columns)].map(|(values, rows)| Operand::transposed(Values::F32(values), rows, depth));
    ops.gemm(&pool, a, b, OutMut::f32(&mut whole), Then::Store);
    let mut halves = vec![0.0; rows * columns];
    for (x, w) in x.chunks(rows * 150).zip(w.chunks(columns * 150)) {
        let [a, b] =
            [(x, rows), (w, columns)].map(|(values, rows)| Operand::transposed(Values::F32(values), rows, 150));
        ops.gemm(&pool, a, b, OutMut::f32(&mut halves), Then::Add);
    }
    assert_eq!(bits(&halves), bits(&whole));
}
