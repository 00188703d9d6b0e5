//! FP8 weights: E4M3 codes, and scales for a matrix, its rows, or blocks of it.

use crate::format::{WeightFormat, ue4m3};

/// Rows and columns of a block that shares one scale.
pub const FP8_BLOCK: usize = 128;

/// A scale may not be larger in magnitude than this: the largest weight, 448, would overflow.
const LARGEST_SCALE: f32 = f32::MAX / 448.0;

/// The value of an E4M3 code: 1 sign, 4 exponent and 3 mantissa bits, no infinities; 0x7F and 0xFF are NaN.
#[inline]
pub const fn e4m3_to_f32(code: u8) -> f32 {
    let magnitude = ue4m3(code);
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The E4M3 code of the nearest value, ties to even; what is too large in magnitude, infinities included, becomes 448. NaN
/// stays NaN.
pub fn f32_to_e4m3(x: f32) -> u8 {
    let sign = ((x.to_bits() >> 24) & 0x80) as u8;
    let magnitude = x.abs().min(448.0);
    if x.is_nan() {
        0x7F
    } else if magnitude < f32::from_bits(0x3C80_0000) {
        // Below 2^-6 codes are 2^-9 apart; eight of these are the code of 2^-6 itself.
        sign | (magnitude * 512.0).round_ties_even() as u8
    } else {
        let bits = magnitude.to_bits();
        let rounded = (bits + 0x0007_FFFF + ((bits >> 20) & 1)) >> 20;
        sign | (rounded - (120 << 3)) as u8
    }
}

/// The scales of an FP8 matrix that has more than one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fp8Scales<'a> {
    /// One for each row. It multiplies the row's finished outputs.
    Rows(&'a [f32]),
    /// One for each 128x128 block, row-major; blocks at the right and lower edge may be partial. It multiplies each
    /// weight of the block, rounded to `f32`, before the weight meets an activation.
    Blocks(&'a [f32]),
}

/// Scales do not fit their matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScalesMismatch {
    /// Only FP8 matrices have scales for rows or blocks.
    Format(WeightFormat),
    /// There are more or fewer scales than rows or blocks.
    Count {
        /// Scales that the matrix needs.
        wanted: usize,
        /// Scales that were given.
        found: usize,
    },
    /// A scale is not finite, or so large that weights would overflow.
    Value {
        /// Which one.
        index: usize,
        /// What it is.
        value: f32,
    },
}

impl std::fmt::Display for ScalesMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Format(format) => {
                write!(f, "a {} matrix has no scales of rows or blocks, only an FP8 one has", format.name())
            }
            Self::Count { wanted, found } => {
                write!(f, "the matrix needs {wanted} scales, but there are {found}; the file may be damaged")
            }
            Self::Value { index, value } => write!(
                f,
                "scale {index} is {value}, which is no usable number; the file may be damaged, so fetch it again"
            ),
        }
    }
}

impl std::error::Error for ScalesMismatch {}

impl Fp8Scales<'_> {
    /// Checks the scales against the matrix that they are for.
    pub(crate) fn check(
        &self,
        format: WeightFormat,
        rows: usize,
        columns: usize,
    ) -> Result<(), ScalesMismatch> {
        if format != WeightFormat::F8E4M3 {
            return Err(ScalesMismatch::Format(format));
        }
        let (scales, wanted) = match self {
            Self::Rows(scales) => (scales, rows),
            Self::Blocks(scales) => {
                (scales, rows.div_ceil(FP8_BLOCK).saturating_mul(columns.div_ceil(FP8_BLOCK)))
            }
        };
        if scales.len() != wanted {
            return Err(ScalesMismatch::Count { wanted, found: scales.len() });
        }
        let usable = |scale: &f32| scale.abs() <= LARGEST_SCALE;
        match scales.iter().position(|scale| !usable(scale)) {
            Some(index) => Err(ScalesMismatch::Value { index, value: scales[index] }),
            None => Ok(()),
        }
    }
}

impl WeightFormat {
    /// The first block of `bytes` (whole blocks of this format) that holds a number which is none: a scale or minimum
    /// that is NaN or infinite, or, in formats without scales, an element that is. Loaders refuse the tensor by name.
    pub fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        let half = |block: &[u8], at: usize| block[at + 1] & 0x7C == 0x7C;
        let halves = |places: &'static [usize]| move |block: &[u8]| places.iter().any(|at| half(block, *at));
        match self {
            Self::F32 => self.first_block(bytes, |block| block[3] & 0x7F == 0x7F && block[2] & 0x80 != 0),
            Self::Bf16 => self.first_block(bytes, |block| block[1] & 0x7F == 0x7F && block[0] & 0x80 != 0),
            Self::F8E4M3 => first_nan_code(bytes),
            Self::F16 | Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::Iq4Nl => {
                self.first_block(bytes, halves(&[0]))
            }
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => self.first_block(bytes, halves(&[0, 2])),
            Self::Q2K => self.first_block(bytes, halves(&[80, 82])),
            Self::Q3K => self.first_block(bytes, halves(&[108])),
            Self::Q6K => self.first_block(bytes, halves(&[208])),
            Self::Mxfp4 => self.first_block(bytes, |block| block[0] == 255),
            Self::Nvfp4 => {
                self.first_block(bytes, |block| block[..4].iter().any(|scale| scale & 0x7F == 0x7F))
            }
        }
    }

    fn first_block(self, bytes: &[u8], bad: impl Fn(&[u8]) -> bool) -> Option<usize> {
        bytes.chunks_exact(self.block_bytes()).position(bad)
    }
}

