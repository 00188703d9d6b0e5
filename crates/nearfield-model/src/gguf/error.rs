//! What can be wrong with a GGUF file.

use thiserror::Error;

/// A GGUF file that cannot be read. The path is added by whoever opened the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?} instead of \"GGUF\"")]
    NotGguf {
        /// Up to four first bytes.
        found: Vec<u8>,
    },
    /// Written by a big-endian machine.
    #[error(
        "the file is big-endian GGUF, which is not supported; get the little-endian conversion of the model"
    )]
    BigEndian,
    /// A version this reader does not know.
    #[error("GGUF version {found} is not supported (2 and 3 are); get a newer conversion of the model")]
    UnsupportedVersion {
        /// The version in the file.
        found: u32,
    },
    /// The file ends inside something.
    #[error(
        "the file ends inside {what}: {needed} more bytes are needed at byte {offset} and {available} are there; \
         it is truncated or damaged, so fetch it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where, in bytes from the start of the file.
        offset: usize,
        /// Bytes needed from there.
        needed: u64,
        /// Bytes left from there.
        available: usize,
    },
    /// A count or length beyond any real model.
    #[error("{what} is {found}, more than the limit of {limit}; the file is damaged or hostile")]
    OverLimit {
        /// What is too large.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The largest value accepted.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not valid UTF-8")]
    InvalidUtf8 {
        /// Which text.
        what: String,
    },
    /// A metadata value type id outside 0..=12.
    #[error("metadata key {key:?} has a value of unknown type {id}")]
    UnknownValueType {
        /// The key.
        key: String,
        /// The type id in the file.
        id: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata key {key:?} has a boolean with the byte {found}; only 0 and 1 are booleans")]
    InvalidBool {
        /// The key.
        key: String,
        /// The byte in the file.
        found: u8,
    },
    /// Arrays of arrays of arrays...
    #[error("metadata key {key:?} nests arrays more than {limit} deep")]
    TooDeep {
        /// The key.
        key: String,
        /// The deepest nesting accepted.
        limit: usize,
    },
    /// A metadata key twice.
    #[error("metadata key {key:?} appears twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A key that the reader needs.
    #[error("metadata key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key with a value of another type than the one asked for.
    #[error("metadata key {key:?} holds {found}, but {wanted} is needed")]
    WrongType {
        /// The key.
        key: String,
        /// The type asked for.
        wanted: &'static str,
        /// The type in the file, with the value where a value is the problem.
        found: String,
    },
    /// `general.alignment` is not a power of two.
    #[error("general.alignment is {found}, which is not a power of two")]
    InvalidAlignment {
        /// The value in the file.
        found: u64,
    },
    /// A tensor storage type that has no kernels here.
    #[error("tensor {tensor:?} is stored as {type_name} (type {id}), which is not supported")]
    UnsupportedTensorType {
        /// The tensor.
        tensor: String,
        /// The type's usual name, or "an unknown type".
        type_name: &'static str,
        /// The type id in the file.
        id: u32,
    },
    /// Dimensions that make no tensor.
    #[error("tensor {tensor:?} has the dimensions {dimensions:?}: {problem}")]
    BadDimensions {
        /// The tensor.
        tensor: String,
        /// Dimensions in file order, fastest first.
        dimensions: Vec<u64>,
        /// What is wrong with them.
        problem: String,
    },
    /// A tensor name twice.
    #[error("tensor {tensor:?} appears twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that does not start at a multiple of the alignment.
    #[error(
        "tensor {tensor:?} starts at offset {offset}, which is not a multiple of the alignment {alignment}"
    )]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Offset from the start of the tensor data.
        offset: u64,
        /// `general.alignment`.
        alignment: u64,
    },
    /// A tensor that reaches past the end of the file.
    #[error(
        "tensor {tensor:?} needs bytes up to {end} but the file has {size}; \
         it is truncated or damaged, so fetch it again"
    )]
    OutsideFile {
        /// The tensor.
        tensor: String,
        /// One past the tensor's last byte, from the start of the file.
        end: u64,
        /// Size of the file.
        size: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors {first:?} and {second:?} overlap in the file")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts before the first has ended.
        second: String,
    },
    /// A split model whose parts do not belong together.
    #[error("split model: {problem}")]
    Split {
        /// What is wrong.
        problem: String,
    },
}
