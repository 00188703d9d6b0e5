//! The circuits of all backends but this process's engine, and what was counted of attempts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nearfield_api::ErrorKind;
use nearfield_router::BackendFacts;
use nearfield_router::attempts::{Breaker, Pass, Resilience};
use tokio::time::Instant;

/// What is remembered from one request to the next.
pub(super) struct Circuits {
    origin: Instant,
    most: u32,
    rest: Duration,
    /// One for each backend outside this process.
    breakers: BTreeMap<String, Arc<Mutex<Breaker>>>,
    counts: Mutex<BTreeMap<(String, &'static str), u64>>,
}

impl Circuits {
    pub(super) fn new(settings: &Resilience, backends: &[BackendFacts]) -> Self {
        let others = backends.iter().filter(|backend| !backend.engine);
        Self {
            origin: Instant::now(),
            most: settings.circuit_failures,
            rest: settings.circuit_rest,
            breakers: others.map(|backend| (backend.name.clone(), Arc::default())).collect(),
            counts: Mutex::default(),
        }
    }

    /// Asks to make an attempt.
    ///
    /// # Errors
    /// The backend rests for so long.
    pub(super) fn ask(self: &Arc<Self>, backend: &str) -> Result<Permit, Duration> {
        let breaker = self.breakers.get(backend).filter(|_| self.most > 0).map(Arc::clone);
        let pass = breaker
            .as_ref()
            .map_or(Pass::Free, |breaker| lock(breaker).ask(self.origin.elapsed(), self.rest));
        if let Pass::Rest(wait) = pass {
            self.count(backend, "circuit_open");
            return Err(wait);
        }
        if pass == Pass::Probe {
            self.count(backend, "probe");
        }
        Ok(Permit {
            circuits: Arc::clone(self),
            backend: backend.to_owned(),
            breaker,
            told: AtomicBool::new(false),
        })
    }

    /// Counts something that happened to a configured backend.
    pub(super) fn count(&self, backend: &str, what: &'static str) {
        *lock(&self.counts).entry((backend.to_owned(), what)).or_default() += 1;
    }

    /// All counts until now.
    pub(super) fn counts(&self) -> Vec<(String, &'static str, u64)> {
        lock(&self.counts).iter().map(|((backend, what), count)| (backend.clone(), *what, *count)).collect()
    }

    /// The backends outside this process, and whether each rests.
    pub(super) fn open(&self) -> Vec<(String, bool)> {
        self.breakers.iter().map(|(name, breaker)| (name.clone(), lock(breaker).is_open())).collect()
    }
}

/// One attempt's leave to be made; it hears how the attempt went.
pub(super) struct Permit {
    circuits: Arc<Circuits>,
    backend: String,
    breaker: Option<Arc<Mutex<Breaker>>>,
    told: AtomicBool,
}

impl Permit {
    /// The first token came.
    pub(super) fn began(&self) {
        self.tell(Breaker::began);
    }

    /// The answer is whole.
    pub(super) fn done(&self) {
        self.circuits.count(&self.backend, "done");
        self.tell(Breaker::done);
    }

    /// The attempt failed. Only what speaks against the backend moves its circuit: a refusal is an answer, and a limit
    /// of the rate says when to come back.
    pub(super) fn failed(&self, kind: ErrorKind) {
        self.circuits.count(&self.backend, kind.as_str());
        let Circuits { origin, most, rest, .. } = &*self.circuits;
        match kind {
            ErrorKind::Upstream | ErrorKind::Overloaded | ErrorKind::Timeout => {
                self.tell(|breaker| {
                    if breaker.failed(origin.elapsed(), *most, *rest) {
                        tracing::warn!(
                            backend = self.backend,
                            seconds = rest.as_secs_f32(),
                            "a backend fails again and again and rests"
                        );
                    }
                });
            }
            ErrorKind::RateLimited | ErrorKind::Cancelled => {}
            _ => self.tell(Breaker::done),
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Breaker)) {
        self.told.store(true, Ordering::Relaxed);
        if let Some(breaker) = &self.breaker {
            what(&mut lock(breaker));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker.as_ref().filter(|_| !self.told.load(Ordering::Relaxed)) {
            lock(breaker).abandoned(self.circuits.origin.elapsed());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
