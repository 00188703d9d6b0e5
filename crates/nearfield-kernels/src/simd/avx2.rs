//! AVX2 with FMA and F16C, with and without AVX-VNNI: 8 rows.

use std::arch::x86_64::*;

use super::{Simd, Work};

/// Needs avx2, fma and f16c; with `VNNI` also avxvnni, whose `vpdpbusd` is the only difference.
#[derive(Clone, Copy)]
pub(crate) struct Vector256<const VNNI: bool>;

pub(crate) type Avx2 = Vector256<false>;
pub(crate) type AvxVnni = Vector256<true>;

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's safety section is every block's argument")]
impl<const VNNI: bool> Simd for Vector256<VNNI> {
    type I = __m256i;
    type F = __m256;
    const ROWS: usize = 8;
    const UNSIGNED: bool = VNNI;

    #[inline(always)]
    unsafe fn apart(work: impl Work) {
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        #[inline(never)]
        unsafe fn with_vnni(work: impl Work) {
            unsafe { work.run::<AvxVnni>() }
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        unsafe fn without(work: impl Work) {
            unsafe { work.run::<Avx2>() }
        }
        unsafe { if VNNI { with_vnni(work) } else { without(work) } }
    }

    #[inline(always)]
    unsafe fn load4(rows: &[*const u8; 16], offset: usize) -> [__m256i; 4] {
        unsafe {
            // Lane L of y[i] is row i + 4L, so that the in-lane transposition leaves rows in order.
            let y = std::array::from_fn::<_, 4, _>(|i| {
                let at = |r: usize| _mm_loadu_si128(rows[i + 4 * r].add(offset).cast());
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(at(0)), at(1))
            });
            let low01 = _mm256_unpacklo_epi32(y[0], y[1]);
            let high01 = _mm256_unpackhi_epi32(y[0], y[1]);
            let low23 = _mm256_unpacklo_epi32(y[2], y[3]);
            let high23 = _mm256_unpackhi_epi32(y[2], y[3]);
            [
                _mm256_unpacklo_epi64(low01, low23),
                _mm256_unpackhi_epi64(low01, low23),
                _mm256_unpacklo_epi64(high01, high23),
                _mm256_unpackhi_epi64(high01, high23),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m256i {
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: __m256i) -> __m256i {
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: __m256i) -> __m256i {
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_right_signed<const N: u32>(a: __m256i) -> __m256i {
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_right_by(a: __m256i, count: u32) -> __m256i {
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(count as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_left_by(a: __m256i, count: u32) -> __m256i {
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(count as i32)) }
    }

    #[inline(always)]
    unsafe fn max32(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_max_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn table(values: &[i8; 16]) -> __m256i {
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn lookup(table: __m256i, index: __m256i) -> __m256i {
        unsafe { _mm256_shuffle_epi8(table, index) }
    }

    #[inline(always)]
    unsafe fn as_float(a: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(a) }
    }

    #[inline(always)]
    unsafe fn sub8(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_sub_epi8(a, b) }
    }

    #[inline(always)]
    unsafe fn add32(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul32(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn spread_bits<const J: u32>(bits: __m256i) -> __m256i {
        unsafe {
            let base = (J / 2) as i32 * 0x0101_0101;
            let index = _mm256_setr_epi32(
                base,
                base + 0x0404_0404,
                base + 0x0808_0808,
                base + 0x0C0C_0C0C,
                base,
                base + 0x0404_0404,
                base + 0x0808_0808,
                base + 0x0C0C_0C0C,
            );
            let select =
                _mm256_set1_epi32(if J.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 });
            let byte = _mm256_and_si256(_mm256_shuffle_epi8(bits, index), select);
            _mm256_and_si256(_mm256_cmpeq_epi8(byte, select), _mm256_set1_epi8(16))
        }
    }

    #[inline(always)]
    unsafe fn dot4(sum: __m256i, codes: __m256i, a: i32) -> __m256i {
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(sum, codes, _mm256_set1_epi32(a));
            }
            // |w| times a with w's sign: two products of at most 128 * 127 never saturate 16 bits.
            let a = _mm256_sign_epi8(_mm256_set1_epi32(a), codes);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), a);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn half_to_float(a: __m256i) -> __m256 {
        unsafe {
            let a = _mm256_and_si256(a, _mm256_set1_epi32(0xFFFF));
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(a, a));
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
        }
    }

    #[inline(always)]
    unsafe fn halves_to_float(a: __m256i) -> [__m256; 2] {
        unsafe {
            let low = _mm256_and_si256(a, _mm256_set1_epi32(0xFFFF));
            let packed = _mm256_packus_epi32(low, _mm256_srli_epi32::<16>(a));
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(ordered)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(ordered)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn splat_float(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_float(to: *mut f32, value: __m256) {
        unsafe { _mm256_storeu_ps(to, value) }
    }
}
