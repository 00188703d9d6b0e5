//! Formats of 256 weights a super-block, of eight groups.

use super::source::Source;
use super::{Group, NIBBLES, bytes, codes_from};
use crate::format::WeightFormat;
use crate::simd::Simd;

/// Byte `j` of each dword.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn byte<S: Simd>(packed: S::I, j: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe {
        match j {
            0 => S::and(packed, S::splat(255)),
            1 => S::and(S::shift_right::<8>(packed), S::splat(255)),
            2 => S::and(S::shift_right::<16>(packed), S::splat(255)),
            _ => S::shift_right::<24>(packed),
        }
    }
}

/// Byte `j` of each dword as a signed number.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn signed_byte<S: Simd>(packed: S::I, j: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe {
        S::shift_right_signed::<24>(match j {
            0 => S::shift_left::<24>(packed),
            1 => S::shift_left::<16>(packed),
            2 => S::shift_left::<8>(packed),
            _ => packed,
        })
    }
}

/// Bits `0 .. width` above bit `from` of each byte, moved to bit `to`; `mask` keeps them at their new place.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn moved<S: Simd>(packed: S::I, from: usize, to: usize, mask: u8) -> S::I {
    // SAFETY: the caller's promise.
    unsafe {
        let shifted = if from >= to {
            S::shift_right_by(packed, (from - to) as u32)
        } else {
            S::shift_left_by(packed, (to - from) as u32)
        };
        S::and(shifted, S::splat(bytes(mask)))
    }
}

