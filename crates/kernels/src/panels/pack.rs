//! File rows to panels and back: a permutation of bytes and bits, written over words of four columns.

use super::{Panels, WIDTH, panel_bytes};
use crate::dequantize::dequantize_row;
use crate::format::{Format, Matrix};
use crate::pool::Pool;

/// All panels, of `bytes` each.
pub(crate) fn pack(pool: &Pool, w: &Matrix, bytes: usize, out: &mut [u8]) {
    let panels = out.len() / bytes;
    let chunk = TASK_BYTES.div_ceil(bytes);
    let start = Start(out.as_mut_ptr());
    pool.run(panels.div_ceil(chunk), |task, _| {
        let start = &start;
        for panel in task * chunk..panels.min((task + 1) * chunk) {
            // SAFETY: inside `out`, since panel < panels; each panel belongs to one task.
            let out = unsafe { std::slice::from_raw_parts_mut(start.0.add(panel * bytes), bytes) };
            pack_panel(w, panel, out);
        }
    });
}

const TASK_BYTES: usize = 1 << 18;

struct Start(*mut u8);
// SAFETY: tasks write disjoint panels.
unsafe impl Sync for Start {}

/// Rows 16·`panel`.. of `w` into `out`, the bytes of that panel.
fn pack_panel(w: &Matrix, panel: usize, out: &mut [u8]) {
    assert_eq!(Some(out.len()), panel_bytes(w.format, w.cols), "one panel");
    let rows = std::array::from_fn(|n| if panel * WIDTH + n < w.rows { w.row(panel * WIDTH + n) } else { &[] });
    match w.format {
        Format::BF16 => each::<4, 64, 16>(rows, out, pack_bf16),
        Format::Q8_0 => each::<34, 544, 1>(rows, out, pack_q8_0),
        Format::Q4_0 => each::<18, 288, 1>(rows, out, pack_q4_0),
        Format::Q4_K => each::<144, 2304, 1>(rows, out, pack_q4_k),
        Format::Q5_K => each::<176, 2816, 64>(rows, out, pack_q5_k),
        Format::Q6_K => each::<210, 3360, 64>(rows, out, pack_q6_k),
        Format::F32 | Format::F16 => unreachable!("these have no panels"),
    }
}

/// The exact values of row `row`; `block` by block through the file's layout.
pub(crate) fn unpack_row(w: &Panels, row: usize, out: &mut [f32]) {
    let (panel, n) = (w.panel(row / WIDTH), row % WIDTH);
    match w.format() {
        Format::BF16 => {
            for (k, out) in out.iter_mut().enumerate() {
                let at = k / 2 * 64 + n * 4 + k % 2 * 2;
                dequantize_row(Format::BF16, &panel[at..at + 2], std::slice::from_mut(out));
            }
        }
        Format::Q8_0 => back::<34, 544>(w.format(), panel, n, out, unpack_q8_0),
        Format::Q4_0 => back::<18, 288>(w.format(), panel, n, out, unpack_q4_0),
        Format::Q4_K => back::<144, 2304>(w.format(), panel, n, out, unpack_q4_k),
        Format::Q5_K => back::<176, 2816>(w.format(), panel, n, out, unpack_q5_k),
        Format::Q6_K => back::<210, 3360>(w.format(), panel, n, out, unpack_q6_k),
        Format::F32 | Format::F16 => unreachable!("these have no panels"),
    }
}

/// Packs the blocks (B bytes) of 16 rows into groups (G bytes), T groups at a time: each row touches every line of what it goes
/// into, which must stay near until all sixteen are there; whole lines of a row should be read together too. What a row lacks
/// is zeros.
#[inline(always)]
fn each<const B: usize, const G: usize, const T: usize>(
    rows: [&[u8]; WIDTH],
    out: &mut [u8],
    pack: impl Fn(&[u8; B], usize, &mut [u8; G]),
) {
    for (part, groups) in out.as_chunks_mut::<G>().0.chunks_mut(T).enumerate() {
        for (n, row) in rows.iter().enumerate() {
            if let Some((blocks, [])) =
                row.get(part * T * B..part * T * B + groups.len() * B).map(<[u8]>::as_chunks::<B>)
            {
                blocks.iter().zip(&mut *groups).for_each(|(block, group)| pack(block, n, group));
                continue;
            }
            // A row that is not there, or the last pair of an odd number of columns.
            for (i, group) in groups.iter_mut().enumerate() {
                let rest = row.get((part * T + i) * B..).unwrap_or_default();
                let (mut block, len) = ([0; B], rest.len().min(B));
                block[..len].copy_from_slice(&rest[..len]);
                pack(&block, n, group);
            }
        }
    }
}

fn back<const B: usize, const G: usize>(
    format: Format,
    panel: &[u8],
    n: usize,
    out: &mut [f32],
    unpack: impl Fn(&[u8; G], usize) -> [u8; B],
) {
    for (group, out) in panel.as_chunks::<G>().0.iter().zip(out.chunks_exact_mut(format.block_len())) {
        dequantize_row(format, &unpack(group, n), out);
    }
}

