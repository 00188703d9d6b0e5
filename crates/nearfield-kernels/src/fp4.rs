//! FP4 matrices as checkpoints store them: a plane of codes and a plane of scales. Kernels take blocks, in which the
//! scales stand before their codes.

use crate::format::WeightFormat;

/// E2M1 codes, two a byte with the first in the low half, and the scales of runs of them apart.
#[derive(Clone, Copy, Debug)]
pub struct Fp4Planes<'a> {
    /// [`WeightFormat::Nvfp4`], with an E4M3 scale for 16 codes, or [`WeightFormat::Mxfp4`], with an E8M0 one for 32.
    pub format: WeightFormat,
    /// Codes in a row: whole groups.
    pub columns: usize,
    /// `[rows][columns / 2]`
    pub codes: &'a [u8],
    /// `[rows][columns / group]`
    pub scales: &'a [u8],
}

/// Planes that are not what they are said to be.
#[derive(Debug, PartialEq, Eq)]
pub struct PlanesMismatch;

impl std::fmt::Display for PlanesMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the codes and scales of an FP4 matrix do not match its rows and columns")
    }
}

impl std::error::Error for PlanesMismatch {}

impl Fp4Planes<'_> {
    /// Codes that share a scale.
    pub const fn group(format: WeightFormat) -> usize {
        if matches!(format, WeightFormat::Nvfp4) { 16 } else { 32 }
    }

    /// Columns with those that fill the last block up.
    pub const fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(self.format.block_size())
    }

    /// The first scale that is no usable number, if there is one: a NaN, or a negative where there is a sign.
    pub fn bad_scale(&self) -> Option<usize> {
        // Runs are searched without a branch for each scale.
        let is_bad = |scale: u8| {
            if self.format == WeightFormat::Nvfp4 { scale >= 0x7F } else { scale == 0xFF }
        };
        let run = 4096;
        let number = self
            .scales
            .chunks(run)
            .position(|scales| scales.iter().fold(false, |any, scale| any | is_bad(*scale)))?;
        let within = self.scales[number * run..].iter().position(|scale| is_bad(*scale))?;
        Some(number * run + within)
    }

    pub(crate) fn check(&self, rows: usize) -> Result<(), PlanesMismatch> {
        let group = Self::group(self.format);
        let fits = matches!(self.format, WeightFormat::Nvfp4 | WeightFormat::Mxfp4)
            && self.columns.is_multiple_of(group)
            && rows.checked_mul(self.columns / 2) == Some(self.codes.len())
            && rows.checked_mul(self.columns / group) == Some(self.scales.len());
        if fits { Ok(()) } else { Err(PlanesMismatch) }
    }

    /// Writes row `row` as blocks, filled up with zeros.
    ///
    /// # Panics
    /// If there is no such row or `out` has not its size.
    pub(crate) fn blocks(&self, row: usize, out: &mut [u8]) {
        let (half, groups) = (self.columns / 2, self.columns / Self::group(self.format));
        let codes = &self.codes[row * half..][..half];
        let scales = &self.scales[row * groups..][..groups];
        if self.format == WeightFormat::Nvfp4 {
            nvfp4(codes, scales, out);
        } else {
            mxfp4(codes, scales, out);
        }
    }
}

/// Blocks of four scales and 64 codes.
fn nvfp4(codes: &[u8], scales: &[u8], out: &mut [u8]) {
    let (blocks, rest) = out.as_chunks_mut::<36>();
    debug_assert!(rest.is_empty());
    let whole = (codes.as_chunks::<32>().0, scales.as_chunks::<4>().0);
    let (full, last) = blocks.split_at_mut(whole.0.len());
    for ((block, codes), scales) in full.iter_mut().zip(whole.0).zip(whole.1) {
        nvfp4_block(codes, *scales, block);
    }
    if let [block] = last {
        let (mut few_codes, mut few_scales) = ([0; 32], [0; 4]);
        let (codes, scales) = (&codes[32 * full.len()..], &scales[4 * full.len()..]);
        few_codes[..codes.len()].copy_from_slice(codes);
        few_scales[..scales.len()].copy_from_slice(scales);
        nvfp4_block(&few_codes, few_scales, block);
    }
}

