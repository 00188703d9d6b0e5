//! AVX-512 with VNNI: 16 rows.

use std::arch::x86_64::*;

use super::{Simd, Work};

/// Needs avx512f, avx512bw, avx512vl and avx512vnni.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// The places of the low words of all dwords, then of the high ones.
const LOW_THEN_HIGH: [i16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (2 * (i % 16) + i / 16) as i16;
        i += 1;
    }
    order
};

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's safety section is every block's argument")]
impl Simd for Avx512 {
    type I = __m512i;
    type F = __m512;
    const ROWS: usize = 16;
    const UNSIGNED: bool = true;

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline(never)]
    unsafe fn apart(work: impl Work) {
        unsafe { work.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn load4(rows: &[*const u8; 16], offset: usize) -> [__m512i; 4] {
        unsafe {
            // Lane L of z[i] is row i + 4L, so that the in-lane transposition leaves rows in order.
            let z = std::array::from_fn::<_, 4, _>(|i| {
                let at = |r: usize| _mm_loadu_si128(rows[i + 4 * r].add(offset).cast());
                let z = _mm512_castsi128_si512(at(0));
                let z = _mm512_inserti32x4::<1>(z, at(1));
                let z = _mm512_inserti32x4::<2>(z, at(2));
                _mm512_inserti32x4::<3>(z, at(3))
            });
            let low01 = _mm512_unpacklo_epi32(z[0], z[1]);
            let high01 = _mm512_unpackhi_epi32(z[0], z[1]);
            let low23 = _mm512_unpacklo_epi32(z[2], z[3]);
            let high23 = _mm512_unpackhi_epi32(z[2], z[3]);
            [
                _mm512_unpacklo_epi64(low01, low23),
                _mm512_unpackhi_epi64(low01, low23),
                _mm512_unpacklo_epi64(high01, high23),
                _mm512_unpackhi_epi64(high01, high23),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi32::<N>(a) }
    }

    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi32::<N>(a) }
    }

    #[inline(always)]
    unsafe fn shift_right_signed<const N: u32>(a: __m512i) -> __m512i {
        unsafe { _mm512_srai_epi32::<N>(a) }
    }

    #[inline(always)]
    unsafe fn shift_right_by(a: __m512i, count: u32) -> __m512i {
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(count as i32)) }
    }

    #[inline(always)]
    unsafe fn shift_left_by(a: __m512i, count: u32) -> __m512i {
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(count as i32)) }
    }

    #[inline(always)]
    unsafe fn max32(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_max_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn table(values: &[i8; 16]) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn lookup(table: __m512i, index: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(table, index) }
    }

    #[inline(always)]
    unsafe fn as_float(a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }

    #[inline(always)]
    unsafe fn sub8(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi8(a, b) }
    }

    #[inline(always)]
    unsafe fn add32(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul32(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn spread_bits<const J: u32>(bits: __m512i) -> __m512i {
        unsafe {
            // The byte that holds the four bits goes to all bytes of its dword; a bit test makes the mask.
            let source = (J / 2) as i32;
            let base = source * 0x0101_0101;
            let index = _mm512_set4_epi32(base + 0x0C0C_0C0C, base + 0x0808_0808, base + 0x0404_0404, base);
            let byte = _mm512_shuffle_epi8(bits, index);
            let select = if J.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 };
            let mask = _mm512_test_epi8_mask(byte, _mm512_set1_epi32(select));
            _mm512_maskz_set1_epi8(mask, 16)
        }
    }

    #[inline(always)]
    unsafe fn dot4(sum: __m512i, codes: __m512i, a: i32) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(a)) }
    }

    #[inline(always)]
    unsafe fn half_to_float(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
    }

    #[inline(always)]
    unsafe fn halves_to_float(a: __m512i) -> [__m512; 2] {
        unsafe {
            let order = _mm512_loadu_si512(LOW_THEN_HIGH.as_ptr().cast());
            let ordered = _mm512_permutexvar_epi16(order, a);
            [
                _mm512_cvtph_ps(_mm512_castsi512_si256(ordered)),
                _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(ordered)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn splat_float(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_float(to: *mut f32, value: __m512) {
        unsafe { _mm512_storeu_ps(to, value) }
    }
}
