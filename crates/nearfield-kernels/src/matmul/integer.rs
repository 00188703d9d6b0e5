//! Integer and FP4 weights meet int8 activations.

use std::ops::Range;

use super::ahead::Ahead;
use super::{MatmulScratch, Output, WeightMatrix, row_pointers};
use crate::activation::{GROUP, QuantizedRow, QuantizedRows};
use crate::format::{Group, GroupShape, WeightFormat, unpack_group};
use crate::simd::Simd;
use crate::tile::{TILE_GROUPS, Tile, accumulate, unpack};

/// The definition: one output of an integer format.
fn chain(weights: &WeightMatrix<'_>, row: usize, activation: QuantizedRow<'_>) -> f32 {
    let bytes = weights.row(row);
    let (mut sum, mut minimum) = (0.0_f32, 0.0_f32);
    for (g, scale) in activation.scales.iter().enumerate() {
        let group = unpack_group(weights.format, bytes, g);
        let codes = &activation.codes[GROUP * g..][..GROUP];
        sum = chain_step(weights.format, &group, codes, *scale, sum);
        if weights.format.has_minimum() {
            let [low, high] = activation.sums[g];
            if weights.format.group_shape() == Some(GroupShape::Halves) {
                minimum = (low as f32).mul_add(group.minimum[0] * scale, minimum);
                minimum = (high as f32).mul_add(group.minimum[1] * scale, minimum);
            } else {
                minimum = ((low + high) as f32).mul_add(group.minimum[0] * scale, minimum);
            }
        }
    }
    (sum + minimum) * weights.scale
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
pub(super) unsafe fn scalar(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
) {
    for row in rows {
        for t in 0..activations.rows() {
            // SAFETY: the caller's promise.
            unsafe { output.write(t, row, chain(weights, row, activations.row(t))) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn avx2(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { by_format::<crate::simd::avx2::Avx2>(weights, activations, rows, output, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn avx_vnni(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { by_format::<crate::simd::avx2::AvxVnni>(weights, activations, rows, output, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn avx512(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { by_format::<crate::simd::avx512::Avx512>(weights, activations, rows, output, scratch) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn neon(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { by_format::<crate::simd::neon::Neon>(weights, activations, rows, output, scratch) }
}

/// Calls the body once for each format, so that the format is a constant inside.
///
/// # Safety
/// As [`super::matmul`]; the CPU has `S`.
#[inline(always)]
unsafe fn by_format<S: Simd>(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    macro_rules! each {
        ($($format:ident),*) => {
            match weights.format {
                $(WeightFormat::$format => {
                    // SAFETY: the caller's promise.
                    unsafe { body::<S>(WeightFormat::$format, weights, activations, rows, output, scratch) }
                })*
                WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 | WeightFormat::F8E4M3 => {
                    unreachable!("floating weights meet f32 activations")
                }
            }
        };
    }
    each!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Iq4Nl, Mxfp4, Nvfp4, Q2K, Q3K, Q4K, Q5K, Q6K);
}

/// # Safety
/// As [`by_format`].
#[inline(always)]
unsafe fn body<S: Simd>(
    format: WeightFormat,
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    let groups = activations.groups();
    let count = activations.rows();
    scratch.sums.resize(2 * count * S::ROWS, 0.0);
    let mut lanes = [0.0_f32; 16];
    // SAFETY: the CPU has `S`; pointers and group ranges come from checked shapes.
    unsafe {
        let mut tile = Tile::<S>::new();
        for first_row in rows.clone().step_by(S::ROWS) {
            let pointers = row_pointers(weights, first_row);
            let used = S::ROWS.min(rows.end - first_row);
            let zero = S::splat_float(0.0);
            let mut ahead = Ahead::new(weights, first_row + S::ROWS, S::ROWS, groups.div_ceil(TILE_GROUPS));
            let mut finish = |t: usize, sum: S::F, minimum: S::F| {
                let total = S::mul(S::add(sum, minimum), S::splat_float(weights.scale));
                S::store_float(lanes.as_mut_ptr(), total);
                for (lane, value) in lanes[..used].iter().enumerate() {
                    output.write(t, first_row + lane, *value);
                }
            };
            if count == 1 {
                let activation = [activations.row(0)];
                let (mut sum, mut minimum) = ([zero], [zero]);
                for first in (0..groups).step_by(TILE_GROUPS) {
                    let n = TILE_GROUPS.min(groups - first);
                    ahead.step();
                    unpack(format, &pointers, first, n, &mut tile);
                    accumulate::<S, 1>(format, &tile, &activation, first, n, &mut sum, &mut minimum);
                }
                finish(0, sum[0], minimum[0]);
                continue;
            }
            scratch.sums.fill(0.0);
            let (sums, minimums) = scratch.sums.split_at_mut(count * S::ROWS);
            for first in (0..groups).step_by(TILE_GROUPS) {
                let n = TILE_GROUPS.min(groups - first);
                ahead.step();
                unpack(format, &pointers, first, n, &mut tile);
                let mut t = 0;
                while t + 4 <= count {
                    step::<S, 4>(format, &tile, activations, t, first, n, sums, minimums);
                    t += 4;
                }
                while t < count {
                    step::<S, 1>(format, &tile, activations, t, first, n, sums, minimums);
                    t += 1;
                }
            }
            for t in 0..count {
                let at = t * S::ROWS;
                finish(t, S::load_float(sums.as_ptr().add(at)), S::load_float(minimums.as_ptr().add(at)));
            }
        }
    }
}

/// Continues the stored chains of activation rows `t .. t + T`.
///
/// # Safety
/// As [`by_format`]; `sums` and `minimums` have `ROWS` elements for each activation row.
#[inline(always)]
unsafe fn step<S: Simd, const T: usize>(
    format: WeightFormat,
    tile: &Tile<S>,
    activations: &QuantizedRows,
    t: usize,
    first: usize,
    groups: usize,
    sums: &mut [f32],
    minimums: &mut [f32],
) {
    let rows: [QuantizedRow<'_>; T] = std::array::from_fn(|i| activations.row(t + i));
    let sums = sums[t * S::ROWS..][..T * S::ROWS].as_mut_ptr();
    let minimums = minimums[t * S::ROWS..][..T * S::ROWS].as_mut_ptr();
    // SAFETY: the slices above are T vectors long; the rest is the caller's promise.
    unsafe {
        let mut sum: [S::F; T] = std::array::from_fn(|i| S::load_float(sums.add(i * S::ROWS)));
        let mut minimum: [S::F; T] = std::array::from_fn(|i| S::load_float(minimums.add(i * S::ROWS)));
        accumulate::<S, T>(format, tile, &rows, first, groups, &mut sum, &mut minimum);
        for i in 0..T {
            S::store_float(sums.add(i * S::ROWS), sum[i]);
            if format.has_minimum() {
                S::store_float(minimums.add(i * S::ROWS), minimum[i]);
            }
        }
    }
}
