//! A small trial of a kernel set against the definition, made before the set is first used.

use crate::activation::QuantizedRows;
use crate::format::WeightFormat;
use crate::matmul::{Activations, MatmulScratch, Output, WeightMatrix, matmul};
use crate::pool::ThreadPool;
use crate::set::KernelSet;

/// One format for each way that a dot is formed: signed codes, unsigned codes with minimums, halves with
/// a scale each, integer sub-scales; and one that meets `f32`.
const FORMATS: [WeightFormat; 5] =
    [WeightFormat::Q8_0, WeightFormat::Q4K, WeightFormat::Nvfp4, WeightFormat::Q6K, WeightFormat::F16];
/// A whole tile of the widest set, and some rows more.
const ROWS: usize = 19;
const COLUMNS: usize = 256;
/// A group of four that kernels take at once, and one alone.
const COUNT: usize = 5;

/// Whether the products of `set` equal the definition's, bit for bit.
pub(crate) fn passes(set: KernelSet) -> bool {
    set == KernelSet::Scalar
        || FORMATS.into_iter().all(|format| product(set, format) == product(KernelSet::Scalar, format))
}

/// Bits of the outputs; `None` if they cannot be computed at all.
fn product(set: KernelSet, format: WeightFormat) -> Option<Vec<u32>> {
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    // No byte of these has all exponent bits of a half or of an E4M3 scale, so that every scale is a number.
    let bytes: Vec<u8> = (0..ROWS * format.row_bytes(COLUMNS)?).map(|_| byte() & 0xBB).collect();
    // Magnitudes differ, and each group's largest takes a code of 127 of either sign.
    let values: Vec<f32> =
        (0..COUNT * COLUMNS).map(|i| f32::from(byte() as i8) * [1.0, 0.25, 40.0][i / 32 % 3]).collect();
    let weights = WeightMatrix::new(format, ROWS, COLUMNS, &bytes).ok()?;
    let mut quantized = QuantizedRows::default();
    let activations = if format.is_float() {
        Activations::Float { values: &values, columns: COLUMNS }
    } else {
        quantized.quantize(set, &mut ThreadPool::new(1).ok()?, &values, COUNT, COLUMNS);
        Activations::Quantized(&quantized)
    };
    let mut outputs = vec![0.0; COUNT * ROWS];
    let output = Output::new(&mut outputs, ROWS);
    // SAFETY: the output is this function's own.
    unsafe { matmul(set, &weights, &activations, 0..ROWS, &output, &mut MatmulScratch::default()) };
    outputs.iter().map(|value| value.is_finite().then(|| value.to_bits())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_computes_numbers_and_every_set_that_is_present_passes() {
        for format in FORMATS {
            assert!(product(KernelSet::Scalar, format).is_some(), "{} gives numbers", format.name());
        }
        for set in KernelSet::present() {
            for format in FORMATS {
                let (got, wanted) = (product(set, format), product(KernelSet::Scalar, format));
                assert_eq!(got, wanted, "{} on {}", format.name(), set.name());
            }
        }
        assert_eq!(KernelSet::available(), KernelSet::present());
    }
}
