//! Puts the way of a request together: backends of the configuration, policy, ledger, prices.

use std::sync::Arc;

use anyhow::Result;
use nearfield_api::Backend;
use nearfield_engine::{EngineOptions, PrefixFiles};
use nearfield_hub::{Hub, HubError, Installed, PullOptions};
use nearfield_providers::Pool;
use nearfield_router::PolicyMode;
use nearfield_server::gateway::{ConfiguredBackend, Gateway, GatewayOptions, Network};
use nearfield_server::local::{LocalBackend, LocalOptions, Prepared};
use nearfield_store::Ledger;

use crate::app::App;
use crate::config::{BackendConfig, Config, LOCAL_BACKEND, RulesFile};
use crate::failure::Interrupted;
use crate::reload;

/// Least tokens of a beginning that is kept in a file: fewer are read anew almost as fast.
const LEAST_KEPT: usize = 256;

/// The gateway, and what has to be closed behind it.
pub(crate) struct Opened {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) local: Option<Arc<LocalBackend>>,
    ledger: Ledger,
    rules: Option<RulesFile>,
    pools: Vec<Arc<Pool>>,
}

impl Opened {
    /// Sets everything up. Nothing is loaded and nobody called yet. With `allow_paths` a model may be named by a path,
    /// which is right for the person at the keyboard and nobody else.
    pub(crate) async fn new(
        app: &App,
        config: Config,
        hub: Hub,
        mut engine: EngineOptions,
        allow_paths: bool,
    ) -> Result<Self> {
        engine.prefix_files = config.local.prefix_cache_files.map(|most| PrefixFiles {
            folder: app.prefix_folder(),
            bytes: most.0,
            least: LEAST_KEPT,
            // Each model has files of its own: its name is put in when it is loaded.
            model: String::new(),
        });
        let mut backends = Vec::with_capacity(config.backends.len() + 1);
        let local = answers_here(&config).then(|| local_backend(hub, engine, allow_paths));
        if let Some(local) = &local {
            let backend: Arc<dyn Backend> = Arc::<LocalBackend>::clone(local);
            backends.push(ConfiguredBackend::new(backend));
        }
        let mut pools = Vec::new();
        for section in &config.backends {
            // A backend that the policy forbids is not set up: its key need not be here.
            let here = section.is_behind_sockets();
            if here || config.rules.is_some() || config.policy.mode != PolicyMode::LocalOnly {
                let pool = section.build_pool()?;
                pools.extend(pool.clone());
                let pool = pool.map(|pool| pool as Arc<dyn Backend>);
                backends.push(ConfiguredBackend {
                    backend: pool.map_or_else(|| section.build(), Ok)?,
                    facts: section.facts(),
                    price_provider: section.price_provider(),
                });
            }
        }
        let network = if app.is_offline() {
            Network::refused()
        } else {
            Network::towards(config.backends.iter().flat_map(BackendConfig::first_hops))
        };
        let rules = config.rules;
        let ledger = app.ledger().await?;
        let (folder, mode, hash) = (app.data_folder(), config.policy.mode, config.policy.hash());
        let gateway = Gateway::new(GatewayOptions {
            backends,
            policy: config.policy,
            ledger: ledger.clone(),
            prices: config.prices,
            tariff: config.tariff,
            reference: config.reference,
            cache_domains: config.cache_domains,
        })?
        .with_resilience(config.attempts)
        .with_network(network);
        let gateway = match &rules {
            None => {
                reload::record_start(folder, Some(mode), &hash)?;
                gateway
            }
            Some(file) => {
                reload::record_start(folder, None, &file.rules.hash())?;
                gateway.with_rules(file.rules.clone(), reload::hash_key(folder)?)?
            }
        };
        Ok(Self { gateway: Arc::new(gateway), local, ledger, rules, pools })
    }

    /// Loads the model that is on this machine, so that its load is not part of an answer's time. `None` when the answer
    /// comes from elsewhere or the model cannot be loaded: then the request itself says so, and leaves its row.
    /// When `stop` is ready first, that is the end.
    pub(crate) async fn prepare(
        &self,
        installed: Option<&Installed>,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Prepared>> {
        let Some((local, installed)) = self.local.as_ref().zip(installed) else { return Ok(None) };
        tokio::select! {
            prepared = local.prepare(&installed.name) => Ok(prepared.ok()),
            () = stop => Err(Interrupted("").into()),
        }
    }

    /// Has the policy file, and the weights and drains of pools, read again whenever the process or the data folder is
    /// told to. `load` reads the configuration.
    pub(crate) fn watch(&self, app: &App, load: reload::Load) -> Result<()> {
        let again = reload::Again { rules: self.rules.clone(), pools: self.pools.clone(), load };
        reload::watch(app.data_folder().to_owned(), again, &self.gateway)
    }

    /// Waits until the ledger has everything.
    pub(crate) async fn close(self) -> Result<()> {
        drop(self.gateway);
        drop(self.local);
        Ok(self.ledger.close().await?)
    }
}

fn local_backend(hub: Hub, engine: EngineOptions, allow_paths: bool) -> Arc<LocalBackend> {
    Arc::new(LocalBackend::new(hub, LocalOptions { name: LOCAL_BACKEND.to_owned(), engine, allow_paths }))
}

/// Whether this machine's engine may be asked at all.
fn answers_here(config: &Config) -> bool {
    config.local.enabled && config.policy.mode != PolicyMode::CloudOnly
}

/// The model on this machine for a request of `run` or `chat`: pulled, when it is known, is not here and `pull` says
/// so. `None` when the answer is to come from elsewhere.
pub(crate) async fn local_model(
    app: &App,
    config: &Config,
    hub: &Hub,
    model: &str,
    pull: bool,
    stop: impl Future<Output = ()>,
) -> Result<Option<Installed>> {
    if !answers_here(config) {
        return Ok(None);
    }
    let elsewhere = (config.rules.is_some() || config.policy.mode == PolicyMode::PreferLocal)
        && config
            .backends
            .iter()
            .any(|backend| backend.models().is_none_or(|models| models.iter().any(|name| name == model)));
    match hub.find(model) {
        Ok(Some(installed)) => Ok(Some(installed)),
        Ok(None) if pull => app.pull(hub, model, PullOptions::default(), stop).await.map(Some),
        Ok(None) if elsewhere => Ok(None),
        Ok(None) => Err(HubError::NotInstalled { name: model.to_owned() }.into()),
        // No name of ours, but perhaps one of a cloud backend's models.
        Err(HubError::UnknownModel { .. } | HubError::InvalidReference { .. }) if elsewhere => Ok(None),
        Err(error) => Err(error.into()),
    }
}
