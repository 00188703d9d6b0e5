//! The sections `[backend.NAME]`.

use std::path::{Path, PathBuf};

use nearfield_providers::{
    OpenAiCompatible, OpenAiCompatibleConfig, OpenAiCompatibleOptions, ProviderError, SecretError,
};
use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::{ConfigError, Source};
use crate::suggest::did_you_mean;

/// The name of the backend that is this machine's own engine.
pub(crate) const LOCAL_BACKEND: &str = "local";
/// The longest name of a backend.
const MAX_NAME: usize = 64;
/// The values of `kind`.
const KINDS: [&str; 1] = ["openai-compatible"];

/// A cloud backend of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct BackendConfig {
    pub(crate) name: String,
    settings: OpenAiCompatibleConfig,
    /// The configuration file and the line where the section begins, for errors that come later.
    path: PathBuf,
    line: usize,
}

impl BackendConfig {
    /// The models that it may be asked for; `None` for any.
    pub(crate) fn models(&self) -> Option<Vec<String>> {
        self.settings.served_models()
    }

    /// Where its requests go, for the policy's lint.
    pub(super) fn endpoint(&self) -> nearfield_router::rules::Endpoint {
        let mut models = self.settings.served_models().unwrap_or_default();
        models.extend(self.settings.model_map.values().cloned());
        nearfield_router::rules::Endpoint {
            name: self.name.clone(),
            url: self.settings.base_url.clone(),
            models,
        }
    }

    /// The provider's name in the price table.
    pub(crate) fn price_provider(&self) -> Option<String> {
        self.settings.prices.clone()
    }

    /// The backend itself, with its key fetched.
    pub(crate) fn build(&self) -> Result<OpenAiCompatible, ConfigError> {
        self.options().and_then(OpenAiCompatible::new).map_err(|error| self.wrong(&error))
    }

    fn options(&self) -> Result<OpenAiCompatibleOptions, ProviderError> {
        self.settings.options(&self.name, self.path.parent().unwrap_or(Path::new("")))
    }

    fn wrong(&self, error: &ProviderError) -> ConfigError {
        ConfigError::At { path: self.path.clone(), line: self.line, problem: error.to_string() }
    }
}

/// Takes the backends out of the file's table, in the order of the file.
pub(super) fn take(source: Source<'_>, file: &mut DeTable<'_>) -> Result<Vec<BackendConfig>, ConfigError> {
    let Some(sections) = file.remove("backend") else { return Ok(Vec::new()) };
    let start = sections.span().start;
    let DeValue::Table(sections) = sections.into_inner() else {
        return Err(source.at(start, "`backend` holds sections such as [backend.NAME]".to_owned()));
    };
    let mut sections: Vec<_> = sections.into_iter().collect();
    sections.sort_by_key(|(name, _)| name.span().start);
    sections.into_iter().map(|(name, section)| read(source, &name, section)).collect()
}

fn read(
    source: Source<'_>,
    name: &Spanned<std::borrow::Cow<'_, str>>,
    mut section: Spanned<DeValue<'_>>,
) -> Result<BackendConfig, ConfigError> {
    let start = name.span().start;
    check_name(name.get_ref()).map_err(|problem| source.at(start, problem))?;
    let DeValue::Table(settings) = section.get_mut() else {
        return Err(source.at(start, format!("`backend.{}` must be a section of its own", name.get_ref())));
    };
    let Some(kind) = settings.remove("kind") else {
        let problem = format!("the setting `kind` is missing; write kind = \"{}\"", KINDS.join("\" or \""));
        return Err(source.at(start, problem));
    };
    let known = kind.get_ref().as_str().unwrap_or_default();
    if !KINDS.contains(&known) {
        let hint = did_you_mean(known, KINDS);
        let problem = format!("there is no such kind of backend{hint}; known are `{}`", KINDS.join("`, `"));
        return Err(source.at(kind.span().start, problem));
    }
    let key = settings.get("key").map_or(start, |key| key.span().start);
    let settings = OpenAiCompatibleConfig::deserialize(ValueDeserializer::from(section))
        .map_err(|error| source.explain(&error).or_at(source, start))?;
    let backend = BackendConfig {
        name: name.get_ref().to_string(),
        settings,
        path: source.path.to_owned(),
        line: source.line(start),
    };
    // A key that stands in the file is an error whether or not this backend will be asked; a variable that is not set
    // only matters when it is.
    match backend.options() {
        Err(error @ ProviderError::Key { source: SecretError::Literal, .. }) => {
            Err(source.at(key, error.to_string()))
        }
        _ => Ok(backend),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name == LOCAL_BACKEND {
        return Err(format!(
            "`{LOCAL_BACKEND}` is the name of this machine's own engine; call this backend otherwise"
        ));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(format!("a backend's name has 1 to {MAX_NAME} letters, digits, '.', '_' or '-'"));
    }
    Ok(())
}
