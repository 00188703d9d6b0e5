//! Carries out the plan of one request: tries its candidates until one of them answers.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use nearfield_api::sabotage::{Break, breaks};
use nearfield_api::{Error, ErrorKind, Locality, Request};
use nearfield_router::attempts::{Cause, Disconnect, Failed, Plan, Step};
use nearfield_router::rules::Escalate;
use nearfield_router::{BackendFacts, Failure, fallback_reason};
use nearfield_store::{AttemptEnd, AttemptStart, End, NanoDollars, Outcome, RowHandle};
use tokio::time::{Instant, sleep, sleep_until};

use super::abandoned::Abandoned;
use super::account::{Account, AccountParts, Accounted, content_bytes, estimated_tokens};
use super::lane::Lane;
use super::opening::{Care, Gate, Opening};
use super::pricing::Seller;
use super::receipt::Receipt;
use super::ruled::{Admitted, Ruled};
use super::{Answer, ConfiguredBackend, Gateway, Unanswered, unrecorded};

/// One request on its way through its plan.
pub(super) struct Course<'a> {
    gateway: &'a Gateway,
    /// `None` once the request is answered or given up.
    row: Option<RowHandle>,
    /// Attempts that are under way, and what each will settle as.
    lanes: Vec<Lane>,
    settling: Settling,
    rules: Option<(&'a Ruled, &'a Admitted)>,
    decided: String,
    request: Box<Request>,
    gate: Gate,
    plan: Plan<'a>,
    admitted: Instant,
    prompt_tokens: u64,
    /// Why earlier candidates do not answer.
    fallen: Vec<String>,
    /// The last failure.
    error: Option<Error>,
    /// When a backend that rests may be asked again.
    rests: Option<Duration>,
    /// The local candidate that was not sure of its answer.
    unsure: Option<usize>,
}

/// An attempt that is settled: its position, what it gave, and its error.
pub(super) type Settled = (u32, Opening, Option<Error>);
pub(super) type Settling = FuturesUnordered<BoxFuture<'static, Settled>>;

/// Why an attempt was not made.
enum Skip {
    /// The candidate must not or need not be asked.
    LeftOut,
    /// The ledger cannot record it, so nothing is asked any more.
    Unrecorded(Error),
}

/// How one step of the plan ended.
enum Race {
    Won(Box<(Lane, Opening)>),
    Lost(Option<Step>),
    Stopped(Error),
}

impl<'a> Course<'a> {
    pub(super) fn new(
        gateway: &'a Gateway,
        row: RowHandle,
        candidates: &[String],
        rules: Option<(&'a Ruled, &'a Admitted)>,
        decided: String,
        request: Box<Request>,
        gate: Gate,
    ) -> Self {
        let known =
            candidates.iter().filter_map(|name| gateway.facts.iter().find(|facts| facts.name == *name));
        let prompt_tokens = estimated_tokens(&request);
        Self {
            plan: Plan::new(&gateway.resilience, &gateway.policy, known),
            gateway,
            row: Some(row),
            lanes: Vec::new(),
            settling: Settling::new(),
            rules,
            decided,
            request,
            gate,
            admitted: Instant::now(),
            prompt_tokens,
            fallen: Vec::new(),
            error: None,
            rests: None,
            unsure: None,
        }
    }

    /// Takes the plan's steps until one candidate is settled on, or the caller gets the error.
    pub(super) async fn run(mut self: Box<Self>) -> Result<Answer, Unanswered> {
        let mut step = self.plan.first();
        while let Some(now) = step {
            if !now.after.is_zero() {
                sleep(now.after).await;
            }
            step = match self.step(now).await {
                Race::Won(won) => return self.answer(won.0, won.1),
                Race::Lost(next) => next,
                Race::Stopped(error) => return Err(self.stopped(error)),
            };
        }
        if let Some(candidate) = self.unsure.take() {
            // A doubtful answer is better than none, and the last candidate left is not judged.
            self.fallen.push("nothing else answered, so it answers all the same".to_owned());
            let step = Step { candidate, after: Duration::ZERO, cause: Cause::Fallback };
            match self.step(step).await {
                Race::Won(won) => return self.answer(won.0, won.1),
                Race::Lost(_) => {}
                Race::Stopped(error) => return Err(self.stopped(error)),
            }
        }
        let id = self.row.as_ref().map(|row| row.id().to_owned());
        Err(Unanswered { id, error: self.give_up() })
    }

