//! The tensors of a model by their role, whichever file they come from.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    path::{Path, PathBuf},
};

use nearfield_kernels::{WeightFormat, dequantize_row};

use crate::{
    architecture::{Architecture, Description, FamilyDescription, Head, TensorRole, TensorShape, shape},
    error::ModelError,
    gguf::Gguf,
    safetensors::Checkpoint,
};

/// Parts of multimodal checkpoints that a text engine has no use for, and draft heads, by how their names start once
/// the text prefix is removed.
const IGNORED_PREFIXES: [&str; 11] = [
    "model.visual.",
    "model.vision_tower.",
    "vision_tower.",
    "model.audio_tower.",
    "audio_tower.",
    "model.embed_vision.",
    "model.embed_audio.",
    "model.vision_embedder.",
    "model.multi_modal_projector.",
    "multi_modal_projector.",
    "mtp.",
];

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
    /// Added to norm weights when they are read.
    norm_offset: f32,
}

#[derive(Debug)]
enum Source {
    Gguf(Gguf),
    Checkpoint(Checkpoint),
}

/// Where one tensor lies.
#[derive(Debug)]
struct Entry {
    name: String,
    format: WeightFormat,
    shape: TensorShape,
    part: usize,
    range: Range<usize>,
    scale: f32,
}

