//! Gives tensors their places in a model, and says what is missing, unknown, doubled or of the wrong shape.

use std::{collections::BTreeMap, path::Path};

use super::{
    Entry,
    storage::{Place, Storage},
};
use crate::{
    architecture::{
        Architecture, Description, ExpertTensor, Family, Head, LayerTensor, Names, Target, TensorRole, shape,
    },
    error::ModelError,
};

/// What it takes to say where a tensor belongs, and what has been placed so far.
pub(super) struct Binder<'a> {
    path: &'a Path,
    family: Family,
    description: &'a Description,
    names: Names,
    pub(super) entries: BTreeMap<TensorRole, Entry>,
}

/// A tensor of a file.
pub(super) struct Found<'a> {
    pub(super) name: &'a str,
    /// Slowest-varying first.
    pub(super) shape: &'a [usize],
    pub(super) storage: Storage,
    /// For a stack: one scale for each of its matrices, where they have their own.
    pub(super) scales: Vec<f32>,
}

impl<'a> Binder<'a> {
    pub(super) fn new(path: &'a Path, family: Family, description: &'a Description, names: Names) -> Self {
        Self { path, family, description, names, entries: BTreeMap::new() }
    }

    fn architecture(&self) -> &Architecture {
        &self.description.architecture
    }

    /// Where a tensor of this name belongs.
    pub(super) fn target(&self, name: &str) -> Option<Target> {
        self.names.target(name)
    }

    pub(super) fn unknown(&self, tensor: &str) -> ModelError {
        ModelError::UnknownTensor {
            path: self.path.to_owned(),
            tensor: tensor.to_owned(),
            family: self.family,
            layers: self.architecture().layers.len(),
        }
    }

    fn wrong_shape(&self, found: &Found<'_>, wanted: Vec<usize>) -> ModelError {
        ModelError::WrongShape {
            path: self.path.to_owned(),
            tensor: found.name.to_owned(),
            found: found.shape.to_vec(),
            wanted,
        }
    }

    /// Puts a tensor, or each matrix of a stack, where it belongs.
    pub(super) fn place(&mut self, found: &Found<'_>, target: Target) -> Result<(), ModelError> {
        match target {
            Target::Unused => Ok(()),
            Target::Role(role) => {
                let wanted = shape(role, self.architecture()).ok_or(ModelError::NoSuchTensor { role })?;
                if !wanted.fits(found.shape) {
                    return Err(self.wrong_shape(found, wanted.sizes()));
                }
                let storage = found.storage.clone();
                self.check_table(role, found)?;
                let entry = Entry { name: found.name.to_owned(), shape: wanted, storage };
                self.insert(role, entry)
            }
            Target::Stack { layer, parts } => self.place_stack(found, layer, parts),
        }
    }

    /// Cuts a stack into the matrices of its experts.
    fn place_stack(
        &mut self,
        found: &Found<'_>,
        layer: usize,
        parts: &[ExpertTensor],
    ) -> Result<(), ModelError> {
        let role =
            |index, part| TensorRole::Layer { index: layer, part: LayerTensor::Expert { index, part } };
        let experts = self.architecture().layer(layer).and_then(|layer| layer.feed_forward.experts.as_ref());
        let count = experts.map_or(0, |experts| experts.count);
        let shapes: Vec<_> =
            parts.iter().filter_map(|part| shape(role(0, *part), self.architecture())).collect();
        let rows: usize = shapes.iter().map(|shape| shape.rows_and_columns().0).sum();
        let columns = shapes.first().map_or(0, |shape| shape.rows_and_columns().1);
        if found.shape != [count, rows, columns] {
            return Err(self.wrong_shape(found, vec![count, rows, columns]));
        }
        let Storage::Blocks { format, place, scale } = &found.storage else {
            let problem = "it holds the matrices of all experts in a compressed form, which is not supported";
            return Err(ModelError::storage(self.path, found.name, problem));
        };
        let row_bytes = place.range.len() / (count * rows).max(1);
        let mut start = place.range.start;
        for index in 0..count {
            for (part, shape) in parts.iter().zip(&shapes) {
                let end = start + shape.rows_and_columns().0 * row_bytes;
                let storage = Storage::Blocks {
                    format: *format,
                    place: Place { part: place.part, range: start..end },
                    scale: found.scales.get(index).copied().unwrap_or(*scale),
                };
                let entry = Entry { name: found.name.to_owned(), shape: *shape, storage };
                start = end;
                self.insert(role(u16::try_from(index).unwrap_or(u16::MAX), *part), entry)?;
            }
        }
        Ok(())
    }

    /// Tables are read a row at a time, and rows that are filled up would be too long.
    fn check_table(&self, role: TensorRole, found: &Found<'_>) -> Result<(), ModelError> {
        let is_table = matches!(role, TensorRole::TokenEmbedding | TensorRole::PerLayerEmbedding);
        match &found.storage {
            Storage::Fp4(fp4) if is_table && found.shape.last().is_some_and(|k| fp4.padded(*k) != *k) => {
                let problem = "its rows are no whole blocks of 64, which is not supported for an embedding";
                Err(ModelError::storage(self.path, found.name, problem))
            }
            _ => Ok(()),
        }
    }

    fn insert(&mut self, role: TensorRole, entry: Entry) -> Result<(), ModelError> {
        let second = entry.name.clone();
        match self.entries.insert(role, entry) {
            Some(first) => {
                Err(ModelError::AmbiguousTensor { path: self.path.to_owned(), first: first.name, second })
            }
            None => Ok(()),
        }
    }

    /// All parts, or an error for the first that no tensor has taken, unless it is a head that may be absent.
    pub(super) fn finish(self) -> Result<BTreeMap<TensorRole, Entry>, ModelError> {
        let may_be_absent = |role| role == TensorRole::OutputHead && self.description.head != Head::Own;
        let missing = self
            .names
            .parts()
            .iter()
            .filter(|(role, _)| !self.entries.contains_key(role) && !may_be_absent(*role))
            .min_by_key(|(role, _)| *role);
        match missing {
            Some((_, tensor)) => {
                let (path, tensor) = (self.path.to_owned(), tensor.clone());
                Err(ModelError::MissingTensor { path, tensor, family: self.family })
            }
            None => Ok(self.entries),
        }
    }
}
