//! The tensors of a GGUF file.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use nearfield_kernels::{WeightFormat, dequantize_row};

use super::{
    Source, Tensors,
    binder::{Binder, Found},
    storage::{Place, Storage},
};
use crate::{
    architecture::{Description, FamilyDescription, Names},
    error::ModelError,
    gguf::{Gguf, TensorInfo},
};

impl Tensors {
    /// Gives every tensor of a GGUF file its role.
    pub(crate) fn from_gguf(
        path: &Path,
        file: Gguf,
        family: &FamilyDescription,
        description: &Description,
    ) -> Result<Self, ModelError> {
        let names = Names::gguf(family, &description.architecture);
        let (scales, others) = matrix_scales(path, &file, &names)?;
        let mut binder = Binder::new(path, family.family, description, names);
        for tensor in file.tensors() {
            let name = tensor.name.as_str();
            let Some(target) = binder.target(name) else {
                if others.contains(name) || family.other_gguf_tensors.contains(&name) {
                    continue;
                }
                return Err(binder.unknown(name));
            };
            let shape: Vec<usize> = tensor.dimensions.iter().rev().copied().collect();
            let (part, range) = tensor.place();
            let scales = scales.get(name).cloned().unwrap_or_default();
            let found = Found {
                name,
                shape: &shape,
                storage: Storage::Blocks {
                    format: tensor.format,
                    place: Place { part, range },
                    scale: scales.first().copied().unwrap_or(1.0),
                },
                scales,
            };
            binder.place(&found, target)?;
        }
        let entries = binder.finish()?;
        Ok(Self {
            path: path.to_owned(),
            source: Source::Gguf(file),
            entries,
            conventions: description.conventions,
            skipped: Vec::new(),
        })
    }
}

/// The matrix scales of NVFP4 tensors by the name of the matrix, one or one for each expert, and the names of all scale
/// tensors. The scales of activations among them serve a kind of arithmetic that the engine does not use.
type Scales<'a> = (HashMap<String, Vec<f32>>, HashSet<&'a str>);

fn matrix_scales<'a>(path: &Path, file: &'a Gguf, known: &Names) -> Result<Scales<'a>, ModelError> {
    let (mut scales, mut names) = (HashMap::new(), HashSet::new());
    for tensor in file.tensors() {
        let name = tensor.name.as_str();
        let stems = (name.strip_suffix(".input_scale"), name.strip_suffix(".scale"));
        let (Some(stem), is_weight_scale) = (stems.0.or(stems.1), stems.0.is_none()) else { continue };
        let matrix = format!("{stem}.weight");
        let nvfp4 = file.tensor(&matrix).filter(|matrix| matrix.format == WeightFormat::Nvfp4);
        let (Some(matrix), None) = (nvfp4, known.target(name)) else { continue };
        let values = read_scales(path, file, tensor, matrix)?;
        names.insert(name);
        if is_weight_scale {
            scales.insert(matrix.name.clone(), values);
        }
    }
    Ok((scales, names))
}

/// One scale, or one for each matrix of a stack.
fn read_scales(
    path: &Path,
    file: &Gguf,
    tensor: &TensorInfo,
    matrix: &TensorInfo,
) -> Result<Vec<f32>, ModelError> {
    let count: usize = matrix.dimensions.iter().skip(2).product();
    let possible = tensor.dimensions == [1] || tensor.dimensions == [count];
    if tensor.format != WeightFormat::F32 || !possible {
        let found = tensor.dimensions.iter().rev().copied().collect();
        let (path, tensor) = (path.to_owned(), tensor.name.clone());
        return Err(ModelError::WrongShape { path, tensor, found, wanted: vec![count] });
    }
    let mut values = vec![0.0; tensor.columns()];
    dequantize_row(tensor.format, file.bytes(tensor), &mut values);
    if let Some((position, value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        let (path, tensor) = (path.to_owned(), tensor.name.clone());
        return Err(ModelError::NotFinite { path, tensor, position, value: *value });
    }
    Ok(values)
}