impl Tensors {
    /// The matrix of a role. [`TensorRole::OutputHead`] is the token embedding where the two are tied.
    pub fn matrix(&self, role: TensorRole) -> Result<Matrix<'_>, ModelError> {
        self.optional_matrix(role).ok_or(ModelError::NoSuchTensor { role })
    }

    /// The matrix of a role, if the model has one.
    pub fn optional_matrix(&self, role: TensorRole) -> Option<Matrix<'_>> {
        let tied = || match role {
            TensorRole::OutputHead => self.entries.get(&TensorRole::TokenEmbedding),
            _ => None,
        };
        self.entries.get(&role).or_else(tied).map(|entry| self.view(entry))
    }

    /// Whether the output head is the token embedding.
    pub fn is_head_tied(&self) -> bool {
        !self.entries.contains_key(&TensorRole::OutputHead)
    }

    /// A norm weight or bias as `f32`, ready to multiply or add: norms that are stored centred on zero have their 1
    /// added here. A value that is not finite is an error.
    pub fn vector(&self, role: TensorRole) -> Result<Vec<f32>, ModelError> {
        let entry = self.entries.get(&role).ok_or(ModelError::NoSuchTensor { role })?;
        let TensorShape::Vector(length) = entry.shape else { return Err(ModelError::NoSuchTensor { role }) };
        let mut values = vec![0.0; length];
        dequantize_row(entry.format, self.bytes(entry), &mut values);
        let offset = if role.is_norm() { self.norm_offset } else { 0.0 };
        for (position, value) in values.iter_mut().enumerate() {
            if !value.is_finite() {
                let (path, tensor) = (self.path.clone(), entry.name.clone());
                return Err(ModelError::NotFinite { path, tensor, position, value: *value });
            }
            *value += offset;
        }
        Ok(values)
    }

    /// As [`Tensors::vector`], or `None` where the model has no such tensor.
    pub fn optional_vector(&self, role: TensorRole) -> Result<Option<Vec<f32>>, ModelError> {
        if self.entries.contains_key(&role) { self.vector(role).map(Some) } else { Ok(None) }
    }

    /// Every tensor that the model uses, by role; vectors appear as matrices of one row, as stored.
    pub fn iter(&self) -> impl Iterator<Item = (TensorRole, Matrix<'_>)> {
        self.entries.iter().map(|(role, entry)| (*role, self.view(entry)))
    }

    /// Bytes of all tensors that the model uses; a tied head counts once.
    pub fn total_bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.range.len() as u64).sum()
    }

    /// Elements of all tensors that the model uses; a tied head counts once.
    pub fn parameter_count(&self) -> u64 {
        self.iter().map(|(_, matrix)| matrix.rows as u64 * matrix.columns as u64).sum()
    }

    fn view<'a>(&'a self, entry: &'a Entry) -> Matrix<'a> {
        let (rows, columns) = match entry.shape {
            TensorShape::Vector(length) => (1, length),
            TensorShape::Matrix { rows, columns } => (rows, columns),
        };
        let Entry { name, format, scale, .. } = entry;
        Matrix { name, format: *format, rows, columns, bytes: self.bytes(entry), scale: *scale }
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        match &self.source {
            Source::Gguf(file) => file.part_bytes(entry.part, entry.range.clone()),
            Source::Checkpoint(checkpoint) => checkpoint.bytes(entry.part, entry.range.clone()),
        }
    }

    /// The GGUF file, if the tensors come from one.
    pub(crate) fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf(file) => Some(file),
            Source::Checkpoint(_) => None,
        }
    }

    /// Gives every tensor of a GGUF file its role.
    pub(crate) fn from_gguf(
        path: &Path,
        file: Gguf,
        family: &FamilyDescription,
        description: &Description,
    ) -> Result<Self, ModelError> {
        let binder = Binder { path, family, description };
        let names = family.gguf_names(description.architecture.layers.len());
        let mut unplaced = names.map(|(role, name)| (name, role)).collect::<HashMap<_, _>>();
        let (scales, others) = matrix_scales(path, &file)?;
        let mut entries = BTreeMap::new();
        for tensor in file.tensors() {
            let Some(role) = unplaced.remove(&tensor.name) else {
                if others.contains(tensor.name.as_str())
                    || family.other_gguf_tensors.contains(&tensor.name.as_str())
                {
                    continue;
                }
                return Err(binder.unknown(&tensor.name));
            };
            let sizes: Vec<usize> = tensor.dimensions.iter().rev().copied().collect();
            let shape = binder.checked_shape(role, &tensor.name, &sizes)?;
            let (part, range) = tensor.place();
            let (name, format) = (tensor.name.clone(), tensor.format);
            let scale = scales.get(name.as_str()).copied().unwrap_or(1.0);
            entries.insert(role, Entry { name, format, shape, part, range, scale });
        }
        binder.refuse_missing(unplaced)?;
        Ok(Self {
            path: path.to_owned(),
            source: Source::Gguf(file),
            entries,
            norm_offset: description.norm_offset,
        })
    }

    /// Gives every tensor of a published checkpoint its role.
    pub(crate) fn from_checkpoint(
        path: &Path,
        checkpoint: Checkpoint,
        family: &FamilyDescription,
        description: &Description,
    ) -> Result<Self, ModelError> {
        let binder = Binder { path, family, description };
        let names = family.published_names(description.architecture.layers.len());
        let roles = names.map(|(role, name)| (name, role)).collect::<HashMap<_, _>>();
        let mut unplaced = roles.clone();
        let mut entries: BTreeMap<TensorRole, Entry> = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            // Multimodal checkpoints put the text model one level down, in one of two places.
            let name = tensor.name.replacen("language_model.", "", 1);
            let Some(&role) = roles.get(&name) else {
                if IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                    continue;
                }
                return Err(binder.unknown(&tensor.name));
            };
            if role == TensorRole::OutputHead && description.head == Head::Tied {
                // The settings win over a copy of the embedding that was saved with the rest.
                unplaced.remove(&name);
                continue;
            }
            let Some(format) = tensor.format() else {
                let (tensor, dtype) = (tensor.name.clone(), format!("{:?}", tensor.dtype));
                return Err(ModelError::UnsupportedDtype { path: path.to_owned(), tensor, dtype });
            };
            let shape = binder.checked_shape(role, &tensor.name, &tensor.shape)?;
            let (part, range) = tensor.place();
            let entry = Entry { name: tensor.name.clone(), format, shape, part, range, scale: 1.0 };
            if let Some(other) = entries.insert(role, entry) {
                let (first, second) = (other.name, tensor.name.clone());
                return Err(ModelError::AmbiguousTensor { path: path.to_owned(), first, second });
            }
            unplaced.remove(&name);
        }
        binder.refuse_missing(unplaced)?;
        let source = Source::Checkpoint(checkpoint);
        Ok(Self { path: path.to_owned(), source, entries, norm_offset: description.norm_offset })
    }
}