    /// The ledger cannot be written, so nothing is asked any more.
    fn stopped(&self, error: Error) -> Unanswered {
        let admitted = self.row.as_ref().filter(|row| row.is_admitted());
        Unanswered { id: admitted.map(|row| row.id().to_owned()), error }
    }

    async fn step(&mut self, step: Step) -> Race {
        match self.launch(step) {
            Err(Skip::LeftOut) => Race::Lost(self.plan.left_out()),
            Err(Skip::Unrecorded(error)) => Race::Stopped(error),
            Ok(()) => self.race().await,
        }
    }

    /// Waits for the first attempt that settles, beside which another may be made when it is slow.
    async fn race(&mut self) -> Race {
        let mut hedge_at = self.gateway.resilience.hedge_after.map(|after| Instant::now() + after);
        loop {
            let settled = tokio::select! {
                biased;
                Some(settled) = self.settling.next() => Some(settled),
                () = sleep_until(hedge_at.unwrap_or_else(Instant::now)), if hedge_at.is_some() => None,
            };
            let Some((position, opening, error)) = settled else {
                hedge_at = None;
                // One that answers is not slow, however long its whole answer takes.
                if self.lanes.iter().any(Lane::answers) {
                    continue;
                }
                if let Err(error) = self.hedge() {
                    return Race::Stopped(error);
                }
                continue;
            };
            let Some(at) = self.lanes.iter().position(|lane| lane.position == position) else { continue };
            let lane = self.lanes.swap_remove(at);
            let Some(error) = error else {
                self.lose();
                return Race::Won(Box::new((lane, opening)));
            };
            self.end(&lane, &opening, &error);
            if error.kind == ErrorKind::Unsure {
                self.unsure = Some(lane.candidate);
            }
            let failure = Failure { kind: error.kind, after_first_token: false };
            let facts = self.plan.facts(lane.candidate);
            if facts.is_none_or(|facts| fallback_reason(&self.gateway.policy, facts, failure).is_none()) {
                // A refusal is an answer, whatever another backend would say.
                self.lose();
                self.error = Some(error);
                return Race::Lost(None);
            }
            if self.lanes.is_empty() {
                return Race::Lost(self.after(&lane, error));
            }
            self.error = Some(error);
        }
    }

    /// Begins an attempt, which then settles among the others.
    fn launch(&mut self, step: Step) -> Result<(), Skip> {
        let gateway = self.gateway;
        let facts = self.plan.facts(step.candidate).ok_or(Skip::LeftOut)?;
        let name = &facts.name;
        let configured = gateway.backend(name).ok_or(Skip::LeftOut)?;
        let permit = gateway.circuits.ask(name).map_err(|wait| {
            self.rests = Some(self.rests.map_or(wait, |other| other.min(wait)));
            self.fallen.push(format!("{name} rests after failures"));
            Skip::LeftOut
        })?;
        let own = self.request.clone();
        let outgoing = match self.rules {
            None => Ok((own, None)),
            Some((ruled, admitted)) => admitted.outgoing(ruled, &gateway.facts, facts, own),
        };
        let (own, vault) = outgoing.map_err(|error| {
            // Nothing has left; the next candidate, such as this machine, may be allowed to see it.
            self.fallen.push(format!("{name} was left out: {}", error.code.as_deref().unwrap_or("denied")));
            self.error = Some(error);
            Skip::LeftOut
        })?;
        let beside = (step.cause == Cause::Hedge).then(|| "the candidate before is slow".to_owned());
        let why = match (step.cause, &beside, self.fallen.last()) {
            (_, Some(beside), _) => beside.clone(),
            (_, _, None) => self.decided.clone(),
            (Cause::Retry, _, Some(reason)) => format!("{reason}; asked again"),
            (_, _, Some(reason)) => reason.clone(),
        };
        let bytes_out = if facts.locality == Locality::Cloud { content_bytes(&own) } else { 0 };
        let start = AttemptStart { backend: name.clone(), locality: facts.locality, why, bytes_out };
        let row = self.row.as_mut().ok_or(Skip::LeftOut)?;
        let position = row.attempt_beside(start).map_err(|error| Skip::Unrecorded(unrecorded(&error)))?;
        match step.cause {
            Cause::First => {}
            Cause::Retry => gateway.circuits.count(name, "retry"),
            Cause::Fallback => gateway.circuits.count(name, "fallback"),
            Cause::Hedge => gateway.circuits.count(name, "hedge"),
        }
        let pieces = Arc::<AtomicU64>::default();
        let seal = self.rules.filter(|_| facts.locality == Locality::Cloud);
        let seal = seal.map(|(ruled, admitted)| admitted.seal(ruled, name));
        let care = Care { vault, seal, escalate: self.escalate(facts) };
        let mut opening = Opening::new(configured, own, Arc::clone(&pieces), care);
        let (gate, patience) = (self.gate.clone(), gateway.resilience.first_token);
        self.settling.push(Box::pin(async move {
            let error = opening.settle(gate, patience).await;
            (position, opening, error)
        }));
        self.lanes.push(Lane {
            backend: name.clone(),
            seller: seller(configured),
            model: facts.upstream_model(&self.request.model).to_owned(),
            candidate: step.candidate,
            position,
            permit,
            began: Instant::now(),
            pieces,
            beside,
        });
        Ok(())
    }

