//! Loads one model: plan first, then room, then the engine.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nearfield_api::Error;
use nearfield_engine::{Engine, EngineError, EngineOptions, Plan, available_memory};
use nearfield_hub::{Installed, Manifest};
use nearfield_model::{Model, Text};

use super::super::errors::{model_error, out_of_memory, start_error};
use super::{Lease, Loaded, Models};

/// What tells a model's files from all others: the hash over what was verified when they were fetched, or, of files
/// outside the store, their names, sizes and times.
fn identity(path: &Path, manifest: Option<&Manifest>) -> String {
    if let Some(manifest) = manifest {
        return manifest.content.clone();
    }
    let of = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some(format!("{}\0{}\0{:?}", path.display(), metadata.len(), metadata.modified().ok()?))
    };
    let inside = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<String> = inside.chain([path.to_owned()]).filter_map(|path| of(&path)).collect();
    files.sort_unstable();
    files.join("\n")
}

impl Models {
    /// Loads a model. Only whoever has the turn to load calls this, and never on a thread that serves others.
    pub(super) fn load(&self, installed: Installed, name: &str) -> Result<Lease, Error> {
        let path = installed.path.clone();
        let loaded = self.start(installed);
        let mut state = self.lock();
        match loaded {
            Ok(loaded) => {
                let loaded = Arc::new(loaded);
                state.loaded.push(Arc::clone(&loaded));
                state.know(name, &loaded);
                Ok(Lease::new(&loaded))
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a model was not loaded");
                state.failure = Some((path, Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn start(&self, installed: Installed) -> Result<Loaded, Error> {
        let began = Instant::now();
        let Installed { name, path, bytes, manifest, .. } = installed;
        tracing::info!(model = name, bytes, "loading a model");
        let (model, text) = open(&path)?;
        let skipped: Vec<String> = model.tensors().skipped().iter().map(ToString::to_string).collect();
        if !skipped.is_empty() {
            tracing::warn!(model = name, "{}", skipped.join("; "));
        }
        let vocabulary = model.architecture().vocabulary_size;
        let unknown =
            (text.tokenizer().vocabulary_size()..vocabulary).filter_map(|id| u32::try_from(id).ok());
        let unknown = unknown.collect();
        let mut options = self.make_room(&model)?;
        if let Some(files) = &mut options.prefix_files {
            files.model = identity(&path, manifest.as_ref());
        }
        let engine = Engine::start(model, &options).map_err(|error| self.not_started(&error))?;
        let load_time = began.elapsed();
        let kernels = engine.kernels().name();
        let took_ms = load_time.as_millis() as u64;
        tracing::info!(model = name, kernels, took_ms, "loaded: {}", engine.plan());
        Ok(Loaded {
            name,
            path,
            engine,
            text: Arc::new(text),
            unknown,
            load_time,
            users: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
        })
    }

    /// The options with which the model fits beside what stays loaded. Idle models are unloaded, the one that was used
    /// longest ago first, until the model has what it would have alone, or none is left.
    fn make_room(&self, model: &Model) -> Result<EngineOptions, Error> {
        let budget = self.budget();
        let within = |bytes: u64| EngineOptions { memory_bytes: Some(bytes), ..self.options.clone() };
        let alone = Engine::plan_for(model, &within(budget)).map_err(|error| self.not_started(&error))?;
        loop {
            let left = budget.saturating_sub(self.taken());
            let planned = Engine::plan_for(model, &within(left));
            if matches!(&planned, Ok(plan) if as_good(plan, &alone)) {
                return Ok(within(left));
            }
            if !self.unload_one() {
                // Whether less will do, because others are busy, is for the plan to say.
                return planned.map(|_| within(left)).map_err(|error| self.not_started(&error));
            }
        }
    }

    /// Memory for all models together. Measured while none is loaded, since loaded ones blur the measure.
    fn budget(&self) -> u64 {
        let mut state = self.lock();
        let measured = state.budget.filter(|_| !state.loaded.is_empty());
        let budget =
            self.options.memory_bytes.or(measured).unwrap_or_else(|| available_memory().unwrap_or(u64::MAX));
        state.budget = Some(budget);
        budget
    }

    /// What the plans of all loaded models add up to.
    fn taken(&self) -> u64 {
        self.lock().loaded.iter().map(|loaded| loaded.engine.plan().total_bytes()).sum()
    }

    /// Unloads the idle model that was used longest ago, if there is an idle one.
    fn unload_one(&self) -> bool {
        let unloaded = {
            let mut state = self.lock();
            let last_used =
                |loaded: &Loaded| *loaded.last_used.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = state.loaded.iter().enumerate();
            let idle = idle.filter(|(_, loaded)| loaded.users.load(Ordering::Acquire) == 0);
            let Some((at, _)) = idle.min_by_key(|(_, loaded)| last_used(loaded)) else { return false };
            let loaded = state.loaded.swap_remove(at);
            state.names.retain(|_, other| !Arc::ptr_eq(other, &loaded));
            loaded
        };
        tracing::info!(model = unloaded.name, "unloading a model to make room for another");
        // Stops its threads and gives back its memory before the next plan counts on it.
        drop(unloaded);
        true
    }

    fn not_started(&self, error: &EngineError) -> Error {
        match *error {
            EngineError::OutOfMemory { needed, available } => {
                let busy = !self.lock().loaded.is_empty();
                out_of_memory(needed, available, busy)
            }
            _ => start_error(error),
        }
    }
}

/// Opens both sides of a model at once: a large vocabulary takes as long as everything else.
fn open(path: &Path) -> Result<(Arc<Model>, Text), Error> {
    std::thread::scope(|scope| {
        let text = std::thread::Builder::new()
            .name("nearfield-text".to_owned())
            .spawn_scoped(scope, || Text::open(path));
        let model = Model::open(path).map_err(|error| model_error(&error))?;
        let text = match text.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(text)) => text,
            // A system that refuses a thread may still have time; what panicked is asked again where it is reported.
            Ok(Err(_)) | Err(_) => Text::open(path),
        };
        Ok((Arc::new(model), text.map_err(|error| model_error(&error))?))
    })
}

/// Whether a plan gives what the model would have alone. A smaller cache is no loss as long as every slot can hold a
/// quarter of a context.
fn as_good(plan: &Plan, alone: &Plan) -> bool {
    let enough = alone.cache_positions.min(plan.context.saturating_mul(plan.slots) / 4);
    plan.context == alone.context && plan.cache_positions >= enough
}
