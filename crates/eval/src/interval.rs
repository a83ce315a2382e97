//! How sure a score is: 95 % intervals. Wilson's for proportions; for everything else a bootstrap over rows with a fixed seed, so
//! that the same outcomes always give the same interval.

/// A score's interval, and of a difference also how often resampling changed its sign.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    pub(crate) fn nine_decimals(self) -> Self {
        Self { low: nine_decimals(self.low), high: nine_decimals(self.high) }
    }
}

/// What reports keep: few enough digits that reading them gives the same number again.
pub(crate) fn nine_decimals(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

/// What one row adds to a score: the score of many is Σ first / Σ second. Of a proportion both are 0 or 1; of perplexity nats and
/// tokens.
pub type Share = (f64, f64);

/// Σ first / Σ second; NaN of nothing.
pub fn ratio(shares: impl IntoIterator<Item = Share>) -> f64 {
    let (over, under) = shares.into_iter().fold((0.0, 0.0), |sum: Share, share| (sum.0 + share.0, sum.1 + share.1));
    over / under
}

/// Of `hits` in `count` trials. Source: Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4.
pub fn wilson(hits: f64, count: f64) -> Interval {
    if count <= 0.0 {
        return Interval { low: f64::NAN, high: f64::NAN };
    }
    let p = hits / count;
    let z2 = Z * Z;
    let centre = (p + z2 / (2.0 * count)) / (1.0 + z2 / count);
    let half = Z / (1.0 + z2 / count) * (p * (1.0 - p) / count + z2 / (4.0 * count * count)).sqrt();
    // At the ends rounding must not say that what happened is impossible.
    Interval { low: (centre - half).max(0.0).min(p), high: (centre + half).min(1.0).max(p) }
}

/// Of the ratio, rows drawn with replacement; the percentile interval. Source: Efron & Tibshirani 1993, ch. 13.
pub fn bootstrap(shares: &[Share]) -> Interval {
    resampled(shares.len(), |rows| ratio(rows.iter().map(|row| shares[*row])))
}

/// Of the difference of two ratios over the same rows, first minus second: each draw takes a row's both shares.
pub fn paired(first: &[Share], second: &[Share], score: impl Fn(f64) -> f64) -> Interval {
    let of = |shares: &[Share], rows: &[usize]| score(ratio(rows.iter().map(|row| shares[*row])));
    resampled(first.len().min(second.len()), |rows| of(first, rows) - of(second, rows))
}

fn resampled(count: usize, statistic: impl Fn(&[usize]) -> f64) -> Interval {
    let mut state = SEED;
    let mut rows = vec![0; count];
    let mut values = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for row in &mut rows {
            // The high bits of a product of 64 bits: no row is likelier than another beyond 2⁻⁴⁰.
            *row = ((u128::from(next(&mut state)) * count as u128) >> 64) as usize;
        }
        let value = statistic(&rows);
        if value.is_finite() {
            values.push(value);
        }
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (share * values.len().saturating_sub(1) as f64).round() as usize;
        values.get(place).copied().unwrap_or(f64::NAN)
    };
    Interval { low: at(0.025), high: at(0.975) }
}

/// SplitMix64. Source: Steele, Lea & Flood 2014, fig. 16.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// 97.5 % of a normal distribution lie below it.
const Z: f64 = 1.959_963_984_540_054;
const RESAMPLES: usize = 1000;
const SEED: u64 = 0xFA1A;

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from the formula by hand, as statsmodels gives them (`proportion_confint(…, method="wilson")`).
    #[test]
    fn wilson_as_published() {
        let near = |interval: Interval, low: f64, high: f64| {
            assert!((interval.low - low).abs() < 5e-4 && (interval.high - high).abs() < 5e-4, "{interval:?}");
        };
        near(wilson(8.0, 10.0), 0.4902, 0.9433);
        near(wilson(0.0, 10.0), 0.0, 0.2775);
        near(wilson(10.0, 10.0), 0.7225, 1.0);
        near(wilson(50.0, 100.0), 0.4038, 0.5962);
        assert!(wilson(0.0, 0.0).low.is_nan());
    }

    /// On a sample large enough, the bootstrap of a mean is what theory says: mean ± 1.96 σ / √n.
    #[test]
    fn bootstrap_as_theory_says() {
        let mut state = 7;
        let shares: Vec<Share> =
            (0..2000).map(|_| ((next(&mut state) >> 11) as f64 / (1_u64 << 53) as f64, 1.0)).collect();
        let mean = ratio(shares.iter().copied());
        let half = 1.96 * (1.0 / 12.0_f64).sqrt() / 2000.0_f64.sqrt();
        let interval = bootstrap(&shares);
        assert!((interval.low - (mean - half)).abs() < 0.2 * half, "{interval:?}");
        assert!((interval.high - (mean + half)).abs() < 0.2 * half, "{interval:?}");
        assert_eq!(interval, bootstrap(&shares));
    }

    /// Two that are always a tenth apart differ by that for sure, however much rows vary.
    #[test]
    fn pairs_take_out_what_rows_share() {
        let first: Vec<Share> = (0..50).map(|row| (f64::from(row % 7), 1.0)).collect();
        let second: Vec<Share> = first.iter().map(|share| (share.0 - 0.1, 1.0)).collect();
        let interval = paired(&first, &second, |ratio| ratio);
        assert!((interval.low - 0.1).abs() < 1e-9 && (interval.high - 0.1).abs() < 1e-9, "{interval:?}");
    }
}
