//! Each request's own record: one log line and one count at its end, whatever that end was.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::{Response, StatusCode};
use nearfield_api::{ErrorKind, Usage};
use tokio::time::Instant;

use super::activity::HoldingBody;
use super::reply::{REQUEST_ID, header_text};
use super::reply_body::ReplyBody;
use super::{Reply, Service};
use crate::metrics::Metrics;

/// What is known of a request so far. Never its content.
pub(super) struct Record {
    route: &'static str,
    started: Instant,
    metrics: Arc<Metrics>,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    /// Empty until something asks for it.
    id: String,
    key: String,
    backend: String,
    status: Option<StatusCode>,
    /// How a backend's answer ended; decides over the status.
    outcome: Option<&'static str>,
    /// Whether the reply was handed over whole.
    complete: bool,
    first_token: Option<Duration>,
    usage: Option<Usage>,
}

impl Record {
    /// When the request's headers were there.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The request's key is known.
    pub(super) fn key(&self, id: &str) {
        id.clone_into(&mut self.facts().key);
    }

    /// The request has a row, whose id is its own from now on, and perhaps a backend that answers.
    pub(super) fn answered(&self, id: &str, backend: &str) {
        let mut facts = self.facts();
        id.clone_into(&mut facts.id);
        backend.clone_into(&mut facts.backend);
    }

    /// The first token came.
    pub(super) fn first_token(&self, after: Duration) {
        self.facts().first_token = Some(after);
    }

    /// The answer is complete.
    pub(super) fn done(&self, usage: Usage) {
        let mut facts = self.facts();
        facts.usage = Some(usage);
        facts.outcome = Some("ok");
    }

    /// The answer failed.
    pub(super) fn failed(&self, kind: ErrorKind) {
        self.facts().outcome = Some(kind.as_str());
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the line and counts.
    fn close(&self) {
        let mut facts = std::mem::take(&mut *self.facts());
        facts.name();
        let whole = match facts.status {
            Some(status) if status.is_client_error() => "rejected",
            Some(status) if status.is_server_error() => "internal",
            _ => "ok",
        };
        let outcome = facts.outcome.unwrap_or(if facts.complete { whole } else { "disconnected" });
        let duration = self.started.elapsed();
        self.metrics.request(self.route, outcome, &facts.backend, duration);
        let usage = facts.usage.unwrap_or_default();
        tracing::info!(
            request_id = facts.id,
            route = self.route,
            status = facts.status.map_or(0, |status| status.as_u16()),
            outcome,
            key = facts.key,
            backend = facts.backend,
            duration_ms = duration.as_millis() as u64,
            first_token_ms = facts.first_token.map(|time| time.as_millis() as u64),
            prompt_tokens = facts.usage.map(|_| usage.prompt_tokens()),
            completion_tokens = facts.usage.map(|_| usage.completion_tokens()),
            "request"
        );
    }
}

impl Facts {
    /// Makes sure that there is an id: a request without a row has one of its own.
    fn name(&mut self) -> &str {
        if self.id.is_empty() {
            self.id = uuid::Uuid::now_v7().to_string();
        }
        &self.id
    }
}

/// A reply's body that closes the request's record, if it has one, when it was taken or dropped.
pub(super) type RecordedBody = HoldingBody<ReplyBody, Option<Open>>;

/// Closes the record when it is dropped, whatever became of the request.
pub(super) struct Open(Arc<Record>);

impl Open {
    /// Opens a record of a request for a route, which must be one of a closed set.
    pub(super) fn new(service: &Service, route: &'static str) -> Self {
        Self(Arc::new(Record {
            route,
            started: Instant::now(),
            metrics: Arc::clone(&service.metrics),
            facts: Mutex::default(),
        }))
    }

    pub(super) fn record(&self) -> &Arc<Record> {
        &self.0
    }

    /// Notes the reply's status, gives it the request's id, and stays open until its body was taken.
    pub(super) fn reply(self, mut reply: Reply) -> Response<RecordedBody> {
        {
            let mut facts = self.0.facts();
            facts.status = Some(reply.status());
            if let Some(kind) = reply.extensions().get::<ErrorKind>() {
                facts.outcome = Some(kind.as_str());
            }
            reply.headers_mut().insert(REQUEST_ID, header_text(facts.name()));
        }
        let complete = |open: &Option<Self>| {
            if let Some(open) = open {
                open.0.facts().complete = true;
            }
        };
        reply.map(|body| HoldingBody::new(body, Some(self), complete))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The reply to what is no request at all.
pub(super) fn unrecorded(reply: Reply) -> Response<RecordedBody> {
    reply.map(|body| HoldingBody::new(body, None, |_| {}))
}
