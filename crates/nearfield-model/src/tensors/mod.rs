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

use nearfield_kernels::{Fp4Planes, WeightFormat, WeightMatrix, math};
use storage::{Fp4, Fp8Store, Place, Storage};

use crate::{
    architecture::{Conventions, LayerTensor, TensorRole, TensorShape},
    error::ModelError,
    gguf::Gguf,
    safetensors::Checkpoint,
};

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

impl Tensors {
    /// The matrix of a role, over the bytes of the file, all scales included. Its columns are more than the tensor's where
    /// zeros fill the last block up. [`TensorRole::OutputHead`] is the token embedding where the two are tied.
    ///
    /// # Errors
    /// [`ModelError::NoSuchTensor`] when the model has none, [`ModelError::Storage`] when it is not what it is said to be.
    pub fn matrix(&self, role: TensorRole) -> Result<WeightMatrix<'_>, ModelError> {
        let tied = || match role {
            TensorRole::OutputHead => self.entries.get(&TensorRole::TokenEmbedding),
            _ => None,
        };
        let entry = self.entries.get(&role).or_else(tied).ok_or(ModelError::NoSuchTensor { role })?;
        self.weights(entry).map_err(|problem| ModelError::storage(&self.path, &entry.name, problem))
    }

    fn weights<'a>(&'a self, entry: &'a Entry) -> Result<WeightMatrix<'a>, String> {
        let (rows, columns) = entry.shape.rows_and_columns();
        let plain = |format, place| {
            WeightMatrix::new(format, rows, columns, self.bytes(place)).map_err(|error| error.to_string())
        };
        match &entry.storage {
            Storage::Blocks { format, place, scale } => Ok(plain(*format, place)?.with_scale(*scale)),
            Storage::Fp4(fp4) => {
                let planes = self.planes(fp4, columns);
                fp4.check(&planes)?;
                let matrix = WeightMatrix::of_planes(rows, planes).map_err(|error| error.to_string())?;
                Ok(matrix.with_scale(fp4.scale))
            }
            Storage::Fp8 { codes, scales } => {
                let (scale, scales) = scales.parts();
                let matrix = plain(WeightFormat::F8E4M3, codes)?.with_scale(scale);
                match scales {
                    Some(scales) => matrix.with_scales(scales).map_err(|error| error.to_string()),
                    None => Ok(matrix),
                }
            }
        }
    }

    fn planes(&self, fp4: &Fp4, columns: usize) -> Fp4Planes<'_> {
        let Fp4 { format, codes, scales, .. } = fp4;
        Fp4Planes { format: *format, columns, codes: self.bytes(codes), scales: self.bytes(scales) }
    }

    /// Checks the scales of FP4 matrices, on several threads. Without it each is checked when it is asked for.
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
                        // What is wrong with it is said when the matrix is asked for.
                        let _said_later = fp4.check(&self.planes(fp4, shape.rows_and_columns().1));
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
        let stored = self.matrix(role)?;
        let (rows, columns) = entry.shape.rows_and_columns();
        let mut values = vec![0.0; rows * columns];
        let mut padded = vec![0.0; stored.columns()];
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

    /// See [`crate::Model::will_need`].
    pub(crate) fn will_need(&self, bytes: &[u8]) {
        match &self.source {
            Source::Gguf(file) => file.will_need(bytes),
            Source::Checkpoint(checkpoint) => checkpoint.will_need(bytes),
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
