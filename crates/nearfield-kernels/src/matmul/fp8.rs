//! Panels of FP8 weights.

use super::WeightMatrix;
use super::dwords::Dwords;
use crate::fp8::FP8_BLOCK;
use crate::simd::{Simd, e4m3};

/// Writes columns `first .. first + panel.len() / ROWS` of the rows from `first_row`, multiplied by their block's scale:
/// one vector of rows for each column.
///
/// # Safety
/// The CPU has `S`; the source has these columns.
#[inline(always)]
pub(super) unsafe fn fill<S: Simd, D: Dwords<S>>(
    weights: &WeightMatrix<'_>,
    source: D,
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
        unsafe { fill_block::<S, D>(source, &scales, start, panel) };
        start = stop;
    }
}

/// [`fill`] where each row has one scale; `first` is a multiple of four.
///
/// # Safety
/// As [`fill`].
#[inline(always)]
unsafe fn fill_block<S: Simd, D: Dwords<S>>(source: D, scales: &[f32; 16], first: usize, panel: &mut [f32]) {
    let columns = panel.len() / S::ROWS;
    let whole = columns / 16 * 16;
    // SAFETY: these dwords belong to the wanted columns; vectors lie inside the panel.
    unsafe {
        // The codes come as 2^-8 of their value. Scales are small enough for the factor, and products with powers of
        // two are exact, so the product below is the weight times its scale, rounded once.
        let factor = S::mul(S::load_float(scales.as_ptr()), S::splat_float(256.0));
        for k in (0..whole).step_by(16) {
            for (dword, quad) in source.four((first + k) / 4).into_iter().enumerate() {
                for (byte, weight) in e4m3::<S>(quad).into_iter().enumerate() {
                    let at = (k + 4 * dword + byte) * S::ROWS;
                    S::store_float(panel[at..][..S::ROWS].as_mut_ptr(), S::mul(weight, factor));
                }
            }
        }
        for k in (whole..columns).step_by(4) {
            let there = 4.min(columns - k);
            let weights = e4m3::<S>(source.one((first + k) / 4, there));
            for (byte, weight) in weights.into_iter().enumerate().take(there) {
                let to = panel[(k + byte) * S::ROWS..][..S::ROWS].as_mut_ptr();
                S::store_float(to, S::mul(weight, factor));
            }
        }
    }
}