    /// When this candidate's answer is given up for another's: a local one's, while another candidate is left. Of several
    /// choices none is judged.
    fn escalate(&self, facts: &BackendFacts) -> Option<Escalate> {
        let (_, admitted) = self.rules?;
        let judged = facts.locality == Locality::Local && self.plan.has_more() && self.request.choices <= 1;
        admitted.escalate().filter(|_| judged).cloned()
    }

    /// Asks the next candidate beside a slow one, where the plan has one that is worth its price.
    fn hedge(&mut self) -> Result<(), Error> {
        let (gateway, request, prompt_tokens) = (self.gateway, &self.request, self.prompt_tokens);
        let affordable = |facts: &BackendFacts| {
            let Some(configured) = gateway.backend(&facts.name) else { return false };
            if facts.locality == Locality::Local {
                return true;
            }
            let (seller, model) = (seller(configured), facts.upstream_model(&request.model));
            let cost = gateway.pricing.most(&seller, model, request, prompt_tokens);
            cost.is_some_and(|cost| {
                gateway.resilience.hedge_dollars.is_none_or(|most| cost.dollars() <= most)
            })
        };
        let Some(step) = self.plan.hedge(affordable) else { return Ok(()) };
        match self.launch(step) {
            Ok(()) | Err(Skip::LeftOut) => Ok(()),
            Err(Skip::Unrecorded(error)) => Err(error),
        }
    }

    /// Closes attempts that another one was faster than. They have a cost, if an estimated one.
    fn lose(&mut self) {
        self.settling = Settling::new();
        for lane in std::mem::take(&mut self.lanes) {
            self.gateway.circuits.count(&lane.backend, "lost");
            let usage = lane.estimate(self.prompt_tokens);
            let end = lane.ended(&self.gateway.pricing, Outcome::Cancelled, Some(usage), None);
            self.close(lane.position, end);
        }
    }

    fn close(&mut self, position: u32, end: AttemptEnd) {
        if let Some(row) = &mut self.row {
            row.end_attempt_at(position, end);
        }
    }

    /// Closes an attempt that failed.
    fn end(&mut self, lane: &Lane, opening: &Opening, error: &Error) {
        lane.permit.failed(error.kind);
        let ended = if lane.answers() {
            let usage = lane.estimate(self.prompt_tokens);
            lane.ended(&self.gateway.pricing, error.kind.into(), Some(usage), opening.model())
        } else {
            let cost = opening.is_free(error.kind).then_some(NanoDollars::ZERO);
            AttemptEnd { outcome: error.kind.into(), usage: None, cost, price: None }
        };
        self.close(lane.position, ended);
    }

