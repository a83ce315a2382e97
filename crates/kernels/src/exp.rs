//! The exponential, our own: the same bits on every ISA and in every libc. Within 1 unit in the last place (see tests).

use crate::simd::{Scalar, Simd};

/// e^x. Overflows to infinity, underflows through subnormals to 0, NaN stays NaN.
/// Source: range reduction by ln 2 in two parts (Cody and Waite), then the degree-7 Taylor polynomial on |r| ≤ ln 2 / 2.
pub fn exp(x: f32) -> f32 {
    Scalar.largest(exp_lanes(Scalar, [x; 16]))
}

#[inline(always)]
pub(crate) fn exp_lanes<S: Simd>(s: S, x: S::F) -> S::F {
    // The bound is the first operand, so that NaN passes (see `Simd::max`).
    let x = s.min(s.splat(LARGEST), s.max(s.splat(SMALLEST), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fnma(n, s.splat(LN_2_HIGH), x);
    let r = s.fnma(n, s.splat(LN_2_LOW), r);
    let mut p = s.splat(COEFFICIENTS[0]);
    for &c in &COEFFICIENTS[1..] {
        p = s.fma(p, r, s.splat(c));
    }
    // 2^n in two factors: n reaches from −151 to 129, an exponent only from −126 to 127.
    let half = s.round(s.mul(n, s.splat(0.5)));
    s.mul(s.mul(p, s.exp2i(half)), s.exp2i(s.sub(n, half)))
}

/// 2^x for x in −125..=127, within 3 units in the last place; anything below. For weights that are rounded anyway, or scaled by a sum of their kind.
/// Source: 2^round(x) times a polynomial of degree 5 on |r| ≤ 1/2, of least relative error (1e-7) among those that give 1 at 0.
#[inline(always)]
pub(crate) fn exp2_lanes<S: Simd>(s: S, x: S::F) -> S::F {
    let n = s.round(x);
    let r = s.sub(x, n);
    let mut p = s.splat(EXP2_COEFFICIENTS[0]);
    for &c in &EXP2_COEFFICIENTS[1..] {
        p = s.fma(p, r, s.splat(c));
    }
    s.mul(p, s.exp2i(n))
}

/// 2^x for x of at most 127, as [`exp2_lanes`]; exactly 0 below −125. For shares, of which the largest is 1.
#[inline(always)]
pub(crate) fn exp2_or_zero<S: Simd>(s: S, x: S::F) -> S::F {
    s.keep_from(exp2_lanes(s, x), x, s.splat(-125.0))
}

#[expect(clippy::approx_constant, reason = "ln 2 is not the best first coefficient")]
const EXP2_COEFFICIENTS: [f32; 6] = [0.001_326_472_7, 0.009_671_513, 0.055_507_336, 0.240_222_42, 0.693_147, 1.0];

// Beyond these the result is 0 or infinity.
const SMALLEST: f32 = -104.5;
const LARGEST: f32 = 89.5;
// 355/512: so few bits that n times it is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
const COEFFICIENTS: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_one_and_a_half_units_of_the_f64_result() {
        let mut worst = 0.0f64;
        for i in -870_000..=887_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / unit);
        }
        assert!(worst < 1.5, "{worst}");
    }

    #[test]
    fn powers_of_two_stay_within_three_units_of_the_f64_result() {
        for i in -60_000..=20_000 {
            let x = i as f32 * 1e-3;
            let (got, exact) = (f64::from(Scalar.largest(exp2_lanes(Scalar, [x; 16]))), f64::from(x).exp2());
            assert!((got / exact - 1.0).abs() < 1.8e-7, "{x}: {got:e} {exact:e}");
        }
        assert_eq!(Scalar.largest(exp2_lanes(Scalar, [-56.0; 16])), 2f32.powi(-56));
        for (x, share) in [(0.0, 1.0), (-125.0, 2f32.powi(-125)), (-126.0, 0.0), (f32::NEG_INFINITY, 0.0), (-3e38, 0.0)]
        {
            assert_eq!(Scalar.largest(exp2_or_zero(Scalar, [x; 16])), share, "{x}");
        }
        assert!(exp2_or_zero(Scalar, [f32::NAN; 16])[0].is_nan());
    }

    #[test]
    fn ends_well_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-105.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(88.7).is_finite());
        assert!(exp(-100.0) > 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
