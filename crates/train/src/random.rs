//! Random numbers by counter: the value number `i` of a stream depends on the stream and on `i` alone, so that no order of
//! computation and no resumption changes it.

use falaj_kernels::{ln, sin_cos};

/// A stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream(u64);

impl Stream {
    /// For what `parts` name, under `seed`.
    pub fn new(seed: u64, parts: &[u64]) -> Self {
        Self(parts.iter().fold(mix(seed), |state, part| mix(state ^ mix(*part))))
    }

    /// For a name.
    pub fn named(seed: u64, name: &str) -> Self {
        // FNV-1a.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self::new(seed, &[hash])
    }

    pub fn bits(self, i: u64) -> u64 {
        mix(self.0.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// In [0, 1), of 24 bits.
    pub fn unit(self, i: u64) -> f32 {
        (self.bits(i) >> 40) as f32 / 16_777_216.0
    }

    /// Of the normal distribution. Source: Box & Muller 1958; by our own ln and cos, so that every machine gets the same bits.
    pub fn normal(self, i: u64) -> f32 {
        let bits = self.bits(i);
        let above_zero = ((bits >> 40) as f32 + 0.5) / 16_777_216.0;
        let angle = (bits & 0xff_ffff) as f64 / 16_777_216.0 * std::f64::consts::TAU;
        (-2.0 * ln(above_zero)).sqrt() * sin_cos(angle).1 as f32
    }
}

/// Source: Steele et al. 2014 (SplitMix64), the finaliser.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_have_the_moments_of_their_distributions() {
        let stream = Stream::new(7, &[1, 2]);
        assert_ne!(stream.bits(0), Stream::new(7, &[2, 1]).bits(0));
        assert_ne!(stream.bits(0), Stream::new(8, &[1, 2]).bits(0));
        let count = 20_000;
        let (mut sum, mut squares, mut units) = (0.0, 0.0, 0.0);
        for i in 0..count {
            let value = f64::from(stream.normal(i));
            sum += value;
            squares += value * value;
            units += f64::from(stream.unit(i));
        }
        let n = count as f64;
        assert!((sum / n).abs() < 0.03 && (squares / n - 1.0).abs() < 0.04 && (units / n - 0.5).abs() < 0.01);
    }
}
