//! The hinge between what asks and what answers.

use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;

use crate::{Error, Event, Request};

/// A running answer. Dropping it cancels the work behind it.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>;

/// Something that can answer a request: the local engine, or one cloud account or endpoint.
#[async_trait::async_trait]
pub trait Backend: Send + Sync {
    /// The name that configuration, ledger and replies use.
    fn name(&self) -> &str;

    /// Whether the request's content leaves this machine.
    fn locality(&self) -> Locality;

    /// Whether it is the engine in this process: it cannot be out of reach, and asked again it says the same.
    fn is_engine(&self) -> bool {
        false
    }

    /// The models that can be asked for, without loading or calling anything that costs.
    async fn models(&self) -> Result<Vec<ModelInfo>, Error>;

    /// How busy it is, as far as that bears on a request for `model` with a prompt of so many tokens. `None` where
    /// that is not known, as of everything elsewhere.
    fn load(&self, model: &str, prompt_tokens: u64) -> Option<BackendLoad> {
        let _ = (model, prompt_tokens);
        None
    }

    /// The endpoints behind it, where there are several.
    fn endpoints(&self) -> Vec<EndpointState> {
        Vec::new()
    }

    /// Starts to answer. An error here means that nothing was produced; later errors come through the stream. The request
    /// is boxed since it goes through many hands, and those that wait would each keep room for it.
    async fn generate(&self, request: Box<Request>) -> Result<EventStream, Error>;
}

/// How busy a backend is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackendLoad {
    /// Requests that wait for a slot.
    pub queued: u32,
    /// The share of the cache of keys and values that nobody has, 0 to 1.
    pub free_cache: f64,
    /// How long the first token would take to come; `None` before anything was measured.
    pub first_token: Option<Duration>,
}

/// How one endpoint of a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Whether it works, as far as is known.
    pub up: bool,
    /// Whether it gets no new requests.
    pub draining: bool,
    /// Tokens of requests that are under way there.
    pub outstanding_tokens: u64,
}

/// Where a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// On this machine.
    Local,
    /// Elsewhere.
    Cloud,
}

impl Locality {
    /// The word used in replies and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
        }
    }
}

/// A model that a backend offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name to ask for.
    pub id: String,
    /// Tokens of context, where known.
    pub context_length: Option<u64>,
}
