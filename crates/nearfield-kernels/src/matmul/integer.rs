//! Integer and FP4 weights meet int8 activations.

use std::marker::PhantomData;
use std::ops::Range;

use super::outputs::Outputs;
use super::weights::{RowPlace, row_pointers};
use super::wide::{Chains, LEAST_ROWS, WIDE_ROWS, continue_wide};
use super::{MatmulScratch, Output, WeightMatrix};
use crate::activation::{GROUP, QuantizedRows};
use crate::format::{GroupShape, WeightFormat};
use crate::simd::{Simd, Work};
use crate::tile::{
    self, FileRows, Group, GroupActivation, PanelRows, Source, TILE_GROUPS, accumulate, unpack,
};

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

/// A format as a type, so that it is a constant also in functions that stand apart.
trait KnownFormat {
    const FORMAT: WeightFormat;
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
            match weights.format() {
                $(WeightFormat::$format => {
                    struct This;
                    impl KnownFormat for This {
                        const FORMAT: WeightFormat = WeightFormat::$format;
                    }
                    // SAFETY: the caller's promise.
                    unsafe { body::<S, This>(weights, activations, rows, output, scratch) }
                })*
                WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 | WeightFormat::F8E4M3 => {
                    unreachable!("floating weights meet f32 activations")
                }
            }
        };
    }
    each!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Iq4Nl, Mxfp4, Nvfp4, Q2K, Q3K, Q4K, Q5K, Q6K);
}

/// What the chains of one call need beside the weights.
pub(super) struct Inputs<'a> {
    activations: &'a QuantizedRows,
    starts: &'a [[i32; 2]],
    code_sums: &'a [[f32; 2]],
}

impl Inputs<'_> {
    /// Group `g` of activation row `t`.
    ///
    /// # Safety
    /// Both exist.
    #[inline(always)]
    pub(super) unsafe fn group(&self, format: WeightFormat, t: usize, g: usize) -> GroupActivation<'_> {
        let at = t * self.activations.groups() + g;
        // SAFETY: the caller's promise; `starts` and `code_sums` have an element for each group where they are read.
        unsafe {
            GroupActivation {
                codes: self.activations.group_codes(at),
                scale: self.activations.group_scale(at),
                start: if starts_matter(format) { *self.starts.get_unchecked(at) } else { [0; 2] },
                sums: if format.has_minimum() { *self.code_sums.get_unchecked(at) } else { [0.0; 2] },
            }
        }
    }
}

/// Whether codes of this format come with an offset in any set.
const fn starts_matter(format: WeightFormat) -> bool {
    tile::code_offset(format, true) != 0
}

/// Fills what [`Inputs`] borrows.
#[inline(always)]
fn prepare(
    format: WeightFormat,
    unsigned: bool,
    activations: &QuantizedRows,
    starts: &mut Vec<[i32; 2]>,
    code_sums: &mut Vec<[f32; 2]>,
) {
    let offset = tile::code_offset(format, unsigned);
    let whole = format.group_shape() == Some(GroupShape::Whole);
    if starts_matter(format) {
        starts.clear();
        starts.extend(activations.code_sums().iter().map(|[low, high]| {
            if whole { [-offset * (low + high), 0] } else { [-offset * low, -offset * high] }
        }));
    }
    if format.has_minimum() {
        code_sums.clear();
        code_sums.extend(
            activations.code_sums().iter().map(|[low, high]| {
                if whole { [(low + high) as f32, 0.0] } else { [*low as f32, *high as f32] }
            }),
        );
    }
}