fn nvfp4_block(codes: &[u8; 32], scales: [u8; 4], out: &mut [u8; 36]) {
    out[..4].copy_from_slice(&scales);
    for (out, codes) in out[4..].as_chunks_mut::<8>().0.iter_mut().zip(codes.as_chunks::<8>().0) {
        let [low, high] = halves(*codes);
        *out = (spread(low) | (spread(high) << 4)).to_le_bytes();
    }
}

/// Blocks of one scale and 32 codes, which are whole always.
fn mxfp4(codes: &[u8], scales: &[u8], out: &mut [u8]) {
    let groups = codes.as_chunks::<16>().0.iter().zip(scales);
    for (out, (codes, scale)) in out.as_chunks_mut::<17>().0.iter_mut().zip(groups) {
        out[0] = *scale;
        // In a block the first half of a group lies in the low halves of its bytes, the second in the high ones.
        let (first, second) = codes.split_at(8);
        let places = out[1..].as_chunks_mut::<8>().0.iter_mut();
        let pairs = first.as_chunks::<4>().0.iter().zip(second.as_chunks::<4>().0);
        for (place, (low, high)) in places.zip(pairs) {
            *place =
                (spread(u32::from_le_bytes(*low)) | (spread(u32::from_le_bytes(*high)) << 4)).to_le_bytes();
        }
    }
}

/// The first and the last four of eight bytes.
const fn halves(bytes: [u8; 8]) -> [u32; 2] {
    let all = u64::from_le_bytes(bytes);
    [all as u32, (all >> 32) as u32]
}

/// Each half byte in the low half of a byte of its own.
const fn spread(nibbles: u32) -> u64 {
    let wide = nibbles as u64;
    let wide = (wide | (wide << 16)) & 0x0000_FFFF_0000_FFFF;
    let wide = (wide | (wide << 8)) & 0x00FF_00FF_00FF_00FF;
    (wide | (wide << 4)) & 0x0F0F_0F0F_0F0F_0F0F
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dequantize_row;
    use crate::matmul::WeightMatrix;

    /// E2M1 codes 0 to 7 and their negatives.
    const VALUES: [f32; 16] =
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

    fn check(format: WeightFormat, scales: &[(u8, f32)], columns: usize) {
        let rows = 3;
        let group = Fp4Planes::group(format);
        let codes: Vec<u8> = (0..rows * columns / 2).map(|i| (i * 37 + 11) as u8).collect();
        let plane: Vec<u8> = (0..rows * columns / group).map(|i| scales[i % scales.len()].0).collect();
        let planes = Fp4Planes { format, columns, codes: &codes, scales: &plane };
        assert_eq!(planes.bad_scale(), None);
        let matrix = WeightMatrix::of_planes(rows, planes).unwrap();
        assert_eq!(matrix.columns(), columns.next_multiple_of(format.block_size()));
        let mut row = vec![0.0; matrix.columns()];
        for r in 0..rows {
            dequantize_row(format, &matrix.row(r), &mut row);
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
    fn scales_that_are_no_numbers_and_wrong_lengths_are_found() {
        let planes = |format, columns, codes, scales| Fp4Planes { format, columns, codes, scales };
        assert_eq!(planes(WeightFormat::Nvfp4, 32, &[0; 16], &[0x38, 0x7F]).bad_scale(), Some(1));
        assert_eq!(planes(WeightFormat::Nvfp4, 32, &[0; 16], &[0xB8, 0x38]).bad_scale(), Some(0), "negative");
        assert_eq!(planes(WeightFormat::Mxfp4, 32, &[0; 16], &[255]).bad_scale(), Some(0));
        let mut many = vec![0x38; 10_000];
        many[9_000] = 0x80;
        assert_eq!(planes(WeightFormat::Nvfp4, 16, &[], &many).bad_scale(), Some(9_000));
        let matrix = |planes| WeightMatrix::of_planes(1, planes);
        assert!(matrix(planes(WeightFormat::Mxfp4, 32, &[0; 16], &[127])).is_ok());
        assert!(matrix(planes(WeightFormat::Mxfp4, 32, &[0; 15], &[127])).is_err());
        assert!(matrix(planes(WeightFormat::Nvfp4, 24, &[0; 12], &[1])).is_err());
        assert!(matrix(planes(WeightFormat::Q4_0, 32, &[0; 16], &[1])).is_err());
    }
}
