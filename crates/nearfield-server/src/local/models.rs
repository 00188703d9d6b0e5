//! Loaded models: found in the hub, loaded once, accounted for before they are loaded, unloaded when others need room.

mod loading;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nearfield_api::{BackendLoad, Error, ErrorKind, ModelInfo};
use nearfield_engine::{Engine, EngineOptions};
use nearfield_hub::{Hub, Installed, ModelReference};
use nearfield_model::Text;

use super::errors::{hub_error, not_found};

/// Names under which callers have asked for loaded models; more are forgotten and found again.
const KNOWN_NAMES: usize = 1024;

/// A loaded model.
pub(super) struct Loaded {
    name: String,
    path: PathBuf,
    engine: Engine,
    text: Arc<Text>,
    /// Rows of the model that are no tokens of its tokenizer.
    unknown: Vec<u32>,
    load_time: Duration,
    /// Requests that use it now. Changes from 0 only under the lock of [`State`].
    users: AtomicUsize,
    last_used: Mutex<Instant>,
}

/// All models of one backend.
pub(super) struct Models {
    hub: Hub,
    options: EngineOptions,
    allow_paths: bool,
    state: Mutex<State>,
    /// Held while a model is loaded: one at a time, so that each is planned with what the others left.
    loading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    loaded: Vec<Arc<Loaded>>,
    /// Names by which loaded models were asked for.
    names: HashMap<String, Arc<Loaded>>,
    /// Memory for all models, measured when none was loaded.
    budget: Option<u64>,
    /// The last failure to load a model, for those who waited for the same.
    failure: Option<(PathBuf, Instant, Error)>,
}

/// The use of a loaded model by one request; it stays loaded meanwhile.
pub(super) struct Lease(Arc<Loaded>);

impl Lease {
    /// Must be called under the lock of [`State`].
    fn new(loaded: &Arc<Loaded>) -> Self {
        loaded.users.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(loaded))
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn text(&self) -> &Text {
        &self.0.text
    }

    pub(super) fn shared_text(&self) -> Arc<Text> {
        Arc::clone(&self.0.text)
    }

    /// Tokens that must never be picked, because they have no text.
    pub(super) fn unknown(&self) -> &[u32] {
        &self.0.unknown
    }

    pub(super) fn load_time(&self) -> Duration {
        self.0.load_time
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.users.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Models {
    pub(super) fn new(hub: Hub, options: EngineOptions, allow_paths: bool) -> Self {
        Self { hub, options, allow_paths, state: Mutex::default(), loading: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the hub has, with the context of what is loaded.
    pub(super) async fn list(self: &Arc<Self>) -> Result<Vec<ModelInfo>, Error> {
        let hub = self.hub.clone();
        let inventory = blocking(move || hub.list().map_err(|error| hub_error(&error))).await?;
        let state = self.lock();
        let context = |path: &PathBuf| {
            let loaded = state.loaded.iter().find(|loaded| loaded.path == *path)?;
            Some(loaded.engine.plan().context as u64)
        };
        let info = |model: Installed| ModelInfo { context_length: context(&model.path), id: model.name };
        Ok(inventory.installed.into_iter().map(info).collect())
    }

    /// The model of this name, loaded first where it is not yet.
    pub(super) async fn lease(self: &Arc<Self>, name: &str) -> Result<Lease, Error> {
        if let Some(loaded) = self.lock().names.get(name) {
            return Ok(Lease::new(loaded));
        }
        let asked = Instant::now();
        let installed = self.find(name).await?;
        if let Some(lease) = self.loaded(&installed.path, name) {
            return Ok(lease);
        }
        let turn = Arc::clone(&self.loading).lock_owned().await;
        if let Some(lease) = self.loaded(&installed.path, name) {
            return Ok(lease);
        }
        if let Some((path, at, error)) = &self.lock().failure
            && *path == installed.path
            && *at >= asked
        {
            return Err(error.clone());
        }
        let (models, name) = (Arc::clone(self), name.to_owned());
        // Goes on when the caller leaves: the next one finds the model loaded, and never a second one loading.
        let load = move || {
            let _turn = turn;
            models.load(installed, &name)
        };
        blocking(load).await
    }

    /// How busy the engine of a model is; `None` while nobody has asked for the model by this name.
    pub(super) fn load_of(&self, name: &str, prompt_tokens: usize) -> Option<BackendLoad> {
        let loaded = self.lock().names.get(name).map(Arc::clone)?;
        let load = loaded.engine.load();
        Some(BackendLoad {
            queued: u32::try_from(load.queued).unwrap_or(u32::MAX),
            free_cache: load.free_positions as f64 / load.positions.max(1) as f64,
            first_token: loaded.engine.first_token(prompt_tokens),
        })
    }

    async fn find(self: &Arc<Self>, name: &str) -> Result<Installed, Error> {
        let (models, name) = (Arc::clone(self), name.to_owned());
        blocking(move || {
            let hub = &models.hub;
            let reference = hub.reference(&name).map_err(|error| hub_error(&error))?;
            if matches!(reference, ModelReference::Path(_)) && !models.allow_paths {
                return Err(not_found(format!("there is no model of this name here; {}", how_to_list())));
            }
            match hub.find(&name) {
                Ok(Some(installed)) => Ok(installed),
                Ok(None) => {
                    let message =
                        format!("`{reference}` is not on this machine; `nearfield pull {reference}` gets it");
                    Err(not_found(message))
                }
                Err(error) => Err(hub_error(&error)),
            }
        })
        .await
    }

    /// A lease of the model at a path, if it is loaded; it is known by `name` from now on.
    fn loaded(&self, path: &PathBuf, name: &str) -> Option<Lease> {
        let mut state = self.lock();
        let loaded = Arc::clone(state.loaded.iter().find(|loaded| loaded.path == *path)?);
        state.know(name, &loaded);
        Some(Lease::new(&loaded))
    }
}

impl State {
    fn know(&mut self, name: &str, loaded: &Arc<Loaded>) {
        if self.names.len() >= KNOWN_NAMES {
            self.names.clear();
        }
        self.names.insert(name.to_owned(), Arc::clone(loaded));
    }
}

fn how_to_list() -> &'static str {
    "GET /v1/models and `nearfield list` show what is"
}

/// Runs what waits for disks and memory beside the threads that serve others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Internal,
            "loading a model failed in an unexpected way; see the server's log",
        ))
    })
}
