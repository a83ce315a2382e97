//! Rotary position embedding as a table of frequencies: how fast each pair of a head turns, for every scaling that
//! [`RopeScaling`] knows. Frequencies and angles are f64, by our own elementary functions, so that every machine gets the
//! same bits.

use falaj_kernels::sin_cos;

use crate::elementary::{exp, ln};
use crate::{Rope, RopeScaling};

/// Angles per position: (E/2), and the factor on both cosine and sine.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    per_position: Vec<f64>,
    factor: f64,
}

impl Frequencies {
    /// Of heads with `head_dim` elements. Sources: see [`RopeScaling`].
    pub fn new(rope: &Rope, head_dim: usize) -> Self {
        let half = head_dim / 2;
        let ln_theta = ln(rope.theta);
        let base = (0..half).map(|i| exp(-ln_theta * (2 * i) as f64 / head_dim as f64));
        let mut factor = 1.0;
        let per_position = match &rope.scaling {
            RopeScaling::None => base.collect(),
            RopeScaling::Linear { factor } => base.map(|frequency| frequency / factor).collect(),
            RopeScaling::Factors(divisors) => {
                base.zip(divisors).map(|(frequency, divisor)| frequency / f64::from(*divisor)).collect()
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => base
                .map(|frequency| {
                    let turns = original_context * frequency / (2.0 * std::f64::consts::PI);
                    let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                })
                .collect(),
            &RopeScaling::Yarn {
                factor: stretch,
                beta_fast,
                beta_slow,
                original_context,
                attention_factor,
                truncate,
            } => {
                factor = attention_factor;
                // The dimension whose pair makes `turns` full turns over the original context.
                let dimension = |turns: f64| {
                    head_dim as f64 * ln(original_context / (turns * 2.0 * std::f64::consts::PI)) / (2.0 * ln_theta)
                };
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                base.enumerate()
                    .map(|(i, frequency)| {
                        let stretched = ((i as f64 - low) / width).clamp(0.0, 1.0);
                        frequency / stretch * stretched + frequency * (1.0 - stretched)
                    })
                    .collect()
            }
        };
        Self { per_position, factor }
    }

    /// Cosines and sines of `position`, (E/2) each.
    pub fn angles(&self, position: u32, cos: &mut [f32], sin: &mut [f32]) {
        for ((frequency, cos), sin) in self.per_position.iter().zip(cos).zip(sin) {
            let (s, c) = sin_cos(f64::from(position) * frequency);
            *cos = (c * self.factor) as f32;
            *sin = (s * self.factor) as f32;
        }
    }
}

/// By what a scaling divides each frequency, (E/2): the form in which GGUF keeps it.
pub(crate) fn divisors(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let plain = Frequencies::new(&Rope { scaling: RopeScaling::None, ..rope.clone() }, head_dim);
    let scaled = Frequencies::new(rope, head_dim);
    plain.per_position.iter().zip(scaled.per_position).map(|(plain, scaled)| (plain / scaled) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_kernels::RopeLayout;

    fn frequencies(scaling: RopeScaling) -> Vec<f64> {
        Frequencies::new(&Rope { theta: 10_000.0, layout: RopeLayout::Halves, scaling }, 64).per_position
    }

    #[test]
    fn plain_frequencies_are_powers_of_theta() {
        for (i, frequency) in frequencies(RopeScaling::None).into_iter().enumerate() {
            let expected = 10_000_f64.powf(-(i as f64) / 32.0);
            assert!((frequency - expected).abs() < 1e-14 * expected, "{i}: {frequency} {expected}");
        }
    }

    #[test]
    fn scalings_keep_high_frequencies_and_stretch_low_ones() {
        let plain = frequencies(RopeScaling::None);
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
        let yarn = RopeScaling::Yarn {
            factor: 8.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 4096.0,
            attention_factor: 1.2,
            truncate: true,
        };
        for scaled in [frequencies(llama3), frequencies(yarn)] {
            assert_eq!(scaled[0], plain[0]);
            assert!((scaled[31] - plain[31] / 8.0).abs() < 1e-15);
            assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
        }
        let divided = frequencies(RopeScaling::Factors(vec![2.0; 32]));
        assert_eq!(divided, frequencies(RopeScaling::Linear { factor: 2.0 }));
    }
}
