//! The way of a request: decide, admit, try the candidates in order, and account for the answer at its end.
//!
//! One direction. The candidate set is closed before the ledger admits the request; a backend gets it only after the
//! ledger has journalled that it will; another candidate is tried only while nothing was produced, and only for what
//! the policy names. Whatever the end is, it closes the request's one row.

mod abandoned;
mod account;
mod attempt;
mod budget;
mod circuits;
mod domains;
mod judge;
mod lane;
mod names;
mod network;
mod opening;
mod pricing;
mod receipt;
mod restoring;
mod ruled;
mod ruling;
mod seals;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use nearfield_api::openai::ModelEntry;
use nearfield_api::{Backend, EndpointState, Error, ErrorKind, EventStream, Locality, ModelInfo, Request};
use nearfield_privacy::{ClassSet, Detector, HashKey};
use nearfield_router::attempts::Resilience;
use nearfield_router::rules::{Claim, Connectivity, Rules, RulesError};
use nearfield_router::{
    BackendFacts, Decision, Policy, PolicyError, PolicyMode, RequestFacts, decide, permitted, survey_request,
};
use nearfield_store::{Admission, End, Ledger, Prices, RowHandle, Tariff};
use tokio::time::{Instant, timeout};

use attempt::Course;
use budget::Budgets;
use circuits::Circuits;
pub use domains::{CacheDomains, KeyInTwoDomains};
pub use network::Network;
pub(crate) use opening::{Gate, Whole, size as event_bytes};
use pricing::Pricing;
pub use receipt::{Receipt, ReceiptCounterfactual, ReceiptFields};
use ruled::Ruled;
pub use ruled::RulesChange;

/// How long one backend may take to list its models before the list goes out without them.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// What a gateway is made of.
pub struct GatewayOptions {
    /// The backends, local ones in the order to try them. Their names differ.
    pub backends: Vec<ConfiguredBackend>,
    /// Where requests may go.
    pub policy: Policy,
    /// Where every request leaves its row.
    pub ledger: Ledger,
    /// What cloud tokens cost.
    pub prices: Prices,
    /// What this machine's work costs.
    pub tariff: Tariff,
    /// The price, as `provider/model`, with which every answer is compared.
    pub reference: String,
    /// Which keys share the work on prompts.
    pub cache_domains: CacheDomains,
}

/// A backend as the configuration describes it.
#[derive(Clone)]
pub struct ConfiguredBackend {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// What decisions know of it. Its name is the backend's own.
    pub facts: BackendFacts,
    /// The provider under which its models stand in the price table. Without it the cost of a cloud answer is unknown.
    pub price_provider: Option<String>,
}

impl ConfiguredBackend {
    /// A backend that may be asked for any model by its own name, and whose prices are not known.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        let engine = backend.is_engine();
        let facts = BackendFacts { engine, ..BackendFacts::new(backend.name(), backend.locality()) };
        Self { backend, facts, price_provider: None }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The id of the key that was shown.
    pub key_id: String,
    /// The key's name, where it has one.
    pub key_name: Option<String>,
    /// What the caller says of its own request.
    pub claim: Claim,
}

impl Caller {
    /// A caller of whom nothing but the key's id is known.
    pub fn new(key_id: impl Into<String>) -> Self {
        Self { key_id: key_id.into(), key_name: None, claim: Claim::default() }
    }
}

/// An answer that has begun, or is about to.
pub struct Answer {
    /// The request's id, as in the ledger.
    pub id: String,
    /// The backend that answers.
    pub backend: String,
    /// Where that backend runs.
    pub locality: Locality,
    /// Why it answers.
    pub reason: String,
    /// The answer. Dropping it cancels the work and closes the row.
    pub events: EventStream,
    /// What is known of the answer; complete when the stream has ended.
    pub receipt: Receipt,
}

/// A request that nothing answered.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// The id of its row; `None` when the ledger did not admit it.
    pub(crate) id: Option<String>,
    pub(crate) error: Error,
}

impl From<Unanswered> for Error {
    fn from(unanswered: Unanswered) -> Self {
        unanswered.error
    }
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self { id: None, error }
    }
}

