//! The policy file that `policy.file` names.

use std::path::{Path, PathBuf};

use nearfield_router::BackendFacts;
use nearfield_router::rules::{Endpoint, Finding, Rules, Severity, lint};

use super::error::{ConfigError, Source};
use super::{Config, LOCAL_BACKEND, read};

/// A policy file, checked against the configured backends, and what is needed to read it again.
#[derive(Clone, Debug)]
pub(crate) struct RulesFile {
    path: PathBuf,
    backends: Vec<BackendFacts>,
    endpoints: Vec<Endpoint>,
    /// What it says.
    pub(crate) rules: Rules,
}

impl RulesFile {
    pub(super) fn load(path: PathBuf, config: &Config) -> Result<Self, ConfigError> {
        let endpoints = config.backends.iter().flat_map(super::BackendConfig::endpoints).collect();
        let mut backends = config.facts();
        // A rule that names an engine that is switched off is a mistake that the server would not start with.
        backends.retain(|backend| config.local.enabled || backend.name != LOCAL_BACKEND);
        let mut file = Self { path, backends, endpoints, rules: Rules::default() };
        file.rules = file.read_again()?;
        Ok(file)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The backends that it was checked against.
    pub(crate) fn backends(&self) -> &[BackendFacts] {
        &self.backends
    }

    /// What it says by now.
    pub(crate) fn read_again(&self) -> Result<Rules, ConfigError> {
        let text =
            read(&self.path).map_err(|reason| ConfigError::Read { path: self.path.clone(), reason })?;
        let source = Source { path: &self.path, text: &text };
        let rules: Rules = toml::from_str(&text).map_err(|error| source.explain(&error))?;
        rules.check(&self.backends).map_err(|error| source.whole(error.to_string()))?;
        let failure =
            lint(&rules, &self.endpoints).into_iter().find(|finding| finding.severity == Severity::Failure);
        match failure {
            Some(Finding { place, said, .. }) => Err(source.whole(format!("{place}: {said}"))),
            None => Ok(rules),
        }
    }

    /// What is allowed in it and yet not wise.
    pub(crate) fn warnings(&self) -> Vec<Finding> {
        lint(&self.rules, &self.endpoints)
    }
}
