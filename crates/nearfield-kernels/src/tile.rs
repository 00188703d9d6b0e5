//! Tiles: a few groups of `ROWS` weight rows, taken apart so that rows lie in lanes.
//!
//! Each format supplies only its unpacking; the dots are shared. The bodies are generic over [`Simd`] and become one
//! copy for each instruction set.

use crate::activation::QuantizedRow;
use crate::format::{GroupShape, WeightFormat, unpack_group};
use crate::simd::Simd;

/// Groups of 32 in a tile: one super-block of 256.
pub(crate) const TILE_GROUPS: usize = 8;

/// Up to [`TILE_GROUPS`] groups of `ROWS` rows.
pub(crate) struct Tile<S: Simd> {
    /// `codes[g][j]`: in each row's dword the codes of k = 32g + 4j .. 32g + 4j + 3.
    codes: [[S::I; 8]; TILE_GROUPS],
    scale: [[S::F; 2]; TILE_GROUPS],
    minimum: [[S::F; 2]; TILE_GROUPS],
    factor: [[S::I; 2]; TILE_GROUPS],
}

impl<S: Simd> Tile<S> {
    /// An empty tile.
    ///
    /// # Safety
    /// The CPU has `S`'s instruction set, as in all functions here.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: the caller's promise.
        let (zero, float) = unsafe { (S::splat(0), S::splat_float(0.0)) };
        Self {
            codes: [[zero; 8]; TILE_GROUPS],
            scale: [[float; 2]; TILE_GROUPS],
            minimum: [[float; 2]; TILE_GROUPS],
            factor: [[zero; 2]; TILE_GROUPS],
        }
    }
}

/// What unpacking leaves added to the signed codes of `format`.
pub(crate) const fn code_offset(format: WeightFormat, unsigned: bool) -> i32 {
    if !unsigned {
        return 0;
    }
    match format {
        WeightFormat::Q4_1 | WeightFormat::Q4K => 0,
        WeightFormat::Q4_0 => 8,
        WeightFormat::Q5_0 => 16,
        WeightFormat::Q6K => 32,
        _ => 128,
    }
}

const NIBBLES: i32 = 0x0F0F_0F0F;

/// A byte in all four places of a dword.
const fn bytes(value: u8) -> i32 {
    u32::from_ne_bytes([value; 4]) as i32
}

/// Natural unsigned codes as the kernel set wants them.
///
/// # Safety
/// As [`Tile::new`].
#[inline(always)]
unsafe fn codes_from<S: Simd>(natural: S::I, offset: u8) -> S::I {
    // SAFETY: the caller's promise.
    unsafe { if S::UNSIGNED || offset == 0 { natural } else { S::sub8(natural, S::splat(bytes(offset))) } }
}

