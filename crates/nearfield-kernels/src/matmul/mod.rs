//! Matrix products: weight rows times activation rows, one chain for each output.

mod ahead;
mod direct;
mod dwords;
mod float;
mod fp8;
mod integer;
mod outputs;
mod scalar;
mod weights;
mod wide;

use std::ops::Range;

use crate::activation::{GROUP, QuantizedRows};
use crate::set::KernelSet;

pub(crate) use ahead::{prefetch, prefetch_far};
pub use weights::{ShapeMismatch, WeightMatrix};

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

    /// The outputs from weight row `row` on.
    ///
    /// # Panics
    /// If there is no such row.
    fn after_row(&self, row: usize) -> Self {
        assert!(row < self.length);
        // SAFETY: checked.
        let pointer = unsafe { self.pointer.add(row) };
        Self { pointer, length: self.length - row, ..*self }
    }

    /// Writes one output.
    ///
    /// # Safety
    /// No other thread touches this element.
    #[inline(always)]
    unsafe fn write(&self, activation: usize, row: usize, value: f32) {
        // SAFETY: the caller's promise.
        unsafe { self.place(activation, row).write(value) };
    }

    /// Where the outputs of an activation row lie, from that of weight row `row`.
    ///
    /// # Safety
    /// `matmul` has checked that both rows are inside.
    #[inline(always)]
    unsafe fn place(&self, activation: usize, row: usize) -> *mut f32 {
        let at = activation * self.stride + row;
        debug_assert!(at < self.length);
        // SAFETY: the caller's promise.
        unsafe { self.pointer.add(at) }
    }
}

/// Buffers of one thread, reused from product to product.
#[derive(Debug, Default)]
pub struct MatmulScratch {
    sums: Vec<f32>,
    panel: Vec<f32>,
    row: Vec<f32>,
    /// For each activation row and group: what the dots of both halves begin at.
    starts: Vec<[i32; 2]>,
    /// For each activation row and group: the sums of the codes of both halves.
    code_sums: Vec<[f32; 2]>,
    /// Blocks that were put together.
    blocks: Vec<u8>,
}

/// Rows that one thread should be given a multiple of.
pub const ROW_QUANTUM: usize = 16;

/// Computes outputs `rows` of `weights` for every activation row.
///
/// # Safety
/// No other thread reads or writes the outputs of these rows during the call.
///
/// # Panics
/// If shapes disagree, if `rows` does not begin at a multiple of [`ROW_QUANTUM`] in a matrix of panels, or if quantized
/// activations meet floating weights.
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
    assert!(rows.end <= weights.rows(), "rows outside the matrix");
    assert!(!weights.in_panels() || rows.start.is_multiple_of(ROW_QUANTUM), "rows must begin with a panel");
    assert!((count - 1) * output.stride + weights.rows() <= output.length, "the output is too small");
    if weights.is_apart() {
        // SAFETY: the caller's promise.
        return unsafe { apart(set, weights, activations, rows, output, scratch) };
    }
    match activations {
        Activations::Quantized(quantized) => {
            assert!(!weights.format().is_float(), "floating weights meet f32 activations");
            assert_eq!(quantized.groups(), weights.columns().div_ceil(GROUP), "columns disagree");
            match set {
                // SAFETY: the caller's promise about the output rows.
                KernelSet::Scalar => unsafe { scalar::integer(weights, quantized, rows, output) },
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
            assert_eq!(*columns, weights.columns(), "columns disagree");
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

/// [`matmul`] for a matrix whose codes and scales lie apart: sixteen rows at a time are put together in memory that the
/// first-level cache holds.
///
/// # Safety
/// As [`matmul`].
unsafe fn apart(
    set: KernelSet,
    weights: &WeightMatrix<'_>,
    activations: &Activations<'_>,
    rows: Range<usize>,
    output: &Output<'_>,
    scratch: &mut MatmulScratch,
) {
    let mut blocks = std::mem::take(&mut scratch.blocks);
    for first in rows.clone().step_by(ROW_QUANTUM) {
        let count = ROW_QUANTUM.min(rows.end - first);
        blocks.resize(count * weights.row_bytes(), 0);
        weights.put_together(first, count, &mut blocks);
        let part = weights.of_blocks(count, &blocks);
        // SAFETY: the caller's promise; these are its rows from `first` on.
        unsafe { matmul(set, &part, activations, 0..count, &output.after_row(first), scratch) };
    }
    scratch.blocks = blocks;
}
