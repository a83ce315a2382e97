//! AVX-512 with VNNI: one register per vector. `vpdpbusd` sums four byte products exactly; the weights' zero point is taken
//! off by starting the sum at −zero·Σx, which the compiler shares between the rows of a tile.
// SAFETY of the whole file: an `Avx512` exists only where AVX-512 F, BW, VL, DQ and VNNI do (see `Avx512::assume`); loads
// and stores go through references to arrays of exactly the accessed size, with the unaligned instructions.
#![expect(clippy::undocumented_unsafe_blocks, reason = "the one argument that holds for all is above")]

use std::arch::x86_64::*;

use super::Simd;

/// Proof of AVX-512 F, BW, VL, DQ and VNNI, AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU must have AVX-512 F, BW, VL, DQ and VNNI, AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Simd for Avx512 {
    type F = __m512;
    type B = __m512i;
    type I = __m512i;
    type Partial = __m512i;
    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> __m512 {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; 16]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_8(self, from: &[f32; 8]) -> __m512 {
        unsafe { _mm512_zextps256_ps512(_mm256_loadu_ps(from.as_ptr())) }
    }
    #[inline(always)]
    fn spread_2(self, from: &[f32; 2]) -> __m512 {
        unsafe {
            let order = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            // Not `_mm_load_sd`: in Rust it reads an f64 in place, which wants 8-byte alignment.
            let pair = _mm_castsi128_ps(_mm_loadu_si64(from.as_ptr().cast()));
            _mm512_permutexvar_ps(order, _mm512_castps128_ps512(pair))
        }
    }
    #[inline(always)]
    fn spread_4(self, from: &[f32; 4]) -> __m512 {
        unsafe {
            let order = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            _mm512_permutexvar_ps(order, _mm512_castps128_ps512(_mm_loadu_ps(from.as_ptr())))
        }
    }
    #[inline(always)]
    fn store_f16(self, v: __m512, to: &mut [u16; 16]) {
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtps_ph::<NEAREST>(v)) }
    }
    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 64]) -> __m512 {
        unsafe { _mm512_loadu_ps(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16_bytes(self, from: &[u8; 32]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16_bytes(self, from: &[u8; 32]) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn spread_f16(self, low: u16, high: u16) -> __m512 {
        unsafe {
            let (low, high) = (_mm_set1_epi16(low.cast_signed()), _mm_set1_epi16(high.cast_signed()));
            _mm512_cvtph_ps(_mm256_set_m128i(high, low))
        }
    }
    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(bits.cast_signed()))) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        unsafe { _mm512_andnot_ps(_mm512_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<NEAREST>(a) }
    }
    #[inline(always)]
    fn exp2i(self, a: __m512) -> __m512 {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        unsafe {
            let b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        unsafe {
            let b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }

    #[inline(always)]
    fn splat_byte(self, value: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(value.cast_signed()) }
    }
    #[inline(always)]
    fn load_bytes(self, from: &[u8; 64]) -> __m512i {
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_halves(self, low: &[u8; 32], high: &[u8; 32]) -> __m512i {
        unsafe {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(low.as_ptr().cast()));
            _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(high.as_ptr().cast()))
        }
    }
    #[inline(always)]
    fn load_nibbles(self, low: &[u8; 16], high: &[u8; 16]) -> __m512i {
        unsafe {
            let low = _mm512_castsi128_si512(_mm_loadu_si128(low.as_ptr().cast()));
            let pair = _mm512_inserti32x4::<1>(low, _mm_loadu_si128(high.as_ptr().cast()));
            // low low high high, of which the odd quarters keep their high nibbles.
            let twice = _mm512_shuffle_i64x2::<0b01_01_00_00>(pair, pair);
            let shifts = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
            _mm512_and_si512(_mm512_srlv_epi64(twice, shifts), _mm512_set1_epi8(15))
        }
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    fn shift_right(self, a: __m512i, low: u32, high: u32, mask: u8) -> __m512i {
        unsafe {
            let (low, high) = (i64::from(low), i64::from(high));
            let shifts = _mm512_setr_epi64(low, low, low, low, high, high, high, high);
            // Over 64-bit lanes: what the mask excludes comes from a neighbour byte either way.
            _mm512_and_si512(_mm512_srlv_epi64(a, shifts), self.splat_byte(mask))
        }
    }
    #[inline(always)]
    fn shift_left_4(self, a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi16::<4>(a) }
    }
    #[inline(always)]
    fn dot(self, w: __m512i, x: __m512i, zero: u8) -> __m512 {
        unsafe {
            let none = _mm512_setzero_si512();
            let start = if zero == 0 {
                none
            } else {
                _mm512_sub_epi32(none, _mm512_dpbusd_epi32(none, _mm512_set1_epi8(zero.cast_signed()), x))
            };
            _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, w, x))
        }
    }
    #[inline(always)]
    fn signed_to_f32(self, from: &[u8; 16]) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn store_i8(self, low: __m512, high: __m512, to: &mut [i8; 32]) {
        unsafe {
            let (to_low, to_high) = (to.as_mut_ptr(), to.as_mut_ptr().add(16));
            _mm_storeu_si128(to_low.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(low)));
            _mm_storeu_si128(to_high.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(high)));
        }
    }

    #[inline(always)]
    fn store_bytes(self, v: __m512i, to: &mut [u8; 64]) {
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn splat_quad(self, from: &[u8; 4]) -> __m512i {
        unsafe { _mm512_set1_epi32(i32::from_ne_bytes(*from)) }
    }
    #[inline(always)]
    fn right(self, a: __m512i, bits: u32, mask: u8) -> __m512i {
        unsafe {
            let shifted = _mm512_srl_epi16(a, _mm_cvtsi32_si128(bits.cast_signed()));
            _mm512_and_si512(shifted, self.splat_byte(mask))
        }
    }
    #[inline(always)]
    fn left(self, a: __m512i, bits: u32, mask: u8) -> __m512i {
        unsafe {
            let shifted = _mm512_sll_epi16(a, _mm_cvtsi32_si128(bits.cast_signed()));
            _mm512_and_si512(shifted, self.splat_byte(mask))
        }
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    fn load_small(self, from: &[u8; 16]) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn int_and(self, a: __m512i, mask: i32) -> __m512i {
        unsafe { _mm512_and_si512(a, _mm512_set1_epi32(mask)) }
    }
    #[inline(always)]
    fn int_or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn int_left(self, a: __m512i, bits: u32) -> __m512i {
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits.cast_signed())) }
    }
    #[inline(always)]
    fn int_right(self, a: __m512i, bits: u32) -> __m512i {
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(bits.cast_signed())) }
    }
    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    fn partial(self, sum: __m512i) -> __m512i {
        sum
    }
    #[inline(always)]
    fn add_dot(self, partial: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(partial, w, x) }
    }
    #[inline(always)]
    fn widen(self, _: __m512i, partial: __m512i) -> __m512i {
        partial
    }
    #[inline(always)]
    fn wide_start(self, start: __m512i) -> __m512i {
        start
    }
    #[inline(always)]
    fn add_dot_wide(self, sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        self.add_dot(sum, w, x)
    }

    #[inline(always)]
    fn bf16_pairs(self, from: &[u8; 64]) -> (__m512, __m512) {
        unsafe {
            let both = _mm512_loadu_si512(from.as_ptr().cast());
            let second = _mm512_and_si512(both, _mm512_set1_epi32(-0x1_0000));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)), _mm512_castsi512_ps(second))
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn keep_from(self, v: __m512, x: __m512, bound: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, bound), v) }
    }
    #[inline(always)]
    fn round_bf16(self, v: __m512) -> __m512 {
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(-0x1_0000)))
        }
    }
}

