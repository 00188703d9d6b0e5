//! Takes the vocabulary out of a GGUF file's metadata.

use super::gguf::GgufVocabulary;
use super::{Tokenizer, TokenizerError};
use crate::gguf::{GgufError, Metadata};

impl Tokenizer {
    /// The tokenizer that a GGUF file's metadata describes.
    ///
    /// # Errors
    /// [`TokenizerError::Metadata`] for a value that is missing or of the wrong type, else as [`Tokenizer::from_gguf`].
    pub fn from_gguf_metadata(metadata: Metadata<'_>) -> Result<Self, TokenizerError> {
        let tokens: Vec<&str> = metadata.required("tokenizer.ggml.tokens")?;
        let merges: Option<Vec<&str>> = metadata.optional("tokenizer.ggml.merges")?;
        let scores: Option<Vec<f32>> = metadata.optional("tokenizer.ggml.scores")?;
        let token_types: Option<Vec<i32>> = metadata.optional("tokenizer.ggml.token_type")?;
        let id = |name: &str| metadata.optional::<u32>(&format!("tokenizer.ggml.{name}_token_id"));
        let id_or =
            |name: &str, older: &str| -> Result<Option<u32>, GgufError> { Ok(id(name)?.or(id(older)?)) };
        let flag = |name: &str| metadata.optional::<bool>(&format!("tokenizer.ggml.{name}"));
        Self::from_gguf(&GgufVocabulary {
            model: metadata.required("tokenizer.ggml.model")?,
            pre: metadata.optional("tokenizer.ggml.pre")?,
            tokens: &tokens,
            scores: scores.as_deref().unwrap_or_default(),
            token_types: token_types.as_deref().unwrap_or_default(),
            merges: merges.as_deref().unwrap_or_default(),
            bos: id("bos")?,
            eos: id("eos")?,
            end_of_turn: id("eot")?,
            end_of_message: id("eom")?,
            unknown: id("unknown")?,
            fim_prefix: id_or("fim_pre", "prefix")?,
            fim_suffix: id_or("fim_suf", "suffix")?,
            fim_middle: id_or("fim_mid", "middle")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
        })
    }
}
