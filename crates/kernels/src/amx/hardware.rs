//! The tile instructions, in inline assembly because their intrinsics are not stable. Nothing else in the program knows tile
//! registers: each step begins by loading the tiles that it reads, so that only the configuration must survive between two of
//! them, and `Session` sees to it that no configuration survives a task.

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;

use super::tiles::{Config, Shape, Sums, Tiles};

thread_local! {
    /// How many sessions this thread is in, and what its tiles are configured as.
    static STATE: Cell<(usize, Option<Shape>)> = const { Cell::new((0, None)) };
}

/// A stretch of work on this thread that may use tiles. The end of the outermost one gives them back, so that whatever runs
/// next, and every switch between threads, is free of their 8 KiB of state.
pub(crate) struct Session {
    _stays_on_its_thread: PhantomData<*const ()>,
}

impl Session {
    pub(crate) fn begin() -> Self {
        let (depth, shape) = STATE.get();
        STATE.set((depth + 1, shape));
        Self { _stays_on_its_thread: PhantomData }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (depth, shape) = STATE.get();
        if depth > 1 {
            return STATE.set((depth - 1, shape));
        }
        STATE.set((0, None));
        if shape.is_some() {
            // SAFETY: only a `Hardware`, whose maker has promised that the instructions are there, sets a shape.
            unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
        }
    }
}

/// Proof that the instructions are there, within a session.
pub(crate) struct Hardware {
    _session: Session,
}

impl Hardware {
    /// # Safety
    /// The CPU must have tiles and the system must have granted them to this process.
    #[inline(always)]
    pub(crate) unsafe fn begin() -> Self {
        Self { _session: Session::begin() }
    }
}

impl Tiles for Hardware {
    #[inline(always)]
    fn configure(&mut self, shape: Shape) {
        let (depth, configured) = STATE.get();
        if configured != Some(shape) {
            STATE.set((depth, Some(shape)));
            // SAFETY: the instructions are there, by the contract of `begin`.
            unsafe { load(&shape.config()) }
        }
    }

