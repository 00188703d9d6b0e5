//! Matrix products: weight rows times activation rows, one chain for each output.

use std::ops::Range;

use crate::activation::{GROUP, QuantizedRow, QuantizedRows};
use crate::format::{
    Group, GroupShape, WeightFormat, bf16_to_f32, dequantize_group, f16_to_f32, unpack_group,
};
use crate::set::KernelSet;
use crate::simd::Simd;
use crate::tile::{TILE_GROUPS, Tile, accumulate, unpack};

/// A weight matrix as it lies in a file: `rows` output features of `columns` inputs, row-major.
#[derive(Clone, Copy, Debug)]
pub struct WeightMatrix<'a> {
    format: WeightFormat,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    bytes: &'a [u8],
    scale: f32,
}

/// The bytes given for a weight matrix do not have its shape.
#[derive(Debug, PartialEq, Eq)]
pub struct ShapeMismatch;

impl std::fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes of a weight matrix do not match its rows and columns")
    }
}

impl std::error::Error for ShapeMismatch {}

impl<'a> WeightMatrix<'a> {
    /// A matrix over `bytes`.
    ///
    /// # Errors
    /// When `bytes` are not exactly `rows` rows of `columns` elements.
    pub fn new(
        format: WeightFormat,
        rows: usize,
        columns: usize,
        bytes: &'a [u8],
    ) -> Result<Self, ShapeMismatch> {
        let row_bytes = format.row_bytes(columns).ok_or(ShapeMismatch)?;
        if row_bytes.checked_mul(rows) != Some(bytes.len()) {
            return Err(ShapeMismatch);
        }
        Ok(Self { format, rows, columns, row_bytes, bytes, scale: 1.0 })
    }

    /// The same matrix with a scale of its own (NVFP4 has one), applied once to each finished output.
    pub const fn with_scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Output features.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Storage format.
    pub const fn format(&self) -> WeightFormat {
        self.format
    }

    /// The bytes of row `index`.
    pub fn row(&self, index: usize) -> &'a [u8] {
        &self.bytes[index * self.row_bytes..][..self.row_bytes]
    }

    /// Dequantizes row `index` into `out`, matrix scale included.
    ///
    /// # Panics
    /// If `out` is not `columns` long or `index` is no row.
    pub fn dequantize_row(&self, index: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "a row has `columns` elements");
        crate::format::dequantize_row(self.format, self.row(index), out);
        if self.scale != 1.0 {
            for value in out {
                *value *= self.scale;
            }
        }
    }
}

/// The right side of a product.
#[derive(Clone, Copy, Debug)]
pub enum Activations<'a> {
    /// int8 groups, for integer and FP4 weights in default arithmetic.
    Quantized(&'a QuantizedRows),
    /// `f32` rows of `columns` each: floating weights, and every weight in `exact` arithmetic.
    Float {
        /// Row-major values.
        values: &'a [f32],
        /// Elements in a row.
        columns: usize,
    },
}

impl Activations<'_> {
    /// Number of activation rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Quantized(rows) => rows.rows(),
            Self::Float { values, columns } => values.len() / (*columns).max(1),
        }
    }
}

/// Where a product goes: activation row `t`'s output for weight row `r` is at `t * stride + r`.
///
/// Several threads write disjoint weight rows of the same output, hence the pointer.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    pointer: *mut f32,
    length: usize,
    stride: usize,
    marker: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `matmul`'s contract is that threads write disjoint rows.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// An output over `values`, `stride` elements from one activation row to the next.
    pub fn new(values: &'a mut [f32], stride: usize) -> Self {
        Self { pointer: values.as_mut_ptr(), length: values.len(), stride, marker: std::marker::PhantomData }
    }

    /// Writes one output.
    ///
    /// # Safety
    /// No other thread touches this element.
    #[inline(always)]
    unsafe fn write(&self, activation: usize, row: usize, value: f32) {
        let at = activation * self.stride + row;
        debug_assert!(at < self.length);
        // SAFETY: `matmul` has checked that the last element is inside.
        unsafe { self.pointer.add(at).write(value) };
    }
}

/// Buffers of one thread, reused from product to product.
#[derive(Debug, Default)]
pub struct MatmulScratch {
    sums: Vec<f32>,
    panel: Vec<f32>,
    row: Vec<f32>,
}

/// Rows that one thread should be given a multiple of.
pub const ROW_QUANTUM: usize = 16;

