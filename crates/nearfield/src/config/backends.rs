//! The sections `[backend.NAME]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nearfield_api::{Backend, Locality};
use nearfield_providers::{
    CloudConfig, CloudKind, OpenAiCompatible, OpenAiCompatibleConfig, Pool, PoolEndpoint, ProviderError,
    SecretError,
};
use nearfield_router::BackendFacts;
use nearfield_router::rules::{Address, Endpoint};
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
const KINDS: [&str; 6] = [
    COMPATIBLE,
    CloudKind::OpenAi.as_str(),
    CloudKind::Anthropic.as_str(),
    CloudKind::Gemini.as_str(),
    CloudKind::Vertex.as_str(),
    CloudKind::Bedrock.as_str(),
];
const COMPATIBLE: &str = "openai-compatible";

/// The settings of a backend, by its kind.
#[derive(Clone, Debug)]
enum Settings {
    Compatible(Box<OpenAiCompatibleConfig>),
    Cloud(CloudKind, Box<CloudConfig>),
}

/// A cloud backend of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct BackendConfig {
    pub(crate) name: String,
    settings: Settings,
    /// The configuration file and the line where the section begins, for errors that come later.
    path: PathBuf,
    line: usize,
}

impl BackendConfig {
    /// The models that it may be asked for; `None` for any.
    pub(crate) fn models(&self) -> Option<Vec<String>> {
        match &self.settings {
            Settings::Compatible(settings) => settings.served_models(),
            Settings::Cloud(_, settings) => settings.served_models(),
        }
    }

    /// What decisions know of it.
    pub(crate) fn facts(&self) -> BackendFacts {
        let locality = if self.is_behind_sockets() { Locality::Local } else { Locality::Cloud };
        BackendFacts {
            models: self.models(),
            model_map: self.model_map().clone(),
            addresses: self.addresses().into_iter().map(Address::new).collect(),
            ..BackendFacts::new(&self.name, locality)
        }
    }

    /// Where its requests go, for the policy's lint.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let map = self.model_map();
        let models: Vec<String> = self
            .models()
            .unwrap_or_default()
            .into_iter()
            .map(|asked| map.get(&asked).cloned().unwrap_or(asked))
            .collect();
        let endpoint = |url| Endpoint { name: self.name.clone(), url, models: models.clone() };
        self.addresses().into_iter().map(endpoint).collect()
    }

    /// Models that it knows under another name than the one that callers ask for.
    pub(crate) fn model_map(&self) -> &BTreeMap<String, String> {
        match &self.settings {
            Settings::Compatible(settings) => &settings.model_map,
            Settings::Cloud(_, settings) => &settings.model_map,
        }
    }

    /// The base addresses to which its requests go.
    pub(crate) fn addresses(&self) -> Vec<String> {
        match &self.settings {
            Settings::Compatible(settings) => settings.base_urls(),
            Settings::Cloud(kind, settings) => vec![settings.address(*kind)],
        }
    }

    /// The addresses to which connections are made: its proxy's, or its own. None where the network is not used.
    pub(crate) fn first_hops(&self) -> Vec<String> {
        let proxy = match &self.settings {
            Settings::Compatible(settings) if settings.is_behind_sockets() => return Vec::new(),
            Settings::Compatible(settings) => &settings.proxy,
            Settings::Cloud(_, settings) => &settings.proxy,
        };
        // This machine is never reached through a proxy.
        let hop = |own: String| match proxy {
            Some(proxy) if !nearfield_providers::is_loopback_url(&own) => proxy.clone(),
            _ => own,
        };
        self.addresses().into_iter().map(hop).collect()
    }

    /// Whether Unix sockets lead to it.
    pub(crate) fn is_behind_sockets(&self) -> bool {
        matches!(&self.settings, Settings::Compatible(settings) if settings.is_behind_sockets())
    }

    /// The endpoints of a pool as they are configured; none for other backends.
    pub(crate) fn pool_endpoints(&self) -> Vec<PoolEndpoint> {
        match &self.settings {
            Settings::Compatible(settings) => settings.pool_endpoints(self.folder()),
            Settings::Cloud(..) => Vec::new(),
        }
    }

    /// The provider's name in the price table.
    pub(crate) fn price_provider(&self) -> Option<String> {
        match &self.settings {
            Settings::Compatible(settings) => settings.prices.clone(),
            Settings::Cloud(_, settings) => settings.prices.clone(),
        }
    }

    /// The backend itself, with its key fetched.
    pub(crate) fn build(&self) -> Result<Arc<dyn Backend>, ConfigError> {
        let built: Result<Arc<dyn Backend>, ProviderError> = match &self.settings {
            Settings::Compatible(settings) => {
                let options = settings.options(&self.name, self.folder());
                options.and_then(OpenAiCompatible::new).map(|backend| Arc::new(backend) as _)
            }
            Settings::Cloud(kind, settings) => {
                settings.build(*kind, &self.name, self.folder()).map(|backend| Arc::new(backend) as _)
            }
        };
        built.map_err(|error| self.wrong(&error))
    }

    /// The pool itself, where it is one.
    pub(crate) fn build_pool(&self) -> Result<Option<Arc<Pool>>, ConfigError> {
        let Settings::Compatible(settings) = &self.settings else { return Ok(None) };
        let options = settings.pool(&self.name, self.folder());
        let pool = options.and_then(|options| options.map(Pool::new).transpose());
        pool.map(|pool| pool.map(Arc::new)).map_err(|error| self.wrong(&error))
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The error for a key that stands in the file itself.
    fn literal_key(&self) -> Option<ProviderError> {
        let literal = || ProviderError::Key { backend: self.name.clone(), source: SecretError::Literal };
        match &self.settings {
            Settings::Compatible(settings) => {
                settings.key.as_ref().is_some_and(nearfield_providers::SecretRef::is_literal).then(literal)
            }
            Settings::Cloud(_, settings) => settings.holds_a_literal_key().then(literal),
        }
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
    let cloud = CloudKind::ALL.into_iter().find(|kind| kind.as_str() == known);
    let section = ValueDeserializer::from(section);
    let settings = match cloud {
        None => OpenAiCompatibleConfig::deserialize(section)
            .map(|settings| Settings::Compatible(Box::new(settings))),
        Some(kind) => {
            CloudConfig::deserialize(section).map(|settings| Settings::Cloud(kind, Box::new(settings)))
        }
    };
    let settings = settings.map_err(|error| source.explain(&error).or_at(source, start))?;
    if let Settings::Compatible(settings) = &settings {
        settings.check().map_err(|(name, why)| source.at(start, format!("`{name}` {why}")))?;
    }
    let backend = BackendConfig {
        name: name.get_ref().to_string(),
        settings,
        path: source.path.to_owned(),
        line: source.line(start),
    };
    // A key that stands in the file is an error whether or not this backend will be asked; a variable that is not set
    // only matters when it is.
    match backend.literal_key() {
        Some(error) => Err(source.at(key, error.to_string())),
        None => Ok(backend),
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
