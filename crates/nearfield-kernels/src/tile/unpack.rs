//! From a format's blocks to a tile.

use super::Tile;
use super::blocks::{iq4_nl_block, q4_block, q5_0_block, q5_1_block, q8_0_block};
use super::fp4::{mxfp4_block, nvfp4_block};
use super::super_blocks::{q2_k_block, q3_k_block, q4_k_block, q5_k_block, q6_k_block};
use crate::format::WeightFormat;
use crate::simd::Simd;

/// Unpacks groups `first .. first + groups` of the rows that start at `rows`.
///
/// # Safety
/// As [`Tile::new`]; each pointer must be good for a whole row of `format` that has these groups, and for formats with
/// super-blocks `first` and `groups` are multiples of the block's groups.
#[inline(always)]
pub(crate) unsafe fn unpack<S: Simd>(
    format: WeightFormat,
    rows: &[*const u8; 16],
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
            WeightFormat::Q5_1 => {
                for g in 0..groups {
                    q5_1_block(rows, (first + g) * size, g, tile);
                }
            }
            WeightFormat::Q8_0 => {
                for g in 0..groups {
                    q8_0_block(rows, (first + g) * size, g, tile);
                }
            }
            WeightFormat::Iq4Nl => {
                for g in 0..groups {
                    iq4_nl_block(rows, (first + g) * size, g, tile);
                }
            }
            WeightFormat::Mxfp4 => {
                for g in 0..groups {
                    mxfp4_block(rows, (first + g) * size, g, tile);
                }
            }
            WeightFormat::Nvfp4 => {
                for pair in 0..groups / 2 {
                    nvfp4_block(rows, (first / 2 + pair) * size, 2 * pair, tile);
                }
            }
            WeightFormat::Q2K => q2_k_block(rows, first / 8 * size, tile),
            WeightFormat::Q3K => q3_k_block(rows, first / 8 * size, tile),
            WeightFormat::Q4K => q4_k_block(rows, first / 8 * size, tile),
            WeightFormat::Q5K => q5_k_block(rows, first / 8 * size, tile),
            WeightFormat::Q6K => q6_k_block(rows, first / 8 * size, tile),
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 | WeightFormat::F8E4M3 => {
                unreachable!("floating weights meet f32 activations")
            }
        }
    }
}
