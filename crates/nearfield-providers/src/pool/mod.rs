//! Several endpoints that serve the same models under one name.

mod affinity;
mod balance;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use nearfield_api::{
    Backend, EndpointState, Error, ErrorKind, Event, EventStream, Locality, ModelInfo, Request,
};
use tokio::time::Instant;

use crate::{OpenAiCompatible, OpenAiCompatibleOptions, ProviderError};
use affinity::Affinity;
use balance::{Balance, Standing};

/// Tokens of an answer whose length nobody bounds.
const LIKELY_ANSWER: u64 = 512;
/// The longest time that a check may take.
const CHECK: Duration = Duration::from_secs(5);
/// The longest rest that an endpoint can ask for.
const LONGEST_REST: Duration = Duration::from_mins(1);

/// What a pool is made from.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// What all endpoints have in common; its address is not used.
    pub common: OpenAiCompatibleOptions,
    /// The endpoints, at least one.
    pub endpoints: Vec<PoolEndpoint>,
    /// How often each is asked whether it works.
    pub check_every: Duration,
    /// How long an endpoint that comes back takes to get its whole share.
    pub slow_start: Duration,
    /// Whether requests carry a `cache_salt`, by which vLLM keeps the prefix caches of cache domains apart.
    pub cache_salt: bool,
}

/// One endpoint of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolEndpoint {
    /// The address of its API.
    pub base_url: String,
    /// The Unix socket in place of the network.
    pub socket: Option<std::path::PathBuf>,
    /// Its share beside the others.
    pub weight: f64,
    /// Whether it gets no new requests.
    pub drain: bool,
}

/// A backend of several endpoints. A request goes to the one with the fewest tokens under way for its weight; a
/// conversation stays where it was read before. An endpoint that fails twice in a row is left out until it answers a
/// check, and comes back slowly. Nothing is sent twice: to try again, elsewhere by then, is the caller's matter.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    checking: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    name: String,
    endpoints: Vec<OpenAiCompatible>,
    addresses: Vec<PoolEndpoint>,
    state: Mutex<State>,
    check_every: Duration,
    cache_salt: bool,
}

#[derive(Debug)]
struct State {
    balance: Balance,
    affinity: Affinity,
}

impl Pool {
    /// A pool. Nothing is sent yet; checks begin with the first request.
    ///
    /// # Errors
    /// [`ProviderError`] when the options make no sense or TLS cannot be set up.
    pub fn new(options: PoolOptions) -> Result<Self, ProviderError> {
        let PoolOptions { common, endpoints: addresses, check_every, slow_start, cache_salt } = options;
        let wrong = |setting, reason: &str| ProviderError::Setting {
            backend: common.name.clone(),
            setting,
            reason: reason.to_owned(),
        };
        if addresses.is_empty() {
            return Err(wrong("endpoints", "must name at least one"));
        }
        if addresses.iter().any(|one| !(one.weight > 0.0 && one.weight <= 1e6)) {
            return Err(wrong("endpoints", "need a `weight` above 0 and at most 1000000"));
        }
        if check_every < Duration::from_secs(1) || check_every > Duration::from_hours(1) {
            return Err(wrong("check_seconds", "must be at least 1 and at most 3600"));
        }
        let sockets = addresses.iter().filter(|one| one.socket.is_some()).count();
        if sockets != 0 && sockets != addresses.len() {
            return Err(wrong(
                "endpoints",
                "are either all behind Unix sockets or none: they count as this machine",
            ));
        }
        let mut seen = HashSet::new();
        if !addresses.iter().all(|one| seen.insert((&one.base_url, &one.socket))) {
            return Err(wrong("endpoints", "hold one address twice"));
        }
        let endpoint = |own: &PoolEndpoint| {
            OpenAiCompatible::new(OpenAiCompatibleOptions {
                base_url: own.base_url.clone(),
                socket: own.socket.clone(),
                ..common.clone()
            })
        };
        let endpoints = addresses.iter().map(endpoint).collect::<Result<_, _>>()?;
        let standings = addresses.iter().map(|one| Standing::new(one.weight, one.drain)).collect();
        let balance = Balance::new(standings, slow_start);
        let state = Mutex::new(State { balance, affinity: Affinity::default() });
        let shared = Shared { name: common.name, endpoints, addresses, state, check_every, cache_salt };
        Ok(Self { shared: Arc::new(shared), checking: AtomicBool::new(false) })
    }

    /// Takes over weights and drains of endpoints that were configured anew. Endpoints cannot come or go while requests
    /// run. Whether the addresses are still the same.
    pub fn adjust(&self, endpoints: &[PoolEndpoint]) -> bool {
        let address = |one: &PoolEndpoint| (one.base_url.clone(), one.socket.clone());
        let same = endpoints.iter().map(address).eq(self.shared.addresses.iter().map(address));
        if same {
            let mut state = self.shared.lock();
            for (standing, own) in state.balance.endpoints.iter_mut().zip(endpoints) {
                if own.weight > 0.0 && own.weight <= 1e6 {
                    standing.weight = own.weight;
                }
                standing.draining = own.drain;
            }
        }
        same
    }

