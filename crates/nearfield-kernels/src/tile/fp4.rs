//! FP4 formats: E2M1 codes through a table of twice their value, so that they are integers.

use super::source::Source;
use super::{Group, NIBBLES};
use crate::format::{E2M1_DOUBLED, WeightFormat};
use crate::simd::Simd;

/// The table of doubled values, with 12 added where codes are to be unsigned.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn doubled<S: Simd>() -> S::I {
    let table = if S::UNSIGNED { E2M1_DOUBLED.map(|value| value + 12) } else { E2M1_DOUBLED };
    // SAFETY: the caller's promise.
    unsafe { S::table(&table) }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn mxfp4_group<S: Simd, R: Source<S>>(rows: R, block: usize) -> Group<S> {
    let format = WeightFormat::Mxfp4;
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let mut group = Group::new();
        // The code is the exponent of a single. Code 0 (2^-127) has no such single, but half of it is wanted, and half
        // of the subnormal 2^-127 is exact. Code 255 reads as infinity and becomes NaN by the product with 0.
        let exponent = S::shift_left::<23>(rows.narrow_byte(format, block));
        let scale = S::as_float(S::max32(exponent, S::splat(0x0040_0000)));
        let half = S::mul(scale, S::splat_float(0.5));
        group.scale = [S::fma(scale, S::splat_float(0.0), half); 2];
        let (table, mask) = (doubled::<S>(), S::splat(NIBBLES));
        for (j, quad) in rows.quads(format, block, 1).into_iter().enumerate() {
            group.codes[j] = S::lookup(table, S::and(quad, mask));
            group.codes[4 + j] = S::lookup(table, S::and(S::shift_right::<4>(quad), mask));
        }
        group
    }
}

/// Half `part` of a block of 64.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn nvfp4_group<S: Simd, R: Source<S>>(rows: R, block: usize, part: usize) -> Group<S> {
    let format = WeightFormat::Nvfp4;
    // SAFETY: scales and codes lie inside the block.
    unsafe {
        let mut group = Group::new();
        // An E4M3 code moved into the place of a half's exponent and mantissa is worth 2^-8 of its value, subnormals
        // included. 0x7F, the NaN, gets the half's top exponent bit as well.
        let codes = S::and(rows.word(format, block, 0), S::splat(0x7F7F_7F7F));
        let marks = S::and(S::add32(codes, S::splat(0x0101_0101)), S::splat(0x8080_8080_u32 as i32));
        let codes = S::or(codes, marks);
        let field = S::splat(0x7F80);
        let scales = if part == 0 {
            [S::and(S::shift_left::<7>(codes), field), S::and(S::shift_right::<1>(codes), field)]
        } else {
            [S::and(S::shift_right::<9>(codes), field), S::and(S::shift_right::<17>(codes), field)]
        };
        // 2^8 of the shift, and one half since the codes are doubled.
        let factor = S::splat_float(128.0);
        group.scale = scales.map(|scale| S::mul(S::half_to_float(scale), factor));
        let (table, mask) = (doubled::<S>(), S::splat(NIBBLES));
        // A sub-block of 16 is 8 bytes: the low nibbles are its first 8 codes, the high ones its last 8.
        let quads = rows.quads(format, block, 4 + 16 * part);
        for half in 0..2 {
            for j in 0..2 {
                let quad = quads[2 * half + j];
                group.codes[4 * half + j] = S::lookup(table, S::and(quad, mask));
                group.codes[4 * half + 2 + j] = S::lookup(table, S::and(S::shift_right::<4>(quad), mask));
            }
        }
        group
    }
}
