//! A block of 32 keys against up to six queries at once: scores, softmax, weighted values.
//!
//! Both products are the same small one: up to six rows of factors with a matrix of which two vectors are taken at a time,
//! so that up to twelve chains of fused multiply-adds are under way and each loaded vector serves all queries.

use std::ops::Range;

use super::{AttentionSettings, State};
use crate::key_value::PAGE_POSITIONS;
use crate::math;
use crate::matmul::prefetch;
use crate::set::KernelSet;
use crate::simd::Simd;
#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};
use crate::vector::{reduce_tree, soft_cap_body};

/// Queries that meet a block at once.
pub(super) const TOGETHER: usize = 6;
/// Queries that it is best given of many.
pub(super) const FOUR: usize = 4;

/// Keys, `[head_size][32]`, and values, `[32][head_size]`, of one head and block.
#[derive(Clone, Copy)]
pub(super) enum Block<'a> {
    /// Read out of the cache before.
    Single { keys: &'a [f32], values: &'a [f32] },
    /// f16 as the cache holds them. The head size is a multiple of [`HALF_QUANTUM`].
    Half { keys: &'a [u8], values: &'a [u8] },
}

/// What the head size must be a multiple of, so that values can be taken from the cache in whole vectors.
pub(super) const HALF_QUANTUM: usize = 32;

/// How far behind the keys and values of a block those of the block lie that is read after it, in bytes. They are asked
/// for meanwhile, and nothing else is done with them.
pub(super) type Ahead = isize;

