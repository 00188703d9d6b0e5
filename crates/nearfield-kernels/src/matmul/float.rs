//! `f32` activations: floating weights, and every weight in `exact` arithmetic.

use std::ops::Range;

use super::ahead::Ahead;
use super::direct;
use super::dwords::{Dwords, FileDwords, PanelDwords};
use super::weights::{RowPlace, row_pointers};
use super::{MatmulScratch, Output, WeightMatrix};
use crate::activation::GROUP;
use crate::format::WeightFormat;
use crate::simd::Simd;
use crate::tile::{FileRows, PanelRows, Source, TILE_GROUPS, unpack};

/// # Safety
/// As [`super::matmul`].
pub(super) unsafe fn scalar(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    scratch.row.resize(weights.columns(), 0.0);
    for row in rows {
        weights.weights_of_row(row, &mut scratch.row);
        for (t, activation) in values.chunks_exact(weights.columns()).enumerate() {
            let sum = scratch.row.iter().zip(activation).fold(0.0_f32, |sum, (w, x)| w.mul_add(*x, sum));
            // SAFETY: the caller's promise.
            unsafe { output.write(t, row, sum * weights.output_scale(row)) };
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

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn neon(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { rows_of::<crate::simd::neon::Neon>(weights, values, rows, output, scratch) }
}

/// Columns of a panel of dequantized rows: a multiple of every format's group.
const PANEL_COLUMNS: usize = GROUP * TILE_GROUPS;

/// Writes columns `first ..` of the rows from `first_row` of a floating format, dequantized, with rows in lanes.
///
/// # Safety
/// The CPU has `S`; the source has these columns of these rows; the panel is whole vectors.
#[inline(always)]
unsafe fn fill_panel<S: Simd, D: Dwords<S>>(
    weights: &WeightMatrix<'_>,
    source: D,
    first_row: usize,
    first: usize,
    panel: &mut [f32],
) {
    // SAFETY: the caller's promise; each arm writes inside the panel.
    unsafe {
        match weights.format() {
            WeightFormat::F32 => {
                fill_floats::<S, D, 1>(source, first, panel, |quad, _| S::as_float(quad));
            }
            WeightFormat::F16 => {
                let convert =
                    |quad, high| S::half_to_float(if high { S::shift_right::<16>(quad) } else { quad });
                fill_floats::<S, D, 2>(source, first, panel, convert);
            }
            WeightFormat::Bf16 => {
                let upper = S::splat(0xFFFF_0000_u32 as i32);
                let convert = |quad, high| {
                    S::as_float(if high { S::and(quad, upper) } else { S::shift_left::<16>(quad) })
                };
                fill_floats::<S, D, 2>(source, first, panel, convert);
            }
            _ => super::fp8::fill::<S, D>(weights, source, first_row, first, panel),
        }
    }
}

/// Writes columns `first ..` of the rows from `first_row`, which lie at `place`, dequantized, with rows in lanes.
///
/// # Safety
/// The CPU has `S`; `FLOAT` says whether the format is floating; the rows have these columns, which are whole groups
/// where the format has such; the panel is whole vectors.
#[inline(always)]
unsafe fn fill<S: Simd, const FLOAT: bool>(
    weights: &WeightMatrix<'_>,
    place: RowPlace<'_>,
    first_row: usize,
    first: usize,
    panel: &mut [f32],
) {
    let format = weights.format();
    // SAFETY: the caller's promise.
    unsafe {
        if FLOAT {
            match PanelDwords::new(place) {
                Some(source) => fill_panel::<S, _>(weights, source, first_row, first, panel),
                None => {
                    fill_panel::<S, _>(weights, FileDwords::new(weights, first_row), first_row, first, panel);
                }
            }
        } else if let RowPlace::Panel { bytes, row } = place {
            let blocks = weights.columns() / format.block_size();
            let source = PanelRows::new(format, bytes.as_ptr(), blocks, row);
            fill_groups::<S, _>(format, source, first, panel);
        } else {
            let pointers = row_pointers(weights, first_row);
            let source = FileRows::new::<S>(weights, &pointers, first_row);
            fill_groups::<S, _>(format, source, first, panel);
        }
    }
}

/// [`fill_panel`] for formats with integer codes: the columns are whole groups, and whole super-blocks where the format
/// has them.
///
/// # Safety
/// As [`fill_panel`].
#[inline(always)]
unsafe fn fill_groups<S: Simd, R: Source<S>>(
    format: WeightFormat,
    source: R,
    first: usize,
    panel: &mut [f32],
) {
    let parts = format.block_size() / GROUP;
    for (g, panel) in panel.chunks_exact_mut(GROUP * S::ROWS).enumerate() {
        let g = first / GROUP + g;
        // SAFETY: the caller's promise.
        unsafe { unpack::<S, R>(format, source, g / parts, g % parts).dequantize(format, panel) };
    }
}

/// [`fill_panel`] for formats of which `PER_DWORD` elements fill four bytes, by `convert` (element 0 or 1 of each dword).
///
/// # Safety
/// As [`fill_panel`].
#[inline(always)]
unsafe fn fill_floats<S: Simd, D: Dwords<S>, const PER_DWORD: usize>(
    source: D,
    first: usize,
    panel: &mut [f32],
    convert: impl Fn(S::I, bool) -> S::F,
) {
    let (columns, width) = (panel.len() / S::ROWS, 4 * PER_DWORD);
    let whole = columns / width * width;
    for k in (0..whole).step_by(width) {
        // SAFETY: these dwords belong to the wanted columns.
        unsafe {
            let quads = source.four((first + k) / PER_DWORD);
            for (dword, quad) in quads.into_iter().enumerate() {
                for part in 0..PER_DWORD {
                    let at = (k + dword * PER_DWORD + part) * S::ROWS;
                    S::store_float(panel[at..][..S::ROWS].as_mut_ptr(), convert(quad, part == 1));
                }
            }
        }
    }
    for k in whole..columns {
        let (number, part) = ((first + k) / PER_DWORD, (first + k) % PER_DWORD);
        // SAFETY: the dword has at least the bytes up to this column.
        unsafe {
            let dword = source.one(number, (part + 1) * 4 / PER_DWORD);
            S::store_float(panel[k * S::ROWS..][..S::ROWS].as_mut_ptr(), convert(dword, part == 1));
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
    let count = values.len() / weights.columns().max(1);
    // The two kinds of formats have loops of their own, or the compiler would look up how to unpack a format of the one
    // kind ahead of a loop that the other kind takes as well.
    // SAFETY: the caller's promise.
    unsafe {
        if !weights.format().is_float() {
            through_panel::<S, false>(weights, values, rows, output, scratch);
        } else if count <= direct::FEW {
            direct::rows_of::<S>(weights, values, rows, output);
        } else {
            through_panel::<S, true>(weights, values, rows, output, scratch);
        }
    }
}

/// Products by way of a panel of dequantized rows.
///
/// # Safety
/// As [`rows_of`]; `FLOAT` says whether the format is floating.
#[inline(always)]
unsafe fn through_panel<S: Simd, const FLOAT: bool>(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    let columns = weights.columns();
    let count = values.len() / columns.max(1);
    scratch.sums.resize(2 * count * S::ROWS, 0.0);
    scratch.panel.resize(PANEL_COLUMNS * 16, 0.0);
    let mut lanes = [0.0_f32; 16];
    for first_row in rows.clone().step_by(S::ROWS) {
        let place = weights.place(first_row);
        let used = S::ROWS.min(rows.end - first_row);
        scratch.sums.fill(0.0);
        let mut ahead = Ahead::new(weights, first_row + S::ROWS, S::ROWS, columns.div_ceil(PANEL_COLUMNS));
        for first in (0..columns).step_by(PANEL_COLUMNS) {
            let n = PANEL_COLUMNS.min(columns - first);
            ahead.step();
            // SAFETY: the CPU has `S`; the panel holds `n` vectors and each activation row reaches `first + n`.
            unsafe {
                fill::<S, FLOAT>(weights, place, first_row, first, &mut scratch.panel[..n * S::ROWS]);
                let mut t = 0;
                while t + 8 <= count {
                    step::<S, 8>(
                        &scratch.panel,
                        &values[t * columns + first..],
                        columns,
                        n,
                        &mut scratch.sums[t * S::ROWS..],
                    );
                    t += 8;
                }
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
        let scales: [f32; 16] =
            std::array::from_fn(|i| weights.output_scale((first_row + i).min(weights.rows() - 1)));
        for t in 0..count {
            // SAFETY: `sums` has `ROWS` elements for each activation row; output rows are the caller's promise.
            unsafe {
                let sum = S::load_float(scratch.sums[t * S::ROWS..][..S::ROWS].as_ptr());
                S::store_float(lanes.as_mut_ptr(), S::mul(sum, S::load_float(scales.as_ptr())));
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
