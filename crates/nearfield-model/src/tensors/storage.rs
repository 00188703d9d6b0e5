//! How the elements of a tensor lie in a file.

use std::{ops::Range, sync::OnceLock};

use nearfield_kernels::{Fp4Planes, Fp8Scales, WeightFormat};

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

/// A matrix of E2M1 codes and a plane of scales.
#[derive(Clone, Debug)]
pub(super) struct Fp4 {
    /// [`WeightFormat::Nvfp4`] or [`WeightFormat::Mxfp4`].
    pub(super) format: WeightFormat,
    pub(super) codes: Place,
    pub(super) scales: Place,
    /// Factor on the whole matrix.
    pub(super) scale: f32,
    /// Whether its scales are numbers, once they have been looked at.
    pub(super) checked: OnceLock<Result<(), String>>,
}

impl Fp4 {
    /// Columns with those that fill the last block up, whose weights are zero.
    pub(super) fn padded(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.format.block_size())
    }

    /// Looks at the scales, which are those of `planes`, the first time.
    pub(super) fn check(&self, planes: &Fp4Planes<'_>) -> Result<(), String> {
        let look = || match planes.bad_scale() {
            Some(at) => Err(format!("scale {at} is {:#04x}, which is no usable number", planes.scales[at])),
            None => Ok(()),
        };
        self.checked.get_or_init(look).clone()
    }
}