/// Proof of AVX-512 BF16, which [`Avx512`] alone is not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DotBf16(());

impl DotBf16 {
    /// # Safety
    /// The CPU must have AVX-512 F and BF16.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// fma(w₀, x₀, fma(w₁, x₁, sum)) for each lane's pair; denormal inputs and results are zero.
    #[inline(always)]
    pub(crate) fn add(self, sum: __m512, w: __m512i, x: &[u16; 2]) -> __m512 {
        unsafe {
            let pair = _mm512_set1_epi32((u32::from(x[0]) | (u32::from(x[1]) << 16)).cast_signed());
            let w = std::mem::transmute::<__m512i, __m512bh>(w);
            _mm512_dpbf16_ps(sum, w, std::mem::transmute::<__m512i, __m512bh>(pair))
        }
    }

    /// The same for a pair as one number.
    #[inline(always)]
    pub(crate) fn add_pairs(self, sum: __m512, w: __m512i, x: u32) -> __m512 {
        unsafe {
            let w = std::mem::transmute::<__m512i, __m512bh>(w);
            let x = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x.cast_signed()));
            _mm512_dpbf16_ps(sum, w, x)
        }
    }

    /// To the nearest bf16, ties to even, subnormals to zero; as sixteen bf16 (in the bits of eight f32), and as f32.
    #[inline(always)]
    pub(crate) fn store_bf16(self, v: __m512, to: &mut [f32; 8]) -> __m512 {
        unsafe {
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), rounded);
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)))
        }
    }
}