/// # Safety
/// As [`by_format`].
#[inline(always)]
unsafe fn body<S: Simd, K: KnownFormat>(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    let format = K::FORMAT;
    let MatmulScratch { sums, starts, code_sums, .. } = scratch;
    prepare(format, S::UNSIGNED, activations, starts, code_sums);
    let inputs = Inputs { activations, starts, code_sums };
    sums.resize(4 * activations.rows() * S::ROWS, 0.0);
    let blocks = weights.columns() / format.block_size();
    let mut first_row = rows.start;
    while first_row < rows.end {
        let used = S::ROWS.min(rows.end - first_row);
        if S::ROWS == 16
            && activations.rows() >= LEAST_ROWS
            && first_row + 2 * S::ROWS <= rows.end
            && let RowPlace::Panel { bytes: a, row: 0 } = weights.place(first_row)
            && let RowPlace::Panel { bytes: b, row: 0 } = weights.place(first_row + S::ROWS)
        {
            // SAFETY: as below.
            unsafe {
                let a = PanelRows::new(format, a.as_ptr(), blocks, 0).in_pairs(format, blocks);
                let b = PanelRows::new(format, b.as_ptr(), blocks, 0).in_pairs(format, blocks);
                let outputs = Outputs { output, scale: weights.scale(), first_row, used: S::ROWS };
                chains_of_two::<S>(format, [a, b], blocks, &inputs, sums, &outputs);
            }
            first_row += 2 * S::ROWS;
            continue;
        }
        // SAFETY: the CPU has `S`; sources come from checked shapes, and the outputs are the caller's promise.
        unsafe {
            let outputs = Outputs { output, scale: weights.scale(), first_row, used };
            match weights.place(first_row) {
                RowPlace::Panel { bytes, row } => {
                    let source = PanelRows::new(format, bytes.as_ptr(), blocks, row);
                    match activations.rows() {
                        2 => S::apart(Few::<K, 2> {
                            source,
                            blocks,
                            inputs: &inputs,
                            outputs: &outputs,
                            format: PhantomData,
                        }),
                        3 => S::apart(Few::<K, 3> {
                            source,
                            blocks,
                            inputs: &inputs,
                            outputs: &outputs,
                            format: PhantomData,
                        }),
                        4 => S::apart(Few::<K, 4> {
                            source,
                            blocks,
                            inputs: &inputs,
                            outputs: &outputs,
                            format: PhantomData,
                        }),
                        _ => chains::<S, _>(format, source, blocks, &inputs, sums, &outputs),
                    }
                }
                RowPlace::File(_) | RowPlace::Apart => {
                    let pointers = row_pointers(weights, first_row);
                    let source = FileRows::new::<S>(weights, &pointers, first_row);
                    chains::<S, _>(format, source, blocks, &inputs, sums, &outputs);
                }
            }
        }
        first_row += S::ROWS;
    }
}

/// Calls a macro for each group of a block, with the group's number as a constant.
macro_rules! each_part {
    ($format:expr, $call:ident) => {
        match $format.block_size() {
            32 => {
                $call!(0);
            }
            64 => {
                $call!(0);
                $call!(1);
            }
            _ => {
                $call!(0);
                $call!(1);
                $call!(2);
                $call!(3);
                $call!(4);
                $call!(5);
                $call!(6);
                $call!(7);
            }
        }
    };
}

/// All chains of `ROWS` rows, of each activation row.
///
/// # Safety
/// As [`by_format`]; the source has `blocks` blocks, and `sums` two vectors for each activation row.
#[inline(always)]
unsafe fn chains<S: Simd, R: Source<S>>(
    format: WeightFormat,
    source: R,
    blocks: usize,
    inputs: &Inputs<'_>,
    sums: &mut [f32],
    outputs: &Outputs<'_>,
) {
    let count = inputs.activations.rows();
    let parts = format.block_size() / GROUP;
    // SAFETY: the caller's promise.
    unsafe {
        if count == 1 {
            return few::<S, R, 1>(format, source, blocks, inputs, outputs);
        }
        let (sums, minimums) = sums[..2 * count * S::ROWS].split_at_mut(count * S::ROWS);
        sums.fill(0.0);
        if format.has_minimum() {
            minimums.fill(0.0);
        }
        let mut tile = [Group::<S>::new(); TILE_GROUPS];
        for first in (0..blocks).step_by(TILE_GROUPS / parts) {
            let n = (TILE_GROUPS / parts).min(blocks - first);
            for i in 0..n {
                macro_rules! step {
                    ($part:literal) => {
                        source.fetch_ahead(format, first + i, $part);
                        tile[i * parts + $part] = unpack::<S, R>(format, source, first + i, $part);
                    };
                }
                each_part!(format, step);
            }
            let (tile, first) = (&tile[..n * parts], first * parts);
            continue_rest::<S>(format, tile, inputs, 0, first, sums, minimums);
        }
        outputs.finish_all::<S>(format, count, sums, minimums);
    }
}

