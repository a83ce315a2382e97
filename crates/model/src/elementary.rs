//! exp and ln in f64 from additions, multiplications and divisions alone, which IEEE 754 defines to the last bit: the
//! system's library may round otherwise on another machine. For tables made at load; `kernels` has those for hot loops.

/// e^x for |x| < 700.
pub fn exp(x: f64) -> f64 {
    // x = n ln 2 + r, |r| <= ln 2 / 2; LN2_HIGH has 21 trailing zero bits, so that n LN2_HIGH is exact.
    let n = (x / std::f64::consts::LN_2).round();
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..=18 {
        term *= r / f64::from(k);
        sum += term;
    }
    sum * power_of_two(n as i32)
}

/// The natural logarithm of a positive, normal x.
pub fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), |ratio| < 0.172
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    let n = f64::from(exponent);
    n * LN2_HIGH + (n * LN2_LOW + 2.0 * ratio * series)
}

fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// ln 2 in two parts, the first with 32 significant bits.
const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agree_with_the_system_library() {
        for i in 0..20_000 {
            let x = f64::from(i) * 0.013_7 + 1e-3;
            assert!((ln(x) - x.ln()).abs() <= 1e-15 * x.ln().abs().max(1.0), "ln {x}");
            let y = x / 10.0 - 20.0;
            assert!((exp(y) - y.exp()).abs() <= 2e-15 * y.exp(), "exp {y}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(ln(1.0), 0.0);
    }
}