/// What it takes to say whether a tensor belongs to a model.
struct Binder<'a> {
    path: &'a Path,
    family: &'a FamilyDescription,
    description: &'a Description,
}

impl Binder<'_> {
    fn architecture(&self) -> &Architecture {
        &self.description.architecture
    }

    fn unknown(&self, tensor: &str) -> ModelError {
        ModelError::UnknownTensor {
            path: self.path.to_owned(),
            tensor: tensor.to_owned(),
            family: self.family.family,
            layers: self.architecture().layers.len(),
        }
    }

    /// The shape of a role, if it is the one found in the file.
    fn checked_shape(
        &self,
        role: TensorRole,
        tensor: &str,
        found: &[usize],
    ) -> Result<TensorShape, ModelError> {
        let wanted = shape(role, self.architecture()).ok_or(ModelError::NoSuchTensor { role })?;
        if wanted.sizes() == found {
            return Ok(wanted);
        }
        Err(ModelError::WrongShape {
            path: self.path.to_owned(),
            tensor: tensor.to_owned(),
            found: found.to_vec(),
            wanted: wanted.sizes(),
        })
    }

    /// An error for the first role that no tensor has taken, unless it is a head that may be absent.
    fn refuse_missing(&self, unplaced: HashMap<String, TensorRole>) -> Result<(), ModelError> {
        let missing = unplaced
            .into_iter()
            .filter(|(_, role)| *role != TensorRole::OutputHead || self.description.head == Head::Own)
            .min_by_key(|(_, role)| *role);
        match missing {
            Some((tensor, _)) => {
                let (path, family) = (self.path.to_owned(), self.family.family);
                Err(ModelError::MissingTensor { path, tensor, family })
            }
            None => Ok(()),
        }
    }
}

/// The matrix scales of NVFP4 tensors by the name of the matrix, and the names of all scale tensors. The scales of
/// activations among them serve a kind of arithmetic that the engine does not use.
type Scales<'a> = (HashMap<String, f32>, HashSet<&'a str>);

fn matrix_scales<'a>(path: &Path, file: &'a Gguf) -> Result<Scales<'a>, ModelError> {
    let (mut scales, mut names) = (HashMap::new(), HashSet::new());
    for tensor in file.tensors() {
        let name = tensor.name.as_str();
        let stems = (name.strip_suffix(".input_scale"), name.strip_suffix(".scale"));
        let (Some(stem), is_weight_scale) = (stems.0.or(stems.1), stems.0.is_none()) else { continue };
        let matrix = format!("{stem}.weight");
        if file.tensor(&matrix).is_none_or(|matrix| matrix.format != WeightFormat::Nvfp4) {
            continue;
        }
        if tensor.format != WeightFormat::F32 || tensor.dimensions != [1] {
            let found = tensor.dimensions.iter().rev().copied().collect();
            let (path, tensor) = (path.to_owned(), tensor.name.clone());
            return Err(ModelError::WrongShape { path, tensor, found, wanted: vec![1] });
        }
        names.insert(name);
        let mut scale = [0.0];
        dequantize_row(tensor.format, file.bytes(tensor), &mut scale);
        let [value] = scale;
        if !value.is_finite() {
            let (path, tensor) = (path.to_owned(), tensor.name.clone());
            return Err(ModelError::NotFinite { path, tensor, position: 0, value });
        }
        if is_weight_scale {
            scales.insert(matrix, value);
        }
    }
    Ok((scales, names))
}