/// Word `i` of `bytes`.
#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(*bytes[4 * i..].first_chunk().expect("a word"))
}

#[inline(always)]
fn put(bytes: &mut [u8], i: usize, word: u32) {
    bytes[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
}

/// The quad of row n in vec `v` of `vecs`.
#[inline(always)]
fn quad(vecs: &[u8], v: usize, n: usize) -> u32 {
    word(vecs, WIDTH * v + n)
}

#[inline(always)]
fn put_quad(vecs: &mut [u8], v: usize, n: usize, word: u32) {
    put(vecs, WIDTH * v + n, word);
}

#[inline(always)]
fn pack_bf16(block: &[u8; 4], n: usize, group: &mut [u8; 64]) {
    group[4 * n..4 * n + 4].copy_from_slice(block);
}

/// Signed to unsigned and back, for four bytes.
const FLIP: u32 = 0x8080_8080;
const LOW: u32 = 0x0f0f_0f0f;

#[inline(always)]
fn pack_q8_0(block: &[u8; 34], n: usize, group: &mut [u8; 544]) {
    group[2 * n..2 * n + 2].copy_from_slice(&block[..2]);
    for j in 0..8 {
        put_quad(&mut group[32..], j, n, word(&block[2..], j) ^ FLIP);
    }
}

fn unpack_q8_0(group: &[u8; 544], n: usize) -> [u8; 34] {
    let mut block = [0; 34];
    block[..2].copy_from_slice(&group[2 * n..2 * n + 2]);
    for j in 0..8 {
        put(&mut block[2..], j, quad(&group[32..], j, n) ^ FLIP);
    }
    block
}

#[inline(always)]
fn pack_q4_0(block: &[u8; 18], n: usize, group: &mut [u8; 288]) {
    group[2 * n..2 * n + 2].copy_from_slice(&block[..2]);
    for j in 0..4 {
        put_quad(&mut group[32..], j, n, word(&block[2..], j));
    }
}

fn unpack_q4_0(group: &[u8; 288], n: usize) -> [u8; 18] {
    let mut block = [0; 18];
    block[..2].copy_from_slice(&group[2 * n..2 * n + 2]);
    for j in 0..4 {
        put(&mut block[2..], j, quad(&group[32..], j, n));
    }
    block
}

/// The f16 pair and the twelve scale bytes of Q4_K and Q5_K.
#[inline(always)]
fn pack_k_head(block: &[u8], n: usize, group: &mut [u8]) {
    group[2 * n..2 * n + 2].copy_from_slice(&block[..2]);
    group[32 + 2 * n..32 + 2 * n + 2].copy_from_slice(&block[2..4]);
    for i in 0..12 {
        group[64 + WIDTH * i + n] = block[4 + i];
    }
}

fn unpack_k_head(group: &[u8], n: usize, block: &mut [u8]) {
    block[..2].copy_from_slice(&group[2 * n..2 * n + 2]);
    block[2..4].copy_from_slice(&group[32 + 2 * n..32 + 2 * n + 2]);
    for i in 0..12 {
        block[4 + i] = group[64 + WIDTH * i + n];
    }
}

/// Nibbles of 64 values, whose blocks of 32 the file keeps in low and high halves of the same bytes, as two blocks of four vecs.
#[inline(always)]
fn pack_k_nibbles(nibbles: &[u8], n: usize, first: &mut [u8], second: &mut [u8]) {
    for t in 0..4 {
        let (near, far) = (word(nibbles, t), word(nibbles, t + 4));
        put_quad(first, t, n, (near & LOW) | ((far & LOW) << 4));
        put_quad(second, t, n, ((near >> 4) & LOW) | (far & !LOW));
    }
}

fn unpack_k_nibbles(first: &[u8], second: &[u8], n: usize, nibbles: &mut [u8]) {
    for t in 0..4 {
        let (a, b) = (quad(first, t, n), quad(second, t, n));
        put(nibbles, t, (a & LOW) | ((b & LOW) << 4));
        put(nibbles, t + 4, ((a >> 4) & LOW) | (b & !LOW));
    }
}

#[inline(always)]
fn pack_q4_k(block: &[u8; 144], n: usize, group: &mut [u8; 2304]) {
    let (head, vecs) = group.split_at_mut(256);
    pack_k_head(block, n, head);
    for c in 0..4 {
        let (first, second) = vecs[512 * c..512 * (c + 1)].split_at_mut(256);
        pack_k_nibbles(&block[16 + 32 * c..48 + 32 * c], n, first, second);
    }
}

fn unpack_q4_k(group: &[u8; 2304], n: usize) -> [u8; 144] {
    let mut block = [0; 144];
    unpack_k_head(group, n, &mut block);
    for c in 0..4 {
        let (first, second) = group[256 + 512 * c..256 + 512 * (c + 1)].split_at(256);
        unpack_k_nibbles(first, second, n, &mut block[16 + 32 * c..48 + 32 * c]);
    }
    block
}

#[inline(always)]
fn pack_q5_k(block: &[u8; 176], n: usize, group: &mut [u8; 2816]) {
    let (head, vecs) = group.split_at_mut(256);
    pack_k_head(block, n, head);
    let fifth: [u32; 8] = std::array::from_fn(|j| word(&block[16..48], j));
    for c in 0..4 {
        let (first, second) = vecs[640 * c..640 * (c + 1)].split_at_mut(320);
        pack_k_nibbles(&block[48 + 32 * c..80 + 32 * c], n, first, second);
        for (b, vecs) in [first, second].into_iter().enumerate() {
            let bits = (0..8).fold(0, |bits, j| bits | (((fifth[j] >> (2 * c + b)) & 0x0101_0101) << j));
            put_quad(vecs, 4, n, bits);
        }
    }
}

fn unpack_q5_k(group: &[u8; 2816], n: usize) -> [u8; 176] {
    let mut block = [0; 176];
    unpack_k_head(group, n, &mut block);
    let mut fifth = [0; 8];
    for c in 0..4 {
        let (first, second) = group[256 + 640 * c..256 + 640 * (c + 1)].split_at(320);
        unpack_k_nibbles(first, second, n, &mut block[48 + 32 * c..80 + 32 * c]);
        for (b, vecs) in [first, second].into_iter().enumerate() {
            let bits = quad(vecs, 4, n);
            for (j, fifth) in fifth.iter_mut().enumerate() {
                *fifth |= ((bits >> j) & 0x0101_0101) << (2 * c + b);
            }
        }
    }
    for (j, fifth) in fifth.into_iter().enumerate() {
        put(&mut block[16..48], j, fifth);
    }
    block
}

#[inline(always)]
fn pack_q6_k(block: &[u8; 210], n: usize, group: &mut [u8; 3360]) {
    group[2 * n..2 * n + 2].copy_from_slice(&block[208..]);
    for i in 0..16 {
        group[32 + WIDTH * i + n] = block[192 + i];
    }
    for (b, vecs) in group[288..].as_chunks_mut::<384>().0.iter_mut().enumerate() {
        // Within each half of 128: four runs of 32.
        let (half, run) = (b / 4, b % 4);
        let low = &block[64 * half + 32 * (run % 2)..][..32];
        let high = &block[128 + 32 * half..][..32];
        let (nibble, pair) = (4 * (run / 2), 2 * run);
        for t in 0..4 {
            let (near, far) = ((word(low, t) >> nibble) & LOW, (word(low, t + 4) >> nibble) & LOW);
            put_quad(vecs, t, n, near | (far << 4));
        }
        for u in 0..2 {
            let bits = (0..4).fold(0, |bits, j| bits | (((word(high, 4 * u + j) >> pair) & 0x0303_0303) << (2 * j)));
            put_quad(vecs, 4 + u, n, bits);
        }
    }
}

fn unpack_q6_k(group: &[u8; 3360], n: usize) -> [u8; 210] {
    let mut block = [0; 210];
    block[208..].copy_from_slice(&group[2 * n..2 * n + 2]);
    for i in 0..16 {
        block[192 + i] = group[32 + WIDTH * i + n];
    }
    for (b, vecs) in group[288..].as_chunks::<384>().0.iter().enumerate() {
        let (half, run) = (b / 4, b % 4);
        let (nibble, pair) = (4 * (run / 2), 2 * run);
        for j in 0..8 {
            let low = (quad(vecs, j % 4, n) >> (4 * (j / 4))) & LOW;
            let at = 16 * half + 8 * (run % 2) + j;
            let old = word(&block, at);
            put(&mut block, at, old | (low << nibble));
            let high = (quad(vecs, 4 + j / 4, n) >> (2 * (j % 4))) & 0x0303_0303;
            let at = 32 + 8 * half + j;
            let old = word(&block, at);
            put(&mut block, at, old | (high << pair));
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that fill neither the last panel nor the last pair, and more groups than are packed together.
    #[test]
    fn rows_come_back() {
        for format in Format::ALL.into_iter().filter(|format| format.has_panels()) {
            for cols in if format == Format::BF16 { [63, 1_501] } else { [256, 6 * 256] } {
                let (rows, row_bytes) = (19, format.row_bytes(cols).unwrap());
                let bytes: Vec<u8> = (0..rows * row_bytes).map(|i| (i * 31 + i / 97) as u8 & 0x3f).collect();
                let w = Matrix::new(format, rows, cols, &bytes).unwrap();
                let panel = panel_bytes(format, cols).unwrap();
                let mut panels = vec![0xff; 2 * panel];
                pack(&Pool::new(2), &w, panel, &mut panels);
                let packed = Panels::new(format, rows, cols, &panels).unwrap();
                let (mut expected, mut got) = (vec![0.0; cols], vec![0.0; cols]);
                for row in 0..rows {
                    dequantize_row(format, w.row(row), &mut expected);
                    unpack_row(&packed, row, &mut got);
                    assert!(expected.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()), "{format} row {row}");
                }
                let padding = Panels::new(format, 32, cols, &panels).unwrap();
                unpack_row(&padding, 31, &mut got);
                assert!(got.iter().all(|v| *v == 0.0), "{format}");
            }
        }
    }
}
