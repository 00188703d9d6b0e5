//! What every command has at hand.

use std::path::{Path, PathBuf};

use anyhow::Result;
use nearfield_hub::{Hub, Installed, PullOptions};
use nearfield_server::keys::KeyStore;
use nearfield_store::Ledger;

use crate::failure::{Interrupted, UsageError};
use crate::folders;
use crate::output::{PullProgress, stderr_line};
use crate::signals::stop_requested;

/// The data folder and how much to say.
#[derive(Debug)]
pub(crate) struct App {
    data_folder: PathBuf,
    quiet: bool,
    /// Whether more than warnings is logged, so that bars would be torn.
    logging: bool,
    /// Whether the network is refused.
    offline: bool,
}

impl App {
    pub(crate) fn new(
        data_folder: Option<PathBuf>,
        quiet: bool,
        logging: bool,
        offline: bool,
    ) -> Result<Self, UsageError> {
        Ok(Self { data_folder: folders::data_folder(data_folder)?, quiet, logging, offline })
    }

    /// Where models, ledger, keys and history are.
    pub(crate) fn data_folder(&self) -> &Path {
        &self.data_folder
    }

    /// Whether only results and errors are wanted.
    pub(crate) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the network is refused.
    pub(crate) const fn is_offline(&self) -> bool {
        self.offline
    }

    /// The store of models.
    /// Where beginnings of requests are kept over restarts.
    pub(crate) fn prefix_folder(&self) -> PathBuf {
        self.data_folder().join("prefix-cache")
    }

    pub(crate) fn hub(&self) -> Result<Hub> {
        Ok(Hub::open(self.data_folder.join("models"))?)
    }

    /// The ledger.
    pub(crate) async fn ledger(&self) -> Result<Ledger> {
        Ok(Box::pin(Ledger::open(self.data_folder.join("ledger"))).await?)
    }

    /// The API keys.
    pub(crate) fn keys(&self) -> Result<KeyStore> {
        Ok(KeyStore::open(&self.data_folder)?)
    }

    /// A line for people on standard error, unless quiet.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            stderr_line(text);
        }
    }

    /// The model that `model` names, pulled when it is not on this machine.
    pub(crate) async fn model_here(&self, hub: &Hub, model: &str) -> Result<Installed> {
        match hub.find(model)? {
            Some(installed) => Ok(installed),
            None => self.pull(hub, model, PullOptions::default(), stop_requested()).await,
        }
    }

    /// Brings a model here with progress on standard error, until `stop` is ready.
    pub(crate) async fn pull(
        &self,
        hub: &Hub,
        model: &str,
        options: PullOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<Installed> {
        let progress = PullProgress::new(model, self.quiet, self.logging);
        tokio::select! {
            installed = Box::pin(hub.pull(model, options, &progress)) => Ok(installed?),
            () = stop => {
                nearfield_hub::Progress::finish(&progress);
                Err(Interrupted("stopped; the same command continues where this one was").into())
            }
        }
    }
}