    #[inline(always)]
    unsafe fn bytes<const SET: usize>(&mut self, a: *const i8, a_stride: usize, b: *const i8, c: *mut Sums) {
        const { assert!(SET < 2) }
        // SAFETY: the instructions are there, by the contract of `begin`; what they touch is there, by the contract of this function.
        unsafe {
            asm!(
                "tileloadd tmm{a_tile}, [{a} + {a_stride}]",
                "tileloadd tmm{b_tile}, [{b} + {row}]",
                "tilezero tmm{c_tile}",
                "tdpbssd tmm{c_tile}, tmm{a_tile}, tmm{b_tile}",
                "tilestored [{c} + {row}], tmm{c_tile}",
                c_tile = const SET,
                a_tile = const SET + 2,
                b_tile = const SET + 4,
                a = in(reg) a,
                a_stride = in(reg) a_stride,
                b = in(reg) b,
                c = in(reg) c,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn pairs<const M: usize, const N: usize>(
        &mut self,
        a: *const u16,
        a_stride: usize,
        b: [*const u8; N],
        c: [*mut f32; N],
        count: usize,
    ) {
        const { assert!((M == 1 || M == 2) && (N == 1 || N == 2)) }
        if count == 0 {
            return;
        }
        // SAFETY: the contract of this function is theirs.
        unsafe {
            match (M, N) {
                (1, 1) => pairs_1x1(a, a_stride, b[0], c[0], count),
                (1, _) => pairs_1x2(a, a_stride, b[0], b[N - 1], c[0], c[N - 1], count),
                (_, 1) => pairs_2x1(a, a_stride, b[0], c[0], count),
                (_, _) => pairs_2x2(a, a_stride, b[0], b[N - 1], c[0], c[N - 1], count),
            }
        }
    }
}

/// # Safety
/// The instructions must be there.
#[cold]
unsafe fn load(config: &Config) {
    // SAFETY: reads 64 bytes, a valid configuration of palette 1.
    unsafe {
        asm!(
            "ldtilecfg [{config}]",
            config = in(reg) ptr::from_ref(config),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// One activation tile passes over the weights only once, so they come from memory: each B tile's lines are asked for 4 KiB ahead,
/// which covers what a memory access takes at one tile per 60 ns. Beyond the panel it is a hint about nothing.
macro_rules! ahead {
    ($b:literal) => {
        concat!(
            "prefetcht0 [{",
            $b,
            "} + 4096]\n",
            "prefetcht0 [{",
            $b,
            "} + 4160]\n",
            "prefetcht0 [{",
            $b,
            "} + 4224]\n",
            "prefetcht0 [{",
            $b,
            "} + 4288]\n",
            "prefetcht0 [{",
            $b,
            "} + 4352]\n",
            "prefetcht0 [{",
            $b,
            "} + 4416]\n",
            "prefetcht0 [{",
            $b,
            "} + 4480]\n",
            "prefetcht0 [{",
            $b,
            "} + 4544]\n",
            "prefetcht0 [{",
            $b,
            "} + 4608]\n",
            "prefetcht0 [{",
            $b,
            "} + 4672]\n",
            "prefetcht0 [{",
            $b,
            "} + 4736]\n",
            "prefetcht0 [{",
            $b,
            "} + 4800]\n",
            "prefetcht0 [{",
            $b,
            "} + 4864]\n",
            "prefetcht0 [{",
            $b,
            "} + 4928]\n",
            "prefetcht0 [{",
            $b,
            "} + 4992]\n",
            "prefetcht0 [{",
            $b,
            "} + 5056]",
        )
    };
}

/// # Safety
/// That of [`Tiles::pairs`] with M = N = 1, and count > 0.
#[inline(always)]
unsafe fn pairs_1x1(a: *const u16, a_stride: usize, b: *const u8, c: *mut f32, count: usize) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + {row}]",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm6, [{b} + {row}]",
            ahead!("b"),
            "tdpbf16ps tmm0, tmm4, tmm6",
            "add {a}, 64",
            "add {b}, 1024",
            "dec {count}",
            "jnz 2b",
            "tilestored [{c} + {row}], tmm0",
            a = inout(reg) a => _,
            a_stride = in(reg) a_stride,
            b = inout(reg) b => _,
            c = in(reg) c,
            count = inout(reg) count => _,
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// # Safety
/// That of [`Tiles::pairs`] with M = 1 and N = 2, and count > 0.
#[inline(always)]
unsafe fn pairs_1x2(
    a: *const u16,
    a_stride: usize,
    b0: *const u8,
    b1: *const u8,
    c0: *mut f32,
    c1: *mut f32,
    count: usize,
) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c0} + {row}]",
            "tileloadd tmm1, [{c1} + {row}]",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm6, [{b0} + {row}]",
            ahead!("b0"),
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {row}]",
            ahead!("b1"),
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {count}",
            "jnz 2b",
            "tilestored [{c0} + {row}], tmm0",
            "tilestored [{c1} + {row}], tmm1",
            a = inout(reg) a => _,
            a_stride = in(reg) a_stride,
            b0 = inout(reg) b0 => _,
            b1 = inout(reg) b1 => _,
            c0 = in(reg) c0,
            c1 = in(reg) c1,
            count = inout(reg) count => _,
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// # Safety
/// That of [`Tiles::pairs`] with M = 2 and N = 1, and count > 0.
#[inline(always)]
unsafe fn pairs_2x1(a: *const u16, a_stride: usize, b: *const u8, c: *mut f32, count: usize) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + {row}]",
            "tileloadd tmm2, [{c} + {row} + 1024]",
            "2:",
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{more} + {a_stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "add {a}, 64",
            "add {more}, 64",
            "add {b}, 1024",
            "dec {count}",
            "jnz 2b",
            "tilestored [{c} + {row}], tmm0",
            "tilestored [{c} + {row} + 1024], tmm2",
            a = inout(reg) a => _,
            more = inout(reg) a.byte_add(16 * a_stride) => _,
            a_stride = in(reg) a_stride,
            b = inout(reg) b => _,
            c = in(reg) c,
            count = inout(reg) count => _,
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// # Safety
/// That of [`Tiles::pairs`] with M = N = 2, and count > 0.
#[inline(always)]
unsafe fn pairs_2x2(
    a: *const u16,
    a_stride: usize,
    b0: *const u8,
    b1: *const u8,
    c0: *mut f32,
    c1: *mut f32,
    count: usize,
) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c0} + {row}]",
            "tileloadd tmm1, [{c1} + {row}]",
            "tileloadd tmm2, [{c0} + {row} + 1024]",
            "tileloadd tmm3, [{c1} + {row} + 1024]",
            "2:",
            "tileloadd tmm6, [{b0} + {row}]",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {row}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{more} + {a_stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {more}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {count}",
            "jnz 2b",
            "tilestored [{c0} + {row}], tmm0",
            "tilestored [{c1} + {row}], tmm1",
            "tilestored [{c0} + {row} + 1024], tmm2",
            "tilestored [{c1} + {row} + 1024], tmm3",
            a = inout(reg) a => _,
            more = inout(reg) a.byte_add(16 * a_stride) => _,
            a_stride = in(reg) a_stride,
            b0 = inout(reg) b0 => _,
            b1 = inout(reg) b1 => _,
            c0 = in(reg) c0,
            c1 = in(reg) c1,
            count = inout(reg) count => _,
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
