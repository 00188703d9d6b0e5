//! Panels of FP8 weights.

use super::WeightMatrix;
use crate::fp8::{FP8_BLOCK, e4m3_to_f32};
use crate::simd::{Simd, e4m3};

/// Writes columns `first .. first + panel.len() / ROWS` of the rows from `first_row`, which start at `pointers`,
/// multiplied by their block's scale: one vector of rows for each column.
///
/// # Safety
/// The CPU has `S`; each pointer is good for a row that has these columns.
#[inline(always)]
pub(super) unsafe fn fill<S: Simd>(
    weights: &WeightMatrix<'_>,
    pointers: &[*const u8; 16],
    first_row: usize,
    first: usize,
    panel: &mut [f32],
) {
    let end = first + panel.len() / S::ROWS;
    let mut start = first;
    while start < end {
        // To the edge of the block of columns that holds `start`.
        let stop = end.min((start / FP8_BLOCK + 1) * FP8_BLOCK);
        let scales: [f32; 16] =
            std::array::from_fn(|i| weights.block_scale((first_row + i).min(weights.rows() - 1), start));
        let panel = &mut panel[(start - first) * S::ROWS..(stop - first) * S::ROWS];
        // SAFETY: the caller's promise.
        unsafe { fill_block::<S>(pointers, &scales, start, panel) };
        start = stop;
    }
}

/// [`fill`] where each row has one scale.
///
/// # Safety
/// As [`fill`].
#[inline(always)]
unsafe fn fill_block<S: Simd>(
    pointers: &[*const u8; 16],
    scales: &[f32; 16],
    first: usize,
    panel: &mut [f32],
) {
    let columns = panel.len() / S::ROWS;
    let whole = columns / 16 * 16;
    // SAFETY: 16 bytes from column `first + k` on belong to the wanted columns; vectors lie inside the panel.
    unsafe {
        // The codes come as 2^-8 of their value. Scales are small enough for the factor, and products with powers of
        // two are exact, so the product below is the weight times its scale, rounded once.
        let factor = S::mul(S::load_float(scales.as_ptr()), S::splat_float(256.0));
        for k in (0..whole).step_by(16) {
            for (dword, quad) in S::load4(pointers, first + k).into_iter().enumerate() {
                for (byte, weight) in e4m3::<S>(quad).into_iter().enumerate() {
                    let at = (k + 4 * dword + byte) * S::ROWS;
                    S::store_float(panel[at..][..S::ROWS].as_mut_ptr(), S::mul(weight, factor));
                }
            }
        }
        for k in whole..columns {
            let lanes = panel[k * S::ROWS..][..S::ROWS].iter_mut();
            for ((value, row), scale) in lanes.zip(pointers).zip(scales) {
                *value = e4m3_to_f32(row.add(first + k).read()) * scale;
            }
        }
    }
}
