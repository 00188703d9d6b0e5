//! The configuration file `nearfield.toml`: which backends there are, where requests may go, how the local engine and
//! the server are set up. Layers, the later ones first: flag, environment, file, default.

mod backends;
mod error;
mod file;
mod rules;
mod sizes;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use nearfield_router::attempts::Resilience;
use nearfield_router::{BackendFacts, Policy};
use nearfield_server::gateway::CacheDomains;
use nearfield_store::{DEFAULT_REFERENCE, Prices, Tariff};
use serde::Deserialize as _;
use toml::de::{DeTable, Deserializer};

use crate::folders;
use crate::suggest::did_you_mean;

pub(crate) use backends::{BackendConfig, LOCAL_BACKEND};
pub(crate) use error::ConfigError;
use error::Source;
pub(crate) use file::{ArithmeticName, KeyValueName, LocalSection, ServerSection, SpeculationName};
use file::{FileConfig, price_table};
pub(crate) use rules::RulesFile;
pub(crate) use sizes::{Bytes, PrefixCache};

/// The environment variable that names the file.
pub(crate) const CONFIG_VARIABLE: &str = "NEARFIELD_CONFIG";
/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// What the file says, checked, with defaults for what it does not say.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// Where requests may go.
    pub(crate) policy: Policy,
    /// The policy file that decides in its place.
    pub(crate) rules: Option<RulesFile>,
    /// How attempts are made.
    pub(crate) attempts: Resilience,
    /// The local engine.
    pub(crate) local: LocalSection,
    /// The server.
    pub(crate) server: ServerSection,
    /// The cloud backends, in the order of the file.
    pub(crate) backends: Vec<BackendConfig>,
    /// Cloud prices: the built-in ones with those of the file in their place.
    pub(crate) prices: Prices,
    /// The cost of this machine.
    pub(crate) tariff: Tariff,
    /// The price to compare with.
    pub(crate) reference: String,
    /// Keys that share cached prompts.
    pub(crate) cache_domains: CacheDomains,
}

impl Config {
    /// Reads the file that `flag` or the environment names, which must exist, or the one in the usual place, which
    /// need not.
    pub(crate) fn load(flag: Option<&Path>) -> Result<Self, ConfigError> {
        let named =
            flag.map(Path::to_owned).or_else(|| folders::variable(CONFIG_VARIABLE).map(PathBuf::from));
        let required = named.is_some();
        let Some(path) = named.or_else(folders::default_config_file) else { return Self::read(None) };
        if !required && !path.exists() {
            return Self::read(None);
        }
        let text = read(&path).map_err(|reason| ConfigError::Read { path: path.clone(), reason })?;
        Self::read(Some((&path, &text)))
    }

    fn read(file: Option<(&Path, &str)>) -> Result<Self, ConfigError> {
        let (path, text) = file.unwrap_or((Path::new(""), ""));
        let source = Source { path, text };
        let mut tree = DeTable::parse(text).map_err(|error| source.explain(&error))?;
        let backends = backends::take(source, tree.get_mut())?;
        let file =
            FileConfig::deserialize(Deserializer::from(tree)).map_err(|error| source.explain(&error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let (policy, rules_path) =
            file.policy.split(folder).map_err(|problem| source.whole(problem.to_owned()))?;
        let mut config = Self {
            policy,
            attempts: file.attempts,
            local: file.local,
            server: file.server.relative_to(folder),
            tariff: file.cost.tariff(),
            backends,
            ..Self::default()
        };
        let joined = std::mem::take(&mut config.local.cache_domains);
        config.cache_domains = CacheDomains::new(joined).map_err(|error| source.whole(error.to_string()))?;
        config.policy.check(&config.facts()).map_err(|error| source.whole(error.to_string()))?;
        config.rules = rules_path.map(|path| RulesFile::load(path, &config)).transpose()?;
        config.prices = Prices::built_in().map_err(|error| source.whole(error.to_string()))?;
        let own = Prices::from_toml(&price_table(&file.prices));
        config.prices.extend(own.map_err(|error| source.whole(error.to_string()))?);
        config.reference = match file.cost.reference {
            None => DEFAULT_REFERENCE.to_owned(),
            Some(name) if config.prices.names().any(|known| known == name.get_ref()) => name.into_inner(),
            Some(name) => {
                let hint = did_you_mean(name.get_ref(), config.prices.names());
                let problem = format!("there is no price for `{}`{hint}", name.get_ref());
                return Err(source.at(name.span().start, problem));
            }
        };
        Ok(config)
    }

    /// What the policy has to know of the configured backends.
    pub(crate) fn facts(&self) -> Vec<BackendFacts> {
        let local = BackendFacts::own_engine(LOCAL_BACKEND);
        std::iter::once(local).chain(self.backends.iter().map(BackendConfig::facts)).collect()
    }
}

fn read(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if read as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
