//! Floats to blocks, for export and tests. F16, BF16, Q8_0 and Q4_0 give the bytes of ggml's reference; the K formats use a plain
//! search (minimum and maximum of each block), which is valid and somewhat less accurate than ggml's.

use crate::format::Format;
use crate::format::blocks::{f16_to_f32, f32_to_bf16, f32_to_f16, pack_six_bit_scales};

/// bytes: whole blocks of `x.len()` values.
pub(crate) fn quantize_row(format: Format, x: &[f32], bytes: &mut [u8]) {
    let blocks = bytes.chunks_exact_mut(format.block_bytes());
    for (block, x) in blocks.zip(x.chunks_exact(format.block_len())) {
        match format {
            Format::F32 => block.copy_from_slice(&x[0].to_le_bytes()),
            Format::F16 => block.copy_from_slice(&f32_to_f16(x[0]).to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&f32_to_bf16(x[0]).to_le_bytes()),
            Format::Q8_0 => q8_0(x, block),
            Format::Q4_0 => q4_0(x, block),
            Format::Q4_K => k_with_minima(x, block, false),
            Format::Q5_K => k_with_minima(x, block, true),
            Format::Q6_K => q6_k(x, block),
        }
    }
}

fn inverse(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { 1.0 / value }
}

fn q8_0(x: &[f32], block: &mut [u8]) {
    let d = x.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 127.0;
    let inverse = inverse(d);
    block[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
    for (byte, &v) in block[2..].iter_mut().zip(x) {
        *byte = ((v * inverse).round() as i8).cast_unsigned();
    }
}

fn q4_0(x: &[f32], block: &mut [u8]) {
    // The value of largest magnitude, with its sign, becomes −8; the first one wins.
    let largest = x.iter().fold(0.0f32, |largest, &v| if v.abs() > largest.abs() { v } else { largest });
    let d = largest / -8.0;
    let inverse = inverse(d);
    block[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
    // ggml's own rounding here depends on whether its compiler fuses; gguf-py and most builds do.
    let q = |v: f32| (v.mul_add(inverse, 8.5) as u8).min(15);
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = q(x[i]) | (q(x[i + 16]) << 4);
    }
}

/// Q4_K and Q5_K. Each block of 32 spans [min(0, least), greatest]; scales and minima are then rounded to 6 bits of a common
/// f16 step, and the values to the nearest of what that gives.
fn k_with_minima(x: &[f32], block: &mut [u8], five_bits: bool) {
    let most = if five_bits { 31.0 } else { 15.0 };
    let (mut scales, mut minima) = ([0.0f32; 8], [0.0f32; 8]);
    for (b, x) in x.chunks_exact(32).enumerate() {
        let least = x.iter().copied().fold(0.0, f32::min);
        let greatest = x.iter().copied().fold(f32::MIN, f32::max);
        scales[b] = ((greatest - least) / most).max(0.0);
        minima[b] = -least;
    }
    let step = |values: &[f32; 8]| f32_to_f16(values.iter().copied().fold(0.0, f32::max) / 63.0);
    let (d, dmin) = (step(&scales), step(&minima));
    let six_bits =
        |values: [f32; 8], step: u16| values.map(|v| (v * inverse(f16_to_f32(step))).round().min(63.0) as u8);
    let (scale_bits, minimum_bits) = (six_bits(scales, d), six_bits(minima, dmin));
    block.fill(0);
    block[..2].copy_from_slice(&d.to_le_bytes());
    block[2..4].copy_from_slice(&dmin.to_le_bytes());
    block[4..16].copy_from_slice(&pack_six_bit_scales(&scale_bits, &minimum_bits));
    let (fifth, nibbles) = block[16..].split_at_mut(if five_bits { 32 } else { 0 });
    for (i, &v) in x.iter().enumerate() {
        let (b, k) = (i / 32, i % 32);
        let scale = f16_to_f32(d) * f32::from(scale_bits[b]);
        let minimum = f16_to_f32(dmin) * f32::from(minimum_bits[b]);
        let q = ((v + minimum) * inverse(scale)).round().clamp(0.0, most) as u8;
        nibbles[32 * (b / 2) + k] |= (q & 15) << (4 * (b % 2));
        if five_bits {
            fifth[k] |= (q >> 4) << b;
        }
    }
}

fn q6_k(x: &[f32], block: &mut [u8]) {
    // The value of largest magnitude in each 16 becomes −32 of its scale; scales are signed, so that both ends are reached.
    let mut scales = [0.0f32; 16];
    for (scale, x) in scales.iter_mut().zip(x.chunks_exact(16)) {
        *scale = x.iter().fold(0.0f32, |largest, &v| if v.abs() > largest.abs() { v } else { largest }) / -32.0;
    }
    let largest = scales.iter().fold(0.0f32, |largest, &v| if v.abs() > largest.abs() { v } else { largest });
    let d = f32_to_f16(largest / -128.0);
    let scale_bits = scales.map(|v| (v * inverse(f16_to_f32(d))).round().clamp(-128.0, 127.0) as i8);
    block.fill(0);
    for (byte, bits) in block[192..208].iter_mut().zip(scale_bits) {
        *byte = bits.cast_unsigned();
    }
    block[208..].copy_from_slice(&d.to_le_bytes());
    for (i, &v) in x.iter().enumerate() {
        let scale = f16_to_f32(d) * f32::from(scale_bits[i / 16]);
        let q = ((v * inverse(scale)).round().clamp(-32.0, 31.0) + 32.0) as u8;
        let (half, run, k) = (i / 128, i % 128 / 32, i % 32);
        block[64 * half + 32 * (run % 2) + k] |= (q & 15) << (4 * (run / 2));
        block[128 + 32 * half + k] |= (q >> 4) << (2 * run);
    }
}
