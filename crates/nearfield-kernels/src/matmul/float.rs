//! `f32` activations: floating weights, and every weight in `exact` arithmetic.

use std::ops::Range;

use super::{MatmulScratch, Output, WeightMatrix, row_pointers};
use crate::activation::GROUP;
use crate::format::{WeightFormat, bf16_to_f32, dequantize_group, f16_to_f32, unpack_group};
use crate::simd::Simd;

/// # Safety
/// As [`super::matmul`].
pub(super) unsafe fn scalar(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    scratch.row.resize(weights.columns, 0.0);
    for row in rows {
        crate::format::dequantize_row(weights.format, weights.row(row), &mut scratch.row);
        for (t, activation) in values.chunks_exact(weights.columns).enumerate() {
            let sum = scratch.row.iter().zip(activation).fold(0.0_f32, |sum, (w, x)| w.mul_add(*x, sum));
            // SAFETY: the caller's promise.
            unsafe { output.write(t, row, sum * weights.scale) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn avx2(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { rows_of::<crate::simd::avx2::Avx2>(weights, values, rows, output, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn avx512(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { rows_of::<crate::simd::avx512::Avx512>(weights, values, rows, output, scratch) }
}

/// Columns of a panel of dequantized rows: a multiple of every format's group.
const PANEL_COLUMNS: usize = 256;

/// Writes columns `first .. first + columns` of the rows at `pointers`, dequantized, with rows in lanes.
///
/// # Safety
/// Each pointer is good for a row.
#[inline(always)]
unsafe fn fill_panel<S: Simd>(
    weights: &WeightMatrix<'_>,
    pointers: &[*const u8; 16],
    first: usize,
    columns: usize,
    panel: &mut [f32],
) {
    for (r, pointer) in pointers.iter().enumerate().take(S::ROWS) {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts(*pointer, weights.row_bytes) };
        let lane = panel[r..].iter_mut().step_by(S::ROWS).take(columns);
        match weights.format {
            WeightFormat::F32 => {
                for (value, bytes) in lane.zip(row[4 * first..].as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            WeightFormat::F16 => {
                for (value, bytes) in lane.zip(row[2 * first..].as_chunks::<2>().0) {
                    *value = f16_to_f32(u16::from_le_bytes(*bytes));
                }
            }
            WeightFormat::Bf16 => {
                for (value, bytes) in lane.zip(row[2 * first..].as_chunks::<2>().0) {
                    *value = bf16_to_f32(u16::from_le_bytes(*bytes));
                }
            }
            format => {
                let mut group = [0.0; GROUP];
                let mut lane = lane;
                for g in 0..columns / GROUP {
                    dequantize_group(&unpack_group(format, row, first / GROUP + g), &mut group);
                    // The group ends the zip, so that it takes exactly 32 places of the lane.
                    for (value, to) in group.iter().zip(lane.by_ref()) {
                        *to = *value;
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`super::matmul`], and the CPU has `S`.
#[inline(always)]
unsafe fn rows_of<S: Simd>(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    let columns = weights.columns;
    let count = values.len() / columns.max(1);
    scratch.sums.resize(2 * count * S::ROWS, 0.0);
    scratch.panel.resize(PANEL_COLUMNS * 16, 0.0);
    let mut lanes = [0.0_f32; 16];
    for first_row in rows.clone().step_by(S::ROWS) {
        let pointers = row_pointers(weights, first_row);
        let used = S::ROWS.min(rows.end - first_row);
        scratch.sums.fill(0.0);
        for first in (0..columns).step_by(PANEL_COLUMNS) {
            let n = PANEL_COLUMNS.min(columns - first);
            // SAFETY: the CPU has `S`; the panel holds `n` vectors and each activation row reaches `first + n`.
            unsafe {
                fill_panel::<S>(weights, &pointers, first, n, &mut scratch.panel);
                let mut t = 0;
                while t + 4 <= count {
                    step::<S, 4>(
                        &scratch.panel,
                        &values[t * columns + first..],
                        columns,
                        n,
                        &mut scratch.sums[t * S::ROWS..],
                    );
                    t += 4;
                }
                while t < count {
                    step::<S, 1>(
                        &scratch.panel,
                        &values[t * columns + first..],
                        columns,
                        n,
                        &mut scratch.sums[t * S::ROWS..],
                    );
                    t += 1;
                }
            }
        }
        for t in 0..count {
            // SAFETY: `sums` has `ROWS` elements for each activation row; output rows are the caller's promise.
            unsafe {
                let sum = S::load_float(scratch.sums[t * S::ROWS..][..S::ROWS].as_ptr());
                S::store_float(lanes.as_mut_ptr(), S::mul(sum, S::splat_float(weights.scale)));
                for (lane, value) in lanes[..used].iter().enumerate() {
                    output.write(t, first_row + lane, *value);
                }
            }
        }
    }
}

/// Continues the chains of `T` activation rows over `n` columns of a panel.
///
/// # Safety
/// As [`rows_of`]; `values` reaches `(T - 1) * columns + n`.
#[inline(always)]
unsafe fn step<S: Simd, const T: usize>(
    panel: &[f32],
    values: &[f32],
    columns: usize,
    n: usize,
    sums: &mut [f32],
) {
    let panel = panel[..n * S::ROWS].as_ptr();
    let sums = sums[..T * S::ROWS].as_mut_ptr();
    let values: [&[f32]; T] = std::array::from_fn(|i| &values[i * columns..][..n]);
    // SAFETY: the slices above bound every access.
    unsafe {
        let mut sum: [S::F; T] = std::array::from_fn(|i| S::load_float(sums.add(i * S::ROWS)));
        for k in 0..n {
            let w = S::load_float(panel.add(k * S::ROWS));
            for i in 0..T {
                sum[i] = S::fma(w, S::splat_float(*values[i].get_unchecked(k)), sum[i]);
            }
        }
        for (i, sum) in sum.into_iter().enumerate() {
            S::store_float(sums.add(i * S::ROWS), sum);
        }
    }
}
