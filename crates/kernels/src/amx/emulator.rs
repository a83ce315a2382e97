//! A tile unit in plain Rust, instruction by instruction as Intel's manual has them (SDM volume 2, TILELOADD to TILEZERO), so that
//! everything but the instructions themselves is tested on any CPU. It also refuses what the hardware would fault on.

use super::tiles::{Config, Shape, Sums, Tiles};

#[derive(Debug)]
pub(crate) struct Emulator {
    config: Option<Config>,
    tiles: [[[u8; 64]; 16]; 8],
}

impl Emulator {
    pub(crate) fn new() -> Self {
        // Garbage, so that nobody counts on zeros.
        Self { config: None, tiles: [[[0x5a; 64]; 16]; 8] }
    }

    fn of(&self, tile: usize) -> (usize, usize) {
        let (rows, row_bytes) = self.config.expect("an instruction without a configuration faults").of(tile);
        assert!(rows > 0 && row_bytes > 0, "tile {tile} is not configured");
        (rows, row_bytes)
    }

    /// # Safety
    /// The tile's rows must be there.
    unsafe fn tileloadd(&mut self, tile: usize, from: *const u8, stride: usize) {
        let (rows, row_bytes) = self.of(tile);
        self.tiles[tile] = [[0; 64]; 16];
        for (r, row) in self.tiles[tile][..rows].iter_mut().enumerate() {
            // SAFETY: by the contract.
            unsafe { from.byte_add(r * stride).copy_to_nonoverlapping(row.as_mut_ptr(), row_bytes) }
        }
    }

    /// # Safety
    /// The tile's rows must be there.
    unsafe fn tilestored(&self, tile: usize, to: *mut u8, stride: usize) {
        let (rows, row_bytes) = self.of(tile);
        for (r, row) in self.tiles[tile][..rows].iter().enumerate() {
            // SAFETY: by the contract.
            unsafe { to.byte_add(r * stride).copy_from_nonoverlapping(row.as_ptr(), row_bytes) }
        }
    }

    fn tilezero(&mut self, tile: usize) {
        self.of(tile);
        self.tiles[tile] = [[0; 64]; 16];
    }

    /// (M, N, K in fours of bytes) of C += A·B, which must fit each other.
    fn product_of(&self, c: usize, a: usize, b: usize) -> (usize, usize, usize) {
        let ((m, c_bytes), (a_rows, a_bytes), (b_rows, b_bytes)) = (self.of(c), self.of(a), self.of(b));
        assert!(m == a_rows && c_bytes == b_bytes && a_bytes == 4 * b_rows, "tiles {c}, {a} and {b} do not fit");
        assert!(c != a && c != b && a != b, "the tiles of a product are different");
        (m, c_bytes / 4, b_rows)
    }

    fn word(&self, tile: usize, row: usize, i: usize) -> [u8; 4] {
        self.tiles[tile].as_flattened()[64 * row + 4 * i..].first_chunk().copied().expect("a word of a tile")
    }

    fn put(&mut self, tile: usize, row: usize, i: usize, word: [u8; 4]) {
        self.tiles[tile].as_flattened_mut()[64 * row + 4 * i..][..4].copy_from_slice(&word);
    }

    fn tdpbssd(&mut self, c: usize, a: usize, b: usize) {
        let (rows, cols, words) = self.product_of(c, a, b);
        for m in 0..rows {
            for n in 0..cols {
                let mut sum = i32::from_le_bytes(self.word(c, m, n));
                for k in 0..words {
                    let (a, b) = (self.word(a, m, k), self.word(b, k, n));
                    for i in 0..4 {
                        sum = sum.wrapping_add(i32::from(a[i].cast_signed()) * i32::from(b[i].cast_signed()));
                    }
                }
                self.put(c, m, n, sum.to_le_bytes());
            }
        }
    }

    fn tdpbf16ps(&mut self, c: usize, a: usize, b: usize) {
        let (rows, cols, words) = self.product_of(c, a, b);
        for m in 0..rows {
            for n in 0..cols {
                let mut halves = [0.0; 2];
                for k in 0..words {
                    let (a, b) = (self.word(a, m, k), self.word(b, k, n));
                    for (i, sum) in halves.iter_mut().enumerate() {
                        let half = |word: [u8; 4]| f32::from_le_bytes([0, 0, word[2 * i], word[2 * i + 1]]);
                        *sum = flushed(flushed(half(a)).mul_add(flushed(half(b)), *sum));
                    }
                }
                let old = flushed(f32::from_le_bytes(self.word(c, m, n)));
                let new = flushed(old + flushed(halves[0] + halves[1]));
                self.put(c, m, n, new.to_le_bytes());
            }
        }
    }
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

impl Tiles for Emulator {
    fn configure(&mut self, shape: Shape) {
        self.config = Some(shape.config());
    }

    unsafe fn bytes<const SET: usize>(&mut self, a: *const i8, a_stride: usize, b: *const i8, c: *mut Sums) {
        // SAFETY: by the contract of this function.
        unsafe {
            self.tileloadd(SET + 2, a.cast(), a_stride);
            self.tileloadd(SET + 4, b.cast(), 64);
            self.tilezero(SET);
            self.tdpbssd(SET, SET + 2, SET + 4);
            self.tilestored(SET, c.cast(), 64);
        }
    }

    unsafe fn pairs<const M: usize, const N: usize>(
        &mut self,
        a: *const u16,
        a_stride: usize,
        b: [*const u8; N],
        c: [*mut f32; N],
        count: usize,
    ) {
        // SAFETY: by the contract of this function.
        unsafe {
            for (m, n) in (0..M).flat_map(|m| (0..N).map(move |n| (m, n))) {
                self.tileloadd(2 * m + n, c[n].byte_add(1024 * m).cast(), 64);
            }
            for k in 0..count {
                for n in 0..N {
                    self.tileloadd(6 + n, b[n].add(1024 * k), 64);
                }
                for m in 0..M {
                    self.tileloadd(4 + m, a.byte_add(16 * m * a_stride + 64 * k).cast(), a_stride);
                    for n in 0..N {
                        self.tdpbf16ps(2 * m + n, 4 + m, 6 + n);
                    }
                }
            }
            for (m, n) in (0..M).flat_map(|m| (0..N).map(move |n| (m, n))) {
                self.tilestored(2 * m + n, c[n].byte_add(1024 * m).cast(), 64);
            }
        }
    }
}
