//! Formats of 256 weights a super-block.

use super::{NIBBLES, Tile, bytes, codes_from};
use crate::simd::Simd;

/// Scales and minimums of Q4_K and Q5_K.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn k_scales<S: Simd>(rows: &[*const u8; 16], at: usize, tile: &mut Tile<S>) {
    // SAFETY: the header lies inside the super-block.
    unsafe {
        let [head, a, b, c] = S::load4(rows, at);
        let d = S::half_to_float(head);
        // The minimum is subtracted: its sign is folded into the scale.
        let minus_dmin = S::half_to_float(S::xor(S::shift_right::<16>(head), S::splat(0x8000)));
        let (six, low4, high2) = (S::splat(bytes(63)), S::splat(NIBBLES), S::splat(bytes(0x30)));
        let scales = [S::and(a, six), S::or(S::and(c, low4), S::and(S::shift_right::<2>(a), high2))];
        let minimums = [
            S::and(b, six),
            S::or(S::and(S::shift_right::<4>(c), low4), S::and(S::shift_right::<2>(b), high2)),
        ];
        let byte = S::splat(255);
        for half in 0..2 {
            let scale_of = |packed: S::I, j: usize| {
                let shifted = match j {
                    0 => packed,
                    1 => S::shift_right::<8>(packed),
                    2 => S::shift_right::<16>(packed),
                    _ => S::shift_right::<24>(packed),
                };
                S::to_float(S::and(shifted, byte))
            };
            for j in 0..4 {
                tile.scale[4 * half + j] = [S::mul(d, scale_of(scales[half], j)); 2];
                tile.minimum[4 * half + j] = [S::mul(minus_dmin, scale_of(minimums[half], j)); 2];
            }
        }
    }
}

/// Byte `j` of each dword.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn byte<S: Simd>(packed: S::I, j: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe {
        let shifted = match j {
            0 => packed,
            1 => S::shift_right::<8>(packed),
            2 => S::shift_right::<16>(packed),
            _ => S::shift_right::<24>(packed),
        };
        S::and(shifted, S::splat(255))
    }
}