/// Joins policy, ledger and backends.
pub struct Gateway {
    backends: Vec<ConfiguredBackend>,
    /// Their facts, in the same order, as decisions want them.
    facts: Vec<BackendFacts>,
    policy: Policy,
    /// What looks at requests where `policy` lets some leave.
    detector: Option<Detector>,
    /// A policy file, which then decides in place of `policy`.
    ruled: Option<Ruled>,
    ledger: Ledger,
    pricing: Arc<Pricing>,
    cache_domains: CacheDomains,
    resilience: Resilience,
    circuits: Arc<Circuits>,
    network: Network,
    budgets: Budgets,
    /// Seconds since 1970 at which this gateway was made; models are listed with it.
    created: u64,
}

impl Gateway {
    /// Checks that the policy fits the backends.
    ///
    /// # Errors
    /// The policy names a backend that is not there or is not a cloud backend, or two backends share a name.
    pub fn new(options: GatewayOptions) -> Result<Self, PolicyError> {
        let GatewayOptions { backends, policy, ledger, prices, tariff, reference, cache_domains } = options;
        let facts: Vec<BackendFacts> = backends.iter().map(|configured| configured.facts.clone()).collect();
        policy.check(&facts)?;
        let pricing = Arc::new(Pricing { prices, tariff, reference });
        let detector = policy.lets_leave_something().then(Detector::new);
        let created = Timestamp::now().as_second().unsigned_abs();
        let resilience = Resilience::default();
        let circuits = Arc::new(Circuits::new(&resilience, &facts));
        Ok(Self {
            backends,
            facts,
            policy,
            detector,
            ruled: None,
            ledger,
            pricing,
            cache_domains,
            resilience,
            circuits,
            network: Network::default(),
            budgets: Budgets::default(),
            created,
        })
    }

    /// Makes attempts in another way than by default.
    pub fn with_resilience(mut self, resilience: Resilience) -> Self {
        self.circuits = Arc::new(Circuits::new(&resilience, &self.facts));
        self.resilience = resilience;
        self
    }

    /// What happened in attempts until now, by backend: how they ended (`done`, or the kind of the error), and `retry`,
    /// `fallback`, `hedge`, `lost`, `probe` and `circuit_open`. The names are those of the configuration.
    pub fn attempt_counts(&self) -> Vec<(String, &'static str, u64)> {
        self.circuits.counts()
    }

    /// Whether each backend outside this process rests after failures.
    pub fn circuits(&self) -> Vec<(String, bool)> {
        self.circuits.open()
    }

    /// How the endpoints of pools stand: the backend's name and the endpoint's position in the configuration, from 1.
    pub fn endpoints(&self) -> Vec<(String, usize, EndpointState)> {
        let mut all = Vec::new();
        for ConfiguredBackend { backend, facts, .. } in &self.backends {
            let states = backend.endpoints();
            all.extend(states.into_iter().zip(1..).map(|(state, at)| (facts.name.clone(), at, state)));
        }
        all
    }

    /// Lets the rules of a policy file decide from now on. `key` makes the pseudonyms that rules may ask for.
    ///
    /// # Errors
    /// The rules name something that is not there.
    pub fn with_rules(mut self, rules: Rules, key: HashKey) -> Result<Self, RulesError> {
        self.ruled = Some(Ruled::new(rules, key, &self.facts)?);
        // What may follow what inside the candidate set; which candidates there are is for the rules.
        self.policy = Policy::up_to(Policy::MOST, PolicyMode::PreferLocal);
        self.detector = None;
        Ok(self)
    }

    /// Looks at the network from now on: while there is none, no request is tried elsewhere.
    pub fn with_network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Puts other rules in force. Running attempts finish under theirs; no new one starts that these deny.
    ///
    /// # Errors
    /// The rules cannot be used, or this gateway has none; the old ones stay in force.
    pub fn replace_rules(&self, rules: Rules) -> Result<RulesChange, RulesError> {
        let ruled = self.ruled.as_ref().ok_or_else(|| RulesError::Wrong {
            place: "policy".to_owned(),
            why: "the server was started without a policy file; restart it with one".to_owned(),
        })?;
        // Before, so that no request decides by a sum that was not kept.
        self.budgets.forget();
        ruled.replace(rules, &self.facts).inspect_err(|_| ruled.count_failure())
    }

