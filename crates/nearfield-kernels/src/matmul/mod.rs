//! Matrix products: weight rows times activation rows, one chain for each output.

mod ahead;
mod direct;
mod float;
mod fp8;
mod integer;

use std::ops::Range;

use crate::activation::{GROUP, QuantizedRows};
use crate::format::WeightFormat;
use crate::fp8::{FP8_BLOCK, Fp8Scales, ScalesMismatch};
use crate::set::KernelSet;

/// A weight matrix as it lies in a file: `rows` output features of `columns` inputs, row-major.
#[derive(Clone, Copy, Debug)]
pub struct WeightMatrix<'a> {
    format: WeightFormat,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    bytes: &'a [u8],
    scale: f32,
    scales: Option<Fp8Scales<'a>>,
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
        Ok(Self { format, rows, columns, row_bytes, bytes, scale: 1.0, scales: None })
    }

    /// The same matrix with a scale of its own (NVFP4 has one), applied once to each finished output.
    pub const fn with_scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// The same FP8 matrix with scales for its rows or blocks.
    ///
    /// # Errors
    /// When the matrix is not FP8, or when the scales are too few, too many, not finite or too large.
    pub fn with_scales(mut self, scales: Fp8Scales<'a>) -> Result<Self, ScalesMismatch> {
        scales.check(self.format, self.rows, self.columns)?;
        self.scales = Some(scales);
        Ok(self)
    }

    /// What multiplies the finished outputs of a row.
    #[inline]
    fn output_scale(&self, row: usize) -> f32 {
        match self.scales {
            Some(Fp8Scales::Rows(scales)) => scales[row] * self.scale,
            _ => self.scale,
        }
    }

    /// What multiplies a weight before it meets an activation.
    #[inline]
    fn block_scale(&self, row: usize, column: usize) -> f32 {
        match self.scales {
            Some(Fp8Scales::Blocks(scales)) => {
                scales[row / FP8_BLOCK * self.columns.div_ceil(FP8_BLOCK) + column / FP8_BLOCK]
            }
            _ => 1.0,
        }
    }

    /// The values of row `index` that meet activations: without what multiplies finished outputs.
    fn weights_of_row(&self, index: usize, out: &mut [f32]) {
        crate::format::dequantize_row(self.format, self.row(index), out);
        if let Some(Fp8Scales::Blocks(_)) = self.scales {
            for (block, values) in out.chunks_mut(FP8_BLOCK).enumerate() {
                crate::vector::scale(values, self.block_scale(index, block * FP8_BLOCK));
            }
        }
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

    /// Dequantizes row `index` into `out`, all scales included.
    ///
    /// # Panics
    /// If `out` is not `columns` long or `index` is no row.
    pub fn dequantize_row(&self, index: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "a row has `columns` elements");
        self.weights_of_row(index, out);
        let scale = self.output_scale(index);
        if scale != 1.0 {
            crate::vector::scale(out, scale);
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
                KernelSet::Scalar => unsafe { integer::scalar(weights, quantized, rows, output) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the set says that the CPU has the instructions.
                KernelSet::Avx2 => unsafe { integer::avx2(weights, quantized, rows, output, scratch) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                KernelSet::AvxVnni => unsafe { integer::avx_vnni(weights, quantized, rows, output, scratch) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                KernelSet::Avx512 => unsafe { integer::avx512(weights, quantized, rows, output, scratch) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: as above.
                KernelSet::Neon => unsafe { integer::neon(weights, quantized, rows, output, scratch) },
            }
        }
        Activations::Float { values, columns } => {
            assert_eq!(*columns, weights.columns, "columns disagree");
            match set {
                // SAFETY: the caller's promise about the output rows.
                KernelSet::Scalar => unsafe { float::scalar(weights, values, rows, output, scratch) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the set says that the CPU has the instructions.
                KernelSet::Avx2 | KernelSet::AvxVnni => unsafe {
                    float::avx2(weights, values, rows, output, scratch);
                },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                KernelSet::Avx512 => unsafe { float::avx512(weights, values, rows, output, scratch) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: as above.
                KernelSet::Neon => unsafe { float::neon(weights, values, rows, output, scratch) },
            }
        }
    }
}

/// The starts of `S::ROWS` rows from `first`; rows past the end repeat the last one.
#[inline(always)]
fn row_pointers(weights: &WeightMatrix<'_>, first: usize) -> [*const u8; 16] {
    std::array::from_fn(|i| weights.row((first + i).min(weights.rows - 1)).as_ptr())
}
