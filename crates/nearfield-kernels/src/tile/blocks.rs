//! Formats of 32 weights a block with integer codes.

use super::source::Source;
use super::{Group, NIBBLES, bytes, codes_from};
use crate::format::{IQ4NL_VALUES, WeightFormat};
use crate::simd::Simd;

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q4_group<S: Simd, R: Source<S>>(
    format: WeightFormat,
    rows: R,
    block: usize,
) -> Group<S> {
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let mut group = Group::new();
        let (offset, quads) = if matches!(format, WeightFormat::Q4_1) {
            let head = rows.word(format, block, 0);
            group.scale = [S::half_to_float(head); 2];
            group.minimum = [S::half_to_float(S::shift_right::<16>(head)); 2];
            (0, rows.quads(format, block, 4))
        } else {
            group.scale = [rows.narrow_half(format, block); 2];
            (8, rows.quads(format, block, 2))
        };
        let mask = S::splat(NIBBLES);
        for (j, quad) in quads.into_iter().enumerate() {
            group.codes[j] = codes_from::<S>(S::and(quad, mask), offset);
            group.codes[4 + j] = codes_from::<S>(S::and(S::shift_right::<4>(quad), mask), offset);
        }
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q5_0_group<S: Simd, R: Source<S>>(rows: R, block: usize) -> Group<S> {
    let format = WeightFormat::Q5_0;
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let mut group = Group::new();
        group.scale = [rows.narrow_half(format, block); 2];
        let high = rows.word(format, block, 2);
        group.codes = five_bit_codes::<S>(rows.quads(format, block, 6), high, 16);
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q5_1_group<S: Simd, R: Source<S>>(rows: R, block: usize) -> Group<S> {
    let format = WeightFormat::Q5_1;
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let mut group = Group::new();
        let head = rows.word(format, block, 0);
        group.scale = [S::half_to_float(head); 2];
        group.minimum = [S::half_to_float(S::shift_right::<16>(head)); 2];
        let high = rows.word(format, block, 4);
        group.codes = five_bit_codes::<S>(rows.quads(format, block, 8), high, 0);
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn q8_0_group<S: Simd, R: Source<S>>(rows: R, block: usize) -> Group<S> {
    let format = WeightFormat::Q8_0;
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let mut group = Group::new();
        group.scale = [rows.narrow_half(format, block); 2];
        let flip = S::splat(if S::UNSIGNED { bytes(0x80) } else { 0 });
        for half in 0..2 {
            let quads = rows.quads(format, block, 2 + 16 * half);
            for (j, quad) in quads.into_iter().enumerate() {
                group.codes[4 * half + j] = S::xor(quad, flip);
            }
        }
        group
    }
}

/// # Safety
/// As [`super::unpack`].
#[inline(always)]
pub(super) unsafe fn iq4_nl_group<S: Simd, R: Source<S>>(rows: R, block: usize) -> Group<S> {
    let format = WeightFormat::Iq4Nl;
    let table = if S::UNSIGNED { IQ4NL_VALUES.map(|value| value.wrapping_add(127)) } else { IQ4NL_VALUES };
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let mut group = Group::new();
        group.scale = [rows.narrow_half(format, block); 2];
        let (table, mask) = (S::table(&table), S::splat(NIBBLES));
        for (j, quad) in rows.quads(format, block, 2).into_iter().enumerate() {
            group.codes[j] = S::lookup(table, S::and(quad, mask));
            group.codes[4 + j] = S::lookup(table, S::and(S::shift_right::<4>(quad), mask));
        }
        group
    }
}

/// The codes of a block with these nibbles and fifth bits.
///
/// # Safety
/// As [`super::unpack`].
#[inline(always)]
unsafe fn five_bit_codes<S: Simd>(quads: [S::I; 4], high: S::I, offset: u8) -> [S::I; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = S::splat(NIBBLES);
        let low = |j: usize| S::and(quads[j], mask);
        let top = |j: usize| S::and(S::shift_right::<4>(quads[j]), mask);
        [
            codes_from::<S>(S::or(low(0), S::spread_bits::<0>(high)), offset),
            codes_from::<S>(S::or(low(1), S::spread_bits::<1>(high)), offset),
            codes_from::<S>(S::or(low(2), S::spread_bits::<2>(high)), offset),
            codes_from::<S>(S::or(low(3), S::spread_bits::<3>(high)), offset),
            codes_from::<S>(S::or(top(0), S::spread_bits::<4>(high)), offset),
            codes_from::<S>(S::or(top(1), S::spread_bits::<5>(high)), offset),
            codes_from::<S>(S::or(top(2), S::spread_bits::<6>(high)), offset),
            codes_from::<S>(S::or(top(3), S::spread_bits::<7>(high)), offset),
        ]
    }
}
