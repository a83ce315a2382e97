//! What this machine can do at most: bytes read from memory and operations per second, measured in about 100 ms each. These
//! are limits to compare with, not benchmarks of our kernels; each is the best of a few rounds, because whatever else
//! runs can only make it look slower.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use crate::buffer::AlignedVec;
use crate::isa::Isa;
use crate::pool::Pool;

/// The highest rate of one kind of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Multiplications and additions counted apart, over all threads of the pool.
    pub ops_per_s: f64,
    /// What reached it.
    pub instruction: &'static str,
}

/// Bytes per second that all threads together read from memory that no cache holds.
pub fn read_bandwidth(pool: &Pool) -> f64 {
    let pieces = pool.threads() * PIECES_PER_THREAD;
    let piece_words = (BYTES_PER_THREAD.max(LEAST_BYTES / pool.threads()) / PIECES_PER_THREAD / 4) & !1023;
    let mut words = AlignedVec::<u32>::new(pieces * piece_words);
    // Untouched memory would be one page of zeros, which the cache holds.
    let parts: Vec<_> = words.chunks_exact_mut(piece_words).map(Mutex::new).collect();
    pool.run(pieces, |piece, _| {
        if let Ok(mut part) = parts[piece].lock() {
            part.fill(piece as u32 + 1);
        }
    });
    drop(parts);
    let seconds = best_of(8, || {
        pool.run(pieces, |piece, _| {
            black_box(sum(&words[piece * piece_words..(piece + 1) * piece_words]));
        });
    });
    (words.len() * size_of::<u32>()) as f64 / seconds
}

/// Products of bytes summed into 32 bits: what quantised weights are multiplied with.
pub fn peak_int8(pool: &Pool, isa: Isa) -> Peak {
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Scalar {
        return x86::int8(pool, isa);
    }
    let _ = isa;
    plain(pool, [1i8; 64], [2i8; 64], |a, b, sums: &mut [i32; 64]| {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += i32::from(*a) * i32::from(*b));
    })
}

/// Fused multiply-adds of f32.
pub fn peak_f32(pool: &Pool, isa: Isa) -> Peak {
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Scalar {
        return x86::f32(pool, isa);
    }
    let _ = isa;
    plain(pool, [1f32; 64], [1e-9f32; 64], |a, b, sums: &mut [f32; 64]| {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    })
}

/// Products of bf16 summed in f32: by instructions made for them, or widened to f32 where that is faster.
pub fn peak_bf16(pool: &Pool, isa: Isa) -> Peak {
    let widened = peak_f32(pool, isa);
    #[cfg(target_arch = "x86_64")]
    if let Some(peak) = x86::bf16(pool, isa).filter(|peak| peak.ops_per_s > widened.ops_per_s) {
        return peak;
    }
    widened
}

/// Eight streams of whole cache lines, for the compiler to make of it what the build allows; with wider loads where the
/// CPU has them.
fn sum(words: &[u32]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just asked for.
            return unsafe { x86::sum_avx512(words) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just asked for.
            return unsafe { x86::sum_avx2(words) };
        }
    }
    sum_lines(words)
}

