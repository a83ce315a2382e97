//! Scalar functions in f64 from basic operations only (no libm, no fused multiply-add), so that they give the same bits
//! everywhere: logarithms for sampling and log-probabilities, sine and cosine for RoPE tables.

/// Natural logarithm, correct to about one unit in the last place of f32. Zero gives −∞, negative numbers NaN.
/// Source: ln m = 2 artanh((m − 1)/(m + 1)) with √½ ≤ m < √2, by its series.
pub fn ln(x: f32) -> f32 {
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    }
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x == f32::INFINITY {
        return x;
    }
    // Every f32, subnormals too, is a normal f64.
    let bits = f64::from(x).to_bits();
    let mut exponent = (bits >> 52).cast_signed() - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut series = 0.0;
    for k in (0..=8).rev() {
        series = series * square + 1.0 / f64::from(2 * k + 1);
    }
    (exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series) as f32
}

/// (sin x, cos x) for |x| below a million, within 1e-15 or so. Beyond, precision fades with |x|.
/// Source: reduction by π/2 in three parts (Cody and Waite), Taylor series on |r| ≤ π/4.
pub fn sin_cos(x: f64) -> (f64, f64) {
    let n = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = ((x - n * PI_2[0]) - n * PI_2[1]) - n * PI_2[2];
    let square = r * r;
    let (mut sin, mut cos) = (1.0, 1.0);
    for k in (1..=9).rev() {
        let k = f64::from(k);
        sin = 1.0 - sin * square / ((2.0 * k) * (2.0 * k + 1.0));
        cos = 1.0 - cos * square / ((2.0 * k - 1.0) * (2.0 * k));
    }
    let sin = sin * r;
    match (n as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// π/2 in parts; the first two have 33 significant bits, so that their products with n below 2^20 are exact.
#[expect(clippy::excessive_precision, reason = "the first part of π/2, not π/2")]
const PI_2: [f64; 3] =
    [1.570_796_326_734_125_614_17, 6.077_100_506_303_965_976_6e-11, 2.022_266_248_795_950_631_54e-21];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_is_close_to_the_f64_result() {
        for i in 1..200_000u32 {
            let x = f32::from_bits(i.wrapping_mul(10_733));
            if !x.is_finite() || x <= 0.0 {
                continue;
            }
            let exact = f64::from(x).ln();
            let error = (f64::from(ln(x)) - exact).abs();
            assert!(error <= exact.abs() * f64::from(f32::EPSILON), "{x}: {error}");
        }
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert!(ln(-1.0).is_nan());
    }

    #[test]
    fn sin_cos_are_close_to_the_libm_result() {
        for i in -200_000..200_000 {
            let x = f64::from(i) * 0.731;
            let (sin, cos) = sin_cos(x);
            assert!((sin - x.sin()).abs() < 2e-15, "sin {x}");
            assert!((cos - x.cos()).abs() < 2e-15, "cos {x}");
        }
    }
}
