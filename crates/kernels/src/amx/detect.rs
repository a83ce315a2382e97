//! Whether this CPU has tiles and this system lets us use them. Asking is not enough: the system keeps 8 KiB of state per
//! thread only for a process that requested it. Sources: Intel SDM volume 1, § 18.1; Linux, Documentation/arch/x86/xstate.rst.

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::check;

/// Tiles with i8 and bf16, granted by the system, whose byte products have proven to be right. Asked once per process.
pub(crate) fn offers_bytes() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| cpu_has_tiles() && system_saves_tiles() && system_grants_tiles() && check::bytes_are_right())
}

/// Whether the products of bf16 follow their specification too.
pub(crate) fn offers_pairs() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| offers_bytes() && check::pairs_are_right())
}

fn cpu_has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const PALETTES: u32 = 0x1d;
    let deepest = __cpuid_count(0, 0).eax;
    if deepest < PALETTES || __cpuid_count(7, 0).edx & (BF16 | TILE | INT8) != BF16 | TILE | INT8 {
        return false;
    }
    // Palette 1: bytes in all and per tile, bytes per row and names, rows.
    let palette = __cpuid_count(PALETTES, 1);
    palette.eax == (1024 << 16 | 8192) && palette.ebx == (8 << 16 | 64) && palette.ecx & 0xffff == 16
}

/// XCR0 has the tiles' configuration and data, once XGETBV itself is there.
fn system_saves_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILES: u32 = 1 << 17 | 1 << 18;
    if __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
        return false;
    }
    let low: u32;
    // SAFETY: the system has enabled XGETBV; register 0 is there.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    low & TILES == TILES
}

#[cfg(target_os = "linux")]
fn system_grants_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: takes two numbers; it grants all threads of the process a larger state, or fails.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn system_grants_tiles() -> bool {
    false
}