    /// Notes that rules could not even be read.
    pub fn rules_unreadable(&self) {
        if let Some(ruled) = &self.ruled {
            ruled.count_failure();
        }
    }

    /// How often rules could not be put in force; `None` without a policy file.
    pub fn rule_failures(&self) -> Option<u64> {
        self.ruled.as_ref().map(Ruled::failures)
    }

    /// Starts to answer a request. Returns when the first token is there, so that until then another candidate can
    /// take over where the policy allows.
    ///
    /// # Errors
    /// The policy allows no backend, the ledger cannot record the request, or every candidate that might be tried
    /// failed: then the last one's error. The row is closed in each case.
    pub async fn answer(&self, caller: &Caller, request: Request) -> Result<Answer, Error> {
        Ok(self.start(caller, Box::new(request), Gate::FirstToken(None)).await?)
    }

    /// The same, but after `patience` returns without the first token where this process's engine is answering, which may
    /// read a long prompt: from then on it is the one that answers, or fails. Another's first token is always waited for.
    ///
    /// # Errors
    /// As [`Gateway::answer`].
    pub async fn answer_within(
        &self,
        caller: &Caller,
        request: Request,
        patience: Duration,
    ) -> Result<Answer, Error> {
        let gate = Gate::FirstToken(Some(Instant::now() + patience));
        Ok(self.start(caller, Box::new(request), gate).await?)
    }

    /// The same, with the row's id also where there is no answer.
    pub(crate) async fn start(
        &self,
        caller: &Caller,
        mut request: Box<Request>,
        gate: Gate,
    ) -> Result<Answer, Unanswered> {
        request.cache_domain = self.cache_domains.of(&caller.key_id);
        Box::pin(self.decide(caller, request, gate)).await
    }

    async fn decide(
        &self,
        caller: &Caller,
        mut request: Box<Request>,
        gate: Gate,
    ) -> Result<Answer, Unanswered> {
        if let Some(ruled) = &self.ruled {
            return self.decide_by_rules(ruled, caller, request, gate).await;
        }
        let classes = self.classes(caller, &mut request);
        let facts = RequestFacts { model: request.model.clone(), classes };
        let decision = match decide(&self.policy, &self.facts, &facts) {
            Ok(decision) => decision,
            Err(refusal) => {
                let reason = format!("{}: refused", self.policy.mode);
                let row = self.admit(caller, &request, reason, self.policy.hash())?;
                let (id, error) = (row.id().to_owned(), Error::from(refusal));
                row.finish(None, End::bare(error.kind.into()));
                return Err(Unanswered { id: Some(id), error });
            }
        };
        let Decision { mut candidates, reason, policy_hash } = decision;
        let offline = self.network.connectivity() == Connectivity::Offline;
        if offline && candidates.iter().all(|name| self.is_cloud(name)) {
            let row = self.admit(caller, &request, format!("{reason}: no network"), policy_hash)?;
            let id = row.id().to_owned();
            let message =
                "there is no network, and the policy allows no backend of this machine for this request";
            let error = Error::new(ErrorKind::Upstream, message).with_code("offline");
            row.finish(None, End::bare(error.kind.into()));
            return Err(Unanswered { id: Some(id), error });
        }
        candidates.retain(|name| !(offline && self.is_cloud(name)) && self.claimed(caller, name));
        if candidates.is_empty() {
            let row = self.admit(caller, &request, format!("{reason}: refused"), policy_hash)?;
            let id = row.id().to_owned();
            let message = "the request's own headers leave none of the backends that the policy allows";
            let error = Error::new(ErrorKind::PermissionDenied, message).with_code("claim_forbids");
            row.finish(None, End::bare(error.kind.into()));
            return Err(Unanswered { id: Some(id), error });
        }
        let admission = admission(caller, &request, reason.clone(), policy_hash);
        let row = self.ledger.admit_with_attempt(admission);
        Box::new(Course::new(self, row, &candidates, None, reason, request, gate)).run().await
    }

