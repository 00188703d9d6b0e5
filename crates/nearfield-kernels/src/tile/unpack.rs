//! From a format's blocks to groups of a tile.

use super::Group;
use super::blocks::{iq4_nl_group, q4_group, q5_0_group, q5_1_group, q8_0_group};
use super::fp4::{mxfp4_group, nvfp4_group};
use super::source::Source;
use super::super_blocks::{q2_k_group, q3_k_group, q4_k_group, q5_k_group, q6_k_group};
use crate::format::WeightFormat;
use crate::simd::Simd;

/// Unpacks group `part` of block `block`.
///
/// # Safety
/// The CPU has `S`, and the source has this block.
#[inline(always)]
pub(crate) unsafe fn unpack<S: Simd, R: Source<S>>(
    format: WeightFormat,
    rows: R,
    block: usize,
    part: usize,
) -> Group<S> {
    // SAFETY: offsets stay inside the block.
    unsafe {
        match format {
            WeightFormat::Q4_0 | WeightFormat::Q4_1 => q4_group(format, rows, block),
            WeightFormat::Q5_0 => q5_0_group(rows, block),
            WeightFormat::Q5_1 => q5_1_group(rows, block),
            WeightFormat::Q8_0 => q8_0_group(rows, block),
            WeightFormat::Iq4Nl => iq4_nl_group(rows, block),
            WeightFormat::Mxfp4 => mxfp4_group(rows, block),
            WeightFormat::Nvfp4 => nvfp4_group(rows, block, part),
            WeightFormat::Q2K => q2_k_group(rows, block, part),
            WeightFormat::Q3K => q3_k_group(rows, block, part),
            WeightFormat::Q4K => q4_k_group(rows, block, part),
            WeightFormat::Q5K => q5_k_group(rows, block, part),
            WeightFormat::Q6K => q6_k_group(rows, block, part),
            _ => unreachable!("floating weights meet f32 activations"),
        }
    }
}
