//! The tensors of a model by their role, whichever file they come from.

mod binder;
mod checkpoint;
mod compressed;
mod gguf;
mod storage;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use nearfield_kernels::{Fp8Scales, ScalesMismatch, ShapeMismatch, WeightFormat, WeightMatrix, math};
use storage::{Fp4, Fp8Store, Place, Storage, pack};

use crate::{
    architecture::{Conventions, LayerTensor, TensorRole, TensorShape},
    error::ModelError,
    gguf::Gguf,
    safetensors::Checkpoint,
};

/// A weight matrix, borrowed from the file: `rows` rows of `columns` elements, each row whole blocks of the format.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// How elements are stored.
    pub format: WeightFormat,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Elements of a stored row: more than `columns` where zeros fill the last block up.
    pub stored_columns: usize,
    /// Row-major storage.
    pub bytes: &'a [u8],
    /// Factor on every element that the stored blocks do not include: the matrix scale of NVFP4 and FP8, else 1.
    pub scale: f32,
    /// Further factors, on rows or blocks, of an FP8 matrix.
    pub scales: Option<Fp8Scales<'a>>,
}

/// The tensors of an open model. All shapes have been checked against the architecture.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    source: Source,
    entries: BTreeMap<TensorRole, Entry>,
    conventions: Conventions,
    skipped: Vec<Skipped>,
}

/// Tensors in the file that serve something which is not computed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// What they are part of, for example "vision tower".
    pub what: &'static str,
    /// How many.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, tensors, bytes } = self;
        let plural = if *tensors == 1 { "tensor" } else { "tensors" };
        let size = *bytes as f64 / 1e6;
        write!(formatter, "{what} not used ({tensors} {plural}, {size:.1} MB): only text is computed")
    }
}

#[derive(Debug)]
enum Source {
    Gguf(Gguf),
    Checkpoint(Checkpoint),
}

/// One tensor of the model.
#[derive(Debug)]
struct Entry {
    name: String,
    shape: TensorShape,
    storage: Storage,
}

impl Entry {
    /// Bytes in the file, scales included.
    fn bytes(&self) -> u64 {
        (match &self.storage {
            Storage::Blocks { place, .. } => place.range.len(),
            Storage::Fp4(fp4) => fp4.codes.range.len() + fp4.scales.range.len(),
            Storage::Fp8 { codes, scales } => {
                codes.range.len()
                    + match scales {
                        Fp8Store::Matrix(_) => 4,
                        Fp8Store::Rows(scales) | Fp8Store::Blocks(scales) => 4 * scales.len(),
                    }
            }
        }) as u64
    }
}

/// Storage that does not fit its own description.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// The bytes are not those of the shape.
    #[error(transparent)]
    Shape(#[from] ShapeMismatch),
    /// The scales are not those of the matrix.
    #[error(transparent)]
    Scales(#[from] ScalesMismatch),
}

impl<'a> Matrix<'a> {
    /// The matrix as kernels take it. Its columns are the stored ones.
    ///
    /// # Errors
    /// When bytes or scales do not fit the shape.
    pub fn weights(&self) -> Result<WeightMatrix<'a>, MatrixError> {
        let weights = WeightMatrix::new(self.format, self.rows, self.stored_columns, self.bytes)?;
        let weights = weights.with_scale(self.scale);
        Ok(match self.scales {
            Some(scales) => weights.with_scales(scales)?,
            None => weights,
        })
    }
}