/// Scale and minimum of group `part` of Q4_K and Q5_K.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn k_scales<S: Simd, R: Source<S>>(
    format: WeightFormat,
    rows: R,
    block: usize,
    part: usize,
) -> Group<S> {
    // SAFETY: the header lies inside the super-block.
    unsafe {
        let [head, a, b, c] = rows.quads(format, block, 0);
        let d = S::half_to_float(head);
        // The minimum is subtracted: its sign is folded into the scale.
        let minus_dmin = S::half_to_float(S::xor(S::shift_right::<16>(head), S::splat(0x8000)));
        let (six, low4, high2) = (S::splat(bytes(63)), S::splat(NIBBLES), S::splat(bytes(0x30)));
        let (scales, minimums) = if part < 4 {
            (S::and(a, six), S::and(b, six))
        } else {
            let top = S::and(S::shift_right::<4>(c), low4);
            (
                S::or(S::and(c, low4), S::and(S::shift_right::<2>(a), high2)),
                S::or(top, S::and(S::shift_right::<2>(b), high2)),
            )
        };
        let mut group = Group::new();
        group.scale = [S::mul(d, S::to_float(byte::<S>(scales, part % 4))); 2];
        group.minimum = [S::mul(minus_dmin, S::to_float(byte::<S>(minimums, part % 4))); 2];
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q4_k_group<S: Simd, R: Source<S>>(rows: R, block: usize, part: usize) -> Group<S> {
    let format = WeightFormat::Q4K;
    // SAFETY: header and codes lie inside the super-block.
    unsafe {
        let mut group = k_scales(format, rows, block, part);
        for half in 0..2 {
            let quads = rows.quads(format, block, 16 + 32 * (part / 2) + 16 * half);
            for (j, quad) in quads.into_iter().enumerate() {
                let nibbles = if part.is_multiple_of(2) { quad } else { S::shift_right::<4>(quad) };
                group.codes[4 * half + j] = S::and(nibbles, S::splat(NIBBLES));
            }
        }
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q5_k_group<S: Simd, R: Source<S>>(rows: R, block: usize, part: usize) -> Group<S> {
    let format = WeightFormat::Q5K;
    // SAFETY: header and codes lie inside the super-block.
    unsafe {
        let mut group = k_scales(format, rows, block, part);
        for half in 0..2 {
            let high = rows.quads(format, block, 16 + 16 * half);
            let quads = rows.quads(format, block, 48 + 32 * (part / 2) + 16 * half);
            for j in 0..4 {
                let nibbles = if part.is_multiple_of(2) { quads[j] } else { S::shift_right::<4>(quads[j]) };
                let fifth = moved::<S>(high[j], part, 4, 0x10);
                group.codes[4 * half + j] = S::or(S::and(nibbles, S::splat(NIBBLES)), fifth);
            }
        }
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q6_k_group<S: Simd, R: Source<S>>(rows: R, block: usize, part: usize) -> Group<S> {
    let format = WeightFormat::Q6K;
    let (run, quarter) = (part / 4, part % 4);
    // SAFETY: all offsets lie inside the super-block.
    unsafe {
        let mut group = Group::new();
        group.scale = [rows.narrow_half(format, block); 2];
        let packed = rows.word(format, block, 192 + 4 * (part / 2));
        let first = 2 * (part % 2);
        group.factor = [signed_byte::<S>(packed, first), signed_byte::<S>(packed, first + 1)];
        for half in 0..2 {
            let low = rows.quads(format, block, 64 * run + 32 * (quarter % 2) + 16 * half);
            let high = rows.quads(format, block, 128 + 32 * run + 16 * half);
            for j in 0..4 {
                let nibbles = if quarter < 2 { low[j] } else { S::shift_right::<4>(low[j]) };
                let top = moved::<S>(high[j], 2 * quarter, 4, 0x30);
                group.codes[4 * half + j] =
                    codes_from::<S>(S::or(S::and(nibbles, S::splat(NIBBLES)), top), 32);
            }
        }
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q2_k_group<S: Simd, R: Source<S>>(rows: R, block: usize, part: usize) -> Group<S> {
    let format = WeightFormat::Q2K;
    let (run, quarter) = (part / 4, part % 4);
    // SAFETY: all offsets lie inside the super-block.
    unsafe {
        let mut group = Group::new();
        let head = rows.word(format, block, 80);
        let d = S::half_to_float(head);
        // The minimum is subtracted: its sign is folded into the scale.
        let minus_dmin = S::half_to_float(S::xor(S::shift_right::<16>(head), S::splat(0x8000)));
        let packed = rows.word(format, block, 4 * (part / 2));
        let low4 = S::splat(NIBBLES);
        let (scales, minimums) = (S::and(packed, low4), S::and(S::shift_right::<4>(packed), low4));
        for half in 0..2 {
            let j = 2 * (part % 2) + half;
            group.scale[half] = S::mul(d, S::to_float(byte::<S>(scales, j)));
            group.minimum[half] = S::mul(minus_dmin, S::to_float(byte::<S>(minimums, j)));
            let quads = rows.quads(format, block, 16 + 32 * run + 16 * half);
            for (j, quad) in quads.into_iter().enumerate() {
                group.codes[4 * half + j] = moved::<S>(quad, 2 * quarter, 0, 3);
            }
        }
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q3_k_group<S: Simd, R: Source<S>>(rows: R, block: usize, part: usize) -> Group<S> {
    let format = WeightFormat::Q3K;
    let (run, quarter, pair) = (part / 4, part % 4, part / 2);
    // SAFETY: all offsets lie inside the super-block.
    unsafe {
        let mut group = Group::new();
        let d = rows.narrow_half(format, block);
        let low = moved::<S>(rows.word(format, block, 96 + 4 * (pair % 2)), 4 * (pair / 2), 0, 15);
        let high = moved::<S>(rows.word(format, block, 104), 2 * pair, 4, 0x30);
        let scales = S::or(low, high);
        for half in 0..2 {
            let scale = S::add32(byte::<S>(scales, 2 * (part % 2) + half), S::splat(-32));
            group.scale[half] = S::mul(d, S::to_float(scale));
            let high = rows.quads(format, block, 16 * half);
            let quads = rows.quads(format, block, 32 + 32 * run + 16 * half);
            for j in 0..4 {
                let low = moved::<S>(quads[j], 2 * quarter, 0, 3);
                let top = moved::<S>(high[j], part, 2, 4);
                group.codes[4 * half + j] = codes_from::<S>(S::or(low, top), 4);
            }
        }
        group
    }
}
