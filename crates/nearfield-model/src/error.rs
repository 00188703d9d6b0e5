//! The errors of this crate.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::gguf::GgufError;

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
    /// A part of a split GGUF model is not beside the others.
    #[error("{} is missing: it is one of the {count} parts of this model, so pull the model again", path.display())]
    MissingPart {
        /// The part that is missing.
        path: PathBuf,
        /// Number of parts.
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
}

impl ModelError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn gguf(path: &Path, source: GgufError) -> Self {
        Self::Gguf { path: path.to_owned(), source }
    }
}