/// All chains of `ROWS` rows, of `T` activation rows, up to four: each group of weights goes from memory into its dots,
/// and no sum leaves its register.
///
/// # Safety
/// As [`chains`]; there are `T` activation rows.
#[inline(always)]
unsafe fn few<S: Simd, R: Source<S>, const T: usize>(
    format: WeightFormat,
    source: R,
    blocks: usize,
    inputs: &Inputs<'_>,
    outputs: &Outputs<'_>,
) {
    let parts = format.block_size() / GROUP;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = [S::splat_float(0.0); 4];
        let mut minimum = sum;
        for block in 0..blocks {
            macro_rules! rows {
                ($group:ident, $part:literal, $($t:literal)*) => {
                    $(if $t < T {
                        let activation = inputs.group(format, $t, block * parts + $part);
                        accumulate::<S>(format, &$group, activation, &mut sum[$t], &mut minimum[$t]);
                    })*
                };
            }
            macro_rules! step {
                ($part:literal) => {
                    source.fetch_ahead(format, block, $part);
                    let group = unpack::<S, R>(format, source, block, $part);
                    // Written out: a loop that the compiler keeps would keep the sums in memory.
                    rows!(group, $part, 0 1 2 3);
                };
            }
            each_part!(format, step);
        }
        for t in 0..T {
            outputs.finish::<S>(t, sum[t], minimum[t]);
        }
    }
}

/// [`few`] as a function of its own: the compiler's time grows faster than the functions that it has to look at.
struct Few<'a, K, const T: usize> {
    source: PanelRows,
    blocks: usize,
    inputs: &'a Inputs<'a>,
    outputs: &'a Outputs<'a>,
    format: PhantomData<K>,
}

impl<K: KnownFormat, const T: usize> Work for Few<'_, K, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { source, blocks, inputs, outputs, .. } = self;
        // SAFETY: the caller's promise.
        unsafe { few::<S, _, T>(K::FORMAT, source, blocks, inputs, outputs) }
    }
}

/// All chains of two panels, of all activation rows.
///
/// # Safety
/// As [`chains`], with four vectors of `sums` for each activation row.
#[inline(always)]
unsafe fn chains_of_two<S: Simd>(
    format: WeightFormat,
    sources: [PanelRows; 2],
    blocks: usize,
    inputs: &Inputs<'_>,
    sums: &mut [f32],
    outputs: &Outputs<'_>,
) {
    let count = inputs.activations.rows();
    let parts = format.block_size() / GROUP;
    let (a, b) = sums[..4 * count * S::ROWS].split_at_mut(2 * count * S::ROWS);
    a.fill(0.0);
    b.fill(0.0);
    let (a_sums, a_minimums) = a.split_at_mut(count * S::ROWS);
    let (b_sums, b_minimums) = b.split_at_mut(count * S::ROWS);
    // SAFETY: the caller's promise; `t` stays below `count`.
    unsafe {
        let mut tiles = [[Group::<S>::new(); TILE_GROUPS]; 2];
        for first in (0..blocks).step_by(TILE_GROUPS / parts) {
            let n = (TILE_GROUPS / parts).min(blocks - first);
            for i in 0..n {
                macro_rules! step {
                    ($part:literal) => {
                        Source::<S>::fetch_ahead(sources[0], format, first + i, $part);
                        Source::<S>::fetch_ahead(sources[1], format, first + i, $part);
                        tiles[0][i * parts + $part] = unpack::<S, _>(format, sources[0], first + i, $part);
                        tiles[1][i * parts + $part] = unpack::<S, _>(format, sources[1], first + i, $part);
                    };
                }
                each_part!(format, step);
            }
            let two = [&tiles[0][..n * parts], &tiles[1][..n * parts]];
            let first = first * parts;
            let mut t = 0;
            while t + WIDE_ROWS <= count {
                let at = t * S::ROWS;
                let a = Chains { sums: a_sums[at..].as_mut_ptr(), minimums: a_minimums[at..].as_mut_ptr() };
                let b = Chains { sums: b_sums[at..].as_mut_ptr(), minimums: b_minimums[at..].as_mut_ptr() };
                continue_wide::<S>(format, two, inputs, t, first, [a, b]);
                t += WIDE_ROWS;
            }
            continue_rest::<S>(format, two[0], inputs, t, first, a_sums, a_minimums);
            continue_rest::<S>(format, two[1], inputs, t, first, b_sums, b_minimums);
        }
        outputs.finish_all::<S>(format, count, a_sums, a_minimums);
        let outputs = Outputs { first_row: outputs.first_row + S::ROWS, ..*outputs };
        outputs.finish_all::<S>(format, count, b_sums, b_minimums);
    }
}