impl Tensors {
    /// The matrix of a role. [`TensorRole::OutputHead`] is the token embedding where the two are tied.
    ///
    /// # Errors
    /// [`ModelError::NoSuchTensor`] when the model has none.
    pub fn matrix(&self, role: TensorRole) -> Result<Matrix<'_>, ModelError> {
        let tied = || match role {
            TensorRole::OutputHead => self.entries.get(&TensorRole::TokenEmbedding),
            _ => None,
        };
        let entry = self.entries.get(&role).or_else(tied).ok_or(ModelError::NoSuchTensor { role })?;
        let (rows, columns) = entry.shape.rows_and_columns();
        let name = entry.name.as_str();
        let matrix = |format, stored_columns, bytes, scale, scales| Matrix {
            name,
            format,
            rows,
            columns,
            stored_columns,
            bytes,
            scale,
            scales,
        };
        Ok(match &entry.storage {
            Storage::Blocks { format, place, scale } => {
                matrix(*format, columns, self.bytes(place), *scale, None)
            }
            Storage::Fp4(fp4) => {
                let bytes = self.packed(fp4, rows, columns);
                let bytes = bytes.map_err(|problem| ModelError::storage(&self.path, name, problem))?;
                matrix(fp4.format, fp4.padded(columns), bytes, fp4.scale, None)
            }
            Storage::Fp8 { codes, scales } => {
                let (scale, scales) = scales.parts();
                matrix(WeightFormat::F8E4M3, columns, self.bytes(codes), scale, scales)
            }
        })
    }

    /// The blocks of a matrix whose codes and scales lie apart, packed at the first call.
    fn packed<'a>(&'a self, fp4: &'a Fp4, rows: usize, columns: usize) -> Result<&'a [u8], &'a str> {
        let pack = || pack(fp4.format, rows, columns, self.bytes(&fp4.codes), self.bytes(&fp4.scales));
        fp4.packed.get_or_init(pack).as_deref().map_err(String::as_str)
    }

    /// Packs what must be packed before it can be computed with, on several threads. Without it each matrix is packed
    /// when it is asked for.
    pub fn prepare(&self, threads: usize) {
        let fp4: Vec<(&Fp4, TensorShape)> = self
            .entries
            .values()
            .filter_map(|entry| match &entry.storage {
                Storage::Fp4(fp4) => Some((fp4, entry.shape)),
                _ => None,
            })
            .collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads.min(fp4.len()) {
                scope.spawn(|| {
                    while let Some((fp4, shape)) = fp4.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (rows, columns) = shape.rows_and_columns();
                        // What is wrong with it is said when the matrix is asked for.
                        let _said_later = self.packed(fp4, rows, columns);
                    }
                });
            }
        });
    }

    /// Whether the model has a tensor for a role, or a tied one.
    pub fn has(&self, role: TensorRole) -> bool {
        self.entries.contains_key(&role) || role == TensorRole::OutputHead
    }

    /// Whether the output head is the token embedding.
    pub fn is_head_tied(&self) -> bool {
        !self.entries.contains_key(&TensorRole::OutputHead)
    }

    /// A norm weight, bias or other small tensor as `f32`, row-major, ready for use: norms that are stored centred on
    /// zero have their 1 added here, and decays that are stored as logarithms are negative rates.
    ///
    /// # Errors
    /// [`ModelError::NoSuchTensor`] when the model has none, [`ModelError::NotFinite`] for a value that is not finite.
    pub fn vector(&self, role: TensorRole) -> Result<Vec<f32>, ModelError> {
        let entry = self.entries.get(&role).ok_or(ModelError::NoSuchTensor { role })?;
        let matrix = self.matrix(role)?;
        let (rows, columns) = (matrix.rows, matrix.columns);
        let stored = matrix
            .weights()
            .map_err(|problem| ModelError::storage(&self.path, &entry.name, problem.to_string()))?;
        let mut values = vec![0.0; rows * columns];
        let mut padded = vec![0.0; matrix.stored_columns];
        for (index, row) in values.chunks_exact_mut(columns.max(1)).enumerate() {
            stored.dequantize_row(index, &mut padded);
            row.copy_from_slice(&padded[..columns]);
        }
        let offset = if role.is_norm() { self.conventions.norm_offset } else { 0.0 };
        let is_rate = matches!(role, TensorRole::Layer { part: LayerTensor::DeltaDecayRate, .. });
        for (position, value) in values.iter_mut().enumerate() {
            if is_rate && self.conventions.decay_logarithm {
                *value = -(math::exp_f64(f64::from(*value)) as f32);
            }
            if !value.is_finite() {
                let (path, tensor) = (self.path.clone(), entry.name.clone());
                return Err(ModelError::NotFinite { path, tensor, position, value: *value });
            }
            *value += offset;
        }
        Ok(values)
    }

    /// As [`Tensors::vector`], or `None` where the model has no such tensor.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] for a value that is not finite.
    pub fn optional_vector(&self, role: TensorRole) -> Result<Option<Vec<f32>>, ModelError> {
        if self.entries.contains_key(&role) { self.vector(role).map(Some) } else { Ok(None) }
    }

    /// The tensors that the model uses and their bytes in the files; a tied head is not there twice.
    pub fn sizes(&self) -> impl Iterator<Item = (TensorRole, u64)> {
        self.entries.iter().map(|(role, entry)| (*role, entry.bytes()))
    }

    /// See [`crate::Model::release_pages`].
    pub(crate) fn release_pages(&self) {
        match &self.source {
            Source::Gguf(file) => file.release_pages(),
            Source::Checkpoint(checkpoint) => checkpoint.release_pages(),
        }
    }

    /// Bytes of all tensors that the model uses; a tied head counts once.
    pub fn total_bytes(&self) -> u64 {
        self.entries.values().map(Entry::bytes).sum()
    }

    /// The tensors that the model uses and their rows and columns; a vector is one row.
    pub fn shapes(&self) -> impl Iterator<Item = (TensorRole, (usize, usize))> {
        self.entries.iter().map(|(role, entry)| (*role, entry.shape.rows_and_columns()))
    }

    /// Elements of all tensors that the model uses; a tied head counts once.
    pub fn parameter_count(&self) -> u64 {
        self.shapes().map(|(_, (rows, columns))| rows as u64 * columns as u64).sum()
    }

    /// What the file holds beside the text model, which is not computed here.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    fn bytes(&self, place: &Place) -> &[u8] {
        match &self.source {
            Source::Gguf(file) => file.part_bytes(place.part, place.range.clone()),
            Source::Checkpoint(checkpoint) => checkpoint.bytes(place.part, place.range.clone()),
        }
    }

    /// The GGUF file, if the tensors come from one.
    pub(crate) fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf(file) => Some(file),
            Source::Checkpoint(_) => None,
        }
    }
}
