//! Finds the text side of a model in its files.

use std::path::Path;

use serde_json::Value;

use super::Text;
use crate::{
    chat,
    error::ModelError,
    files::{read_bounded, read_object},
    gguf::Gguf,
    tokenizer::{GenerationConfig, Tokenizer, TokenizerConfig, TokenizerError},
};

/// Largest `tokenizer.json` accepted; that of Gemma has 33 megabytes.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// Largest of the other files accepted; real ones have up to some ten kilobytes, with many added tokens a megabyte.
const MAX_SETTINGS_BYTES: u64 = 16 << 20;

impl Text {
    /// Opens the text side of a GGUF file, of any part of a split one, or of a folder with a published checkpoint.
    ///
    /// # Errors
    /// A file that is missing or damaged, or a tokenizer that is not supported, with its name.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() { Self::open_checkpoint(path) } else { Self::from_gguf(path, &Gguf::open(path)?) }
    }

    /// As [`Text::open`], for the bytes of a single GGUF file in memory. `path` only names it in errors.
    ///
    /// # Errors
    /// As [`Text::open`].
    pub fn from_gguf_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ModelError> {
        let file = Gguf::from_bytes(bytes).map_err(|error| ModelError::gguf(path, error))?;
        Self::from_gguf(path, &file)
    }

    fn from_gguf(path: &Path, file: &Gguf) -> Result<Self, ModelError> {
        let metadata = file.metadata();
        let tokenizer =
            Tokenizer::from_gguf_metadata(metadata).map_err(|error| ModelError::tokenizer(path, error))?;
        let wrong = |error| ModelError::gguf(path, error);
        let generation = GenerationConfig::from_gguf_metadata(metadata).map_err(wrong)?;
        let template: Option<&str> = metadata.optional("tokenizer.chat_template").map_err(wrong)?;
        let architecture: Option<&str> = metadata.optional("general.architecture").map_err(wrong)?;
        let template = template.or_else(|| of_family(architecture, &tokenizer));
        Ok(Self::new(tokenizer, generation, template))
    }

    fn open_checkpoint(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            let problem = "it is a folder without a tokenizer.json, which text needs; pull the model again";
            return Err(ModelError::not_a_model(folder, problem));
        }
        let config = optional(folder, "tokenizer_config.json", |_, bytes| TokenizerConfig::parse(bytes))?;
        let config = config.unwrap_or_default();
        let bytes = read_bounded(&path, MAX_TOKENIZER_BYTES)?;
        let tokenizer = Tokenizer::from_json(&bytes, &config.special)
            .map_err(|error| ModelError::tokenizer(folder, error))?;
        let generation =
            optional(folder, "generation_config.json", |_, bytes| GenerationConfig::parse(bytes))?;
        let generation = match generation {
            Some(generation) if !generation.eos_token_ids.is_empty() => generation,
            // Where the file for it does not name the ends, the model's settings do.
            generation => {
                let mut generation = generation.unwrap_or_default();
                generation.eos_token_ids = ends_in_config(folder)?;
                generation
            }
        };
        let template = template_of(folder)?.or(config.chat_template);
        let kind = if template.is_none() { model_type(folder)? } else { None };
        let template = template.as_deref().or_else(|| of_family(kind.as_deref(), &tokenizer));
        Ok(Self::new(tokenizer, generation, template))
    }
}

/// The template of a known family whose vocabulary has the tokens for it.
fn of_family(architecture: Option<&str>, tokenizer: &Tokenizer) -> Option<&'static str> {
    let knows = |texts: &[&str]| texts.iter().all(|text| tokenizer.token_id(text).is_some());
    let known =
        knows(&["<|im_start|>", "<|im_end|>", "<think>"]) || knows(&["<|turn>", "<turn|>", "<|channel>"]);
    architecture.filter(|_| known).and_then(chat::template_of)
}

/// `model_type` of `config.json`.
fn model_type(folder: &Path) -> Result<Option<String>, ModelError> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Ok(None);
    }
    let object = read_object(&path, MAX_SETTINGS_BYTES)?;
    Ok(object.get("model_type").and_then(Value::as_str).map(str::to_owned))
}

/// Parses a file of a folder, if it is there.
fn optional<T>(
    folder: &Path,
    name: &str,
    parse: impl FnOnce(&Path, &[u8]) -> Result<T, TokenizerError>,
) -> Result<Option<T>, ModelError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(&path, MAX_SETTINGS_BYTES)?;
    parse(&path, &bytes).map(Some).map_err(|error| ModelError::tokenizer(folder, error))
}

/// The template beside a checkpoint: a file of its own goes before the tokenizer's settings.
fn template_of(folder: &Path) -> Result<Option<String>, ModelError> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        let bytes = read_bounded(&path, MAX_SETTINGS_BYTES)?;
        let wrong = |_| ModelError::not_a_model(&path, "it is not UTF-8 text; fetch it again");
        return String::from_utf8(bytes).map(Some).map_err(wrong);
    }
    let path = folder.join("chat_template.json");
    if !path.exists() {
        return Ok(None);
    }
    let object = read_object(&path, MAX_SETTINGS_BYTES)?;
    Ok(object.get("chat_template").and_then(Value::as_str).map(str::to_owned))
}

/// `eos_token_id` of `config.json`, which has it at the top or beside the other settings of the text model.
fn ends_in_config(folder: &Path) -> Result<Vec<u32>, ModelError> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let object = read_object(&path, MAX_SETTINGS_BYTES)?;
    let nested = object.get("text_config").and_then(|text| text.get("eos_token_id"));
    let ids = object.get("eos_token_id").filter(|value| !value.is_null()).or(nested);
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let found = match ids {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    };
    found.ok_or_else(|| ModelError::Setting {
        path,
        setting: "eos_token_id".to_owned(),
        problem: "is neither a token's number nor a list of them".to_owned(),
    })
}
