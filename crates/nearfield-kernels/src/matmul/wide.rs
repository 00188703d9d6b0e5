//! Four activation rows against two panels at once: eight dots under way and eight chains in registers, while each quad
//! of activations that is loaded serves thirty-two weight rows. With one panel the loads alone, one a dot, would keep the
//! loading units busy.

use super::integer::Inputs;
use crate::format::{GroupShape, WeightFormat};
use crate::simd::Simd;
use crate::tile::{Group, GroupActivation};

/// Activation rows that are taken at once.
pub(super) const WIDE_ROWS: usize = 4;

/// From so many activation rows on it pays: with fewer, taking two panels apart first outweighs the loads saved.
pub(super) const LEAST_ROWS: usize = 16;

/// Calls a macro for each row. Written out: a loop that the compiler keeps would keep the dots in memory.
macro_rules! each_row {
    ($call:ident) => {
        $call!(0);
        $call!(1);
        $call!(2);
        $call!(3);
    };
}

/// The stored chains of one panel's rows: a vector for each activation row, from row `t`.
#[derive(Clone, Copy)]
pub(super) struct Chains {
    pub(super) sums: *mut f32,
    pub(super) minimums: *mut f32,
}

/// Continues the chains of activation rows `t .. t + 4` over the same groups, from group `first`, of two panels.
///
/// # Safety
/// The CPU has `S`; the activations have these rows and groups; the chains have four vectors, minimums where the format
/// has them.
#[inline(always)]
pub(super) unsafe fn continue_wide<S: Simd>(
    format: WeightFormat,
    tiles: [&[Group<S>]; 2],
    inputs: &Inputs<'_>,
    t: usize,
    first: usize,
    chains: [Chains; 2],
) {
    // SAFETY: the caller's promise.
    let (mut sums, mut minimums) = unsafe {
        let sums = load::<S>(chains.map(|chains| chains.sums));
        let minimums =
            if format.has_minimum() { load::<S>(chains.map(|chains| chains.minimums)) } else { sums };
        (sums, minimums)
    };
    for (g, (a, b)) in tiles[0].iter().zip(tiles[1]).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let at = first + g;
            let rows = [
                inputs.group(format, t, at),
                inputs.group(format, t + 1, at),
                inputs.group(format, t + 2, at),
                inputs.group(format, t + 3, at),
            ];
            match format.group_shape() {
                Some(GroupShape::Factored) => {
                    let low = dots::<S, 0, 4>(a, b, &rows, 0);
                    let mut products = low;
                    macro_rules! scale_low {
                        ($i:literal) => {
                            products[2 * $i] = S::mul32(low[2 * $i], a.factor[0]);
                            products[2 * $i + 1] = S::mul32(low[2 * $i + 1], b.factor[0]);
                        };
                    }
                    each_row!(scale_low);
                    let mut high = dots::<S, 4, 8>(a, b, &rows, 1);
                    macro_rules! scale_high {
                        ($i:literal) => {
                            let product = S::mul32(high[2 * $i], a.factor[1]);
                            high[2 * $i] = S::add32(products[2 * $i], product);
                            let product = S::mul32(high[2 * $i + 1], b.factor[1]);
                            high[2 * $i + 1] = S::add32(products[2 * $i + 1], product);
                        };
                    }
                    each_row!(scale_high);
                    step::<S>(&high, [a.scale[0], b.scale[0]], &rows, &mut sums);
                }
                Some(GroupShape::Halves) => {
                    step::<S>(&dots::<S, 0, 4>(a, b, &rows, 0), [a.scale[0], b.scale[0]], &rows, &mut sums);
                    step::<S>(&dots::<S, 4, 8>(a, b, &rows, 1), [a.scale[1], b.scale[1]], &rows, &mut sums);
                }
                _ => step::<S>(&dots::<S, 0, 8>(a, b, &rows, 0), [a.scale[0], b.scale[0]], &rows, &mut sums),
            }
            if format.has_minimum() {
                minimum_step::<S>([a.minimum[0], b.minimum[0]], &rows, 0, &mut minimums);
                if format.group_shape() == Some(GroupShape::Halves) {
                    minimum_step::<S>([a.minimum[1], b.minimum[1]], &rows, 1, &mut minimums);
                }
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        store::<S>(&sums, chains.map(|chains| chains.sums));
        if format.has_minimum() {
            store::<S>(&minimums, chains.map(|chains| chains.minimums));
        }
    }
}

