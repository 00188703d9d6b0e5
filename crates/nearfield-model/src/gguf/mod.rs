//! GGUF files, versions 2 and 3, memory-mapped and zero-copy.
//!
//! A file is: magic, version, the number of tensors and of metadata keys; the keys with their values; the tensor
//! descriptions; padding to the alignment; the tensor data. Integers are little-endian, strings carry their length
//! as u64. [`Gguf::open`] checks all of that against the size of the file, so that afterwards metadata and tensor
//! bytes are borrowed from the map without further doubt. Text is checked for UTF-8 when it is read, which keeps
//! the opening of a file with a vocabulary of 262 144 entries at a few milliseconds.
//!
//! A model may be split over several files named `NAME-00001-of-00003.gguf`; the first holds the metadata. All are
//! mapped and appear as one.

mod cursor;
mod error;
mod header;
mod metadata;
mod split;
mod tensor;

use std::{collections::HashMap, ops::Range, path::Path};

pub use error::GgufError;
pub use metadata::{
    Array, FromValue, MAX_ARRAY_DEPTH, MAX_KEY_LENGTH, MAX_KEYS, MAX_STRING_LENGTH, Metadata, Value,
    ValueType,
};
pub use tensor::{MAX_DIMENSIONS, MAX_NAME_LENGTH, MAX_TENSORS, TensorInfo, weight_format};

use self::{header::Header, tensor::index_by_name};
use crate::{error::ModelError, mapped::MappedFile};

/// An open GGUF model: one file, or all parts of a split one.
#[derive(Debug)]
pub struct Gguf {
    parts: Vec<MappedFile>,
    header: Header,
    /// Tensors of all parts in file order.
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// See [`crate::Model::release_pages`].
    pub(crate) fn release_pages(&self) {
        self.parts.iter().for_each(MappedFile::release_pages);
    }

    /// See [`crate::Model::will_need`].
    pub(crate) fn will_need(&self, bytes: &[u8]) {
        self.parts.iter().any(|file| file.will_need(bytes));
    }

    /// Maps and checks a file. For a split model `path` may be any of its parts; the others are found beside it.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        split::open(path)
    }

    /// Checks a single file held in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        let part = MappedFile::from(bytes);
        let header = Header::parse(&part, 0)?;
        if let Some(split) = split::SplitKeys::read(header.metadata(&part))?
            && split.count > 1
        {
            let problem =
                format!("this is part {} of {} and the others are needed", split.number + 1, split.count);
            return Err(GgufError::Split { problem });
        }
        Self::assemble(vec![part], header, Vec::new())
    }

    /// Puts the parts together: `first` describes part 0, `rest` holds the tensors of the others.
    fn assemble(parts: Vec<MappedFile>, mut first: Header, rest: Vec<TensorInfo>) -> Result<Self, GgufError> {
        let mut tensors = std::mem::take(&mut first.tensors);
        tensors.extend(rest);
        let by_name = index_by_name(&tensors)?;
        Ok(Self { parts, header: first, tensors, by_name })
    }

    /// Format version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The metadata, which lies in the first part.
    pub fn metadata(&self) -> Metadata<'_> {
        self.header.metadata(self.parts.first().map_or(&[], |part| part))
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).and_then(|&number| self.tensors.get(number))
    }

    /// The bytes of one of this file's tensors, row-major in its format.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.part_bytes(tensor.part, tensor.range.clone())
    }

    pub(crate) fn part_bytes(&self, part: usize, range: Range<usize>) -> &[u8] {
        self.parts.get(part).and_then(|part| part.get(range)).unwrap_or_default()
    }

    /// Number of files.
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }
}
