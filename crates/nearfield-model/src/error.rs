//! The errors of this crate.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    architecture::{DescriptionError, Family, TensorRole},
    gguf::GgufError,
    tokenizer::TokenizerError,
};

/// A model that cannot be opened or used. The text names the file, the thing in it and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of a model that is cut over several is not beside the others.
    #[error("{} is missing: it is one of the {count} files of this model, so pull the model again", path.display())]
    MissingPart {
        /// The file that is missing.
        path: PathBuf,
        /// Number of files.
        count: usize,
    },
    /// A GGUF file is damaged or not supported.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: GgufError,
    },
    /// A safetensors file or its index is damaged or not supported.
    #[error("{}: {problem}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A JSON file is malformed.
    #[error("{}: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        problem: String,
    },
    /// A tokenizer is damaged or not supported.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        source: TokenizerError,
    },
    /// A file that should be small is not.
    #[error("{} has {size} bytes, more than the limit of {limit}; it is damaged or hostile", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// A file or folder that is no model.
    #[error("{} is not a model: {problem}", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// Why, and what is needed.
        problem: String,
    },
    /// A model of a family that has no graph here.
    #[error("{}: models of type {name:?} are not supported (supported: {supported})", path.display())]
    UnsupportedFamily {
        /// The file that says so.
        path: PathBuf,
        /// The type as the file has it.
        name: String,
        /// The families that are supported.
        supported: String,
    },
    /// A setting is missing, malformed or not supported.
    #[error("{}: {setting} {problem}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting as the file names it.
        setting: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor that the architecture needs.
    #[error("{}: tensor {tensor:?} is missing, which {family} models need", path.display())]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The name that was looked for.
        tensor: String,
        /// The family.
        family: Family,
    },
    /// A tensor that the architecture does not have. Ignoring it could change answers.
    #[error("{}: tensor {tensor:?} has no place in a {family} model of {layers} layers", path.display())]
    UnknownTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The family.
        family: Family,
        /// Layers that the architecture has.
        layers: usize,
    },
    /// Two tensors for one place.
    #[error("{}: tensors {first:?} and {second:?} are the same part of the model", path.display())]
    AmbiguousTensor {
        /// The file or folder.
        path: PathBuf,
        /// One name.
        first: String,
        /// The other name.
        second: String,
    },
    /// A tensor whose shape is not the one that the settings imply. Sizes are listed slowest-varying first.
    #[error("{}: tensor {tensor:?} has the shape {found:?}, but the model's settings ask for {wanted:?}", path.display())]
    WrongShape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape implied.
        wanted: Vec<usize>,
    },
    /// A safetensors element type that is not read.
    #[error("{}: tensor {tensor:?} is stored as {dtype}, which is not supported (F32, F16 and BF16 are)", path.display())]
    UnsupportedDtype {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: String,
    },
    /// The tensors of a compressed matrix are missing or contradict each other.
    #[error("{}: tensor {tensor:?}: {problem}; get the checkpoint again, or another form of it", path.display())]
    Storage {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// A weight that is infinite or not a number.
    #[error("{}: tensor {tensor:?} holds {value} at position {position}; the file is damaged", path.display())]
    NotFinite {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which element.
        position: usize,
        /// Its value.
        value: f32,
    },
    /// The caller asked for a tensor that this model does not have.
    #[error("this model has no tensor for {role:?}")]
    NoSuchTensor {
        /// What was asked for.
        role: TensorRole,
    },
}

impl ModelError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn gguf(path: &Path, source: GgufError) -> Self {
        Self::Gguf { path: path.to_owned(), source }
    }

    pub(crate) fn tokenizer(path: &Path, source: TokenizerError) -> Self {
        Self::Tokenizer { path: path.to_owned(), source }
    }

    pub(crate) fn safetensors(path: &Path, problem: impl Into<String>) -> Self {
        Self::Safetensors { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn storage(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Storage { path: path.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
    }

    pub(crate) fn not_a_model(path: &Path, problem: impl Into<String>) -> Self {
        Self::NotAModel { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn description(path: &Path, error: DescriptionError) -> Self {
        match error {
            DescriptionError::Setting { setting, problem } => {
                Self::Setting { path: path.to_owned(), setting, problem }
            }
            DescriptionError::Gguf(source) => Self::gguf(path, source),
        }
    }
}