/// Wrapping sum; an accumulator per word of eight lines.
#[inline(always)]
fn sum_lines(words: &[u32]) -> u32 {
    let mut sums = [0u32; 128];
    for lines in words.as_chunks::<128>().0 {
        for (sum, word) in sums.iter_mut().zip(lines) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// Without special instructions: 64 sums in plain Rust.
fn plain<T: Copy + Sync, S: Copy + Default>(
    pool: &Pool,
    a: [T; 64],
    b: [T; 64],
    add: impl Fn(&[T; 64], &[T; 64], &mut [S; 64]) + Sync,
) -> Peak {
    const ROUNDS: usize = 200_000;
    let seconds = best_of(4, || {
        pool.run(pool.threads(), |_, _| {
            let mut sums = [S::default(); 64];
            for _ in 0..ROUNDS {
                add(black_box(&a), black_box(&b), &mut sums);
            }
            black_box(&sums);
        });
    });
    Peak { ops_per_s: (pool.threads() * ROUNDS * 64 * 2) as f64 / seconds, instruction: "multiply, add" }
}

/// Seconds of the fastest round, after one to warm up.
fn best_of(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let round = |_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min).max(1e-9)
}

/// Beyond the last cache of what is sold today, and no burden on a laptop.
const LEAST_BYTES: usize = 256 << 20;
const BYTES_PER_THREAD: usize = 32 << 20;
/// A thread that is late loses some of its share instead of holding up the round.
const PIECES_PER_THREAD: usize = 8;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

    use super::{Peak, best_of};
    use crate::isa::Isa;
    use crate::pool::Pool;

    pub(super) fn int8(pool: &Pool, isa: Isa) -> Peak {
        let kind = match isa {
            _ if isa > Isa::Avx512 => Kind { instruction: "tdpbssd", ops: 4 * 16 * 16 * 64 * 2, run: amx_int8 },
            Isa::Avx512 => Kind { instruction: "vpdpbusd zmm", ops: 12 * 64 * 2, run: vnni_512 },
            Isa::Avx2Vnni => Kind { instruction: "vpdpbusd ymm", ops: 12 * 32 * 2, run: vnni_256 },
            _ => Kind { instruction: "vpmaddubsw ymm", ops: 10 * 32 * 2, run: maddubs_256 },
        };
        measure(pool, &kind)
    }

    pub(super) fn f32(pool: &Pool, isa: Isa) -> Peak {
        let kind = match isa {
            Isa::Scalar | Isa::Avx2 | Isa::Avx2Vnni => {
                Kind { instruction: "vfmadd231ps ymm", ops: 12 * 8 * 2, run: fma_256 }
            }
            _ => Kind { instruction: "vfmadd231ps zmm", ops: 12 * 16 * 2, run: fma_512 },
        };
        measure(pool, &kind)
    }

    pub(super) fn bf16(pool: &Pool, isa: Isa) -> Option<Peak> {
        let kind = match isa {
            Isa::Scalar | Isa::Avx2 | Isa::Avx2Vnni => None,
            _ if isa > Isa::Avx512 => Some(Kind { instruction: "tdpbf16ps", ops: 4 * 16 * 16 * 32 * 2, run: amx_bf16 }),
            _ => is_x86_feature_detected!("avx512bf16").then_some(Kind {
                instruction: "vdpbf16ps zmm",
                ops: 12 * 32 * 2,
                run: dpbf16_512,
            }),
        };
        kind.map(|kind| measure(pool, &kind))
    }

    struct Kind {
        instruction: &'static str,
        /// Of one round.
        ops: u64,
        /// Takes the number of rounds. Unsafe only in that the CPU must have the instruction.
        run: unsafe fn(u64),
    }

    fn measure(pool: &Pool, kind: &Kind) -> Peak {
        // About 10 ms at one 512-bit instruction per cycle, and for AMX at one tile product per 16.
        let rounds = if kind.ops > 1 << 16 { 500_000 } else { 2_000_000 };
        let seconds = best_of(6, || {
            pool.run(pool.threads(), |_, _| {
                // SAFETY: the kinds above are of an ISA that the caller was given because this CPU has it, or were
                // asked for there.
                unsafe { (kind.run)(rounds) }
            });
        });
        let ops_per_s = (pool.threads() as u64 * rounds * kind.ops) as f64 / seconds;
        Peak { ops_per_s, instruction: kind.instruction }
    }

    /// Two bytes, halves or a float, of which a register is made: small, so that sums neither overflow nor become
    /// denormal.
    const INT8: [u32; 2] = [0x0101_0101, 0x0202_0202];
    const F32: [u32; 2] = [0x3f80_0000, 0x3089_705f];
    const BF16: [u32; 2] = [0x3f80_3f80, 0x3089_3089];

    /// Twelve sums that do not wait for each other: more than latency times width on any CPU.
    macro_rules! chains {
        ($name:ident, $features:literal, $r:literal, $op:literal, $values:expr) => {
            /// # Safety
            /// The CPU must have what `op` needs.
            #[target_feature(enable = $features)]
            unsafe fn $name(rounds: u64) {
                let [a, b] = &$values;
                // SAFETY: reads two values behind references, and clobbers what it says.
                unsafe {
                    asm!(
                        concat!("vpbroadcastd ", $r, "12, [{a}]"),
                        concat!("vpbroadcastd ", $r, "13, [{b}]"),
                        "vpxor xmm0, xmm0, xmm0", "vpxor xmm1, xmm1, xmm1", "vpxor xmm2, xmm2, xmm2",
                        "vpxor xmm3, xmm3, xmm3", "vpxor xmm4, xmm4, xmm4", "vpxor xmm5, xmm5, xmm5",
                        "vpxor xmm6, xmm6, xmm6", "vpxor xmm7, xmm7, xmm7", "vpxor xmm8, xmm8, xmm8",
                        "vpxor xmm9, xmm9, xmm9", "vpxor xmm10, xmm10, xmm10", "vpxor xmm11, xmm11, xmm11",
                        "2:",
                        concat!($op, " ", $r, "0, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "1, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "2, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "3, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "4, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "5, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "6, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "7, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "8, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "9, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "10, ", $r, "12, ", $r, "13"),
                        concat!($op, " ", $r, "11, ", $r, "12, ", $r, "13"),
                        "dec rcx",
                        "jnz 2b",
                        a = in(reg) a,
                        b = in(reg) b,
                        inout("rcx") rounds => _,
                        clobber_abi("sysv64"),
                        options(nostack),
                    );
                }
            }
        };
    }

    chains!(fma_256, "avx2,fma", "ymm", "vfmadd231ps", F32);
    chains!(fma_512, "avx512f", "zmm", "vfmadd231ps", F32);
    chains!(vnni_256, "avx2,avxvnni", "ymm", "{{vex}} vpdpbusd", INT8);
    chains!(vnni_512, "avx512f,avx512vnni", "zmm", "vpdpbusd", INT8);
    chains!(dpbf16_512, "avx512f,avx512bf16", "zmm", "vdpbf16ps", BF16);

    /// Before VNNI it takes three: products in pairs, pairs in fours, the sum.
    ///
    /// # Safety
    /// The CPU must have AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn maddubs_256(rounds: u64) {
        let [a, b] = &INT8;
        let ones = &0x0001_0001u32;
        macro_rules! step {
            ($sum:literal, $part:literal) => {
                concat!(
                    "vpmaddubsw ymm",
                    $part,
                    ", ymm12, ymm13\n",
                    "vpmaddwd ymm",
                    $part,
                    ", ymm",
                    $part,
                    ", ymm14\n",
                    "vpaddd ymm",
                    $sum,
                    ", ymm",
                    $sum,
                    ", ymm",
                    $part
                )
            };
        }
        // SAFETY: reads three values behind references, and clobbers what it says.
        unsafe {
            asm!(
                "vpbroadcastd ymm12, [{a}]", "vpbroadcastd ymm13, [{b}]", "vpbroadcastd ymm14, [{ones}]",
                "vpxor xmm0, xmm0, xmm0", "vpxor xmm1, xmm1, xmm1", "vpxor xmm2, xmm2, xmm2",
                "vpxor xmm3, xmm3, xmm3", "vpxor xmm4, xmm4, xmm4",
                "2:",
                step!("0", "8"), step!("1", "9"), step!("2", "10"), step!("3", "11"), step!("4", "15"),
                step!("0", "8"), step!("1", "9"), step!("2", "10"), step!("3", "11"), step!("4", "15"),
                "dec rcx",
                "jnz 2b",
                a = in(reg) a,
                b = in(reg) b,
                ones = in(reg) ones,
                inout("rcx") rounds => _,
                clobber_abi("sysv64"),
                options(nostack),
            );
        }
    }

    /// Two by two tiles, as a kernel has them: four sums from four operands.
    macro_rules! tiles {
        ($name:ident, $op:literal, $value:expr) => {
            /// # Safety
            /// The CPU must have AMX with this type, and the system must have granted its state to this process.
            unsafe fn $name(rounds: u64) {
                #[repr(C, align(64))]
                struct Config([u8; 64]);
                // Palette 1; eight tiles of 16 rows of 64 bytes. Source: Intel SDM volume 1, § 18.2.
                let mut config = Config([0; 64]);
                config.0[0] = 1;
                for tile in 0..8 {
                    config.0[16 + 2 * tile] = 64;
                    config.0[48 + tile] = 16;
                }
                let data = [$value; 256];
                // SAFETY: reads the configuration and one tile of 1024 bytes, and clobbers what it says.
                unsafe {
                    asm!(
                        "ldtilecfg [{config}]",
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                        "tileloadd tmm4, [{data} + {stride}]", "tileloadd tmm5, [{data} + {stride}]",
                        "tileloadd tmm6, [{data} + {stride}]", "tileloadd tmm7, [{data} + {stride}]",
                        "2:",
                        concat!($op, " tmm0, tmm4, tmm6"),
                        concat!($op, " tmm1, tmm4, tmm7"),
                        concat!($op, " tmm2, tmm5, tmm6"),
                        concat!($op, " tmm3, tmm5, tmm7"),
                        "dec rcx",
                        "jnz 2b",
                        "tilerelease",
                        config = in(reg) &config,
                        data = in(reg) &data,
                        stride = in(reg) 64u64,
                        inout("rcx") rounds => _,
                        clobber_abi("sysv64"),
                        options(nostack),
                    );
                }
            }
        };
    }

    tiles!(amx_int8, "tdpbssd", INT8[0]);
    tiles!(amx_bf16, "tdpbf16ps", BF16[0]);

    macro_rules! sums {
        ($name:ident, $features:literal) => {
            /// # Safety
            /// The CPU must have the feature.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(words: &[u32]) -> u32 {
                let mut sums = [0u32; 128];
                for lines in words.as_chunks::<128>().0 {
                    // Eight lines are read at once; ask for those that come after the hardware's own reach.
                    // A prefetch of any address is harmless.
                    _mm_prefetch::<_MM_HINT_T0>(lines.as_ptr().wrapping_byte_add(AHEAD_BYTES).cast());
                    for (sum, word) in sums.iter_mut().zip(lines) {
                        *sum = sum.wrapping_add(*word);
                    }
                }
                sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
            }
        };
    }

    sums!(sum_avx512, "avx512f");
    sums!(sum_avx2, "avx2");

    const AHEAD_BYTES: usize = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates depend on the machine; that each probe runs its instructions to the end does not.
    #[test]
    fn every_isa_has_its_limits() {
        let pool = Pool::new(2);
        for isa in Isa::available() {
            let peaks = [peak_int8(&pool, isa), peak_f32(&pool, isa), peak_bf16(&pool, isa)];
            assert!(peaks.iter().all(|peak| peak.ops_per_s.is_finite() && peak.ops_per_s > 0.0), "{isa}: {peaks:?}");
            assert_eq!(peaks[0].instruction == "multiply, add", isa == Isa::Scalar);
        }
        assert!(read_bandwidth(&pool) > 0.0);
    }

    #[test]
    fn every_word_is_read() {
        let words: Vec<u32> = (0..640).collect();
        assert_eq!(sum(&words), 640 * 639 / 2);
        assert_eq!(sum_lines(&words), 640 * 639 / 2);
    }
}