    /// Every class that a request is of, where no rules decide: its caller's claim, and what is found in it.
    fn classes(&self, caller: &Caller, request: &mut Request) -> ClassSet {
        let mut classes = caller.claim.class.map(ClassSet::of).unwrap_or_default();
        if let Some(detector) = &self.detector {
            classes.extend(survey_request(detector, request).classes());
        }
        classes
    }

    /// Whether a caller's own claim lets a backend see its request.
    fn claimed(&self, caller: &Caller, name: &str) -> bool {
        let claim = &caller.claim;
        claim.backends.as_ref().is_none_or(|names| names.iter().any(|own| own == name))
            && !(claim.local_only && self.is_cloud(name))
    }

    fn is_cloud(&self, name: &str) -> bool {
        self.facts.iter().any(|facts| facts.name == name && facts.locality == Locality::Cloud)
    }

    fn admit(
        &self,
        caller: &Caller,
        request: &Request,
        reason: String,
        policy_hash: String,
    ) -> Result<RowHandle, Error> {
        let admission = admission(caller, request, reason, policy_hash);
        self.ledger.admit(admission).map_err(|error| unrecorded(&error))
    }

    /// The models that the policy lets callers ask for, each once: where several backends offer one name, the first
    /// that would be tried.
    ///
    /// # Errors
    /// No backend could list its models.
    pub async fn models(&self) -> Result<Vec<ModelEntry>, Error> {
        let offline = self.network.connectivity() == Connectivity::Offline;
        let mut asked = permitted(&self.policy, &self.facts);
        asked.retain(|facts| !(offline && facts.locality == Locality::Cloud));
        let lists = join_all(asked.into_iter().map(|facts| self.list(facts))).await;
        let mut failure = None;
        let mut listed = false;
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for (facts, list) in lists {
            match list {
                Ok(models) => {
                    listed = true;
                    let new = models.into_iter().filter(|info| seen.insert(info.id.clone()));
                    entries.extend(new.map(|info| ModelEntry {
                        info,
                        created: self.created,
                        owned_by: facts.name.clone(),
                    }));
                }
                Err(error) => {
                    let (backend, kind) = (&facts.name, error.kind.as_str());
                    tracing::warn!(backend, kind, "a backend does not list its models");
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if !listed => Err(error),
            _ => Ok(entries),
        }
    }

    async fn list<'a>(&self, facts: &'a BackendFacts) -> (&'a BackendFacts, Result<Vec<ModelInfo>, Error>) {
        let Some(configured) = self.backend(&facts.name) else { return (facts, Ok(Vec::new())) };
        // A cloud backend that is limited to some models need not be asked which ones it has.
        if let (Some(models), Locality::Cloud) = (&facts.models, facts.locality) {
            let info = |id: &String| ModelInfo { id: id.clone(), context_length: None };
            return (facts, Ok(models.iter().map(info).collect()));
        }
        let list = timeout(LIST_PATIENCE, configured.backend.models()).await.unwrap_or_else(|_| {
            let message =
                format!("{} did not list its models within {} s", facts.name, LIST_PATIENCE.as_secs());
            Err(Error::new(ErrorKind::Timeout, message))
        });
        let allowed = |info: &ModelInfo| facts.models.as_ref().is_none_or(|models| models.contains(&info.id));
        (facts, list.map(|models| models.into_iter().filter(allowed).collect()))
    }

    fn backend(&self, name: &str) -> Option<&ConfiguredBackend> {
        self.backends.iter().find(|configured| configured.facts.name == name)
    }
}

fn admission(caller: &Caller, request: &Request, reason: String, policy_hash: String) -> Admission {
    Admission {
        key_id: Some(caller.key_id.clone()),
        model: request.model.clone(),
        reason,
        policy_hash,
        retention: None,
        reserved: None,
    }
}

/// What cannot be recorded is not sent anywhere.
fn unrecorded(error: &nearfield_store::StoreError) -> Error {
    tracing::error!(%error, "a request was refused because the ledger cannot record it");
    let message = "the request cannot be recorded, so it was not answered; the server's log says why";
    Error::new(ErrorKind::Internal, message).with_code("ledger_unavailable")
}
