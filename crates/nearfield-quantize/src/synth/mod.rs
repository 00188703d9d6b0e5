//! Models of real shape with random weights, for measurements without downloads. The same model, format and seed give
//! the same bytes, and both kinds of file hold the same numbers wherever both have the format.
//!
//! Weights have the spread that keeps what flows through a layer at its size; nothing else about them is like a trained
//! model, so answers mean nothing. Every token outside a tiny byte-level vocabulary is a made-up word.

mod checkpoint;
mod gguf;
mod tokenizer;
mod values;

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use nearfield_model::{Architecture, LayerTensor, LineUpModel, NamedTensor, TensorRole};
use serde_json::{Map, Value};

use values::Source;

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynthFormat {
    /// Four-bit codes, a scale for 16.
    Nvfp4,
    /// Four-bit codes, a scale for 32.
    Mxfp4,
    /// Bytes with a scale for each block of 128x128; checkpoints only.
    Fp8,
    /// Two bytes an element.
    Bf16,
    /// Blocks of 32 nibbles; GGUF only.
    Q4_0,
    /// Blocks of 32 bytes; GGUF only.
    Q8_0,
}

/// What is written.
#[derive(Clone, Debug)]
pub struct SynthModel {
    /// Settings as a checkpoint has them.
    pub config: Map<String, Value>,
    /// The shape that they describe.
    pub architecture: Architecture,
    /// Whether the output head is a matrix of its own.
    pub own_head: bool,
}

/// How it is written.
#[derive(Clone, Copy, Debug)]
pub struct SynthOptions {
    /// Of the matrices of layers.
    pub format: SynthFormat,
    /// Of embeddings and head.
    pub tables: SynthFormat,
    /// Another seed gives other weights.
    pub seed: u64,
}

/// What keeps a model from being written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// A format that the kind of file does not have.
    #[error("{kind} has no {format:?}; choose another format, or another kind of file")]
    Format {
        /// The kind of file.
        kind: &'static str,
        /// What it does not have.
        format: SynthFormat,
    },
    /// A row that is no whole number of blocks.
    #[error(
        "{tensor} has rows of {columns} elements, which are no whole blocks of {format:?}; choose another format"
    )]
    Blocks {
        /// The tensor.
        tensor: String,
        /// Elements of a row.
        columns: usize,
        /// The format.
        format: SynthFormat,
    },
    /// Something is there already.
    #[error("{} is there already; remove it or name another place", path.display())]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// The file system.
    #[error("{} cannot be written: {source}; the part that was written is removed", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SynthModel {
    /// A model of the line-up.
    ///
    /// # Errors
    /// Not for the models that there are.
    pub fn new(model: &LineUpModel) -> Result<Self, nearfield_model::ModelError> {
        let own_head = model.has_own_head();
        Ok(Self { config: model.config(), architecture: model.architecture()?, own_head })
    }
}

/// Bytes of the tensors that [`write()`] would write: with some more for names and vocabulary, those of the files.
///
/// # Errors
/// [`SynthError::Format`] and [`SynthError::Blocks`].
pub fn tensor_bytes(model: &SynthModel, options: &SynthOptions, to: &Path) -> Result<u64, SynthError> {
    Ok(sizes(model, options, to)?.iter().map(|(_, bytes)| bytes).sum())
}

/// What each tensor that [`write()`] would write is to the model, and its bytes. A matrix may be cut into several.
///
/// # Errors
/// As [`tensor_bytes`].
pub fn sizes(
    model: &SynthModel,
    options: &SynthOptions,
    to: &Path,
) -> Result<Vec<(TensorRole, u64)>, SynthError> {
    if is_gguf(to) { gguf::sizes(model, options) } else { checkpoint::sizes(model, options) }
}

/// Writes a GGUF file where `to` ends in `.gguf`, else a folder with a checkpoint, tensor by tensor under a temporary name
/// that becomes the final one at the end. `wrote` is told the bytes after each tensor and may end the work.
///
/// # Errors
/// As [`tensor_bytes`], and [`SynthError::Exists`] and [`SynthError::Write`].
pub fn write(
    model: &SynthModel,
    options: &SynthOptions,
    to: &Path,
    wrote: &mut dyn FnMut(u64) -> std::io::Result<()>,
) -> Result<(), SynthError> {
    tensor_bytes(model, options, to)?;
    if to.exists() {
        return Err(SynthError::Exists { path: to.to_owned() });
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = if is_gguf(to) {
        gguf::write(model, options, &partial, wrote)
    } else {
        checkpoint::write(model, options, &partial, wrote)
    };
    let written = written.and_then(|()| std::fs::rename(&partial, to));
    written.map_err(|source| {
        // It holds nothing of worth, and the error is what must be told.
        let _ =
            if partial.is_dir() { std::fs::remove_dir_all(&partial) } else { std::fs::remove_file(&partial) };
        SynthError::Write { path: to.to_owned(), source }
    })
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// How a tensor is stored: `None` for vectors, which each kind of file stores in its own way.
fn format_of(tensor: &NamedTensor, options: &SynthOptions) -> Option<SynthFormat> {
    let role = tensor.role;
    if role.is_vocabulary() || role == TensorRole::PerLayerEmbedding {
        Some(options.tables)
    } else if role.is_compressed_layer() {
        Some(options.format)
    } else if tensor.shape.len() < 2
        || matches!(
            role,
            TensorRole::Layer { part: LayerTensor::DeltaConvolution | LayerTensor::SharedGate, .. }
        )
    {
        None
    } else {
        Some(SynthFormat::Bf16)
    }
}

fn check_blocks(tensor: &NamedTensor, format: SynthFormat, block: usize) -> Result<(), SynthError> {
    let columns = tensor.shape.last().copied().unwrap_or(0);
    if columns.is_multiple_of(block) {
        return Ok(());
    }
    Err(SynthError::Blocks { tensor: tensor.name.clone(), columns, format })
}

/// A new file, with a buffer.
fn create(path: &Path) -> std::io::Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(1 << 20, File::create(path)?))
}

/// Ends a file: everything is on the disk.
fn finish(out: BufWriter<File>) -> std::io::Result<()> {
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

/// Writes bytes that are generated a few rows at a time.
fn write_rows(
    out: &mut impl Write,
    rows: usize,
    columns: usize,
    mut fill: impl FnMut(usize, &mut Vec<u8>),
) -> std::io::Result<()> {
    let most = ((4 << 20) / columns.max(1)).max(1);
    let (mut left, mut bytes) = (rows, Vec::new());
    while left > 0 {
        let rows = left.min(most);
        bytes.clear();
        fill(rows, &mut bytes);
        out.write_all(&bytes)?;
        left -= rows;
    }
    Ok(())
}

/// The numbers of a tensor.
fn source(tensor: &NamedTensor, role: TensorRole, options: &SynthOptions) -> Source {
    Source::new(options.seed, role, tensor.shape.last().copied().unwrap_or(1))
}

#[cfg(test)]
mod tests;
