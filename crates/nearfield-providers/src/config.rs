//! What `nearfield.toml` says of a backend.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nearfield_api::openai::MaxTokensField;
use serde::Deserialize;

use crate::{OpenAiCompatibleOptions, PoolEndpoint, PoolOptions, ProviderError, SecretRef, Timeouts};

/// How often endpoints are checked unless told otherwise.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How long an endpoint that comes back is started slowly unless told otherwise.
const SLOW_START: Duration = Duration::from_secs(30);

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
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAiCompatibleConfig {
    /// The address of the API: https, or http to this machine. Not for a pool.
    #[serde(default)]
    pub base_url: String,
    /// The endpoints of a pool, in place of `base_url`.
    #[serde(default)]
    pub endpoints: Vec<EndpointConfig>,
    /// How often the endpoints of a pool are checked.
    pub check_seconds: Option<u64>,
    /// How long an endpoint that comes back takes to get its whole share.
    pub slow_start_seconds: Option<u64>,
    /// Whether requests to the pool carry a `cache_salt` for each cache domain, as vLLM takes it.
    #[serde(default)]
    pub cache_salt: bool,
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

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// The address of its API.
    pub base_url: String,
    /// The Unix socket of a server on this machine, in place of the network.
    pub socket: Option<PathBuf>,
    /// Its share beside the others.
    #[serde(default = "even_share")]
    pub weight: f64,
    /// Whether it gets no new requests.
    #[serde(default)]
    pub drain: bool,
}

const fn even_share() -> f64 {
    1.0
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

    /// The options of the pool `name`; `None` for a single endpoint.
    ///
    /// # Errors
    /// As [`Self::options`].
    pub fn pool(&self, name: &str, folder: &Path) -> Result<Option<PoolOptions>, ProviderError> {
        if self.endpoints.is_empty() {
            return Ok(None);
        }
        Ok(Some(PoolOptions {
            common: self.options(name, folder)?,
            endpoints: self.pool_endpoints(folder),
            check_every: self.check_seconds.map_or(CHECK_EVERY, Duration::from_secs),
            slow_start: self.slow_start_seconds.map_or(SLOW_START, Duration::from_secs),
            cache_salt: self.cache_salt,
        }))
    }

    /// The endpoints of a pool.
    pub fn pool_endpoints(&self, folder: &Path) -> Vec<PoolEndpoint> {
        let endpoint = |own: &EndpointConfig| PoolEndpoint {
            base_url: own.base_url.clone(),
            socket: own.socket.as_ref().map(|path| folder.join(path)),
            weight: own.weight,
            drain: own.drain,
        };
        self.endpoints.iter().map(endpoint).collect()
    }

    /// Its addresses: one, or those of a pool's endpoints.
    pub fn base_urls(&self) -> Vec<String> {
        match self.endpoints.as_slice() {
            [] => vec![self.base_url.clone()],
            endpoints => endpoints.iter().map(|one| one.base_url.clone()).collect(),
        }
    }

    /// Whether Unix sockets of this machine lead there.
    pub fn is_behind_sockets(&self) -> bool {
        match self.endpoints.as_slice() {
            [] => self.socket.is_some(),
            endpoints => endpoints.iter().all(|one| one.socket.is_some()),
        }
    }

    /// What is contradictory or missing in the section, in words.
    ///
    /// # Errors
    /// The setting, and what to do about it.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let pool = !self.endpoints.is_empty();
        let lone = [
            ("check_seconds", self.check_seconds.is_some()),
            ("slow_start_seconds", self.slow_start_seconds.is_some()),
            ("cache_salt", self.cache_salt),
        ];
        match (pool, self.base_url.is_empty()) {
            (false, true) => return Err(("base_url", "is missing; or write `endpoints` for a pool")),
            (true, false) => return Err(("base_url", "and `endpoints` exclude each other")),
            _ => {}
        }
        if pool && self.socket.is_some() {
            return Err(("socket", "belongs into the pool's `endpoints`"));
        }
        match lone.into_iter().find(|(_, set)| *set && !pool) {
            Some((name, _)) => Err((name, "is for a pool with `endpoints`")),
            None => Ok(()),
        }
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
        assert_eq!(read("models = []").unwrap().check().unwrap_err().0, "base_url");
    }

    #[test]
    fn a_pool_has_endpoints() {
        let config = read(
            r#"
            endpoints = [
                { base_url = "http://127.0.0.1:1/v1", weight = 2 },
                { base_url = "http://127.0.0.1:2/v1", drain = true },
            ]
            check_seconds = 3
            cache_salt = true
            "#,
        )
        .unwrap();
        config.check().unwrap();
        let pool = config.pool("p", Path::new("")).unwrap().unwrap();
        assert_eq!((pool.endpoints[0].weight, pool.endpoints[1].drain), (2.0, true));
        assert_eq!((pool.check_every, pool.slow_start), (Duration::from_secs(3), SLOW_START));
        assert_eq!(config.base_urls().len(), 2);
        for (wrong, setting) in [
            ("base_url = \"https://h/v1\"\ncheck_seconds = 3", "check_seconds"),
            ("base_url = \"https://h/v1\"\nendpoints = [{ base_url = \"https://i/v1\" }]", "base_url"),
            ("socket = \"s\"\nendpoints = [{ base_url = \"http://localhost/v1\" }]", "socket"),
        ] {
            assert_eq!(read(wrong).unwrap().check().unwrap_err().0, setting, "{wrong}");
        }
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