/// The first code that is NaN. Runs are searched as a whole first, which compiles to vector code.
fn first_nan_code(codes: &[u8]) -> Option<usize> {
    const RUN: usize = 4096;
    let bad = |code: &u8| code & 0x7F == 0x7F;
    let any = |run: &[u8]| run.iter().fold(0, |largest, code| largest.max(code & 0x7F)) == 0x7F;
    let (number, run) = codes.chunks(RUN).enumerate().find(|(_, run)| any(run))?;
    run.iter().position(bad).map(|place| number * RUN + place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_becomes_the_nearest_code_and_ties_go_to_the_even_one() {
        for code in (0..=255_u8).filter(|code| code & 0x7F != 0x7F) {
            let value = e4m3_to_f32(code);
            assert_eq!(f32_to_e4m3(value), code, "{value} is a code");
            if code & 0x7F >= 0x7E {
                continue;
            }
            let middle = f32::midpoint(value, e4m3_to_f32(code + 1));
            assert_eq!(f32_to_e4m3(middle), code + (code & 1), "{middle} lies between");
            let (below, above) = (f32::from_bits(middle.to_bits() - 1), f32::from_bits(middle.to_bits() + 1));
            assert_eq!((f32_to_e4m3(below), f32_to_e4m3(above)), (code, code + 1), "beside {middle}");
        }
        for (x, code) in
            [(449.0, 0x7E), (1e30, 0x7E), (f32::INFINITY, 0x7E), (-500.0, 0xFE), (1e-9, 0), (-0.0, 0x80)]
        {
            assert_eq!(f32_to_e4m3(x), code, "{x}");
        }
        assert!(e4m3_to_f32(f32_to_e4m3(f32::NAN)).is_nan());
    }

    #[test]
    fn every_code_is_what_the_format_says() {
        for code in 0..=255_u8 {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
            let magnitude = match code & 0x7F {
                0x7F => f64::NAN,
                _ if exponent == 0 => mantissa / 512.0,
                _ => (1.0 + mantissa / 8.0) * f64::from_bits(((exponent - 7 + 1023) as u64) << 52),
            };
            let wanted = if code & 0x80 == 0 { magnitude } else { -magnitude };
            let got = e4m3_to_f32(code);
            assert!(f64::from(got) == wanted || (got.is_nan() && wanted.is_nan()), "code {code}: {got}");
            assert!(got.is_nan() || got.is_sign_negative() == (code >= 0x80), "the sign of code {code}");
        }
    }

    #[test]
    fn a_number_that_is_none_is_found_in_every_format() {
        for format in WeightFormat::ALL {
            let size = format.block_bytes();
            let mut bytes = vec![0; 5000 * size];
            assert_eq!(format.first_not_finite(&bytes), None, "{}", format.name());
            bytes[4321 * size..][..size].fill(0xFF);
            assert_eq!(format.first_not_finite(&bytes), Some(4321), "{}", format.name());
        }
        assert_eq!(WeightFormat::F8E4M3.first_not_finite(&[0x7E, 0xFE, 0x80, 0x7F]), Some(3));
        assert_eq!(WeightFormat::F32.first_not_finite(&f32::MAX.to_le_bytes()), None);
        assert_eq!(WeightFormat::F32.first_not_finite(&f32::NEG_INFINITY.to_le_bytes()), Some(0));
        assert_eq!(WeightFormat::Bf16.first_not_finite(&[0x80, 0x7F]), Some(0));
        assert_eq!(WeightFormat::F16.first_not_finite(&[0xFF, 0x7B]), None);
    }

    #[test]
    fn scales_must_fit_their_matrix() {
        let check = |scales: Fp8Scales<'_>| scales.check(WeightFormat::F8E4M3, 160, 300);
        assert_eq!(check(Fp8Scales::Rows(&[1.0; 160])), Ok(()));
        assert_eq!(check(Fp8Scales::Blocks(&[0.0; 6])), Ok(()));
        assert_eq!(check(Fp8Scales::Blocks(&[1.0; 4])), Err(ScalesMismatch::Count { wanted: 6, found: 4 }));
        for bad in [f32::INFINITY, f32::MAX / 440.0, f32::NEG_INFINITY] {
            let scales = [1.0, 1.0, bad, 1.0, 1.0, 1.0];
            assert_eq!(
                check(Fp8Scales::Blocks(&scales)),
                Err(ScalesMismatch::Value { index: 2, value: bad })
            );
        }
        assert!(check(Fp8Scales::Blocks(&[f32::NAN; 6])).is_err());
        let other = Fp8Scales::Rows(&[1.0]).check(WeightFormat::Q8_0, 1, 32);
        assert_eq!(other, Err(ScalesMismatch::Format(WeightFormat::Q8_0)));
    }
}
