//! Tries the candidates of one request in order, until one of them answers.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nearfield_api::{Backend, Error, ErrorKind, Event, EventStream, Locality, Request};
use nearfield_privacy::Vault;
use nearfield_router::{BackendFacts, Failure, fallback_reason};
use nearfield_store::{AttemptEnd, AttemptStart, End, NanoDollars, RowHandle};
use tokio::time::{Instant, timeout_at};

use super::account::{Account, Accounted, content_bytes, cut, estimated_tokens};
use super::pricing::Seller;
use super::receipt::Receipt;
use super::restoring::Restoring;
use super::ruled::{Admitted, Ruled};
use super::{Answer, ConfiguredBackend, Gateway, unrecorded};

/// Gives the request to one candidate after the other, until one produces a token, or the deadline settles on the one
/// that is being tried, or the policy says that the caller gets the error.
pub(super) async fn first_that_answers(
    gateway: &Gateway,
    mut row: RowHandle,
    candidates: &[String],
    rules: Option<(&Ruled, &Admitted)>,
    decided: String,
    request: Request,
    deadline: Option<Instant>,
) -> Result<Answer, Error> {
    let admitted = Instant::now();
    let prompt_tokens = estimated_tokens(&request);
    let model = request.model.clone();
    let mut request = Some(request);
    let mut fallen: Vec<String> = Vec::new();
    for (at, name) in candidates.iter().enumerate() {
        let last = at + 1 == candidates.len();
        let (Some(configured), Some(facts)) =
            (gateway.backend(name), gateway.facts.iter().find(|facts| facts.name == *name))
        else {
            continue;
        };
        // Only a candidate that another one may follow leaves the request behind.
        let Some(own) = (if last { request.take() } else { request.clone() }) else { break };
        let outgoing = match rules {
            None => Ok((own, None)),
            Some((ruled, admitted)) => admitted.outgoing(ruled, &gateway.facts, facts, own),
        };
        let (own, vault) = match outgoing {
            Ok(outgoing) => outgoing,
            Err(error) if last => {
                row.finish(None, End::bare(error.kind.into()));
                return Err(error);
            }
            Err(error) => {
                // Nothing has left; the next candidate, such as this machine, may be allowed to see it.
                fallen.push(format!("{name} was left out: {}", error.code.as_deref().unwrap_or("denied")));
                continue;
            }
        };
        let why = fallen.last().cloned().unwrap_or_else(|| decided.clone());
        let bytes_out = if facts.locality == Locality::Cloud { content_bytes(&own) } else { 0 };
        row.attempt(AttemptStart { backend: name.clone(), locality: facts.locality, why, bytes_out })
            .map_err(|error| unrecorded(&error))?;
        let mut opening = Opening::new(configured, own, vault);
        let Some(error) = opening.settle(deadline).await else {
            let settled = Settled { configured, facts, model, decided, fallen, admitted, prompt_tokens };
            return Ok(settled.answer(gateway, row, opening));
        };
        let failure = Failure { kind: error.kind, after_first_token: false };
        let ended = AttemptEnd {
            outcome: error.kind.into(),
            usage: None,
            cost: opening.is_free(facts.locality, error.kind).then_some(NanoDollars::ZERO),
            price: None,
        };
        let Some(reason) = fallback_reason(&gateway.policy, facts, failure).filter(|_| !last) else {
            let reason = (!fallen.is_empty()).then(|| changed_reason(gateway, &fallen));
            row.finish(Some(ended), End { reason, ..End::bare(error.kind.into()) });
            return Err(error);
        };
        tracing::info!(request = row.id(), backend = name, %error, "the next candidate is tried: {reason}");
        row.end_attempt(ended);
        fallen.push(reason);
    }
    // The candidate set is never empty and its last member returns above.
    row.finish(None, End::bare(ErrorKind::Internal.into()));
    Err(Error::new(ErrorKind::Internal, "no backend was tried; this is a fault of the server"))
}

/// The backend that answers, and how it came to that.
struct Settled<'a> {
    configured: &'a ConfiguredBackend,
    facts: &'a BackendFacts,
    model: String,
    decided: String,
    fallen: Vec<String>,
    admitted: Instant,
    prompt_tokens: u64,
}

impl Settled<'_> {
    fn answer(self, gateway: &Gateway, row: RowHandle, opening: Opening) -> Answer {
        let BackendFacts { name, locality, .. } = self.facts;
        let changed = (!self.fallen.is_empty()).then(|| changed_reason(gateway, &self.fallen));
        let reason = changed.clone().unwrap_or(self.decided);
        let id = row.id().to_owned();
        let receipt = Receipt::new(&id, name, *locality, &self.model, &reason);
        let seller = Seller { locality: *locality, provider: self.configured.price_provider.clone() };
        let account = Account::new(
            row,
            receipt.clone(),
            Arc::clone(&gateway.pricing),
            seller,
            self.admitted,
            self.prompt_tokens,
            changed,
        );
        let events = Box::pin(Accounted::new(opening.events, opening.early, account));
        Answer { id, backend: name.clone(), locality: *locality, reason, events, receipt }
    }
}

/// Why the answering backend is not the first candidate.
fn changed_reason(gateway: &Gateway, fallen: &[String]) -> String {
    let policy = if gateway.ruled.is_some() { "rules" } else { gateway.policy.mode.as_str() };
    format!("{policy}: {}", fallen.join("; "))
}

/// A backend's answer before its first token.
struct Opening {
    events: EventStream,
    early: VecDeque<(Event, Instant)>,
}

impl Opening {
    fn new(configured: &ConfiguredBackend, request: Request, vault: Option<Arc<Vault>>) -> Self {
        let backend: Arc<dyn Backend> = Arc::clone(&configured.backend);
        let starting = async move { backend.generate(request).await };
        // Accepting the request and answering it are one stream, so that the deadline can fall into either.
        let events = stream::once(starting).try_flatten();
        let events: EventStream = match vault {
            None => Box::pin(events),
            Some(vault) => Box::pin(Restoring::new(Box::pin(events), vault)),
        };
        Self { events, early: VecDeque::new() }
    }

    /// Waits for the first token, though not beyond the deadline. An error, if there is one, came before it.
    async fn settle(&mut self, deadline: Option<Instant>) -> Option<Error> {
        match deadline {
            Some(deadline) => timeout_at(deadline, self.first_token()).await.unwrap_or(None),
            None => self.first_token().await,
        }
    }

    async fn first_token(&mut self) -> Option<Error> {
        loop {
            let event = match self.events.next().await.unwrap_or_else(|| Err(cut())) {
                Ok(event) => event,
                Err(error) => return Some(error),
            };
            let produced = !matches!(event, Event::Started { .. });
            self.early.push_back((event, Instant::now()));
            if produced {
                return None;
            }
        }
    }

    /// Whether a failure so early certainly cost nothing. A provider may charge for work whose answer did not arrive.
    fn is_free(&self, locality: Locality, kind: ErrorKind) -> bool {
        let refused = self.early.is_empty();
        match locality {
            Locality::Local => refused,
            Locality::Cloud => refused && kind != ErrorKind::Timeout,
        }
    }
}
