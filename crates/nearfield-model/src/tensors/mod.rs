//! The tensors of a model by their role, whichever file they come from.

mod binder;
mod checkpoint;
mod gguf;

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use nearfield_kernels::{WeightFormat, dequantize_row, math};

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
    /// Row-major storage.
    pub bytes: &'a [u8],
    /// Factor on every element that the stored blocks do not include: the matrix scale of NVFP4, else 1.
    pub scale: f32,
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

#[derive(Debug)]
enum Source {
    Gguf(Gguf),
    Checkpoint(Checkpoint),
}

/// Bytes of a file: which part of a model that is cut over several, and where in it.
#[derive(Clone, Debug)]
struct Place {
    part: usize,
    range: Range<usize>,
}

/// One tensor of the model.
#[derive(Debug)]
struct Entry {
    name: String,
    shape: TensorShape,
    format: WeightFormat,
    place: Place,
    scale: f32,
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
        let Entry { name, format, scale, .. } = entry;
        Ok(Matrix { name, format: *format, rows, columns, bytes: self.bytes(&entry.place), scale: *scale })
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
        let Matrix { format, rows, columns, bytes, scale, .. } = self.matrix(role)?;
        let mut values = vec![0.0; rows * columns];
        let row_bytes = bytes.len().checked_div(rows).unwrap_or(0);
        for (row, bytes) in values.chunks_exact_mut(columns.max(1)).zip(bytes.chunks_exact(row_bytes.max(1)))
        {
            dequantize_row(format, bytes, row);
        }
        let offset = if role.is_norm() { self.conventions.norm_offset } else { 0.0 };
        let is_rate = matches!(role, TensorRole::Layer { part: LayerTensor::DeltaDecayRate, .. });
        for (position, value) in values.iter_mut().enumerate() {
            *value *= scale;
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

    /// Bytes of all tensors that the model uses; a tied head counts once.
    pub fn total_bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.place.range.len() as u64).sum()
    }

    /// Elements of all tensors that the model uses; a tied head counts once.
    pub fn parameter_count(&self) -> u64 {
        let sizes = self.entries.values().map(|entry| entry.shape.rows_and_columns());
        sizes.map(|(rows, columns)| rows as u64 * columns as u64).sum()
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
