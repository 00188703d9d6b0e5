//! The definition of products with integer and FP4 weights, which the kernels of every set equal.

use std::ops::Range;

use super::{Output, WeightMatrix};
use crate::activation::{GROUP, QuantizedRow, QuantizedRows};
use crate::format::{Group, GroupShape, WeightFormat, unpack_group};

/// The definition: one output of an integer format, of a row's bytes as they lie in the file.
fn chain(weights: &WeightMatrix<'_>, bytes: &[u8], activation: QuantizedRow<'_>) -> f32 {
    let (mut sum, mut minimum) = (0.0_f32, 0.0_f32);
    for (g, scale) in activation.scales.iter().enumerate() {
        let group = unpack_group(weights.format(), bytes, g);
        let codes = &activation.codes[GROUP * g..][..GROUP];
        sum = chain_step(weights.format(), &group, codes, *scale, sum);
        if weights.format().has_minimum() {
            let [low, high] = activation.sums[g];
            if weights.format().group_shape() == Some(GroupShape::Halves) {
                minimum = (low as f32).mul_add(group.minimum[0] * scale, minimum);
                minimum = (high as f32).mul_add(group.minimum[1] * scale, minimum);
            } else {
                minimum = ((low + high) as f32).mul_add(group.minimum[0] * scale, minimum);
            }
        }
    }
    (sum + minimum) * weights.scale()
}

/// One group's step of an output's chain.
fn chain_step(format: WeightFormat, group: &Group, codes: &[i8], scale: f32, sum: f32) -> f32 {
    let dot = |half: usize| -> i32 {
        let range = 16 * half..16 * half + 16;
        codes[range.clone()].iter().zip(&group.codes[range]).map(|(a, w)| i32::from(*a) * i32::from(*w)).sum()
    };
    match format.group_shape() {
        Some(GroupShape::Whole) => ((dot(0) + dot(1)) as f32).mul_add(group.scale[0] * scale, sum),
        Some(GroupShape::Factored) => ((group.factor[0] * dot(0) + group.factor[1] * dot(1)) as f32)
            .mul_add(group.scale[0] * scale, sum),
        _ => {
            let sum = (dot(0) as f32).mul_add(group.scale[0] * scale, sum);
            (dot(1) as f32).mul_add(group.scale[1] * scale, sum)
        }
    }
}

/// # Safety
/// As [`super::matmul`].
pub(super) unsafe fn integer(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
) {
    for row in rows {
        let bytes = weights.row(row);
        for t in 0..activations.rows() {
            // SAFETY: the caller's promise.
            unsafe { output.write(t, row, chain(weights, &bytes, activations.row(t))) };
        }
    }
}
