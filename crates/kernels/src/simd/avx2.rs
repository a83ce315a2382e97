//! AVX2 with FMA and F16C: two registers per vector. Without a dot instruction for bytes, products are summed as 16-bit pairs as
//! long as those cannot saturate, and widened then; weights of eight bits are taken as two nibbles.
// SAFETY of the whole file: an `Avx2` exists only where AVX2, FMA and F16C do (see `Avx2::assume`); loads and stores go
// through references to arrays of exactly the accessed size, with the unaligned instructions.
#![expect(clippy::undocumented_unsafe_blocks, reason = "the one argument that holds for all is above")]

use std::arch::x86_64::*;

use super::Simd;

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

type F = [__m256; 2];
type B = [__m256i; 2];

macro_rules! both {
    ($f:ident, $($a:ident),+) => { unsafe { [$f($($a[0]),+), $f($($a[1]),+)] } };
}

impl Simd for Avx2 {
    type F = F;
    type B = B;
    type I = B;
    // i16 pairs, or i32 with VNNI.
    type Partial = B;
    type Wide = [B; 2];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> F {
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn store(self, v: F, to: &mut [f32; 16]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        }
    }
    #[inline(always)]
    fn store_f16(self, v: F, to: &mut [u16; 16]) {
        unsafe {
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(to.as_mut_ptr().add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        }
    }
    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 64]) -> F {
        unsafe { [_mm256_loadu_ps(from.as_ptr().cast()), _mm256_loadu_ps(from.as_ptr().add(32).cast())] }
    }
    #[inline(always)]
    fn load_f16_bytes(self, from: &[u8; 32]) -> F {
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().add(16).cast())),
            ]
        }
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn fnma(self, a: F, b: F, c: F) -> F {
        both!(_mm256_fnmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        let sign = self.splat(-0.0);
        both!(_mm256_andnot_ps, sign, a)
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        unsafe {
            [
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1]),
            ]
        }
    }
    #[inline(always)]
    fn exp2i(self, a: F) -> F {
        unsafe { [exp2i_half(a[0]), exp2i_half(a[1])] }
    }
    #[inline(always)]
    fn sum(self, a: F) -> f32 {
        unsafe {
            let b = _mm256_add_ps(a[0], a[1]);
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn largest(self, a: F) -> f32 {
        unsafe {
            let b = _mm256_max_ps(a[0], a[1]);
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }

    #[inline(always)]
    fn splat_byte(self, value: u8) -> B {
        unsafe { [_mm256_set1_epi8(value.cast_signed()); 2] }
    }
    #[inline(always)]
    fn load_bytes(self, from: &[u8; 64]) -> B {
        unsafe { [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from.as_ptr().add(32).cast())] }
    }
    #[inline(always)]
    fn or(self, a: B, b: B) -> B {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn signed_to_f32(self, from: &[u8; 16]) -> F {
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
            ]
        }
    }
    #[inline(always)]
    fn store_i8(self, low: F, high: F, to: &mut [i8; 32]) {
        unsafe {
            let a = _mm256_packs_epi32(_mm256_cvtps_epi32(low[0]), _mm256_cvtps_epi32(low[1]));
            let b = _mm256_packs_epi32(_mm256_cvtps_epi32(high[0]), _mm256_cvtps_epi32(high[1]));
            // Packing works within 128-bit lanes; put the groups of four back in order.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), packed);
        }
    }

    #[inline(always)]
    fn store_bytes(self, v: B, to: &mut [u8; 64]) {
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(32).cast(), v[1]);
        }
    }
    #[inline(always)]
    fn store_f32_bytes(self, v: F, to: &mut [u8; 64]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(32).cast(), v[1]);
        }
    }
    #[inline(always)]
    fn splat_quad(self, from: &[u8; 4]) -> B {
        unsafe { [_mm256_set1_epi32(i32::from_ne_bytes(*from)); 2] }
    }
    #[inline(always)]
    fn splat_eight(self, from: &[u8; 8]) -> B {
        unsafe { [_mm256_set1_epi64x(i64::from_ne_bytes(*from)); 2] }
    }
    #[inline(always)]
    fn splat_sixteen(self, from: &[u8; 16]) -> B {
        unsafe { [_mm256_broadcastsi128_si256(_mm_loadu_si128(from.as_ptr().cast())); 2] }
    }
    #[inline(always)]
    fn right(self, a: B, bits: u32, mask: u8) -> B {
        unsafe {
            let (bits, mask) = (_mm_cvtsi32_si128(bits.cast_signed()), _mm256_set1_epi8(mask.cast_signed()));
            let (low, high) = (_mm256_srl_epi16(a[0], bits), _mm256_srl_epi16(a[1], bits));
            [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)]
        }
    }
    #[inline(always)]
    fn left(self, a: B, bits: u32, mask: u8) -> B {
        unsafe {
            let (bits, mask) = (_mm_cvtsi32_si128(bits.cast_signed()), _mm256_set1_epi8(mask.cast_signed()));
            let (low, high) = (_mm256_sll_epi16(a[0], bits), _mm256_sll_epi16(a[1], bits));
            [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)]
        }
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> B {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }
    #[inline(always)]
    fn splat_int_every<const L: usize>(self, value: i32) -> B {
        let lanes = unsafe {
            match L {
                1 => _mm256_set1_epi32(-1),
                2 => _mm256_set1_epi64x(0xffff_ffff),
                _ => _mm256_set_epi32(0, 0, 0, -1, 0, 0, 0, -1),
            }
        };
        let every = self.splat_int(value);
        [unsafe { _mm256_and_si256(every[0], lanes) }; 2]
    }
    #[inline(always)]
    fn load_small(self, from: &[u8; 16]) -> B {
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            [_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))]
        }
    }
    #[inline(always)]
    fn int_and(self, a: B, mask: i32) -> B {
        let mask = self.splat_int(mask);
        both!(_mm256_and_si256, a, mask)
    }
    #[inline(always)]
    fn int_or(self, a: B, b: B) -> B {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn int_sub(self, a: B, b: B) -> B {
        both!(_mm256_sub_epi32, a, b)
    }
    #[inline(always)]
    fn int_left(self, a: B, bits: u32) -> B {
        unsafe {
            let bits = _mm_cvtsi32_si128(bits.cast_signed());
            [_mm256_sll_epi32(a[0], bits), _mm256_sll_epi32(a[1], bits)]
        }
    }
    #[inline(always)]
    fn int_right(self, a: B, bits: u32) -> B {
        unsafe {
            let bits = _mm_cvtsi32_si128(bits.cast_signed());
            [_mm256_srl_epi32(a[0], bits), _mm256_srl_epi32(a[1], bits)]
        }
    }
    #[inline(always)]
    fn to_float(self, a: B) -> F {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    fn load_int(self, from: &[i32; 16]) -> B {
        unsafe { [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from.as_ptr().add(8).cast())] }
    }
    #[inline(always)]
    fn sub_bytes(self, a: B, b: B) -> B {
        both!(_mm256_sub_epi8, a, b)
    }

    #[inline(always)]
    fn partial(self, _sum: B) -> B {
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    fn add_dot(self, partial: B, w: B, x: B) -> B {
        // A pair is at most 2 · 63 · 127: no saturation.
        let pairs = both!(_mm256_maddubs_epi16, w, x);
        both!(_mm256_add_epi16, partial, pairs)
    }
    #[inline(always)]
    fn widen(self, sum: B, partial: B) -> B {
        unsafe {
            let ones = _mm256_set1_epi16(1);
            [
                _mm256_add_epi32(sum[0], _mm256_madd_epi16(partial[0], ones)),
                _mm256_add_epi32(sum[1], _mm256_madd_epi16(partial[1], ones)),
            ]
        }
    }
    #[inline(always)]
    fn wide(self, _: B) -> [B; 2] {
        unsafe { [[_mm256_setzero_si256(); 2]; 2] }
    }
    #[inline(always)]
    fn add_wide(self, wide: [B; 2], w: B, x: B) -> [B; 2] {
        // Nibbles apart: eight vecs' pairs are at most 8 · 2 · 15 · 127 = 30480.
        [self.add_dot(wide[0], self.right(w, 0, 15), x), self.add_dot(wide[1], self.right(w, 4, 15), x)]
    }
    #[inline(always)]
    fn wide_sum(self, sum: B, wide: [B; 2]) -> B {
        let high = self.widen([unsafe { _mm256_setzero_si256() }; 2], wide[1]);
        let high = self.int_left(high, 4);
        let low = self.widen(sum, wide[0]);
        both!(_mm256_add_epi32, low, high)
    }

    #[inline(always)]
    fn bf16_pairs(self, from: &[u8; 64]) -> (F, F) {
        unsafe {
            let both = self.load_bytes(from);
            let mask = _mm256_set1_epi32(-0x1_0000);
            (
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(both[0])),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(both[1])),
                ],
                [
                    _mm256_castsi256_ps(_mm256_and_si256(both[0], mask)),
                    _mm256_castsi256_ps(_mm256_and_si256(both[1], mask)),
                ],
            )
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn keep_from(self, v: F, x: F, bound: F) -> F {
        unsafe {
            [
                _mm256_and_ps(v[0], _mm256_cmp_ps::<_CMP_NLT_UQ>(x[0], bound[0])),
                _mm256_and_ps(v[1], _mm256_cmp_ps::<_CMP_NLT_UQ>(x[1], bound[1])),
            ]
        }
    }
    #[inline(always)]
    fn round_bf16(self, v: F) -> F {
        unsafe { [round_bf16_half(v[0]), round_bf16_half(v[1])] }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16; 16]) -> F {
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().add(8).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        }
    }
    #[inline(always)]
    fn store_bf16(self, v: F, to: &mut [u16; 16]) {
        unsafe {
            let low = _mm256_srli_epi32::<16>(_mm256_castps_si256(round_bf16_half(v[0])));
            let high = _mm256_srli_epi32::<16>(_mm256_castps_si256(round_bf16_half(v[1])));
            // Packing works in halves of 128 bits: the middle ones change places.
            let packed = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_packus_epi32(low, high));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), packed);
        }
    }
    #[inline(always)]
    fn store_bf16_pairs(self, first: F, second: F, to: &mut [[u16; 2]; 16]) {
        unsafe {
            for half in 0..2 {
                let low = _mm256_srli_epi32::<16>(_mm256_castps_si256(round_bf16_half(first[half])));
                let both = _mm256_or_si256(low, _mm256_castps_si256(round_bf16_half(second[half])));
                _mm256_storeu_si256(to.as_mut_ptr().add(8 * half).cast(), both);
            }
        }
    }
    #[inline(always)]
    fn sqrt(self, a: F) -> F {
        both!(_mm256_sqrt_ps, a)
    }
}

// Functions, not closures: a closure may be left uninlined, and then it is compiled without the features.

#[inline(always)]
unsafe fn exp2i_half(a: __m256) -> __m256 {
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

#[inline(always)]
unsafe fn round_bf16_half(v: __m256) -> __m256 {
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(-0x1_0000)))
    }
}
