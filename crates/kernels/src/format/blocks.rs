//! The fields of each block layout, and half floats. All sizes are checked by the callers' array types.

use half::f16;

/// f16 bits to f32, exactly, without looking at the CPU.
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32_const()
}

/// f32 to f16 bits, rounded to nearest even.
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    f16::from_f32_const(value).to_bits()
}

/// bf16 bits to f32, exactly.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// f32 to bf16 bits, rounded to nearest even; a NaN stays one.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if value.is_nan() { ((bits >> 16) | 0x40) as u16 } else { rounded }
}

/// The f16 at byte `at` of a block.
#[inline(always)]
pub(crate) fn half_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K, as (scales, minima). The first four of each lie in the low six bits of
/// bytes 0..4 and 4..8; the last four have their low nibbles in bytes 8..12 and their high bits on top of the first.
#[inline(always)]
pub(crate) fn six_bit_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let word = |at: usize| u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let scales_high = (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030);
    let minima_high = ((c >> 4) & 0x0f0f_0f0f) | ((b >> 2) & 0x3030_3030);
    let pair = |low: u32, high: u32| (u64::from(low & 0x3f3f_3f3f) | (u64::from(high) << 32)).to_le_bytes();
    (pair(a, scales_high), pair(b, minima_high))
}

/// The inverse of [`six_bit_scales`].
pub(crate) fn pack_six_bit_scales(scales: &[u8; 8], minima: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | ((scales[i + 4] >> 4) << 6);
        packed[i + 4] = minima[i] | ((minima[i + 4] >> 4) << 6);
        packed[i + 8] = (scales[i + 4] & 15) | ((minima[i + 4] & 15) << 4);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_bit_scales_survive_packing() {
        let scales = [0, 1, 15, 63, 16, 33, 47, 62];
        let minima = [63, 32, 31, 5, 0, 21, 42, 63];
        assert_eq!(six_bit_scales(&pack_six_bit_scales(&scales, &minima)), (scales, minima));
    }
}
