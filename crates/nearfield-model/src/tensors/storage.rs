//! How the elements of a tensor lie in a file, and the forms in which kernels take them.

use std::{ops::Range, sync::OnceLock};

use nearfield_kernels::{Fp8Scales, WeightFormat};

/// Bytes of a file: which part of a model that is cut over several, and where in it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) part: usize,
    pub(super) range: Range<usize>,
}

/// The storage of one tensor.
#[derive(Clone, Debug)]
pub(super) enum Storage {
    /// Whole blocks of a format, with a factor on all.
    Blocks { format: WeightFormat, place: Place, scale: f32 },
    /// Four-bit codes and their scales apart from them.
    Fp4(Fp4),
    /// Bytes and their scales apart from them.
    Fp8 { codes: Place, scales: Fp8Store },
}

/// The scales of an FP8 matrix.
#[derive(Clone, Debug)]
pub(super) enum Fp8Store {
    Matrix(f32),
    Rows(Vec<f32>),
    Blocks(Vec<f32>),
}

impl Fp8Store {
    /// The factor on the whole matrix, and the scales of parts of it.
    pub(super) fn parts(&self) -> (f32, Option<Fp8Scales<'_>>) {
        match self {
            Self::Matrix(scale) => (*scale, None),
            Self::Rows(scales) => (1.0, Some(Fp8Scales::Rows(scales))),
            Self::Blocks(scales) => (1.0, Some(Fp8Scales::Blocks(scales))),
        }
    }
}

/// A matrix of E2M1 codes, two a byte with the first in the low half, and a plane of scales. Kernels take blocks, in
/// which the scales stand before their codes: they are packed when the matrix is first asked for, and kept.
#[derive(Clone, Debug)]
pub(super) struct Fp4 {
    /// [`WeightFormat::Nvfp4`] or [`WeightFormat::Mxfp4`].
    pub(super) format: WeightFormat,
    pub(super) codes: Place,
    pub(super) scales: Place,
    /// Factor on the whole matrix.
    pub(super) scale: f32,
    pub(super) packed: OnceLock<Result<Vec<u8>, String>>,
}

impl Fp4 {
    /// Elements that share a scale.
    pub(super) fn group(format: WeightFormat) -> usize {
        if format == WeightFormat::Nvfp4 { 16 } else { 32 }
    }

    /// Columns with those that fill the last block up, whose weights are zero.
    pub(super) fn padded(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.format.block_size())
    }
}

/// Blocks of `rows` rows of `columns` elements from codes and scales, each row filled up to whole blocks with zeros.
///
/// # Errors
/// When there are more or fewer bytes than the sizes say, or a scale is not a number.
pub(super) fn pack(
    format: WeightFormat,
    rows: usize,
    columns: usize,
    codes: &[u8],
    scales: &[u8],
) -> Result<Vec<u8>, String> {
    let group = Fp4::group(format);
    let (code_bytes, scale_bytes) = (columns / 2, columns / group);
    if !columns.is_multiple_of(group)
        || codes.len() != rows * code_bytes
        || scales.len() != rows * scale_bytes
    {
        return Err(format!("has {} bytes of codes and {} of scales", codes.len(), scales.len()));
    }
    let bad = |scale: &u8| if format == WeightFormat::Nvfp4 { *scale >= 0x7F } else { *scale == 0xFF };
    if let Some(position) = scales.iter().position(bad) {
        return Err(format!("scale {position} is {:#04x}, which is no usable number", scales[position]));
    }
    let (size, block_bytes) = (format.block_size(), format.block_bytes());
    let groups_a_block = size / group;
    let row_bytes = columns.div_ceil(size) * block_bytes;
    let mut packed = vec![0; rows * row_bytes];
    let rows_of = codes.chunks_exact(code_bytes.max(1)).zip(scales.chunks_exact(scale_bytes.max(1)));
    for (out, (codes, scales)) in packed.chunks_exact_mut(row_bytes.max(1)).zip(rows_of) {
        for (number, (codes, scale)) in codes.chunks_exact(group / 2).zip(scales).enumerate() {
            let block = &mut out[number / groups_a_block * block_bytes..][..block_bytes];
            let part = number % groups_a_block;
            block[part] = *scale;
            // In a block the first half of a group lies in the low halves of its bytes, the second in the high ones.
            let half = group / 4;
            let place = &mut block[groups_a_block + part * group / 2..][..group / 2];
            let element = |i: usize| (codes[i / 2] >> (4 * (i % 2))) & 15;
            for (i, byte) in place.iter_mut().enumerate() {
                *byte = element(i) | (element(i + 2 * half) << 4);
            }
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use nearfield_kernels::dequantize_row;

    use super::*;

    /// E2M1 codes 0 to 7 and their negatives.
    const VALUES: [f32; 16] =
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

    fn check(format: WeightFormat, scales: &[(u8, f32)], columns: usize) {
        let rows = 3;
        let group = Fp4::group(format);
        let codes: Vec<u8> = (0..rows * columns / 2).map(|i| (i * 37 + 11) as u8).collect();
        let plane: Vec<u8> = (0..rows * columns / group).map(|i| scales[i % scales.len()].0).collect();
        let packed = pack(format, rows, columns, &codes, &plane).unwrap();
        let padded = columns.next_multiple_of(format.block_size());
        let mut row = vec![0.0; padded];
        for (r, bytes) in packed.chunks_exact(packed.len() / rows).enumerate() {
            dequantize_row(format, bytes, &mut row);
            for (k, value) in row.iter().enumerate().take(columns) {
                let byte = codes[r * columns / 2 + k / 2];
                let code = if k % 2 == 0 { byte & 15 } else { byte >> 4 };
                let scale = scales[(r * columns / group + k / group) % scales.len()].1;
                assert_eq!(*value, VALUES[usize::from(code)] * scale, "{format:?}, row {r}, column {k}");
            }
            assert!(row[columns..].iter().all(|value| *value == 0.0));
        }
    }

    #[test]
    fn the_low_half_of_a_byte_comes_first() {
        check(WeightFormat::Nvfp4, &[(0x38, 1.0), (0x7E, 448.0), (0x01, 1.0 / 512.0), (0x00, 0.0)], 128);
        check(WeightFormat::Mxfp4, &[(127, 1.0), (130, 8.0), (120, 1.0 / 128.0)], 96);
    }

    #[test]
    fn rows_of_any_number_of_groups_are_filled_up() {
        check(WeightFormat::Nvfp4, &[(0x38, 1.0), (0x40, 2.0)], 160);
        check(WeightFormat::Nvfp4, &[(0x38, 1.0), (0x40, 2.0), (0x30, 0.5)], 16);
        check(WeightFormat::Mxfp4, &[(127, 1.0)], 32);
    }

    #[test]
    fn scales_that_are_no_numbers_and_wrong_lengths_are_refused() {
        let nan = pack(WeightFormat::Nvfp4, 1, 32, &[0; 16], &[0x38, 0x7F]);
        assert!(nan.unwrap_err().contains("scale 1"));
        assert!(pack(WeightFormat::Nvfp4, 1, 32, &[0; 16], &[0x38, 0xB8]).is_err(), "negative");
        assert!(pack(WeightFormat::Mxfp4, 1, 32, &[0; 16], &[255]).is_err());
        assert!(pack(WeightFormat::Mxfp4, 1, 32, &[0; 15], &[127]).is_err());
        assert!(pack(WeightFormat::Nvfp4, 1, 24, &[0; 12], &[1]).is_err());
    }
}