/// Continues the stored chains of activation rows `t ..` over a tile that begins at group `first`.
///
/// # Safety
/// As [`chains`].
#[inline(always)]
unsafe fn continue_rest<S: Simd>(
    format: WeightFormat,
    tile: &[Group<S>],
    inputs: &Inputs<'_>,
    mut t: usize,
    first: usize,
    sums: &mut [f32],
    minimums: &mut [f32],
) {
    let count = inputs.activations.rows();
    // SAFETY: the caller's promise.
    unsafe {
        while t + 8 <= count && S::ROWS == 16 {
            continue_chains::<S, 8>(format, tile, inputs, t, first, sums, minimums);
            t += 8;
        }
        while t + 4 <= count {
            continue_chains::<S, 4>(format, tile, inputs, t, first, sums, minimums);
            t += 4;
        }
        while t + 2 <= count {
            continue_chains::<S, 2>(format, tile, inputs, t, first, sums, minimums);
            t += 2;
        }
        if t < count {
            continue_chains::<S, 1>(format, tile, inputs, t, first, sums, minimums);
        }
    }
}

/// Continues the stored chains of activation rows `t .. t + T` over a tile that begins at group `first`.
///
/// # Safety
/// As [`by_format`]; `sums` and `minimums` have `ROWS` elements for each activation row.
#[inline(always)]
unsafe fn continue_chains<S: Simd, const T: usize>(
    format: WeightFormat,
    tile: &[Group<S>],
    inputs: &Inputs<'_>,
    t: usize,
    first: usize,
    sums: &mut [f32],
    minimums: &mut [f32],
) {
    let sums = sums[t * S::ROWS..][..T * S::ROWS].as_mut_ptr();
    let minimums = minimums[t * S::ROWS..][..T * S::ROWS].as_mut_ptr();
    // SAFETY: the slices above are T vectors long; the rest is the caller's promise.
    unsafe {
        let mut sum = [S::splat_float(0.0); 8];
        let mut minimum = sum;
        for i in 0..T {
            sum[i] = S::load_float(sums.add(i * S::ROWS));
            if format.has_minimum() {
                minimum[i] = S::load_float(minimums.add(i * S::ROWS));
            }
        }
        for (g, group) in tile.iter().enumerate() {
            macro_rules! step {
                ($($i:literal)*) => {
                    $(if $i < T {
                        let activation = inputs.group(format, t + $i, first + g);
                        accumulate::<S>(format, group, activation, &mut sum[$i], &mut minimum[$i]);
                    })*
                };
            }
            // Written out: a loop that the compiler keeps would keep the sums in memory.
            step!(0 1 2 3 4 5 6 7);
        }
        for i in 0..T {
            S::store_float(sums.add(i * S::ROWS), sum[i]);
            if format.has_minimum() {
                S::store_float(minimums.add(i * S::ROWS), minimum[i]);
            }
        }
    }
}