/// Unpacks groups `first .. first + groups` of the rows that start at `rows`.
///
/// # Safety
/// As [`Tile::new`]; each pointer must be good for a whole row of `format` that has these groups, and for formats with
/// super-blocks `first` and `groups` are multiples of the block's groups.
#[inline(always)]
pub(crate) unsafe fn unpack<S: Simd>(
    format: WeightFormat,
    rows: &[*const u8; 16],
    row_bytes: usize,
    first: usize,
    groups: usize,
    tile: &mut Tile<S>,
) {
    let size = format.block_bytes();
    // SAFETY: offsets stay inside each block, and blocks inside the rows, as the caller promises.
    unsafe {
        match format {
            WeightFormat::Q4_0 | WeightFormat::Q4_1 => {
                for g in 0..groups {
                    q4_block(format, rows, (first + g) * size, g, tile);
                }
            }
            WeightFormat::Q5_0 => {
                for g in 0..groups {
                    q5_0_block(rows, (first + g) * size, g, tile);
                }
            }
            WeightFormat::Q8_0 => {
                for g in 0..groups {
                    q8_0_block(rows, (first + g) * size, g, tile);
                }
            }
            WeightFormat::Q4K => q4_k_block(rows, first / 8 * size, tile),
            WeightFormat::Q6K => q6_k_block(rows, first / 8 * size, tile),
            _ => any_block(format, rows, row_bytes, first, groups, tile),
        }
    }
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q4_block<S: Simd>(
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
/// As [`unpack`].
#[inline(always)]
unsafe fn q5_0_block<S: Simd>(rows: &[*const u8; 16], at: usize, g: usize, tile: &mut Tile<S>) {
    // SAFETY: header and codes lie inside the block.
    unsafe {
        let head = S::load4(rows, at);
        tile.scale[g] = [S::half_to_float(head[0]); 2];
        let high = S::or(S::shift_right::<16>(head[0]), S::shift_left::<16>(head[1]));
        let quads = S::load4(rows, at + 6);
        let mask = S::splat(NIBBLES);
        let low = |j: usize| S::and(quads[j], mask);
        let top = |j: usize| S::and(S::shift_right::<4>(quads[j]), mask);
        let codes = &mut tile.codes[g];
        codes[0] = codes_from::<S>(S::or(low(0), S::spread_bits::<0>(high)), 16);
        codes[1] = codes_from::<S>(S::or(low(1), S::spread_bits::<1>(high)), 16);
        codes[2] = codes_from::<S>(S::or(low(2), S::spread_bits::<2>(high)), 16);
        codes[3] = codes_from::<S>(S::or(low(3), S::spread_bits::<3>(high)), 16);
        codes[4] = codes_from::<S>(S::or(top(0), S::spread_bits::<4>(high)), 16);
        codes[5] = codes_from::<S>(S::or(top(1), S::spread_bits::<5>(high)), 16);
        codes[6] = codes_from::<S>(S::or(top(2), S::spread_bits::<6>(high)), 16);
        codes[7] = codes_from::<S>(S::or(top(3), S::spread_bits::<7>(high)), 16);
    }
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q8_0_block<S: Simd>(rows: &[*const u8; 16], at: usize, g: usize, tile: &mut Tile<S>) {
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
/// As [`unpack`].
#[inline(always)]
unsafe fn q4_k_block<S: Simd>(rows: &[*const u8; 16], at: usize, tile: &mut Tile<S>) {
    // SAFETY: header and codes lie inside the super-block.
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
/// As [`unpack`].
#[inline(always)]
unsafe fn q6_k_block<S: Simd>(rows: &[*const u8; 16], at: usize, tile: &mut Tile<S>) {
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

/// Any format, by way of the scalar definition.
///
/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn any_block<S: Simd>(
    format: WeightFormat,
    rows: &[*const u8; 16],
    row_bytes: usize,
    first: usize,
    groups: usize,
    tile: &mut Tile<S>,
) {
    let flip = if S::UNSIGNED { 0x80 } else { 0 };
    for (r, pointer) in rows.iter().enumerate().take(S::ROWS) {
        // SAFETY: the caller promises that each pointer is good for a row.
        let row = unsafe { std::slice::from_raw_parts(*pointer, row_bytes) };
        for g in 0..groups {
            let group = unpack_group(format, row, first + g);
            // SAFETY: a vector has `ROWS` dwords and singles, and r < ROWS.
            unsafe {
                for (j, quad) in group.codes.as_chunks::<4>().0.iter().enumerate() {
                    let to = (&raw mut tile.codes[g][j]).cast::<[u8; 4]>().add(r);
                    to.write(quad.map(|code| code as u8 ^ flip));
                }
                for half in 0..2 {
                    (&raw mut tile.scale[g][half]).cast::<f32>().add(r).write(group.scale[half]);
                    (&raw mut tile.minimum[g][half]).cast::<f32>().add(r).write(group.minimum[half]);
                    (&raw mut tile.factor[g][half]).cast::<i32>().add(r).write(group.factor[half]);
                }
            }
        }
    }
}

/// Continues the chains of `T` activation rows over `groups` groups of a tile: `sums[t]` by the dots, `minimums[t]` by
/// the weights' minimums.
///
/// # Safety
/// As [`Tile::new`]; the activation rows have at least `first + groups` groups.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, const T: usize>(
    format: WeightFormat,
    tile: &Tile<S>,
    activations: &[QuantizedRow<'_>; T],
    first: usize,
    groups: usize,
    sums: &mut [S::F; T],
    minimums: &mut [S::F; T],
) {
    let offset = code_offset(format, S::UNSIGNED);
    let shape = format.group_shape().unwrap_or(GroupShape::Whole);
    let with_minimum = format.has_minimum();
    for g in 0..groups {
        for t in 0..T {
            // SAFETY: the caller promises the groups; a group has 32 codes.
            unsafe {
                let a = activations[t].codes.as_ptr().add(32 * (first + g)).cast::<[u8; 4]>();
                let scale = *activations[t].scales.get_unchecked(first + g);
                let [low_sum, high_sum] = *activations[t].sums.get_unchecked(first + g);
                let codes = &tile.codes[g];
                let mut low = S::splat(-offset * low_sum);
                let mut high = S::splat(-offset * high_sum);
                for j in 0..4 {
                    low = S::dot4(low, codes[j], i32::from_ne_bytes(a.add(j).read()));
                    high = S::dot4(high, codes[4 + j], i32::from_ne_bytes(a.add(4 + j).read()));
                }
                let scale = S::splat_float(scale);
                match shape {
                    GroupShape::Whole => {
                        let dot = S::to_float(S::add32(low, high));
                        sums[t] = S::fma(dot, S::mul(tile.scale[g][0], scale), sums[t]);
                    }
                    GroupShape::Factored => {
                        let dot =
                            S::add32(S::mul32(low, tile.factor[g][0]), S::mul32(high, tile.factor[g][1]));
                        sums[t] = S::fma(S::to_float(dot), S::mul(tile.scale[g][0], scale), sums[t]);
                    }
                    GroupShape::Halves => {
                        sums[t] = S::fma(S::to_float(low), S::mul(tile.scale[g][0], scale), sums[t]);
                        sums[t] = S::fma(S::to_float(high), S::mul(tile.scale[g][1], scale), sums[t]);
                    }
                }
                if with_minimum {
                    let minimum = &tile.minimum[g];
                    if shape == GroupShape::Halves {
                        let low = S::splat_float(low_sum as f32);
                        let high = S::splat_float(high_sum as f32);
                        minimums[t] = S::fma(low, S::mul(minimum[0], scale), minimums[t]);
                        minimums[t] = S::fma(high, S::mul(minimum[1], scale), minimums[t]);
                    } else {
                        let sum = S::splat_float((low_sum + high_sum) as f32);
                        minimums[t] = S::fma(sum, S::mul(minimum[0], scale), minimums[t]);
                    }
                }
            }
        }
    }
}
