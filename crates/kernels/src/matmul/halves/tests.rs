//! Every way to sum products gives the bits of the specification, for bytes at the ends of their ranges too.

use super::{Dots, Pairs16, Vnni512, panel};
use crate::activations::{ActivationKind, Activations};
use crate::isa::Isa;
use crate::matmul::blocks;
use crate::matmul::panel_formats::{Q4_0, Q4_K, Q5_K, Q6_K, Q8_0};
use crate::matmul::quants::Quants;
use crate::matmul::scratch::Scratch;
use crate::ops::Ops;
use crate::pool::Pool;
use crate::simd::{Avx2, Scalar};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }
}

fn check<D: Dots, Q: Quants>(d: D) {
    let mut random = Random(7);
    // SAFETY: the callers asked.
    let token = unsafe { (Avx2::assume(), d) };
    for (groups, m, rows) in [(1, 4, 0..4), (1, 8, 0..8), (3, 13, 0..13), (2, 40, 3..39), (17, 21, 1..20), (1, 9, 1..7)]
    {
        for bytes in [None, Some(0x00), Some(0xff), Some(0x80), Some(0x7f), Some(0xf0)] {
            let mut weights = vec![0; groups * Q::GROUP_BYTES];
            weights.fill_with(|| bytes.unwrap_or_else(|| random.next()));
            for group in weights.chunks_mut(Q::GROUP_BYTES) {
                // Scales of 2^-8, so that no sum is infinite.
                let scales = if Q::MINIMA { 64 } else { 32 };
                group[..scales].as_chunks_mut().0.fill(0x1c00u16.to_le_bytes());
            }
            let cols = groups * Q::BLOCKS * 32;
            let values = |row: usize| match row % 3 {
                0 => 1.0,
                1 => -1.0,
                _ => f32::from(random.next()) - 127.5,
            };
            let x: Vec<f32> = (0..m).flat_map(|row| vec![row; cols]).map(values).collect();
            let (ops, pool) = (Ops::new(Isa::Scalar), Pool::new(1));
            let mut activations = Activations::new(m, cols);
            activations.set(&ops, &pool, &x, m, cols, ActivationKind::BLOCKS);
            let (mut got, mut expected) = (vec![[f32::NAN; 16]; rows.len()], vec![[0.0; 16]; rows.len()]);
            let mut scratch = Scratch::default();
            panel::<D, Q>(token, &weights, &activations, rows.clone(), &mut scratch, &mut got);
            blocks::panel::<_, Q>(Scalar, &weights, &activations, rows.clone(), &mut scratch, &mut expected);
            let bits = |x: &[[f32; 16]]| x.as_flattened().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&expected), "{}: {m} rows of {cols}, {bytes:?}", std::any::type_name::<Q>());
        }
    }
}

fn check_formats<D: Dots>(d: D) {
    check::<D, Q8_0>(d);
    check::<D, Q4_0>(d);
    check::<D, Q4_K>(d);
    check::<D, Q5_K>(d);
    check::<D, Q6_K>(d);
}

#[test]
fn every_sum_of_bytes_is_that_of_the_specification() {
    if Isa::Avx2.is_available() {
        check_formats(Pairs16);
    }
    if Isa::Avx2Vnni.is_available() {
        // SAFETY: just asked.
        check_formats(unsafe { super::Vnni::assume() });
    }
    if Isa::Avx512.is_available() {
        // SAFETY: just asked.
        check_formats(unsafe { Vnni512::assume() });
    }
}
