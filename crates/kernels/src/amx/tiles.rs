//! What the kernels ask of the tile unit, as whole steps that leave nothing in the tiles: only the configuration lives on between
//! two of them. `hardware.rs` is the instructions, `emulator.rs` (tests) what the manual says that they do.

/// Rows that a tile has at most: of activations in A and C.
pub(crate) const ROWS: usize = 16;

/// How large the tiles are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// For [`Tiles::bytes`]: C in tiles 0 and 1 is (rows, 16), A in 2 and 3 is (rows, part), B in 4 and 5 is (part/4, 16·4). `part`
    /// consecutive columns: 16 or 32.
    Bytes { rows: u8, part: u8 },
    /// For [`Tiles::pairs`]: C in tiles 0..4 is (rows, 16) in the first two and (more, 16) in the others, A in 4 and 5 is (rows, 32)
    /// and (more, 32), B in 6 and 7 is (16, 16·2). `more` may be 0: then its tiles are not there.
    Pairs { rows: u8, more: u8 },
}

impl Shape {
    pub(crate) fn config(self) -> Config {
        match self {
            Shape::Bytes { rows: m, part } => {
                assert!((1..=16).contains(&m) && part.is_multiple_of(4) && (4..=64).contains(&part));
                let (k, bytes) = (part / 4, part.into());
                Config::new([m, m, m, m, k, k, 0, 0], [64, 64, bytes, bytes, 64, 64, 0, 0])
            }
            Shape::Pairs { rows: m, more: r } => {
                assert!((1..=16).contains(&m) && r <= 16);
                let bytes = if r == 0 { 0 } else { 64 };
                Config::new([m, m, r, r, m, r, 16, 16], [64, 64, bytes, bytes, 64, bytes, 64, 64])
            }
        }
    }
}

/// What `ldtilecfg` reads. Source: Intel SDM volume 1, § 18.2.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes per row of tiles 0..8; the second half does not exist in palette 1.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    fn new(rows: [u8; 8], row_bytes: [u16; 8]) -> Self {
        let mut config = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.rows[..8].copy_from_slice(&rows);
        config.row_bytes[..8].copy_from_slice(&row_bytes);
        config
    }

    /// (rows, bytes per row).
    #[cfg(test)]
    pub(crate) fn of(&self, tile: usize) -> (usize, usize) {
        (self.rows[tile].into(), self.row_bytes[tile].into())
    }
}

/// Sums of one tile: (16, 16).
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub [[i32; 16]; ROWS]);

pub(crate) trait Tiles {
    /// Makes the following steps be of this shape.
    fn configure(&mut self, shape: Shape);

    /// C = A·B, exactly. A: rows of i8, `a_stride` bytes apart; B: i8 as (part/4, 16, 4), rows of 64 bytes; C: rows of 16 i32. The
    /// tiles of `SET`, 0 or 1: two steps after another do not wait for each other.
    ///
    /// # Safety
    /// The last `configure` was `Shape::Bytes`, whose rows of A and C, and B, must be there behind the pointers.
    unsafe fn bytes<const SET: usize>(&mut self, a: *const i8, a_stride: usize, b: *const i8, c: *mut Sums);

    /// C += A·B, over `count` times 32 columns in order: of each, the products of even columns are added up from 0 with fused
    /// multiply-adds in order, the odd ones apart, and C takes their sum. Denormals are zeros, in and out.
    /// C: for each of the N panels, M times sixteen rows (as many as `Shape::Pairs` says) of 16 f32. A: rows of bf16, `a_stride`
    /// bytes apart. B: for each panel, (columns/2, 16, 2) bf16. M and N are 1 or 2.
    ///
    /// # Safety
    /// The last `configure` was `Shape::Pairs`, with `more` where M is 2; all of A, B and C must be there behind the pointers.
    unsafe fn pairs<const M: usize, const N: usize>(
        &mut self,
        a: *const u16,
        a_stride: usize,
        b: [*const u8; N],
        c: [*mut f32; N],
        count: usize,
    );
}
