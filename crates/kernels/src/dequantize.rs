//! Blocks to floats, exactly as the formats define them: for embeddings, and as the oracle of everything else.
//! Plain Rust: rows of embeddings are few, so there is one version for every ISA.

use crate::format::Format;
use crate::format::blocks::{bf16_to_f32, f16_to_f32, half_at, six_bit_scales};

/// bytes: whole blocks of `out.len()` values.
pub(crate) fn dequantize_row(format: Format, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.chunks_exact(format.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(format.block_len())) {
        match format {
            Format::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            Format::F16 => out[0] = f16_to_f32(half_at(block, 0)),
            Format::BF16 => out[0] = bf16_to_f32(half_at(block, 0)),
            Format::Q8_0 => q8_0(block, out),
            Format::Q4_0 => q4_0(block, out),
            Format::Q4_K => k_with_minima(block, &block[16..144], None, out),
            Format::Q5_K => k_with_minima(block, &block[48..176], Some(&block[16..48]), out),
            Format::Q6_K => q6_k(block, out),
        }
    }
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = f16_to_f32(half_at(block, 0));
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(q.cast_signed());
    }
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = f16_to_f32(half_at(block, 0));
    for (i, &byte) in block[2..].iter().enumerate() {
        out[i] = d * (f32::from(byte & 15) - 8.0);
        out[i + 16] = d * (f32::from(byte >> 4) - 8.0);
    }
}

/// Q4_K and Q5_K: sixty-four values share 32 bytes of nibbles; `fifth` has one bit per block and position.
fn k_with_minima(block: &[u8], nibbles: &[u8], fifth: Option<&[u8]>, out: &mut [f32]) {
    let (d, dmin) = (f16_to_f32(half_at(block, 0)), f16_to_f32(half_at(block, 2)));
    let (scales, minima) = six_bit_scales(block[4..].first_chunk().expect("a block has its scales"));
    for (i, out) in out.iter_mut().enumerate() {
        let (b, k) = (i / 32, i % 32);
        let nibble = (nibbles[32 * (b / 2) + k] >> (4 * (b % 2))) & 15;
        let q = nibble | fifth.map_or(0, |fifth| ((fifth[k] >> b) & 1) << 4);
        *out = (d * f32::from(scales[b])) * f32::from(q) - dmin * f32::from(minima[b]);
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = f16_to_f32(half_at(block, 208));
    for (i, out) in out.iter_mut().enumerate() {
        // Within each half of 128: four runs of 32.
        let (half, run, k) = (i / 128, i % 128 / 32, i % 32);
        let nibble = (low[64 * half + 32 * (run % 2) + k] >> (4 * (run / 2))) & 15;
        let q = nibble | (((high[32 * half + k] >> (2 * run)) & 3) << 4);
        *out = (d * f32::from(scales[i / 16].cast_signed())) * (f32::from(q) - 32.0);
    }
}
