//! Few activation rows meet floating weights: weights go from memory into their chains, without a panel between.

use std::ops::Range;

use super::ahead::Ahead;
use super::dwords::{Dwords, FileDwords, PanelDwords};
use super::{Output, WeightMatrix};
use crate::format::WeightFormat;
use crate::fp8::FP8_BLOCK;
use crate::simd::{Simd, e4m3};

/// Activation rows up to which this is faster than a panel.
pub(super) const FEW: usize = 4;

/// How a floating format's elements become `f32`.
trait Elements {
    /// Elements in four bytes.
    const PER_DWORD: usize;
    /// What the elements of a dword have to be multiplied by, beside the scale.
    const FACTOR: f32 = 1.0;

    /// The elements of each dword; the first `PER_DWORD` vectors count.
    ///
    /// # Safety
    /// The CPU has `S`.
    unsafe fn unpack<S: Simd>(dwords: S::I) -> [S::F; 4];
}

struct Single;
struct Half;
struct Brain;
struct Fp8;

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's safety sections are the arguments")]
impl Elements for Single {
    const PER_DWORD: usize = 1;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(dwords: S::I) -> [S::F; 4] {
        unsafe { [S::as_float(dwords); 4] }
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's safety sections are the arguments")]
impl Elements for Half {
    const PER_DWORD: usize = 2;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(dwords: S::I) -> [S::F; 4] {
        unsafe {
            let [low, high] = S::halves_to_float(dwords);
            [low, high, high, high]
        }
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's safety sections are the arguments")]
impl Elements for Brain {
    const PER_DWORD: usize = 2;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(dwords: S::I) -> [S::F; 4] {
        unsafe {
            let high = S::as_float(S::and(dwords, S::splat(0xFFFF_0000_u32 as i32)));
            [S::as_float(S::shift_left::<16>(dwords)), high, high, high]
        }
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's safety sections are the arguments")]
impl Elements for Fp8 {
    const PER_DWORD: usize = 4;
    /// Scales are small enough for it, and products with powers of two are exact.
    const FACTOR: f32 = 256.0;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(dwords: S::I) -> [S::F; 4] {
        unsafe { e4m3::<S>(dwords) }
    }
}

/// Products of up to [`FEW`] activation rows with weights of a floating format.
///
/// # Safety
/// As [`super::matmul`], and the CPU has `S`.
#[inline(always)]
pub(super) unsafe fn rows_of<S: Simd>(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match weights.format() {
            WeightFormat::F32 => by_count::<S, Single>(weights, values, rows, output),
            WeightFormat::F16 => by_count::<S, Half>(weights, values, rows, output),
            WeightFormat::Bf16 => by_count::<S, Brain>(weights, values, rows, output),
            WeightFormat::F8E4M3 => by_count::<S, Fp8>(weights, values, rows, output),
            _ => unreachable!("integer weights have tiles"),
        }
    }
}

/// # Safety
/// As [`rows_of`].
#[inline(always)]
unsafe fn by_count<S: Simd, E: Elements>(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
) {
    // Two narrow tiles go together, or the latency of their few chains shows. More than sixteen rows at once are too many
    // streams: rows of 4 KiB or 8 KiB fall on each other in the first-level cache.
    // SAFETY: the caller's promise.
    unsafe {
        match (values.len() / weights.columns(), S::ROWS) {
            (1, 16) => tiles::<S, E, 1, 1>(weights, values, rows, output),
            (1, _) => tiles::<S, E, 1, 2>(weights, values, rows, output),
            (2, 16) => tiles::<S, E, 2, 1>(weights, values, rows, output),
            (2, _) => tiles::<S, E, 2, 2>(weights, values, rows, output),
            (3, _) => tiles::<S, E, 3, 1>(weights, values, rows, output),
            _ => tiles::<S, E, 4, 1>(weights, values, rows, output),
        }
    }
}

/// `T` activation rows against `P` tiles of rows at a time.
///
/// # Safety
/// As [`rows_of`]; there are `T` activation rows.
#[inline(always)]
unsafe fn tiles<S: Simd, E: Elements, const T: usize, const P: usize>(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
) {
    let (columns, last) = (weights.columns(), weights.rows() - 1);
    let activations: [&[f32]; T] = std::array::from_fn(|t| &values[t * columns..][..columns]);
    for first_row in rows.clone().step_by(P * S::ROWS) {
        let first_of = |p: usize| (first_row + p * S::ROWS).min(last);
        // Tiles that go together lie in the same panel, or neither in one.
        // SAFETY: the sources are good for whole rows; outputs are the caller's promise.
        unsafe {
            if let Some(one) = PanelDwords::new(weights.place(first_row)) {
                let sources =
                    std::array::from_fn(|p| PanelDwords::new(weights.place(first_of(p))).unwrap_or(one));
                tile::<S, E, _, T, P>(weights, &sources, &activations, first_row, rows.end, output);
            } else {
                let sources: [_; P] = std::array::from_fn(|p| FileDwords::new(weights, first_of(p)));
                tile::<S, E, _, T, P>(weights, &sources, &activations, first_row, rows.end, output);
            }
        }
    }
}

/// One step of [`tiles`], up to row `end`.
///
/// # Safety
/// As [`tiles`]; the sources have whole rows.
#[inline(always)]
unsafe fn tile<S: Simd, E: Elements, D: Dwords<S>, const T: usize, const P: usize>(
    weights: &WeightMatrix<'_>,
    sources: &[D; P],
    activations: &[&[f32]; T],
    first_row: usize,
    end: usize,
    output: &Output<'_>,
) {
    let (columns, last) = (weights.columns(), weights.rows() - 1);
    let mut lanes = [0.0_f32; 16];
    let mut ahead = Ahead::new(weights, first_row + P * S::ROWS, P * S::ROWS, columns.div_ceil(FP8_BLOCK));
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[S::splat_float(0.0); T]; P];
        for first in (0..columns).step_by(FP8_BLOCK) {
            ahead.step();
            let scales: [[f32; 16]; P] = std::array::from_fn(|p| {
                std::array::from_fn(|i| weights.block_scale((first_row + p * S::ROWS + i).min(last), first))
            });
            let run = first..columns.min(first + FP8_BLOCK);
            block::<S, E, D, T, P>(sources, &scales, activations, run, &mut sums);
        }
        for (p, sums) in sums.iter().enumerate() {
            let first_row = first_row + p * S::ROWS;
            for (t, sum) in sums.iter().enumerate() {
                S::store_float(lanes.as_mut_ptr(), *sum);
                for (row, value) in (first_row..end).zip(&lanes[..S::ROWS]) {
                    output.write(t, row, value * weights.output_scale(row));
                }
            }
        }
    }
}

/// Continues the chains over columns that share their scales.
///
/// # Safety
/// As [`tile`]; the sources have these columns.
#[inline(always)]
unsafe fn block<S: Simd, E: Elements, D: Dwords<S>, const T: usize, const P: usize>(
    sources: &[D; P],
    scales: &[[f32; 16]; P],
    activations: &[&[f32]; T],
    columns: Range<usize>,
    sums: &mut [[S::F; T]; P],
) {
    let width = 4 * E::PER_DWORD;
    let whole = columns.start + columns.len() / width * width;
    // FP8 alone has scales here; no other format is multiplied.
    let scaled = E::FACTOR != 1.0;
    // Loops instead of closures: a closure is a function that lacks the instruction set.
    // SAFETY: the dwords belong to the wanted columns, as do the activations' elements.
    unsafe {
        let mut factors = [S::splat_float(E::FACTOR); P];
        for (factor, scales) in factors.iter_mut().zip(scales) {
            *factor = S::mul(*factor, S::load_float(scales.as_ptr()));
        }
        let mut sum = *sums;
        for k in (columns.start..whole).step_by(width) {
            let mut quads = [[S::splat(0); 4]; P];
            for (quads, source) in quads.iter_mut().zip(sources) {
                *quads = source.four(k / E::PER_DWORD);
            }
            let mut x = [std::ptr::null::<f32>(); T];
            for (x, activation) in x.iter_mut().zip(activations) {
                *x = activation.as_ptr().add(k);
            }
            for dword in 0..4 {
                let mut weights = [[S::splat_float(0.0); 4]; P];
                for (weights, quads) in weights.iter_mut().zip(&quads) {
                    *weights = E::unpack::<S>(quads[dword]);
                }
                for part in 0..E::PER_DWORD {
                    let at = dword * E::PER_DWORD + part;
                    for ((sum, weights), factor) in sum.iter_mut().zip(&weights).zip(factors) {
                        let weight = if scaled { S::mul(weights[part], factor) } else { weights[part] };
                        for (sum, x) in sum.iter_mut().zip(&x) {
                            *sum = S::fma(weight, S::splat_float(*x.add(at)), *sum);
                        }
                    }
                }
            }
        }
        for first in (whole..columns.end).step_by(E::PER_DWORD) {
            let there = E::PER_DWORD.min(columns.end - first);
            for ((sum, source), factor) in sum.iter_mut().zip(sources).zip(factors) {
                let weights = E::unpack::<S>(source.one(first / E::PER_DWORD, there * 4 / E::PER_DWORD));
                for (part, weight) in weights.into_iter().enumerate().take(there) {
                    let weight = if scaled { S::mul(weight, factor) } else { weight };
                    for (sum, activation) in sum.iter_mut().zip(activations) {
                        let x = S::splat_float(*activation.get_unchecked(first + part));
                        *sum = S::fma(weight, x, *sum);
                    }
                }
            }
        }
        *sums = sum;
    }
}