/// Chains of activation row i at 2i and 2i + 1.
///
/// # Safety
/// The CPU has `S`; four vectors may be read at both pointers.
#[inline(always)]
unsafe fn load<S: Simd>(from: [*mut f32; 2]) -> [S::F; 2 * WIDE_ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut chains = [S::splat_float(0.0); 2 * WIDE_ROWS];
        macro_rules! one {
            ($i:literal) => {
                chains[2 * $i] = S::load_float(from[0].add($i * S::ROWS));
                chains[2 * $i + 1] = S::load_float(from[1].add($i * S::ROWS));
            };
        }
        each_row!(one);
        chains
    }
}

/// # Safety
/// As [`load`], and they may be written.
#[inline(always)]
unsafe fn store<S: Simd>(chains: &[S::F; 2 * WIDE_ROWS], to: [*mut f32; 2]) {
    macro_rules! one {
        ($i:literal) => {
            // SAFETY: the caller's promise.
            unsafe {
                S::store_float(to[0].add($i * S::ROWS), chains[2 * $i]);
                S::store_float(to[1].add($i * S::ROWS), chains[2 * $i + 1]);
            }
        };
    }
    each_row!(one);
}

/// Dots over quads `FROM .. TO` of the group, begun at the rows' starts `half`: those of activation row i at 2i and
/// 2i + 1.
///
/// # Safety
/// The CPU has `S`.
#[inline(always)]
unsafe fn dots<S: Simd, const FROM: usize, const TO: usize>(
    a: &Group<S>,
    b: &Group<S>,
    rows: &[GroupActivation<'_>; WIDE_ROWS],
    half: usize,
) -> [S::I; 2 * WIDE_ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = [S::splat(0); 2 * WIDE_ROWS];
        macro_rules! start {
            ($i:literal) => {
                dots[2 * $i] = S::splat(rows[$i].start[half]);
                dots[2 * $i + 1] = dots[2 * $i];
            };
        }
        each_row!(start);
        for j in FROM..TO {
            let (a, b) = (a.codes[j], b.codes[j]);
            macro_rules! dot {
                ($i:literal) => {
                    let quad = rows[$i].quad(j);
                    dots[2 * $i] = S::dot4(dots[2 * $i], a, quad);
                    dots[2 * $i + 1] = S::dot4(dots[2 * $i + 1], b, quad);
                };
            }
            each_row!(dot);
        }
        dots
    }
}

/// One fused multiply-add of every chain.
///
/// # Safety
/// The CPU has `S`.
#[inline(always)]
unsafe fn step<S: Simd>(
    dots: &[S::I; 2 * WIDE_ROWS],
    scales: [S::F; 2],
    rows: &[GroupActivation<'_>; WIDE_ROWS],
    sums: &mut [S::F; 2 * WIDE_ROWS],
) {
    macro_rules! one {
        ($i:literal) => {
            // SAFETY: the caller's promise.
            unsafe {
                let scale = S::splat_float(rows[$i].scale);
                let dot = S::to_float(dots[2 * $i]);
                sums[2 * $i] = S::fma(dot, S::mul(scales[0], scale), sums[2 * $i]);
                let dot = S::to_float(dots[2 * $i + 1]);
                sums[2 * $i + 1] = S::fma(dot, S::mul(scales[1], scale), sums[2 * $i + 1]);
            }
        };
    }
    each_row!(one);
}

/// One fused multiply-add of every chain of minimums.
///
/// # Safety
/// The CPU has `S`.
#[inline(always)]
unsafe fn minimum_step<S: Simd>(
    scales: [S::F; 2],
    rows: &[GroupActivation<'_>; WIDE_ROWS],
    half: usize,
    minimums: &mut [S::F; 2 * WIDE_ROWS],
) {
    macro_rules! one {
        ($i:literal) => {
            // SAFETY: the caller's promise.
            unsafe {
                let scale = S::splat_float(rows[$i].scale);
                let sum = S::splat_float(rows[$i].sums[half]);
                minimums[2 * $i] = S::fma(sum, S::mul(scales[0], scale), minimums[2 * $i]);
                minimums[2 * $i + 1] = S::fma(sum, S::mul(scales[1], scale), minimums[2 * $i + 1]);
            }
        };
    }
    each_row!(one);
}
