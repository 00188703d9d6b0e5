//! What a model's makers advise for generating with it.

use serde::Deserialize;

use super::error::TokenizerError;
use crate::gguf::{GgufError, Metadata};

/// What matters here of `generation_config.json`, or of a GGUF file's keys `general.sampling.*`. Settings that the files
/// do not state are `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Whether to sample at all. When this is false, the settings of sampling have no meaning.
    pub do_sample: Option<bool>,
    /// Temperature.
    pub temperature: Option<f32>,
    /// Number of best tokens that are considered; 0 for all.
    pub top_k: Option<u32>,
    /// Share of probability that is considered.
    pub top_p: Option<f32>,
    /// Least probability that is considered, as a share of the best token's.
    pub min_p: Option<f32>,
    /// Factor against tokens that have occurred.
    pub repetition_penalty: Option<f32>,
    /// Tokens that are never to be produced.
    pub suppress_tokens: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json`; `eos_token_id` is a number, a list of numbers, or absent.
    ///
    /// # Errors
    /// [`TokenizerError::Json`].
    pub fn parse(file: &[u8]) -> Result<Self, TokenizerError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Ids {
            One(u32),
            Several(Vec<u32>),
        }
        #[derive(Deserialize)]
        struct Raw {
            eos_token_id: Option<Ids>,
            do_sample: Option<bool>,
            temperature: Option<f32>,
            top_k: Option<u32>,
            top_p: Option<f32>,
            min_p: Option<f32>,
            repetition_penalty: Option<f32>,
            suppress_tokens: Option<Vec<u32>>,
        }
        let raw: Raw = serde_json::from_slice(file)
            .map_err(|source| TokenizerError::Json { file: "generation_config.json", source })?;
        let eos_token_ids = match raw.eos_token_id {
            None => Vec::new(),
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Several(ids)) => ids,
        };
        Ok(Self {
            eos_token_ids,
            do_sample: raw.do_sample,
            temperature: raw.temperature,
            top_k: raw.top_k,
            top_p: raw.top_p,
            min_p: raw.min_p,
            repetition_penalty: raw.repetition_penalty,
            suppress_tokens: raw.suppress_tokens.unwrap_or_default(),
        })
    }

    /// Reads a GGUF file's keys `general.sampling.*`, which few files have. The ends of an answer are in its vocabulary.
    ///
    /// # Errors
    /// A value of the wrong type.
    pub fn from_gguf_metadata(metadata: Metadata<'_>) -> Result<Self, GgufError> {
        let number = |name: &str| {
            let value: Option<f64> = metadata.optional(&format!("general.sampling.{name}"))?;
            Ok::<_, GgufError>(value.map(|value| value as f32))
        };
        Ok(Self {
            temperature: number("temp")?,
            top_k: metadata.optional("general.sampling.top_k")?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("penalty_repeat")?,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_absent_ones_stay_absent() {
        let file =
            br#"{"eos_token_id": [1, 106], "temperature": 0.5, "top_k": 64, "top_p": 0.95, "do_sample": true,
            "suppress_tokens": [7], "repetition_penalty": 1.05, "pad_token_id": 0}"#;
        let config = GenerationConfig::parse(file).unwrap();
        assert_eq!((config.eos_token_ids, config.suppress_tokens), (vec![1, 106], vec![7]));
        assert_eq!((config.temperature, config.top_k, config.top_p), (Some(0.5), Some(64), Some(0.95)));
        assert_eq!((config.min_p, config.repetition_penalty), (None, Some(1.05)));
        let config = GenerationConfig::parse(br#"{"eos_token_id": 2}"#).unwrap();
        assert_eq!(config, GenerationConfig { eos_token_ids: vec![2], ..GenerationConfig::default() });
        assert_eq!(GenerationConfig::parse(b"{}").unwrap(), GenerationConfig::default());
        assert!(GenerationConfig::parse(br#"{"eos_token_id": "x"}"#).is_err());
    }
}
