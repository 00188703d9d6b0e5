//! The built-in catalogue: short names with sizes, licences, digests and ordered sources.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::HubError;

/// Names at least this similar (Jaro-Winkler, 0 to 1) are suggested.
const SIMILAR: f64 = 0.85;
/// Most names suggested at once.
const MAX_SUGGESTIONS: usize = 3;

/// A licence by its usual short name (SPDX where there is one) and its text's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct License {
    /// Short name, such as `Apache-2.0`.
    pub name: String,
    /// Where the text is; absent when only the name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What says how much memory a model takes and how much of it a token reads, before the model is here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSizes {
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// Bytes of the tensors that decoding a token reads.
    pub decode_bytes: u64,
    /// The settings of the model's published `config.json` that say its shape.
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueEntry {
    /// Short name, such as `smollm2:135m`.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// The model family, as its configuration names it.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Format of the weights.
    pub quantization: String,
    /// The model's own context length in tokens.
    pub context: u32,
    /// Whether it is trained to chat.
    pub chat: bool,
    /// Its licence.
    pub license: License,
    /// File name in the store, for models that are one file.
    #[serde(default)]
    pub file: Option<String>,
    /// Size of all files in bytes.
    pub bytes: u64,
    /// Whether `bytes` is rounded.
    #[serde(default)]
    pub approximate: bool,
    /// Digest of the one file; absent for repositories, whose digests the hub states.
    #[serde(default)]
    pub sha256: Option<Digest>,
    /// What a plan of memory needs; absent where it has not been looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<ModelSizes>,
    /// Where to get it, the preferred source first, in the grammar of [`ModelReference`](crate::ModelReference).
    pub sources: Vec<String>,
}

/// The list of models that have a short name.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    #[serde(rename = "model")]
    entries: Vec<CatalogueEntry>,
}

impl Catalogue {
    /// The catalogue that is built into this version.
    ///
    /// # Errors
    /// [`HubError::InvalidSetting`] if the built-in text is wrong, which a test excludes.
    pub fn builtin() -> Result<Self, HubError> {
        static BUILTIN: OnceLock<Result<Catalogue, String>> = OnceLock::new();
        BUILTIN
            .get_or_init(|| toml::from_str(include_str!("catalogue.toml")).map_err(|error| error.to_string()))
            .clone()
            .map_err(|reason| HubError::InvalidSetting { name: "built-in catalogue", reason })
    }

    /// Reads a catalogue in the format of the built-in one.
    ///
    /// # Errors
    /// [`HubError::InvalidSetting`] with the place of the mistake.
    pub fn from_toml(text: &str) -> Result<Self, HubError> {
        toml::from_str(text)
            .map_err(|error| HubError::InvalidSetting { name: "catalogue", reason: error.to_string() })
    }

    /// All entries, in the catalogue's order.
    pub fn entries(&self) -> &[CatalogueEntry] {
        &self.entries
    }

    /// The entry with this name, in either case.
    pub fn get(&self, name: &str) -> Option<&CatalogueEntry> {
        self.entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
    }

    /// Names close to `text`, the closest first.
    pub fn suggest(&self, text: &str) -> Vec<String> {
        suggest(text, self.entries.iter().map(|entry| entry.name.as_str()))
    }
}

/// Those of `names` that are close to `text`, the closest first: what begins with it, then what resembles it.
pub(crate) fn suggest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let text = text.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .map(|name| {
            let bonus = if text.len() >= 3 && name.starts_with(&text) { 1.0 } else { 0.0 };
            (strsim::jaro_winkler(&text, name) + bonus, name)
        })
        .filter(|(score, _)| *score >= SIMILAR)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(MAX_SUGGESTIONS).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::names::{catalogue_folder, is_safe_relative};
    use crate::reference::{ModelReference, has_extension};

    fn builtin() -> Catalogue {
        Catalogue::builtin().unwrap()
    }

    #[test]
    fn names_are_plain_and_have_folders_of_their_own() {
        let catalogue = builtin();
        let folders: HashSet<String> =
            catalogue.entries().iter().map(|entry| catalogue_folder(&entry.name)).collect();
        assert_eq!(folders.len(), catalogue.entries().len());
        for entry in catalogue.entries() {
            assert!(
                entry
                    .name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | ':')),
                "{}",
                entry.name
            );
            assert!(is_safe_relative(&catalogue_folder(&entry.name)));
        }
    }

    #[test]
    fn every_source_can_be_read_and_the_hub_comes_first() {
        for entry in builtin().entries() {
            let sources: Vec<ModelReference> = entry
                .sources
                .iter()
                .map(|source| ModelReference::parse(source, &builtin()).unwrap())
                .collect();
            assert!(matches!(sources.first(), Some(ModelReference::HuggingFace(_))), "{}", entry.name);
            assert!(sources.iter().all(|source| !matches!(source, ModelReference::Catalogue(_))));
            for (source, text) in sources.iter().zip(&entry.sources) {
                assert_eq!(source.to_string(), *text);
            }
        }
    }

    #[test]
    fn single_files_have_size_and_digest() {
        for entry in builtin().entries() {
            assert!(entry.parameters > 0 && entry.bytes > 0 && entry.context > 0, "{}", entry.name);
            assert_eq!(entry.file.is_some(), entry.sha256.is_some(), "{}", entry.name);
            assert_eq!(entry.approximate, entry.sha256.is_none(), "{}", entry.name);
            if let Some(file) = &entry.file {
                assert!(is_safe_relative(file) && has_extension(file, "gguf"), "{file}");
            }
            assert!(entry.license.url.as_ref().is_some_and(|url| url.starts_with("https://")));
        }
    }

    #[test]
    fn the_models_that_a_package_index_carries_are_listed_with_their_parts() {
        for (name, parts, bytes) in [
            ("smollm2:135m", 1, 98_362_432),
            ("gemma3:270m", 4, 253_113_024),
            ("qwen2.5-coder:0.5b", 6, 491_400_064),
            ("qwen2.5-coder:1.5b", 22, 1_117_320_768),
        ] {
            let catalogue = builtin();
            let entry = catalogue.get(name).unwrap();
            assert_eq!(entry.bytes, bytes);
            let ModelReference::Package(source) =
                ModelReference::parse(&entry.sources[1], &catalogue).unwrap()
            else {
                panic!("{name}")
            };
            assert_eq!(source.names().len(), parts);
            assert!(source.version.is_some());
        }
    }

    #[test]
    fn a_catalogue_with_an_unknown_field_is_refused() {
        let text = include_str!("catalogue.toml").replacen("title =", "titel =", 1);
        assert!(Catalogue::from_toml(&text).unwrap_err().to_string().contains("titel"));
    }
}
