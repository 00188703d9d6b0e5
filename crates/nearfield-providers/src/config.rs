//! What `nearfield.toml` says of a backend.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nearfield_api::openai::MaxTokensField;
use serde::Deserialize;

use crate::{OpenAiCompatibleOptions, ProviderError, SecretRef, Timeouts};

/// The settings of a section `[backend.NAME]` with `kind = "openai-compatible"`; the `kind` itself is the reader's.
///
/// ```toml
/// base_url = "https://api.openai.com/v1"
/// key = "env:OPENAI_API_KEY"
/// models = ["gpt-5.4-mini"]
/// model_map = { fast = "gpt-5.4-nano" }
/// max_tokens_field = "max_completion_tokens"
/// prices = "openai"
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAiCompatibleConfig {
    /// The address of the API: https, or http to this machine.
    pub base_url: String,
    /// Where the key is to be had.
    pub key: Option<SecretRef>,
    /// Models that may be asked for by their own names. Without these and `model_map`, any model may.
    #[serde(default)]
    pub models: Vec<String>,
    /// Further models that may be asked for, with their names at the backend.
    #[serde(default)]
    pub model_map: BTreeMap<String, String>,
    /// The name of the token limit on the chat route.
    #[serde(default)]
    pub max_tokens_field: MaxTokens,
    /// The provider's name in the price table.
    pub prices: Option<String>,
    /// A PEM file of the only certificate authorities to trust, in place of the system's.
    pub certificates: Option<PathBuf>,
    /// Allows plain http to other machines.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// A proxy to go through; the environment's are ignored.
    pub proxy: Option<String>,
    /// The Unix socket of a server on this machine, in place of the network. Such a backend counts as this machine.
    pub socket: Option<PathBuf>,
    /// See [`Timeouts::connect`].
    pub connect_timeout_seconds: Option<u64>,
    /// See [`Timeouts::first_byte`].
    pub first_byte_timeout_seconds: Option<u64>,
    /// See [`Timeouts::first_token`].
    pub first_token_timeout_seconds: Option<u64>,
    /// See [`Timeouts::idle`].
    pub idle_timeout_seconds: Option<u64>,
}

/// [`MaxTokensField`] by its name on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokens {
    /// Understood by every compatible server.
    #[default]
    MaxTokens,
    /// OpenAI's own newer models take only this.
    MaxCompletionTokens,
}

impl From<MaxTokens> for MaxTokensField {
    fn from(name: MaxTokens) -> Self {
        match name {
            MaxTokens::MaxTokens => Self::MaxTokens,
            MaxTokens::MaxCompletionTokens => Self::MaxCompletionTokens,
        }
    }
}

impl OpenAiCompatibleConfig {
    /// The options of the backend `name`, with the key fetched. Relative paths are taken from `folder`, the
    /// configuration file's.
    ///
    /// # Errors
    /// [`ProviderError::Key`] when the key cannot be had.
    pub fn options(&self, name: &str, folder: &Path) -> Result<OpenAiCompatibleOptions, ProviderError> {
        let key = self.key.clone().map(|key| key.relative_to(folder).resolve()).transpose();
        let key = key.map_err(|source| ProviderError::Key { backend: name.to_owned(), source })?;
        let otherwise = Timeouts::default();
        let seconds = |set: Option<u64>, default: Duration| set.map_or(default, Duration::from_secs);
        Ok(OpenAiCompatibleOptions {
            key,
            models: self.models.clone(),
            model_map: self.model_map.clone(),
            max_tokens_field: self.max_tokens_field.into(),
            certificates: self.certificates.as_ref().map(|path| folder.join(path)),
            allow_plaintext: self.allow_plaintext,
            proxy: self.proxy.clone(),
            socket: self.socket.as_ref().map(|path| folder.join(path)),
            timeouts: Timeouts {
                connect: seconds(self.connect_timeout_seconds, otherwise.connect),
                first_byte: seconds(self.first_byte_timeout_seconds, otherwise.first_byte),
                first_token: seconds(self.first_token_timeout_seconds, otherwise.first_token),
                idle: seconds(self.idle_timeout_seconds, otherwise.idle),
            },
            ..OpenAiCompatibleOptions::new(name, &self.base_url)
        })
    }

    /// The names that may be asked for; `None` when any may.
    pub fn served_models(&self) -> Option<Vec<String>> {
        let names: Vec<String> = self.models.iter().chain(self.model_map.keys()).cloned().collect();
        (!names.is_empty()).then_some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(tag = "kind")]
    enum Backend {
        #[serde(rename = "openai-compatible")]
        OpenAiCompatible(OpenAiCompatibleConfig),
    }

    fn read(text: &str) -> Result<OpenAiCompatibleConfig, toml::de::Error> {
        let Backend::OpenAiCompatible(config) =
            toml::from_str(&format!("kind = \"openai-compatible\"\n{text}"))?;
        Ok(config)
    }

    #[test]
    fn a_section_under_its_kind() {
        let config = read(
            r#"
            base_url = "https://host.example/v1"
            key = "env:PATH"
            models = ["a"]
            model_map = { fast = "b" }
            max_tokens_field = "max_completion_tokens"
            prices = "openai"
            certificates = "ca.pem"
            idle_timeout_seconds = 3
            "#,
        )
        .unwrap();
        assert_eq!(config.served_models().unwrap(), ["a", "fast"]);
        let options = config.options("cloud", Path::new("/etc/nearfield")).unwrap();
        assert!(options.key.is_some());
        assert_eq!(options.max_tokens_field, MaxTokensField::MaxCompletionTokens);
        assert_eq!(options.certificates.as_deref(), Some(Path::new("/etc/nearfield/ca.pem")));
        assert_eq!(options.timeouts, Timeouts { idle: Duration::from_secs(3), ..Timeouts::default() });
        let least = read("base_url = \"https://h/v1\"").unwrap();
        assert_eq!(least.served_models(), None);
        assert_eq!(
            least.options("cloud", Path::new("")).unwrap().max_tokens_field,
            MaxTokensField::MaxTokens
        );
    }

    #[test]
    fn unknown_settings_are_named() {
        let error = read("base_url = \"https://h/v1\"\napi_base = 1").unwrap_err();
        assert!(error.message().contains("api_base"), "{error}");
        assert!(read("models = []").unwrap_err().message().contains("base_url"));
    }

    #[test]
    fn a_literal_key_is_refused_without_showing_it() {
        let config = read("base_url = \"https://h/v1\"\nkey = \"sk-0123456789\"").unwrap();
        let error = config.options("cloud", Path::new("")).unwrap_err();
        let shown = format!("{error} {error:?} {config:?}");
        assert!(shown.contains("backend `cloud`: key: must be a reference"), "{shown}");
        assert!(!shown.contains("sk-0"), "{shown}");
    }
}
