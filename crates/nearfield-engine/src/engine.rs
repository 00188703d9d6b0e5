//! A loaded model on a thread of its own.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nearfield_kernels::KernelSet;
use nearfield_model::Model;

use crate::admission::{Admission, Load};
use crate::cache::kept_states;
use crate::counters::Counters;
use crate::drafter::{MakeDrafter, SuffixDrafter};
use crate::error::EngineError;
use crate::options::EngineOptions;
use crate::plan::{Plan, WeightsHeld};
use crate::request::Generate;
use crate::runner::{Runner, RunnerOptions};
use crate::scheduler::Scheduler;
use crate::session::Session;
use crate::speculation::{Speculator, asks_head};

/// A loaded model that answers requests. Dropping it ends all sessions with [`EngineError::Stopped`].
#[derive(Debug)]
pub struct Engine {
    plan: Plan,
    kernels: KernelSet,
    admission: Arc<Admission>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Plans a model's memory without taking any.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] when it does not fit, [`EngineError::InvalidSetting`] when an option is impossible.
    pub fn plan_for(model: &Model, options: &EngineOptions) -> Result<Plan, EngineError> {
        Plan::for_model(model, options)
    }

    /// Plans, and starts the engine's threads.
    ///
    /// # Errors
    /// As [`Engine::plan_for`]; and when a tensor is malformed, the kernels cannot run here, or the system refuses a
    /// thread.
    pub fn start(model: Arc<Model>, options: &EngineOptions) -> Result<Self, EngineError> {
        Self::start_with(model, options, Box::new(|request, _| Box::new(SuffixDrafter::new(request))))
    }

    /// As [`Engine::start`], with drafters of the caller's.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_with(
        model: Arc<Model>,
        options: &EngineOptions,
        make: MakeDrafter,
    ) -> Result<Self, EngineError> {
        let plan = Self::plan_for(&model, options)?;
        let admission = Arc::new(Admission::new(&plan, model.architecture().vocabulary_size, options.queue));
        let runner_options = RunnerOptions {
            threads: options.thread_count(),
            key_value_type: plan.key_value_type,
            arithmetic: options.arithmetic,
            kernels: options.kernels,
            cache_positions: plan.cache_positions,
        };
        let held = plan.weights;
        let (ready, started) = mpsc::sync_channel(1);
        let account = Arc::clone(&admission);
        let speculator = Speculator::new(model.architecture(), options, make);
        let asks_head = asks_head(model.architecture(), options);
        let prefix_cache_bytes = options.prefix_cache_bytes;
        let prefix_files = options.prefix_files.clone();
        let thread = std::thread::Builder::new().name("nearfield-engine".to_owned()).spawn(move || {
            // However the thread ends, nobody is left waiting.
            let _closed = Closing(&account);
            let runner = Runner::new(&model, &runner_options).and_then(|mut runner| {
                match held {
                    WeightsHeld::Memory => runner.load_weights()?,
                    WeightsHeld::ExpertsMapped => runner.load_common_weights()?,
                    WeightsHeld::Mapped => 0,
                };
                runner.follow_with_draft(asks_head);
                if let Some(files) = &prefix_files {
                    runner.keep_files(files)?;
                }
                Ok(runner)
            });
            match runner {
                Ok(mut runner) => {
                    runner.limit_states(kept_states(plan.slots));
                    if let Some(bytes) = prefix_cache_bytes {
                        runner.limit_shared(bytes);
                    }
                    // The receiver waits for exactly this message.
                    drop(ready.send(Ok(runner.kernels())));
                    let shares = prefix_cache_bytes != Some(0);
                    Scheduler::new(runner, &account, &plan, speculator, shares).run();
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        let mut engine = Self { plan, kernels: KernelSet::Scalar, admission, thread: Some(thread) };
        engine.kernels = started.recv().map_err(|_| EngineError::Stopped)??;
        Ok(engine)
    }

    /// What the model takes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The kernel set in use.
    pub fn kernels(&self) -> KernelSet {
        self.kernels
    }

    /// How busy the engine is.
    pub fn load(&self) -> Load {
        self.admission.load()
    }

    /// How long the first token of a prompt of so many tokens would take to come, were it submitted now: what runs and
    /// waits, played through at the measured pace. `None` before a prompt was measured.
    pub fn first_token(&self, prompt: usize) -> Option<Duration> {
        self.admission.first_token(prompt)
    }

    /// What the engine has done since it was started. A session's part is there before its last step is handed out.
    pub fn counters(&self) -> Counters {
        self.admission.counters()
    }

    /// Starts a request, or refuses it at once; never waits. All its choices are admitted together or not at all.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when slots or cache are taken and the queue is full,
    /// [`EngineError::ContextOverflow`] when prompt and answer do not fit, and errors for what is wrong in the request.
    pub fn submit(&self, request: Generate) -> Result<Session, EngineError> {
        self.admission.submit(request)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.admission.close();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by its hook, and the sessions have learnt of it.
            drop(thread.join());
        }
    }
}

/// Closes the account when the engine's thread ends, by a panic too.
struct Closing<'a>(&'a Admission);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
