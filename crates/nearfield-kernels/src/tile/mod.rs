//! Tiles: a few groups of `ROWS` weight rows, taken apart so that rows lie in lanes.
//!
//! Each format supplies only its unpacking; the dots are shared. The bodies are generic over [`Simd`] and become one
//! copy for each instruction set.

mod blocks;
mod fp4;
mod source;
mod super_blocks;
mod unpack;

use crate::format::{GroupShape, WeightFormat};
use crate::simd::Simd;

pub(crate) use source::{AHEAD, FAR_AHEAD, FileRows, PanelRows, Source};
pub(crate) use unpack::unpack;

/// Groups of 32 in a tile: one super-block of 256.
pub(crate) const TILE_GROUPS: usize = 8;

/// A group of 32 weights of each of `ROWS` rows.
#[derive(Clone, Copy)]
pub(crate) struct Group<S: Simd> {
    /// `codes[j]`: in each row's dword the codes of k = 4j .. 4j + 3.
    pub(crate) codes: [S::I; 8],
    /// Of each half; equal where the format has one scale for the group.
    pub(crate) scale: [S::F; 2],
    pub(crate) minimum: [S::F; 2],
    pub(crate) factor: [S::I; 2],
}

impl<S: Simd> Group<S> {
    /// A group of zeros.
    ///
    /// # Safety
    /// The CPU has `S`'s instruction set, as in all functions here.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: the caller's promise.
        let (zero, float) = unsafe { (S::splat(0), S::splat_float(0.0)) };
        Self { codes: [zero; 8], scale: [float; 2], minimum: [float; 2], factor: [zero; 2] }
    }

    /// Writes the values of the weights, one vector of rows for each k: what [`crate::format::dequantize_row`] defines,
    /// with the same roundings.
    ///
    /// # Safety
    /// As [`Group::new`].
    ///
    /// # Panics
    /// If `panel` has not 32 vectors.
    #[inline(always)]
    pub(crate) unsafe fn dequantize(&self, format: WeightFormat, panel: &mut [f32]) {
        let factored = format.group_shape() == Some(GroupShape::Factored);
        let offset = code_offset(format, S::UNSIGNED);
        let panel = &mut panel[..32 * S::ROWS];
        for (j, quad) in self.codes.iter().enumerate() {
            let half = j / 4;
            // SAFETY: the caller's promise; a vector lies inside its slice.
            unsafe {
                let mut scale = self.scale[half];
                if factored {
                    scale = S::mul(scale, S::to_float(self.factor[half]));
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
                    let value = S::add(S::mul(scale, S::to_float(code)), self.minimum[half]);
                    S::store_float(panel[(4 * j + b) * S::ROWS..][..S::ROWS].as_mut_ptr(), value);
                }
            }
        }
    }
}

/// What unpacking leaves added to the signed codes of `format`.
pub(crate) const fn code_offset(format: WeightFormat, unsigned: bool) -> i32 {
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

/// What a product needs of one group of one activation row.
#[derive(Clone, Copy)]
pub(crate) struct GroupActivation<'a> {
    /// 32 codes.
    pub(crate) codes: &'a [i8; 32],
    pub(crate) scale: f32,
    /// What the dots of both halves begin at: minus the format's code offset times the sum of the half's codes. With
    /// one scale for the group, the first is that of the whole.
    pub(crate) start: [i32; 2],
    /// Sums of the codes of both halves, or of the whole as `start`; read where the format has minimums.
    pub(crate) sums: [f32; 2],
}

impl GroupActivation<'_> {
    /// Codes `4j .. 4j + 4`.
    #[inline(always)]
    pub(crate) fn quad(&self, j: usize) -> i32 {
        let (quads, _) = self.codes.as_chunks::<4>();
        i32::from_ne_bytes(quads[j].map(|code| code as u8))
    }
}

/// One group's step of `ROWS` chains: `sum` by the dot, `minimum` by the weights' minimums.
///
/// # Safety
/// As [`Group::new`].
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd>(
    format: WeightFormat,
    group: &Group<S>,
    activation: GroupActivation<'_>,
    sum: &mut S::F,
    minimum: &mut S::F,
) {
    let shape = format.group_shape().unwrap_or(GroupShape::Whole);
    let quad = |j: usize| activation.quad(j);
    // SAFETY: the caller's promise.
    unsafe {
        let scale = S::splat_float(activation.scale);
        if shape == GroupShape::Whole {
            // Two dots, so that the sums do not wait for each other; integers add in any order.
            let mut low = S::splat(activation.start[0]);
            let mut high = S::splat(0);
            for j in 0..4 {
                low = S::dot4(low, group.codes[j], quad(j));
                high = S::dot4(high, group.codes[4 + j], quad(4 + j));
            }
            let dot = S::to_float(S::add32(low, high));
            *sum = S::fma(dot, S::mul(group.scale[0], scale), *sum);
        } else {
            let (mut low, mut high) = (S::splat(activation.start[0]), S::splat(activation.start[1]));
            for j in 0..4 {
                low = S::dot4(low, group.codes[j], quad(j));
                high = S::dot4(high, group.codes[4 + j], quad(4 + j));
            }
            if shape == GroupShape::Factored {
                let dot = S::add32(S::mul32(low, group.factor[0]), S::mul32(high, group.factor[1]));
                *sum = S::fma(S::to_float(dot), S::mul(group.scale[0], scale), *sum);
            } else {
                *sum = S::fma(S::to_float(low), S::mul(group.scale[0], scale), *sum);
                *sum = S::fma(S::to_float(high), S::mul(group.scale[1], scale), *sum);
            }
        }
        if format.has_minimum() {
            let [low, high] = activation.sums;
            if shape == GroupShape::Halves {
                *minimum = S::fma(S::splat_float(low), S::mul(group.minimum[0], scale), *minimum);
                *minimum = S::fma(S::splat_float(high), S::mul(group.minimum[1], scale), *minimum);
            } else {
                *minimum = S::fma(S::splat_float(low), S::mul(group.minimum[0], scale), *minimum);
            }
        }
    }
}
