//! AVX-512 with VNNI: one register per vector. `vpdpbusd` sums four byte products exactly; sums begin at −zero·Σx, which takes the
//! weights' zero point off.
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
    type Wide = __m512i;
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
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
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
    fn store_f32_bytes(self, v: __m512, to: &mut [u8; 64]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn splat_quad(self, from: &[u8; 4]) -> __m512i {
        unsafe { _mm512_set1_epi32(i32::from_ne_bytes(*from)) }
    }
    #[inline(always)]
    fn splat_eight(self, from: &[u8; 8]) -> __m512i {
        unsafe { _mm512_set1_epi64(i64::from_ne_bytes(*from)) }
    }
    #[inline(always)]
    fn splat_sixteen(self, from: &[u8; 16]) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(from.as_ptr().cast())) }
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
    fn splat_int_every<const L: usize>(self, value: i32) -> __m512i {
        let lanes = match L {
            1 => 0xffff,
            2 => 0x5555,
            _ => 0x1111,
        };
        unsafe { _mm512_maskz_set1_epi32(lanes, value) }
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
    fn int_sub(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(a, b) }
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
    fn load_int(self, from: &[i32; 16]) -> __m512i {
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn sub_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi8(a, b) }
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
    fn wide(self, sum: __m512i) -> __m512i {
        sum
    }
    #[inline(always)]
    fn add_wide(self, wide: __m512i, w: __m512i, x: __m512i) -> __m512i {
        self.add_dot(wide, w, x)
    }
    #[inline(always)]
    fn wide_sum(self, _: __m512i, wide: __m512i) -> __m512i {
        wide
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
    #[inline(always)]
    fn load_bf16(self, from: &[u16; 16]) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn store_bf16(self, v: __m512, to: &mut [u16; 16]) {
        unsafe {
            let high = _mm512_srli_epi32::<16>(_mm512_castps_si512(self.round_bf16(v)));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(high));
        }
    }
    #[inline(always)]
    fn store_bf16_pairs(self, first: __m512, second: __m512, to: &mut [[u16; 2]; 16]) {
        unsafe {
            let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(self.round_bf16(first)));
            let both = _mm512_or_si512(low, _mm512_castps_si512(self.round_bf16(second)));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), both);
        }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(a) }
    }

    // Lanes beyond the slice are masked: neither read nor written.
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(lanes_of(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn store_some(self, v: __m512, to: &mut [f32]) {
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), lanes_of(to.len()), v) }
    }
    #[inline(always)]
    fn load_bf16_some(self, from: &[u16]) -> __m512 {
        unsafe {
            let narrow = _mm256_maskz_loadu_epi16(lanes_of(from.len()), from.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow)))
        }
    }
    #[inline(always)]
    fn store_bf16_some(self, v: __m512, to: &mut [u16]) {
        unsafe {
            let high = _mm512_srli_epi32::<16>(_mm512_castps_si512(self.round_bf16(v)));
            _mm256_mask_storeu_epi16(to.as_mut_ptr().cast(), lanes_of(to.len()), _mm512_cvtepi32_epi16(high));
        }
    }
}

/// A mask of the first lanes.
#[inline(always)]
fn lanes_of(len: usize) -> u16 {
    debug_assert!(len <= 16, "as many values as lanes");
    ((1u32 << len.min(16)) - 1) as u16
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
