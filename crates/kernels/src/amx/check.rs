//! A case small enough to run at every start, large enough that a wrong or missing instruction would show: tiles are offered only
//! where they give exactly what the specification says.

use super::bytes::{self, BLOCK};
use super::hardware::Hardware;
use super::pairs;
use super::tiles::Tiles;
use crate::simd::Scalar;

/// Byte products on this CPU's tiles. Call only where the CPU has them and the system grants them.
pub(crate) fn bytes_are_right() -> bool {
    // SAFETY: `detect` has asked the CPU and the system before.
    let mut tiles = unsafe { Hardware::begin() };
    bytes_agree::<_, 32>(&mut tiles) && bytes_agree::<_, 16>(&mut tiles)
}

/// The same for pairs of bf16.
pub(crate) fn pairs_are_right() -> bool {
    // SAFETY: as above.
    pairs_agree(&mut unsafe { Hardware::begin() })
}

/// Two whole tiles and a part of one, over more parts than are in flight.
const ROWS: usize = 37;

pub(crate) fn bytes_agree<T: Tiles, const PART: usize>(t: &mut T) -> bool {
    const PARTS: usize = 6;
    let (columns, stride) = (PARTS * PART, PARTS * 32);
    let mut noise = Noise(1);
    let values: Vec<i8> = (0..16 * columns).map(|_| noise.next() as i8).collect();
    let quants: Vec<i8> = (0..ROWS * stride).map(|_| (noise.next() as i8).max(-127)).collect();
    let scales: [[f32; 16]; PARTS] = std::array::from_fn(|_| std::array::from_fn(|_| noise.float()));
    let minima: [[f32; 16]; PARTS] = std::array::from_fn(|_| std::array::from_fn(|_| noise.float()));
    let row_scales: Vec<f32> = (0..ROWS * stride / BLOCK).map(|_| noise.float()).collect();
    let row_sums: Vec<f32> = (0..ROWS * stride / BLOCK).map(|_| noise.float()).collect();
    let w = bytes::Weights { values: &values, scales: &scales, minima: &minima, next: bytes::Next::NOTHING };
    let x = bytes::Rows { quants: &quants, scales: &row_scales, sums: &row_sums, stride };
    let mut sums = [[0.0; 16]; ROWS];
    bytes::multiply::<T, Scalar, PART, true>(t, Scalar, &w, &x, 0, &mut sums);
    sums.iter().enumerate().all(|(m, sums)| {
        sums.iter().enumerate().all(|(n, sum)| sum.to_bits() == specified::<PART>(&w, &x, m, n).to_bits())
    })
}

/// The numerics of `matmul`, for weights as tiles read them.
fn specified<const PART: usize>(w: &bytes::Weights, x: &bytes::Rows, m: usize, n: usize) -> f32 {
    continued::<PART>(w, x, m, n, 0.0)
}

/// From what the columns before have given.
pub(crate) fn continued<const PART: usize>(
    w: &bytes::Weights,
    x: &bytes::Rows,
    m: usize,
    n: usize,
    mut acc: f32,
) -> f32 {
    for (p, scales) in w.scales.iter().enumerate() {
        let mut sum = 0;
        for k in 0..PART {
            let weight = w.values[p * PART * 16 + k / 4 * 64 + 4 * n + k % 4];
            sum += i32::from(weight) * i32::from(x.quants[m * x.stride + p * PART + k]);
        }
        let block = m * x.stride / BLOCK + p * PART / BLOCK;
        acc = (sum as f32).mul_add(scales[n] * x.scales[block], acc);
        if let Some(minima) = w.minima.get(p) {
            acc = (-minima[n]).mul_add(x.sums[block], acc);
        }
    }
    acc
}

pub(crate) fn pairs_agree<T: Tiles>(t: &mut T) -> bool {
    // Two tiles of columns and a part of one; two panels, and rows for two tiles above each other, whole and not, and for one.
    const PAIRS: usize = 37;
    const STRIDE: usize = 96;
    let mut noise = Noise(2);
    let mut panel = || (0..PAIRS * 32).flat_map(|_| noise.bf16().to_le_bytes()).collect::<Vec<u8>>();
    let w = [panel(), panel()];
    let mut bits = vec![0; 53 * STRIDE];
    for row in bits.chunks_mut(STRIDE) {
        row[..2 * PAIRS].fill_with(|| noise.bf16());
    }
    let x = pairs::Rows { bits: &bits, stride: STRIDE };
    let mut sums = [vec![[0.0; 16]; 53], vec![[0.0; 16]; 53]];
    let right = |n: usize, sums: &[[f32; 16]]| {
        sums.iter()
            .zip(bits.chunks(STRIDE))
            .all(|(sums, x)| (0..16).all(|i| sums[i].to_bits() == pairs::specified(&w[n], i, x).to_bits()))
    };
    [53, ROWS, 1].into_iter().all(|rows| {
        let [first, second] = &mut sums;
        pairs::multiply(t, [&w[0], &w[1]], &x, [&mut first[..rows], &mut second[..rows]]);
        let two = right(0, &first[..rows]) && right(1, &second[..rows]);
        pairs::multiply(t, [&w[1]], &x, [&mut first[..rows]]);
        two && right(1, &first[..rows])
    })
}

/// Numbers without a pattern. Source: Steele et al. 2014 (SplitMix64).
pub(crate) struct Noise(pub u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In −1..1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn bf16(&mut self) -> u16 {
        (self.float().to_bits() >> 16) as u16
    }
}
