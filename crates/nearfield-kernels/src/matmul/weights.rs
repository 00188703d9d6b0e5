//! Weight matrices: their shape, their scales and where their bytes are.

use std::borrow::Cow;
use std::sync::Arc;

use crate::format::WeightFormat;
use crate::fp4::{Fp4Planes, PlanesMismatch};
use crate::fp8::{FP8_BLOCK, Fp8Scales, ScalesMismatch};
use crate::memory::LargeMemory;
use crate::panel::{self, PANEL_ROWS};

/// A weight matrix: `rows` output features of `columns` inputs, as it lies in a file or in panels.
#[derive(Clone, Debug)]
pub struct WeightMatrix<'a> {
    format: WeightFormat,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    storage: Storage<'a>,
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

/// Where the bytes are.
#[derive(Clone, Debug)]
enum Storage<'a> {
    File(&'a [u8]),
    Planes(Fp4Planes<'a>),
    Panels { memory: Arc<LargeMemory>, start: usize },
}

/// Where a row is.
#[derive(Clone, Copy)]
pub(super) enum RowPlace<'a> {
    /// Its blocks as in the file.
    File(&'a [u8]),
    /// Codes and scales apart: blocks have to be put together first.
    Apart,
    /// One of a panel.
    Panel { bytes: &'a [u8], row: usize },
}

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
        Ok(Self { format, rows, columns, row_bytes, storage: Storage::File(bytes), scale: 1.0, scales: None })
    }

    /// A matrix of FP4 codes whose scales lie apart from them. Zeros fill its rows up to whole blocks, and its columns
    /// are those of the filled rows.
    ///
    /// # Errors
    /// When the planes do not have these rows and columns.
    pub fn of_planes(rows: usize, planes: Fp4Planes<'a>) -> Result<Self, PlanesMismatch> {
        planes.check(rows)?;
        let (format, columns) = (planes.format, planes.padded_columns());
        let row_bytes = format.row_bytes(columns).ok_or(PlanesMismatch)?;
        Ok(Self {
            format,
            rows,
            columns,
            row_bytes,
            storage: Storage::Planes(planes),
            scale: 1.0,
            scales: None,
        })
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
    pub(super) fn output_scale(&self, row: usize) -> f32 {
        match self.scales {
            Some(Fp8Scales::Rows(scales)) => scales[row] * self.scale,
            _ => self.scale,
        }
    }

    /// What multiplies a weight before it meets an activation.
    #[inline]
    pub(super) fn block_scale(&self, row: usize, column: usize) -> f32 {
        match self.scales {
            Some(Fp8Scales::Blocks(scales)) => {
                scales[row / FP8_BLOCK * self.columns.div_ceil(FP8_BLOCK) + column / FP8_BLOCK]
            }
            _ => 1.0,
        }
    }

    /// The values of row `index` that meet activations: without what multiplies finished outputs.
    pub(super) fn weights_of_row(&self, index: usize, out: &mut [f32]) {
        crate::format::dequantize_row(self.format, &self.row(index), out);
        if let Some(Fp8Scales::Blocks(_)) = self.scales {
            for (block, values) in out.chunks_mut(FP8_BLOCK).enumerate() {
                crate::vector::scale(values, self.block_scale(index, block * FP8_BLOCK));
            }
        }
    }

    /// What multiplies every finished output.
    #[inline]
    pub(super) const fn scale(&self) -> f32 {
        self.scale
    }

    /// Output features.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of a row in the file.
    #[inline]
    pub(crate) const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Storage format.
    pub const fn format(&self) -> WeightFormat {
        self.format
    }

    /// The bytes of row `index` as they lie in the file.
    ///
    /// # Panics
    /// If `index` is no row.
    pub fn row(&self, index: usize) -> Cow<'_, [u8]> {
        match self.place(index) {
            RowPlace::File(bytes) => Cow::Borrowed(bytes),
            RowPlace::Apart => {
                let mut out = vec![0; self.row_bytes];
                self.put_together(index, 1, &mut out);
                Cow::Owned(out)
            }
            RowPlace::Panel { bytes, row } => {
                let mut out = vec![0; self.row_bytes];
                panel::unpack_row(self.format, bytes, row, &mut out);
                Cow::Owned(out)
            }
        }
    }

    /// Where row `index` is.
    #[inline(always)]
    pub(super) fn place(&self, index: usize) -> RowPlace<'_> {
        match &self.storage {
            Storage::File(bytes) => RowPlace::File(&bytes[index * self.row_bytes..][..self.row_bytes]),
            Storage::Planes(_) => RowPlace::Apart,
            Storage::Panels { memory, start } => {
                let (bytes, size) = (&memory.bytes()[*start..], panel::panel_bytes(self.row_bytes));
                let panels = self.rows / PANEL_ROWS;
                if index < panels * PANEL_ROWS {
                    RowPlace::Panel {
                        bytes: &bytes[index / PANEL_ROWS * size..][..size],
                        row: index % PANEL_ROWS,
                    }
                } else {
                    let rest = &bytes[panels * size..];
                    RowPlace::File(&rest[(index - panels * PANEL_ROWS) * self.row_bytes..][..self.row_bytes])
                }
            }
        }
    }

    /// Whether whole sixteens of rows lie in panels.
    pub const fn in_panels(&self) -> bool {
        matches!(self.storage, Storage::Panels { .. })
    }

    /// Whether blocks have to be put together before kernels can read them.
    pub(super) const fn is_apart(&self) -> bool {
        matches!(self.storage, Storage::Planes(_))
    }

    /// The blocks of all rows as they lie in the file, where they do.
    pub(crate) const fn file_bytes(&self) -> Option<&'a [u8]> {
        match self.storage {
            Storage::File(bytes) => Some(bytes),
            Storage::Planes(_) | Storage::Panels { .. } => None,
        }
    }

    /// The parts of the file that hold the matrix; none once it is in panels.
    pub fn file_parts(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let parts = match &self.storage {
            Storage::File(bytes) => [Some(*bytes), None],
            Storage::Planes(planes) => [Some(planes.codes), Some(planes.scales)],
            Storage::Panels { .. } => [None, None],
        };
        parts.into_iter().flatten()
    }

    /// What tells matrices in the file apart; `None` once in panels.
    pub(crate) fn file_place(&self) -> Option<(*const u8, usize)> {
        self.file_parts().next().map(|bytes| (bytes.as_ptr(), bytes.len()))
    }

    /// Bytes of the matrix in panels; `None` if it stays as it is.
    pub const fn packed_bytes(&self) -> Option<usize> {
        if panel::has_panels(self.format, self.row_bytes) {
            Some(panel::packed_bytes(self.rows, self.row_bytes))
        } else {
            None
        }
    }

    /// Writes `count` rows from `first` as blocks, whose codes and scales lie apart.
    ///
    /// # Panics
    /// If they do not, or there are not so many rows.
    pub(super) fn put_together(&self, first: usize, count: usize, out: &mut [u8]) {
        let Storage::Planes(planes) = &self.storage else { unreachable!("these are blocks already") };
        for (row, out) in (first..first + count).zip(out.chunks_exact_mut(self.row_bytes)) {
            planes.blocks(row, out);
        }
    }

    /// Some rows of the matrix, put together.
    pub(super) fn of_blocks<'b>(&self, rows: usize, blocks: &'b [u8]) -> WeightMatrix<'b> {
        let Self { format, columns, row_bytes, scale, .. } = *self;
        WeightMatrix { format, rows, columns, row_bytes, storage: Storage::File(blocks), scale, scales: None }
    }

    /// Writes the panel of rows `16 * index ..`, or the rows that fill no panel, to `out`. `buffer` is for its use.
    ///
    /// # Panics
    /// If there is no such panel, or `out` has not its size, or the matrix is in panels already.
    pub(crate) fn pack(&self, index: usize, out: &mut [u8], buffer: &mut Vec<u8>) {
        let first = index * PANEL_ROWS;
        let rows = PANEL_ROWS.min(self.rows - first);
        let from = match self.storage {
            Storage::File(bytes) => &bytes[first * self.row_bytes..][..rows * self.row_bytes],
            Storage::Planes(_) => {
                buffer.resize(rows * self.row_bytes, 0);
                self.put_together(first, rows, buffer);
                &buffer[..]
            }
            Storage::Panels { .. } => unreachable!("a matrix is packed once"),
        };
        if rows == PANEL_ROWS { panel::pack_panel(self.format, from, out) } else { out.copy_from_slice(from) }
    }

    /// The same matrix with its bytes where [`WeightMatrix::pack`] wrote them.
    pub(crate) fn use_panels(&mut self, memory: Arc<LargeMemory>, start: usize) {
        self.storage = Storage::Panels { memory, start };
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

/// The starts of 16 rows from `first`; rows past the end repeat the last one.
///
/// # Panics
/// If one of them does not lie in the file as blocks.
#[inline(always)]
pub(super) fn row_pointers(weights: &WeightMatrix<'_>, first: usize) -> [*const u8; 16] {
    std::array::from_fn(|i| match weights.place((first + i).min(weights.rows() - 1)) {
        RowPlace::File(bytes) => bytes.as_ptr(),
        RowPlace::Panel { .. } | RowPlace::Apart => unreachable!("only blocks in the file are read so"),
    })
}
