//! NEON with the dot product of Armv8.2: 4 rows.
//!
//! Two extensions are left alone. BF16's `bfdot` and `bfmmla` round sums their own way and flush subnormals, so they
//! cannot keep the bits. I8MM's `smmla` would keep them, its integers are exact; but it wants two activation rows and
//! eight columns a register, another layout than all other sets share, and no Arm machine was there to measure what
//! that gains.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Simd, Work};

/// Needs neon and dotprod.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// The same bits as unsigned dwords, for what differs by sign.
#[inline(always)]
fn unsigned(a: int32x4_t) -> uint32x4_t {
    // SAFETY: NEON is part of every aarch64 target with an operating system.
    unsafe { vreinterpretq_u32_s32(a) }
}

/// The same bits as signed dwords.
#[inline(always)]
fn signed(a: uint32x4_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe { vreinterpretq_s32_u32(a) }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's safety section is every block's argument")]
impl Simd for Neon {
    type I = int32x4_t;
    type F = float32x4_t;
    const ROWS: usize = 4;
    const UNSIGNED: bool = false;

    #[target_feature(enable = "neon,dotprod")]
    #[inline(never)]
    unsafe fn apart(work: impl Work) {
        unsafe { work.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn load4(rows: &[*const u8; 16], offset: usize) -> [int32x4_t; 4] {
        unsafe {
            let row = |r: usize| vreinterpretq_s32_u8(vld1q_u8(rows[r].add(offset)));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let pair =
                |a, b| (vreinterpretq_s64_s32(vtrn1q_s32(a, b)), vreinterpretq_s64_s32(vtrn2q_s32(a, b)));
            let (even01, odd01) = pair(a, b);
            let (even23, odd23) = pair(c, d);
            [
                vreinterpretq_s32_s64(vtrn1q_s64(even01, even23)),
                vreinterpretq_s32_s64(vtrn1q_s64(odd01, odd23)),
                vreinterpretq_s32_s64(vtrn2q_s64(even01, even23)),
                vreinterpretq_s32_s64(vtrn2q_s64(odd01, odd23)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> int32x4_t {
        unsafe { vreinterpretq_s32_u8(vld1q_u8(from)) }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> float32x4_t {
        unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from))) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> int32x4_t {
        unsafe {
            let bytes = from.cast::<u32>().read_unaligned();
            signed(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes.into())))))
        }
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(value) }
    }

    #[inline(always)]
    unsafe fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vandq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vorrq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { veorq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: int32x4_t) -> int32x4_t {
        unsafe { Self::shift_right_by(a, N) }
    }

    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: int32x4_t) -> int32x4_t {
        unsafe { Self::shift_left_by(a, N) }
    }

    #[inline(always)]
    unsafe fn shift_right_signed<const N: u32>(a: int32x4_t) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(-(N as i32))) }
    }

    #[inline(always)]
    unsafe fn shift_right_by(a: int32x4_t, count: u32) -> int32x4_t {
        // A shift to the left by a negative count.
        unsafe { signed(vshlq_u32(unsigned(a), vdupq_n_s32(-(count as i32)))) }
    }

    #[inline(always)]
    unsafe fn shift_left_by(a: int32x4_t, count: u32) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(count as i32)) }
    }

    #[inline(always)]
    unsafe fn max32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vmaxq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn table(values: &[i8; 16]) -> int32x4_t {
        unsafe { vreinterpretq_s32_s8(vld1q_s8(values.as_ptr())) }
    }

    #[inline(always)]
    unsafe fn lookup(table: int32x4_t, index: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(index))) }
    }

    #[inline(always)]
    unsafe fn as_float(a: int32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_s32(a) }
    }

    #[inline(always)]
    unsafe fn sub8(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_s8(vsubq_s8(vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))) }
    }

    #[inline(always)]
    unsafe fn add32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vaddq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vmulq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn spread_bits<const J: u32>(bits: int32x4_t) -> int32x4_t {
        unsafe {
            // The byte that holds the four bits goes to all bytes of its dword; a bit test makes the mask.
            let base = (J / 2) as i32 * 0x0101_0101;
            let index = [base, base + 0x0404_0404, base + 0x0808_0808, base + 0x0C0C_0C0C];
            let byte =
                vqtbl1q_u8(vreinterpretq_u8_s32(bits), vreinterpretq_u8_s32(vld1q_s32(index.as_ptr())));
            let select = if J.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 };
            let mask = vtstq_u8(byte, vreinterpretq_u8_s32(vdupq_n_s32(select)));
            vreinterpretq_s32_u8(vandq_u8(mask, vdupq_n_u8(16)))
        }
    }

    #[inline(always)]
    unsafe fn dot4(sum: int32x4_t, codes: int32x4_t, a: i32) -> int32x4_t {
        let mut sum = sum;
        unsafe {
            // The intrinsic is not stable.
            asm!(
                "sdot {sum:v}.4s, {codes:v}.16b, {a:v}.16b",
                sum = inout(vreg) sum,
                codes = in(vreg) codes,
                a = in(vreg) vdupq_n_s32(a),
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    #[inline(always)]
    unsafe fn half_to_float(a: int32x4_t) -> float32x4_t {
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(unsigned(a)))) }
    }

    #[inline(always)]
    unsafe fn halves_to_float(a: int32x4_t) -> [float32x4_t; 2] {
        unsafe {
            let high = vshrn_n_u32::<16>(unsigned(a));
            [Self::half_to_float(a), vcvt_f32_f16(vreinterpret_f16_u16(high))]
        }
    }

    #[inline(always)]
    unsafe fn to_float(a: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(a) }
    }

    #[inline(always)]
    unsafe fn splat_float(value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store_float(to: *mut f32, value: float32x4_t) {
        unsafe { vst1q_f32(to, value) }
    }
}