/// Bits `0 .. width` above bit `from` of each byte, moved to bit `to`; `mask` keeps them at their new place.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn moved<S: Simd>(packed: S::I, from: u32, to: u32, mask: u8) -> S::I {
    // SAFETY: the caller's promise.
    unsafe {
        let shifted = if from >= to {
            S::shift_right_by(packed, from - to)
        } else {
            S::shift_left_by(packed, to - from)
        };
        S::and(shifted, S::splat(bytes(mask)))
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q4_k_block<S: Simd>(rows: &[*const u8; 16], at: usize, tile: &mut Tile<S>) {
    // SAFETY: header and codes lie inside the super-block.
    unsafe {
        k_scales(rows, at, tile);
        let low4 = S::splat(NIBBLES);
        for pair in 0..4 {
            for half in 0..2 {
                let quads = S::load4(rows, at + 16 + 32 * pair + 16 * half);
                for (j, quad) in quads.into_iter().enumerate() {
                    tile.codes[2 * pair][4 * half + j] = S::and(quad, low4);
                    tile.codes[2 * pair + 1][4 * half + j] = S::and(S::shift_right::<4>(quad), low4);
                }
            }
        }
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q6_k_block<S: Simd>(rows: &[*const u8; 16], at: usize, tile: &mut Tile<S>) {
    // SAFETY: all offsets lie inside the super-block of 210 bytes; its scale is read with the 16 bytes that end it.
    unsafe {
        let d = S::half_to_float(S::shift_right::<16>(S::load4(rows, at + 194)[3]));
        let scales = S::load4(rows, at + 192);
        for g in 0..8 {
            tile.scale[g] = [d; 2];
            let packed = scales[g / 2];
            tile.factor[g] = if g % 2 == 0 {
                [
                    S::shift_right_signed::<24>(S::shift_left::<24>(packed)),
                    S::shift_right_signed::<24>(S::shift_left::<16>(packed)),
                ]
            } else {
                [S::shift_right_signed::<24>(S::shift_left::<8>(packed)), S::shift_right_signed::<24>(packed)]
            };
        }
        let (low4, high2) = (S::splat(NIBBLES), S::splat(bytes(0x30)));
        for run in 0..2 {
            for half in 0..2 {
                let high = S::load4(rows, at + 128 + 32 * run + 16 * half);
                let first = S::load4(rows, at + 64 * run + 16 * half);
                let second = S::load4(rows, at + 64 * run + 32 + 16 * half);
                for j in 0..4 {
                    let to = 4 * half + j;
                    let join = |low: S::I, high: S::I| {
                        codes_from::<S>(S::or(S::and(low, low4), S::and(high, high2)), 32)
                    };
                    tile.codes[4 * run][to] = join(first[j], S::shift_left::<4>(high[j]));
                    tile.codes[4 * run + 1][to] = join(second[j], S::shift_left::<2>(high[j]));
                    tile.codes[4 * run + 2][to] = join(S::shift_right::<4>(first[j]), high[j]);
                    tile.codes[4 * run + 3][to] =
                        join(S::shift_right::<4>(second[j]), S::shift_right::<2>(high[j]));
                }
            }
        }
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q5_k_block<S: Simd>(rows: &[*const u8; 16], at: usize, tile: &mut Tile<S>) {
    // SAFETY: header and codes lie inside the super-block.
    unsafe {
        k_scales(rows, at, tile);
        let high = [S::load4(rows, at + 16), S::load4(rows, at + 32)];
        let low4 = S::splat(NIBBLES);
        for pair in 0..4 {
            for (half, high) in high.iter().enumerate() {
                let quads = S::load4(rows, at + 48 + 32 * pair + 16 * half);
                for (j, quad) in quads.into_iter().enumerate() {
                    let fifth = |part: u32| moved::<S>(high[j], part, 4, 0x10);
                    let part = 2 * pair as u32;
                    let (to, top) = (4 * half + j, S::and(S::shift_right::<4>(quad), low4));
                    tile.codes[2 * pair][to] = S::or(S::and(quad, low4), fifth(part));
                    tile.codes[2 * pair + 1][to] = S::or(top, fifth(part + 1));
                }
            }
        }
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q2_k_block<S: Simd>(rows: &[*const u8; 16], at: usize, tile: &mut Tile<S>) {
    // SAFETY: all offsets lie inside the super-block of 84 bytes; its scales are read with the 16 bytes that end it.
    unsafe {
        let head = S::load4(rows, at + 68)[3];
        let d = S::half_to_float(head);
        // The minimum is subtracted: its sign is folded into the scale.
        let minus_dmin = S::half_to_float(S::xor(S::shift_right::<16>(head), S::splat(0x8000)));
        let low4 = S::splat(NIBBLES);
        for (quad, packed) in S::load4(rows, at).into_iter().enumerate() {
            let (scales, minimums) = (S::and(packed, low4), S::and(S::shift_right::<4>(packed), low4));
            for j in 0..4 {
                let (group, half) = (2 * quad + j / 2, j % 2);
                tile.scale[group][half] = S::mul(d, S::to_float(byte::<S>(scales, j)));
                tile.minimum[group][half] = S::mul(minus_dmin, S::to_float(byte::<S>(minimums, j)));
            }
        }
        for run in 0..2 {
            for half in 0..2 {
                let quads = S::load4(rows, at + 16 + 32 * run + 16 * half);
                for (j, quad) in quads.into_iter().enumerate() {
                    for quarter in 0..4 {
                        tile.codes[4 * run + quarter][4 * half + j] =
                            moved::<S>(quad, 2 * quarter as u32, 0, 3);
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q3_k_block<S: Simd>(rows: &[*const u8; 16], at: usize, tile: &mut Tile<S>) {
    // SAFETY: all offsets lie inside the super-block of 110 bytes; its scales are read with the 16 bytes that end it.
    unsafe {
        let d = S::half_to_float(S::shift_right::<16>(S::load4(rows, at + 94)[3]));
        let [_, a, b, c] = S::load4(rows, at + 92);
        for (quad, low) in [a, b, a, b].into_iter().enumerate() {
            let low = moved::<S>(low, 4 * (quad as u32 / 2), 0, 15);
            let scales = S::or(low, moved::<S>(c, 2 * quad as u32, 4, 0x30));
            for j in 0..4 {
                let scale = S::add32(byte::<S>(scales, j), S::splat(-32));
                tile.scale[2 * quad + j / 2][j % 2] = S::mul(d, S::to_float(scale));
            }
        }
        for half in 0..2 {
            let high = S::load4(rows, at + 16 * half);
            for run in 0..2 {
                let quads = S::load4(rows, at + 32 + 32 * run + 16 * half);
                for j in 0..4 {
                    for quarter in 0..4 {
                        let low = moved::<S>(quads[j], 2 * quarter as u32, 0, 3);
                        let top = moved::<S>(high[j], (4 * run + quarter) as u32, 2, 4);
                        tile.codes[4 * run + quarter][4 * half + j] = codes_from::<S>(S::or(low, top), 4);
                    }
                }
            }
        }
    }
}
