//! Seeded numbers (SplitMix64) and comparisons that every test here uses.

use falaj_kernels::{Format, Isa, Ops};

pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// In −1..1, with magnitudes spread over a few octaves.
    pub fn float(&mut self) -> f32 {
        let v = (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        v * v * v
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    /// Integers in −most..=most.
    pub fn integers(&mut self, len: usize, most: usize) -> Vec<f32> {
        (0..len).map(|_| self.below(2 * most + 1) as f32 - most as f32).collect()
    }

    /// Random valid blocks of `format` for `len` values, all f16 fields being `half`.
    pub fn blocks(&mut self, format: Format, len: usize, half: u16) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..format.row_bytes(len).unwrap()).map(|_| self.bits() as u8).collect();
        let halves: &[usize] = match format {
            Format::Q8_0 | Format::Q4_0 => &[0],
            Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q6_K => &[208],
            Format::F32 | Format::F16 | Format::BF16 => panic!("{format} has no blocks"),
        };
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for &at in halves {
                block[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
        bytes
    }
}

pub fn all_ops() -> Vec<Ops> {
    Isa::available().into_iter().map(Ops::new).collect()
}

/// Equal as bits, so that −0 and NaN count.
#[track_caller]
pub fn same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.to_bits() == b.to_bits(), "{what}: element {i} is {a:e} and {b:e}");
    }
}