    /// Begins to check the endpoints, once.
    fn check(&self) {
        if !self.checking.swap(true, Ordering::AcqRel) {
            tokio::spawn(check_again_and_again(Arc::downgrade(&self.shared)));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how an attempt or a check ended.
    fn note(&self, at: usize, error: Option<&Error>) {
        let now = Instant::now();
        let mut state = self.lock();
        match error {
            Some(error) if error.kind == ErrorKind::Overloaded => {
                let wait = error.retry_after.unwrap_or(Duration::from_secs(1)).min(LONGEST_REST);
                state.balance.busy(at, wait, now);
            }
            Some(error) if matches!(error.kind, ErrorKind::Upstream | ErrorKind::Timeout) => {
                if state.balance.failed(at, now) {
                    tracing::warn!(backend = self.name, endpoint = at + 1, "an endpoint is down");
                }
            }
            // Whatever else it says, it is there to say it.
            _ => {
                if state.balance.works(at, now) {
                    tracing::info!(backend = self.name, endpoint = at + 1, "an endpoint is back");
                }
            }
        }
    }
}

/// Asks every endpoint whether it works, as long as the pool is there.
async fn check_again_and_again(shared: Weak<Shared>) {
    loop {
        let Some(pool) = shared.upgrade() else { return };
        let every = pool.check_every;
        let checks = pool.endpoints.iter().enumerate().map(|(at, endpoint)| {
            let pool = Arc::clone(&pool);
            async move {
                let result = endpoint.check(CHECK.min(pool.check_every)).await;
                // A server that has no answer to so small a question does not work, whatever it calls that: one that
                // still loads its model says 503, as one that is overloaded does.
                let error = result.err().map(|error| match error.kind {
                    ErrorKind::Overloaded => Error { kind: ErrorKind::Upstream, ..error },
                    _ => error,
                });
                pool.note(at, error.as_ref());
            }
        });
        futures_util::future::join_all(checks).await;
        drop(pool);
        tokio::time::sleep(every).await;
    }
}

#[async_trait::async_trait]
impl Backend for Pool {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn locality(&self) -> Locality {
        self.shared.endpoints.first().map_or(Locality::Cloud, Backend::locality)
    }

    /// The models of the first endpoint that names some.
    async fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        let mut failure = None;
        for endpoint in &self.shared.endpoints {
            match endpoint.models().await {
                Ok(models) => return Ok(models),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| all_drain(&self.shared.name)))
    }

    fn endpoints(&self) -> Vec<EndpointState> {
        let state = self.shared.lock();
        let states = state.balance.endpoints.iter().map(|standing| EndpointState {
            up: standing.is_up(),
            draining: standing.draining,
            outstanding_tokens: standing.outstanding.load(Ordering::Relaxed),
        });
        states.collect()
    }

    async fn generate(&self, request: Box<Request>) -> Result<EventStream, Error> {
        self.check();
        let answer = request.max_tokens.map_or(LIKELY_ANSWER, u64::from) * u64::from(request.choices.max(1));
        let prompt = (request.prompt.bytes() as u64).div_ceil(4);
        let tokens = prompt.saturating_add(answer).max(1);
        let (at, outstanding, salt) = {
            let mut state = self.shared.lock();
            let State { balance, affinity } = &mut *state;
            let beginnings = affinity.beginnings(&request);
            let known = affinity.find(&beginnings);
            let Some(at) = balance.choose(tokens, known, Instant::now()) else {
                return Err(all_drain(&self.shared.name));
            };
            affinity.note(&beginnings, at);
            let salt = self.shared.cache_salt.then(|| affinity.salt(&request.cache_domain));
            (at, Arc::clone(&balance.endpoints[at].outstanding), salt)
        };
        let held = Held { shared: Arc::clone(&self.shared), at, outstanding, tokens, answer, told: false };
        let result = self.shared.endpoints[at].generate_salted(request, salt).await;
        match result {
            Ok(events) => Ok(Box::pin(Pooled { events, held })),
            Err(error) => {
                self.shared.note(at, Some(&error));
                Err(error)
            }
        }
    }
}

fn all_drain(name: &str) -> Error {
    let message = format!("Every endpoint of the backend `{name}` is draining; ask again later.");
    Error::new(ErrorKind::Overloaded, message).with_code("pool_draining").with_retry_after(LONGEST_REST)
}

/// The tokens of a request that is under way at an endpoint.
struct Held {
    shared: Arc<Shared>,
    at: usize,
    outstanding: Arc<AtomicU64>,
    /// What is still counted.
    tokens: u64,
    /// What of that is the answer's.
    answer: u64,
    /// Whether its end was noted.
    told: bool,
}

impl Held {
    /// One token of the answer is there.
    fn one_less(&mut self) {
        if self.answer > 0 {
            (self.answer, self.tokens) = (self.answer - 1, self.tokens - 1);
            self.outstanding.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn tell(&mut self, error: Option<&Error>) {
        if !self.told {
            self.told = true;
            self.shared.note(self.at, error);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

/// An answer of an endpoint.
struct Pooled {
    events: EventStream,
    held: Held,
}

impl Stream for Pooled {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = std::task::ready!(self.events.as_mut().poll_next(context));
        match &event {
            Some(Ok(Event::Done { .. })) => self.held.tell(None),
            Some(Ok(Event::Delta { .. } | Event::Reasoning { .. })) => self.held.one_less(),
            Some(Ok(_)) | None => {}
            Some(Err(error)) => self.held.tell(Some(error)),
        }
        Poll::Ready(event)
    }
}
