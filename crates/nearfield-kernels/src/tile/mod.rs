//! Tiles: a few groups of `ROWS` weight rows, taken apart so that rows lie in lanes.
//!
//! Each format supplies only its unpacking; the dots are shared. The bodies are generic over [`Simd`] and become one
//! copy for each instruction set.

mod blocks;
mod fp4;
mod super_blocks;
mod unpack;

use crate::activation::QuantizedRow;
use crate::format::{GroupShape, WeightFormat};
use crate::simd::Simd;

pub(crate) use unpack::unpack;

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

impl<S: Simd> Tile<S> {
    /// Writes the values of the weights of `groups` groups, one vector of rows for each k: what
    /// [`crate::format::dequantize_row`] defines, with the same roundings.
    ///
    /// # Safety
    /// As [`Tile::new`].
    ///
    /// # Panics
    /// If `panel` has not 32 vectors for each group.
    #[inline(always)]
    pub(crate) unsafe fn dequantize(&self, format: WeightFormat, groups: usize, panel: &mut [f32]) {
        let factored = format.group_shape() == Some(GroupShape::Factored);
        let offset = code_offset(format, S::UNSIGNED);
        for (g, panel) in panel.chunks_exact_mut(32 * S::ROWS).enumerate().take(groups) {
            for (j, quad) in self.codes[g].iter().enumerate() {
                let half = j / 4;
                // SAFETY: the caller's promise; a vector lies inside its slice.
                unsafe {
                    let mut scale = self.scale[g][half];
                    if factored {
                        scale = S::mul(scale, S::to_float(self.factor[g][half]));
                    }
                    let code_bytes = [
                        S::shift_left::<24>(*quad),
                        S::shift_left::<16>(*quad),
                        S::shift_left::<8>(*quad),
                        *quad,
                    ];
                    for (b, top) in code_bytes.into_iter().enumerate() {
                        let code = if S::UNSIGNED {
                            S::add32(S::shift_right::<24>(top), S::splat(-offset))
                        } else {
                            S::shift_right_signed::<24>(top)
                        };
                        let value = S::add(S::mul(scale, S::to_float(code)), self.minimum[g][half]);
                        S::store_float(panel[(4 * j + b) * S::ROWS..][..S::ROWS].as_mut_ptr(), value);
                    }
                }
            }
        }
    }
}

/// What unpacking leaves added to the signed codes of `format`.
const fn code_offset(format: WeightFormat, unsigned: bool) -> i32 {
    if !unsigned {
        return 0;
    }
    match format {
        WeightFormat::Q4_1
        | WeightFormat::Q5_1
        | WeightFormat::Q2K
        | WeightFormat::Q4K
        | WeightFormat::Q5K => 0,
        WeightFormat::Q3K => 4,
        WeightFormat::Q4_0 => 8,
        WeightFormat::Mxfp4 | WeightFormat::Nvfp4 => 12,
        WeightFormat::Q5_0 => 16,
        WeightFormat::Q6K => 32,
        WeightFormat::Iq4Nl => 127,
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
