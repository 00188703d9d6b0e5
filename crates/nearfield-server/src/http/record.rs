//! Each request's own record: one log line and one count at its end, whatever that end was.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use nearfield_api::{ErrorKind, Usage};
use tokio::time::Instant;

use super::Service;
use super::activity::HoldingBody;
use super::reply::{REQUEST_ID, header_text};
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
        let facts = std::mem::take(&mut *self.facts());
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

/// Closes the record when the last holder of the request lets go.
struct Open(Arc<Record>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Opens a record for every request, and closes it when the reply's body was taken, or dropped.
pub(super) async fn observe(State(service): State<Service>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other", |path| known_route(path.as_str()));
    let id = uuid::Uuid::now_v7().to_string();
    let record = Arc::new(Record {
        route,
        started: Instant::now(),
        metrics: Arc::clone(&service.metrics),
        facts: Mutex::new(Facts { id, ..Facts::default() }),
    });
    let open = Open(Arc::clone(&record));
    request.extensions_mut().insert(Arc::clone(&record));
    let mut response = next.run(request).await;
    let id = {
        let mut facts = record.facts();
        facts.status = Some(response.status());
        if let Some(kind) = response.extensions().get::<ErrorKind>() {
            facts.outcome = Some(kind.as_str());
        }
        facts.id.clone()
    };
    response.headers_mut().insert(REQUEST_ID, header_text(&id));
    response.map(|body| Body::new(HoldingBody::new(body, open, |open| open.0.facts().complete = true)))
}

/// The routes as labels: a closed set.
fn known_route(path: &str) -> &'static str {
    ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{*id}", "/health", "/metrics"]
        .into_iter()
        .find(|known| *known == path)
        .unwrap_or("other")
}