/// Up to six queries, which see the keys `visible` of the block, against it. `outputs` holds their running outputs,
/// one after the other.
///
/// # Panics
/// If there is no query or more than six, or the lengths do not agree.
pub(super) fn attend(
    set: KernelSet,
    block: Block<'_>,
    next: Option<Ahead>,
    queries: &[&[f32]],
    visible: Range<usize>,
    settings: &AttentionSettings,
    states: &mut [State],
    outputs: &mut [f32],
) {
    let size = outputs.len() / queries.len();
    assert!(
        (1..=TOGETHER).contains(&queries.len()) && states.len() == queries.len(),
        "one to six queries with a state each"
    );
    assert!(queries.iter().all(|query| query.len() == size), "queries and outputs have the head size");
    assert!(visible.end <= PAGE_POSITIONS && visible.start < visible.end, "keys of the block");
    let elements = PAGE_POSITIONS * size;
    match block {
        Block::Single { keys, values } => {
            assert!(keys.len() >= elements && values.len() >= elements, "a whole block");
        }
        Block::Half { keys, values } => {
            assert!(keys.len() >= 2 * elements && values.len() >= 2 * elements, "a whole block");
            assert!(size.is_multiple_of(HALF_QUANTUM), "whole vectors");
        }
    }
    // Without a block to come the present one is asked for, which costs next to nothing.
    let ahead = next.unwrap_or(0);
    match set {
        KernelSet::Scalar => plain(block, queries, visible, settings, states, outputs),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the lengths were checked; a set other than `Scalar` comes from `KernelSet::available`, which has
        // checked the features.
        KernelSet::Avx2 | KernelSet::AvxVnni => unsafe {
            on_avx2(block, ahead, queries, visible, settings, states, outputs);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        KernelSet::Avx512 => unsafe { on_avx512(block, ahead, queries, visible, settings, states, outputs) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        KernelSet::Neon => unsafe { on_neon(block, ahead, queries, visible, settings, states, outputs) },
    }
}

macro_rules! on_set {
    ($name:ident, $set:ty, $features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(
            block: Block<'_>,
            ahead: Ahead,
            queries: &[&[f32]],
            visible: Range<usize>,
            settings: &AttentionSettings,
            states: &mut [State],
            outputs: &mut [f32],
        ) {
            match block {
                Block::Single { keys, values: singles } => {
                    let (keys, values) = (keys.as_ptr().cast(), singles.as_ptr().cast());
                    // SAFETY: the features are enabled; `attend` has checked the lengths.
                    unsafe {
                        body::<$set, false>(
                            keys, values, singles, ahead, queries, visible, settings, states, outputs,
                        );
                    }
                }
                Block::Half { keys, values } => {
                    let (keys, values) = (keys.as_ptr(), values.as_ptr());
                    // SAFETY: as above.
                    unsafe {
                        body::<$set, true>(
                            keys,
                            values,
                            &[],
                            ahead,
                            queries,
                            visible,
                            settings,
                            states,
                            outputs,
                        );
                    }
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
on_set!(on_avx2, Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
on_set!(on_avx512, Avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni");
#[cfg(target_arch = "aarch64")]
on_set!(on_neon, crate::simd::neon::Neon, "neon,dotprod");

/// # Safety
/// The CPU has `S`; `keys` and `values` point at whole blocks of elements of 2 (`HALF`) or 4 bytes, in the latter case
/// those of `singles`; lengths are as [`attend`] checks them.
#[inline(always)]
unsafe fn body<S: Simd, const HALF: bool>(
    keys: *const u8,
    values: *const u8,
    singles: &[f32],
    ahead: Ahead,
    queries: &[&[f32]],
    visible: Range<usize>,
    settings: &AttentionSettings,
    states: &mut [State],
    outputs: &mut [f32],
) {
    let count = queries.len();
    let size = outputs.len() / count;
    let bytes = if HALF { 2 } else { 4 };
    let width = 2 * S::ROWS;
    let query = |i: usize| queries[i.min(count - 1)].as_ptr();
    let factors = [query(0), query(1), query(2), query(3), query(4), query(5)];
    let mut scores = [[0.0_f32; PAGE_POSITIONS]; TOGETHER];
    let mut corrections = [0.0_f32; TOGETHER];
    // SAFETY: the caller's promise; a block has 32 keys, of which `width` are taken at a time.
    unsafe {
        let zero = S::splat_float(0.0);
        for first in (0..PAGE_POSITIONS).step_by(width) {
            let at = keys.add(first * bytes);
            let step = PAGE_POSITIONS * bytes;
            let [a, b, c, d, ..] = factors;
            if count > 4 {
                let sums = six::<S, HALF>(factors, at, step, ahead, size, [[zero; 2]; 6]);
                put::<S>(sums[0], scores[0][first..].as_mut_ptr());
                put::<S>(sums[1], scores[1][first..].as_mut_ptr());
                put::<S>(sums[2], scores[2][first..].as_mut_ptr());
                put::<S>(sums[3], scores[3][first..].as_mut_ptr());
                put::<S>(sums[4], scores[4][first..].as_mut_ptr());
                put::<S>(sums[5], scores[5][first..].as_mut_ptr());
            } else if count > 2 {
                let sums = four::<S, HALF>([a, b, c, d], at, step, ahead, size, [[zero; 2]; 4]);
                put::<S>(sums[0], scores[0][first..].as_mut_ptr());
                put::<S>(sums[1], scores[1][first..].as_mut_ptr());
                put::<S>(sums[2], scores[2][first..].as_mut_ptr());
                put::<S>(sums[3], scores[3][first..].as_mut_ptr());
            } else {
                let sums = two::<S, HALF>([a, b], at, step, ahead, size, [[zero; 2]; 2]);
                put::<S>(sums[0], scores[0][first..].as_mut_ptr());
                put::<S>(sums[1], scores[1][first..].as_mut_ptr());
            }
        }
    }
    for i in 0..count {
        corrections[i] = soften(&mut scores[i], &visible, settings, &mut states[i]);
    }
    let keys_seen = visible.len();
    let weight = |i: usize| scores[i.min(count - 1)][visible.start..].as_ptr();
    let factors = [weight(0), weight(1), weight(2), weight(3), weight(4), weight(5)];
    let output = outputs.as_mut_ptr();
    let mut first = 0;
    while first + width <= size {
        // SAFETY: as above; `width` components lie inside each output and each value.
        unsafe {
            let at = values.add((visible.start * size + first) * bytes);
            let to = |i: usize| output.add(i.min(count - 1) * size + first);
            let old = |i: usize| {
                let correction = S::splat_float(corrections[i.min(count - 1)]);
                [
                    S::mul(S::load_float(to(i)), correction),
                    S::mul(S::load_float(to(i).add(S::ROWS)), correction),
                ]
            };
            let [a, b, c, d, ..] = factors;
            // A query that is there twice is written twice alike.
            if count > 4 {
                let old = [old(0), old(1), old(2), old(3), old(4), old(5)];
                let sums = six::<S, HALF>(factors, at, size * bytes, ahead, keys_seen, old);
                put::<S>(sums[0], to(0));
                put::<S>(sums[1], to(1));
                put::<S>(sums[2], to(2));
                put::<S>(sums[3], to(3));
                put::<S>(sums[4], to(4));
                put::<S>(sums[5], to(5));
            } else if count > 2 {
                let old = [old(0), old(1), old(2), old(3)];
                let sums = four::<S, HALF>([a, b, c, d], at, size * bytes, ahead, keys_seen, old);
                put::<S>(sums[0], to(0));
                put::<S>(sums[1], to(1));
                put::<S>(sums[2], to(2));
                put::<S>(sums[3], to(3));
            } else {
                let sums = two::<S, HALF>([a, b], at, size * bytes, ahead, keys_seen, [old(0), old(1)]);
                put::<S>(sums[0], to(0));
                put::<S>(sums[1], to(1));
            }
        }
        first += width;
    }
    // Only blocks of singles have head sizes that leave a rest.
    for i in 0..if first < size { count } else { 0 } {
        let out = &mut outputs[i * size + first..(i + 1) * size];
        weigh(singles, size, first, &scores[i], visible.clone(), corrections[i], out);
    }
}

/// # Safety
/// The CPU has `S`, and two vectors may be written at `to`.
#[inline(always)]
unsafe fn put<S: Simd>(sums: [S::F; 2], to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        S::store_float(to, sums[0]);
        S::store_float(to.add(S::ROWS), sums[1]);
    }
}

/// # Safety
/// The CPU has `S`, and a vector of elements may be read at `from`.
#[inline(always)]
unsafe fn take<S: Simd, const HALF: bool>(from: *const u8) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { if HALF { S::load_halves(from) } else { S::load_float(from.cast()) } }
}

/// Defines `sums[i] + factors[i][0] * matrix[0] + factors[i][1] * matrix[1] + ..`, by fused multiply-adds in this order,
/// for a number of rows of factors. Rows of the matrix are `step` bytes apart, and two vectors of each are read; those
/// `ahead` of them are asked for. The sums are variables of their own: an array of them would live in memory.
macro_rules! products {
    ($name:ident, $count:literal, $([$low:ident, $high:ident, $row:literal]),+) => {
        /// # Safety
        /// The CPU has `S`; `count` factors and rows may be read.
        #[inline(always)]
        unsafe fn $name<S: Simd, const HALF: bool>(
            factors: [*const f32; $count],
            matrix: *const u8,
            step: usize,
            ahead: Ahead,
            count: usize,
            sums: [[S::F; 2]; $count],
        ) -> [[S::F; 2]; $count] {
            let [$([mut $low, mut $high]),+] = sums;
            for k in 0..count {
                // SAFETY: the caller's promise.
                unsafe {
                    let at = matrix.add(k * step);
                    prefetch(at.wrapping_offset(ahead));
                    let low = take::<S, HALF>(at);
                    let high = take::<S, HALF>(at.add(S::ROWS * if HALF { 2 } else { 4 }));
                    $(
                        let factor = S::splat_float(*factors[$row].add(k));
                        $low = S::fma(low, factor, $low);
                        $high = S::fma(high, factor, $high);
                    )+
                }
            }
            [$([$low, $high]),+]
        }
    };
}
products!(two, 2, [a0, a1, 0], [b0, b1, 1]);
products!(four, 4, [a0, a1, 0], [b0, b1, 1], [c0, c1, 2], [d0, d1, 3]);
products!(six, 6, [a0, a1, 0], [b0, b1, 1], [c0, c1, 2], [d0, d1, 3], [e0, e1, 4], [f0, f1, 5]);

/// The definition, in plain Rust.
fn plain(
    block: Block<'_>,
    queries: &[&[f32]],
    visible: Range<usize>,
    settings: &AttentionSettings,
    states: &mut [State],
    outputs: &mut [f32],
) {
    let Block::Single { keys, values } = block else { return };
    let size = outputs.len() / queries.len();
    for ((query, state), output) in queries.iter().zip(states).zip(outputs.chunks_exact_mut(size)) {
        let mut scores = [0.0_f32; PAGE_POSITIONS];
        for (row, factor) in keys.as_chunks::<PAGE_POSITIONS>().0.iter().zip(*query) {
            for (score, key) in scores.iter_mut().zip(row) {
                *score = key.mul_add(*factor, *score);
            }
        }
        let correction = soften(&mut scores, &visible, settings, state);
        weigh(values, size, 0, &scores, visible.clone(), correction, output);
    }
}

/// Components `first ..` of an output: corrected, plus the visible values times their weights, keys ascending.
#[inline(always)]
fn weigh(
    values: &[f32],
    size: usize,
    first: usize,
    weights: &[f32; PAGE_POSITIONS],
    visible: Range<usize>,
    correction: f32,
    output: &mut [f32],
) {
    for (d, out) in output.iter_mut().enumerate() {
        let mut sum = *out * correction;
        for j in visible.clone() {
            sum = values[j * size + first + d].mul_add(weights[j], sum);
        }
        *out = sum;
    }
}

/// One step of the online softmax: scores become weights, and the factor of what was summed before comes back.
#[inline(always)]
fn soften(
    scores: &mut [f32; PAGE_POSITIONS],
    visible: &Range<usize>,
    settings: &AttentionSettings,
    state: &mut State,
) -> f32 {
    for score in scores.iter_mut() {
        *score *= settings.scale;
    }
    if let Some(cap) = settings.soft_cap {
        soft_cap_body(scores, cap);
    }
    if visible.len() < PAGE_POSITIONS {
        for (j, score) in scores.iter_mut().enumerate() {
            let masked = j < visible.start || j >= visible.end;
            *score = if masked { f32::NEG_INFINITY } else { *score };
        }
    }
    // A maximum is the same in any order; a score that is no number is passed over.
    let mut lanes = [state.maximum; 16];
    for half in scores.as_chunks::<16>().0 {
        for (lane, score) in lanes.iter_mut().zip(half) {
            *lane = if *score > *lane { *score } else { *lane };
        }
    }
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
        width /= 2;
    }
    let largest = lanes[0];
    let correction = math::exp(state.maximum - largest);
    for score in scores.iter_mut() {
        *score = math::exp(*score - largest);
    }
    let mut lanes = [0.0_f32; 16];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = scores[i] + scores[16 + i];
    }
    state.sum = state.sum.mul_add(correction, reduce_tree(lanes));
    state.maximum = largest;
    state.filled = true;
    correction
}