    /// What follows a failure, by the plan.
    fn after(&mut self, lane: &Lane, error: Error) -> Option<Step> {
        let failed = Failed {
            kind: error.kind,
            code: error.code.as_deref(),
            retry_after: error.retry_after,
            seen: false,
            elapsed: self.admitted.elapsed(),
            chance: chance(),
        };
        let next = self.plan.failed(lane.candidate, &failed);
        let name = &lane.backend;
        if breaks(Break::Candidates) && self.fallen.len() < 4 {
            self.plan = Plan::new(&self.gateway.resilience, &self.gateway.policy, &self.gateway.facts);
            self.fallen.push(format!("{name} failed"));
            return self.plan.first();
        }
        if let Some(next) = &next {
            // A doubt is said in our own words and numbers.
            let reason = if error.kind == ErrorKind::Unsure { &error.message } else { &next.reason };
            tracing::info!(
                request = self.row.as_ref().map(RowHandle::id),
                backend = name,
                kind = error.kind.as_str(),
                code = error.code,
                cause = ?next.step.cause,
                "another attempt is made: {reason}"
            );
            if self.fallen.last() != Some(reason) {
                self.fallen.push(reason.clone());
            }
        }
        self.error = Some(error);
        next.map(|next| next.step)
    }

    /// Nothing answered: closes the row and gives the error.
    fn give_up(&mut self) -> Error {
        let error = match (self.error.take(), self.rests) {
            (Some(error), _) => error,
            (None, Some(wait)) => {
                let message =
                    "every backend that may answer has failed again and again and rests; ask again later";
                Error::new(ErrorKind::Overloaded, message).with_code("circuit_open").with_retry_after(wait)
            }
            (None, None) => {
                Error::new(ErrorKind::Internal, "no backend was tried; this is a fault of the server")
            }
        };
        let reason = (!self.fallen.is_empty()).then(|| changed_reason(self.gateway, &self.fallen));
        if let Some(row) = self.row.take() {
            row.finish(None, End { reason, ..End::bare(error.kind.into()) });
        }
        error
    }

    /// The answer of the candidate that was settled on.
    fn answer(&mut self, lane: Lane, opening: Opening) -> Result<Answer, Unanswered> {
        let Some(row) = self.row.take() else { return Err(Unanswered { id: None, error: self.give_up() }) };
        let Lane { backend, seller, permit, beside, .. } = lane;
        let locality = seller.locality;
        permit.began();
        self.fallen.extend(beside);
        let changed = (!self.fallen.is_empty()).then(|| changed_reason(self.gateway, &self.fallen));
        let reason = changed.clone().unwrap_or_else(|| std::mem::take(&mut self.decided));
        let id = row.id().to_owned();
        let receipt = Receipt::new(&id, &backend, locality, &self.request.model, &reason);
        let account = Account::new(AccountParts {
            row,
            receipt: receipt.clone(),
            pricing: Arc::clone(&self.gateway.pricing),
            seller,
            admitted: self.admitted,
            prompt_tokens: self.prompt_tokens,
            reason: changed,
            permit,
            shown: matches!(self.gate, Gate::FirstToken(_)),
        });
        let disconnect = match locality {
            // An answer of this machine that nobody reads costs what goes on for it.
            Locality::Local => Disconnect::Cancel,
            Locality::Cloud => self.gateway.resilience.disconnect,
        };
        let (events, early) = opening.into_parts();
        let events = Box::pin(Accounted::new(events, early, account, disconnect));
        Ok(Answer { id, backend, locality, reason, events, receipt })
    }
}

impl Drop for Course<'_> {
    /// The caller went away while attempts were under way.
    fn drop(&mut self) {
        // Without one the row closes itself, and while panicking it says so.
        let Some(row) = self.row.take().filter(|_| !self.lanes.is_empty() && !std::thread::panicking())
        else {
            return;
        };
        let abandoned = Abandoned {
            row,
            lanes: std::mem::take(&mut self.lanes),
            settling: std::mem::take(&mut self.settling),
            pricing: Arc::clone(&self.gateway.pricing),
            admitted: self.admitted,
            prompt_tokens: self.prompt_tokens,
            model: self.request.model.clone(),
            disconnect: self.gateway.resilience.disconnect,
        };
        abandoned.end();
    }
}

pub(super) fn seller(configured: &ConfiguredBackend) -> Seller {
    Seller { locality: configured.facts.locality, provider: configured.price_provider.clone() }
}

/// Why the answering backend is not the first candidate, or was asked more than once.
fn changed_reason(gateway: &Gateway, fallen: &[String]) -> String {
    let policy = if gateway.ruled.is_some() { "rules" } else { gateway.policy.mode.as_str() };
    format!("{policy}: {}", fallen.join("; "))
}

/// A number that nobody foresees, for waits that must not all be the same.
fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}
