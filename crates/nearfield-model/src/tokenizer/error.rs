//! What can be wrong with a vocabulary or a request to a tokenizer.

/// An error of the tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// `tokenizer.ggml.model` names an algorithm that is not implemented.
    #[error(
        "the model's tokenizer is of kind '{name}', which this version cannot read (it reads 'gpt2' and 'llama'); \
         use another file of this model or a newer version"
    )]
    UnknownModel {
        /// The name in the file.
        name: String,
    },
    /// The pre-tokenizer's name is not known.
    #[error(
        "the model's pre-tokenizer '{name}' is not known to this version; using another one would give wrong tokens. \
         Use a newer version"
    )]
    UnknownPreTokenizer {
        /// The name in the file.
        name: String,
    },
    /// A `gpt2` vocabulary without `tokenizer.ggml.pre`.
    #[error(
        "the model file does not name its pre-tokenizer (key tokenizer.ggml.pre), so its tokens cannot be known; \
         use a newer conversion of this model"
    )]
    MissingPreTokenizer,
    /// A value of the GGUF metadata is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] crate::gguf::GgufError),
    /// A part of `tokenizer.json` that is not supported.
    #[error("tokenizer.json: {part} is not supported by this version: {found}")]
    UnsupportedPart {
        /// Which part, in the file's own words.
        part: String,
        /// What it holds, shortened.
        found: String,
    },
    /// `tokenizer.json` is not the JSON it should be.
    #[error("{file} cannot be read: {source}")]
    Json {
        /// Name of the file.
        file: &'static str,
        /// The parser's error, with line and column.
        source: serde_json::Error,
    },
    /// The vocabulary contradicts itself.
    #[error("the model's vocabulary is damaged: {what}; fetch the file again")]
    Damaged {
        /// What is wrong, with the token's number.
        what: String,
    },
    /// The vocabulary is larger than any real one.
    #[error("the model's vocabulary has {found} {what}, more than the {limit} that this version accepts")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The largest number that is accepted.
        limit: usize,
    },
    /// Text holds bytes for which the vocabulary has no token.
    #[error(
        "the model's vocabulary has no token for {count} byte(s) of the text, the first being {byte:#04x}; \
         remove these characters or use another model"
    )]
    Unencodable {
        /// How many bytes.
        count: usize,
        /// The first of them.
        byte: u8,
    },
    /// An id outside the vocabulary.
    #[error("token {id} is outside the vocabulary of {size} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of tokens.
        size: usize,
    },
}
