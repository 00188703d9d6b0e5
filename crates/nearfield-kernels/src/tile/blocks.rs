//! Formats of 32 weights a block with integer codes.

use super::{NIBBLES, Tile, bytes, codes_from};
use crate::format::{IQ4NL_VALUES, WeightFormat};
use crate::simd::Simd;

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q4_block<S: Simd>(
    format: WeightFormat,
    rows: &[*const u8; 16],
    at: usize,
    g: usize,
    tile: &mut Tile<S>,
) {
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let head = S::load4(rows, at)[0];
        let scale = S::half_to_float(head);
        tile.scale[g] = [scale; 2];
        let with_minimum = matches!(format, WeightFormat::Q4_1);
        if with_minimum {
            tile.minimum[g] = [S::half_to_float(S::shift_right::<16>(head)); 2];
        }
        let offset = if with_minimum { 0 } else { 8 };
        let quads = S::load4(rows, at + if with_minimum { 4 } else { 2 });
        let mask = S::splat(NIBBLES);
        for (j, quad) in quads.into_iter().enumerate() {
            tile.codes[g][j] = codes_from::<S>(S::and(quad, mask), offset);
            tile.codes[g][4 + j] = codes_from::<S>(S::and(S::shift_right::<4>(quad), mask), offset);
        }
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q5_0_block<S: Simd>(rows: &[*const u8; 16], at: usize, g: usize, tile: &mut Tile<S>) {
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let head = S::load4(rows, at);
        tile.scale[g] = [S::half_to_float(head[0]); 2];
        let high = S::or(S::shift_right::<16>(head[0]), S::shift_left::<16>(head[1]));
        five_bit_codes::<S>(rows, at + 6, high, 16, &mut tile.codes[g]);
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q8_0_block<S: Simd>(rows: &[*const u8; 16], at: usize, g: usize, tile: &mut Tile<S>) {
    // SAFETY: header and codes lie inside the block.
    unsafe {
        tile.scale[g] = [S::half_to_float(S::load4(rows, at)[0]); 2];
        let flip = S::splat(if S::UNSIGNED { bytes(0x80) } else { 0 });
        for half in 0..2 {
            let quads = S::load4(rows, at + 2 + 16 * half);
            for (j, quad) in quads.into_iter().enumerate() {
                tile.codes[g][4 * half + j] = S::xor(quad, flip);
            }
        }
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q5_1_block<S: Simd>(rows: &[*const u8; 16], at: usize, g: usize, tile: &mut Tile<S>) {
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let [head, high, ..] = S::load4(rows, at);
        tile.scale[g] = [S::half_to_float(head); 2];
        tile.minimum[g] = [S::half_to_float(S::shift_right::<16>(head)); 2];
        five_bit_codes::<S>(rows, at + 8, high, 0, &mut tile.codes[g]);
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn iq4_nl_block<S: Simd>(rows: &[*const u8; 16], at: usize, g: usize, tile: &mut Tile<S>) {
    let table = if S::UNSIGNED { IQ4NL_VALUES.map(|value| value.wrapping_add(127)) } else { IQ4NL_VALUES };
    // SAFETY: header and codes lie inside the block.
    unsafe {
        tile.scale[g] = [S::half_to_float(S::load4(rows, at)[0]); 2];
        let (table, mask) = (S::table(&table), S::splat(NIBBLES));
        for (j, quad) in S::load4(rows, at + 2).into_iter().enumerate() {
            tile.codes[g][j] = S::lookup(table, S::and(quad, mask));
            tile.codes[g][4 + j] = S::lookup(table, S::and(S::shift_right::<4>(quad), mask));
        }
    }
}

/// The codes of a block whose 16 bytes of nibbles lie at `at` and whose fifth bits are in `high`.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn five_bit_codes<S: Simd>(
    rows: &[*const u8; 16],
    at: usize,
    high: S::I,
    offset: u8,
    codes: &mut [S::I; 8],
) {
    // SAFETY: the codes lie inside the block.
    unsafe {
        let quads = S::load4(rows, at);
        let mask = S::splat(NIBBLES);
        let low = |j: usize| S::and(quads[j], mask);
        let top = |j: usize| S::and(S::shift_right::<4>(quads[j]), mask);
        codes[0] = codes_from::<S>(S::or(low(0), S::spread_bits::<0>(high)), offset);
        codes[1] = codes_from::<S>(S::or(low(1), S::spread_bits::<1>(high)), offset);
        codes[2] = codes_from::<S>(S::or(low(2), S::spread_bits::<2>(high)), offset);
        codes[3] = codes_from::<S>(S::or(low(3), S::spread_bits::<3>(high)), offset);
        codes[4] = codes_from::<S>(S::or(top(0), S::spread_bits::<4>(high)), offset);
        codes[5] = codes_from::<S>(S::or(top(1), S::spread_bits::<5>(high)), offset);
        codes[6] = codes_from::<S>(S::or(top(2), S::spread_bits::<6>(high)), offset);
        codes[7] = codes_from::<S>(S::or(top(3), S::spread_bits::<7>(high)), offset);
    }
}