/// Computes outputs `rows` of `weights` for every activation row.
///
/// # Safety
/// No other thread reads or writes the outputs of these rows during the call.
///
/// # Panics
/// If shapes disagree, or if quantized activations meet floating weights.
pub unsafe fn matmul(
    set: KernelSet,
    weights: &WeightMatrix<'_>,
    activations: &Activations<'_>,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    let count = activations.rows();
    if rows.is_empty() || count == 0 {
        return;
    }
    assert!(rows.end <= weights.rows, "rows outside the matrix");
    assert!((count - 1) * output.stride + weights.rows <= output.length, "the output is too small");
    match activations {
        Activations::Quantized(quantized) => {
            assert!(!weights.format.is_float(), "floating weights meet f32 activations");
            assert_eq!(quantized.groups(), weights.columns.div_ceil(GROUP), "columns disagree");
            match set {
                // SAFETY: the caller's promise about the output rows.
                KernelSet::Scalar => unsafe { integer_scalar(weights, quantized, rows, output) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the set says that the CPU has the instructions.
                KernelSet::Avx2 => unsafe { integer_avx2(weights, quantized, rows, output, scratch) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                KernelSet::Avx512 => unsafe { integer_avx512(weights, quantized, rows, output, scratch) },
                #[cfg(not(target_arch = "x86_64"))]
                // SAFETY: the caller's promise about the output rows.
                _ => unsafe { integer_scalar(weights, quantized, rows, output) },
            }
        }
        Activations::Float { values, columns } => {
            assert_eq!(*columns, weights.columns, "columns disagree");
            match set {
                // SAFETY: the caller's promise about the output rows.
                KernelSet::Scalar => unsafe { float_scalar(weights, values, rows, output, scratch) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the set says that the CPU has the instructions.
                KernelSet::Avx2 => unsafe { float_avx2(weights, values, rows, output, scratch) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                KernelSet::Avx512 => unsafe { float_avx512(weights, values, rows, output, scratch) },
                #[cfg(not(target_arch = "x86_64"))]
                // SAFETY: the caller's promise about the output rows.
                _ => unsafe { float_scalar(weights, values, rows, output, scratch) },
            }
        }
    }
}

/// The definition: one output of an integer format.
fn integer_chain(weights: &WeightMatrix<'_>, row: usize, activation: QuantizedRow<'_>) -> f32 {
    let bytes = weights.row(row);
    let (mut sum, mut minimum) = (0.0_f32, 0.0_f32);
    for (g, scale) in activation.scales.iter().enumerate() {
        let group = unpack_group(weights.format, bytes, g);
        let codes = &activation.codes[GROUP * g..][..GROUP];
        sum = integer_step(weights.format, &group, codes, *scale, sum);
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
fn integer_step(format: WeightFormat, group: &Group, codes: &[i8], scale: f32, sum: f32) -> f32 {
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
/// As [`matmul`].
unsafe fn integer_scalar(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
) {
    for row in rows {
        for t in 0..activations.rows() {
            // SAFETY: the caller's promise.
            unsafe { output.write(t, row, integer_chain(weights, row, activations.row(t))) };
        }
    }
}

/// # Safety
/// As [`matmul`].
unsafe fn float_scalar(
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
unsafe fn integer_avx2(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { integer_rows::<crate::simd::avx2::Avx2>(weights, activations, rows, output, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn integer_avx512(
    weights: &WeightMatrix<'_>,
    activations: &QuantizedRows,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { integer_rows::<crate::simd::avx512::Avx512>(weights, activations, rows, output, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_avx2(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { float_rows::<crate::simd::avx2::Avx2>(weights, values, rows, output, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn float_avx512(
    weights: &WeightMatrix<'_>,
    values: &[f32],
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { float_rows::<crate::simd::avx512::Avx512>(weights, values, rows, output, scratch) }
}

/// Calls the body once for each format that has kernels of its own, so that the format is a constant inside.
///
/// # Safety
/// As [`matmul`]; the CPU has `S`.
#[inline(always)]
unsafe fn integer_rows<S: Simd>(
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
                    unsafe { integer_body::<S>(WeightFormat::$format, weights, activations, rows, output, scratch) }
                })*
                // SAFETY: the caller's promise.
                other => unsafe { integer_body::<S>(other, weights, activations, rows, output, scratch) },
            }
        };
    }
    each!(Q4_0, Q4_1, Q5_0, Q8_0, Q4K, Q6K);
}

/// The starts of `S::ROWS` rows from `first`; rows past the end repeat the last one.
#[inline(always)]
fn row_pointers(weights: &WeightMatrix<'_>, first: usize) -> [*const u8; 16] {
    std::array::from_fn(|i| weights.row((first + i).min(weights.rows - 1)).as_ptr())
}

/// # Safety
/// As [`integer_rows`].
#[inline(always)]
unsafe fn integer_body<S: Simd>(
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
                    unpack(format, &pointers, weights.row_bytes, first, n, &mut tile);
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
                unpack(format, &pointers, weights.row_bytes, first, n, &mut tile);
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

/// Asks for the bytes of the next rows while the present ones are computed.
///
/// Sixteen rows at a time are sixteen short streams, which hardware prefetchers follow badly; together the rows are one
/// long run of bytes.
struct Ahead<'a> {
    bytes: std::slice::Chunks<'a, u8>,
}

impl<'a> Ahead<'a> {
    /// Spreads rows `first .. first + rows` over `steps` steps.
    #[inline(always)]
    fn new(weights: &WeightMatrix<'a>, first: usize, rows: usize, steps: usize) -> Self {
        let start = first.min(weights.rows) * weights.row_bytes;
        let end = (first + rows).min(weights.rows) * weights.row_bytes;
        let bytes = &weights.bytes[start..end];
        Self { bytes: bytes.chunks(bytes.len().div_ceil(steps).max(1)) }
    }

    #[inline(always)]
    fn step(&mut self) {
        for line in self.bytes.next().unwrap_or_default().chunks(64) {
            prefetch(line.as_ptr());
        }
    }
}

/// Asks for a cache line. A hint: it never faults.
#[inline(always)]
fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on the cache, and SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Continues the stored chains of activation rows `t .. t + T`.
///
/// # Safety
/// As [`integer_rows`]; `sums` and `minimums` have `ROWS` elements for each activation row.
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
/// As [`integer_rows`].
#[inline(always)]
unsafe fn float_rows<S: Simd>(
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
                    float_step::<S, 4>(
                        &scratch.panel,
                        &values[t * columns + first..],
                        columns,
                        n,
                        &mut scratch.sums[t * S::ROWS..],
                    );
                    t += 4;
                }
                while t < count {
                    float_step::<S, 1>(
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
/// As [`float_rows`]; `values` reaches `(T - 1) * columns + n`.
#[inline(always)]
unsafe fn float_step<S: Simd, const T: usize>(
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
