//! The decision by rules: a pure function of the file, the backends and the facts of one request, with its reasons.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use nearfield_api::{Error, ErrorKind, Locality};
use nearfield_privacy::{ClassSet, DataClass, Entity, Treatments};

use super::condition::{Connectivity, Day};
use super::region::{against_model, hides_its_region};
use super::{Demand, Escalate, KeyTerms, LabelTreatment, Names, Rule, Rules, holds};
use crate::BackendFacts;

/// What a caller says of its own request. It may raise the class or narrow the candidates, never the reverse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The least class.
    pub class: Option<DataClass>,
    /// The only backends that the caller wants.
    pub backends: Option<Vec<String>>,
    /// Whether the caller wants the answer from this machine only.
    pub local_only: bool,
}

/// What a decision needs to know.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The key's id.
    pub key: &'a str,
    /// The key's name.
    pub key_name: Option<&'a str>,
    /// What the file binds the key to; see [`Rules::key_terms`].
    pub terms: Option<&'a KeyTerms>,
    /// What the caller says.
    pub claim: &'a Claim,
    /// The model as the caller wrote it.
    pub model: &'a str,
    /// Tokens of the prompt, estimated.
    pub tokens: u64,
    /// Whether tools come with it.
    pub tools: bool,
    /// How complex it looks, from 0 to 1, where that was asked.
    pub complexity: Option<f64>,
    /// Classes of what detection found.
    pub classes: ClassSet,
    /// What detection found, by kind.
    pub found: &'a BTreeMap<Entity, usize>,
    /// What is known of names and places.
    pub names: Names,
    /// Parts that cannot be looked into.
    pub unscannable: usize,
    /// Those of them that a backend issued to this key itself, by the backend's name: it knows what they hold.
    pub issued: &'a BTreeMap<String, usize>,
    /// Local minutes since midnight.
    pub minute: u16,
    /// The local day.
    pub day: Day,
    /// What is left of the key's month; `None` when it has no limit, or nobody knows.
    pub dollars_left: Option<f64>,
    /// What the request is estimated to cost at each cloud backend whose price is known, by name. `None` when nobody
    /// estimated, as for examples: then a limit only asks whether anything is left.
    pub estimates: Option<&'a BTreeMap<String, f64>>,
    /// Requests that wait for the local engine.
    pub queued: u32,
    /// The share of the local engine's cache that is free, 0 to 1, where it is loaded.
    pub free_cache: Option<f64>,
    /// Seconds until the local engine's first token, where it was measured.
    pub first_token: Option<f64>,
    /// Whether there is a network.
    pub connectivity: Connectivity,
}

impl Facts<'_> {
    /// Every class that the request has a part in: its key's floor, its caller's claim, what was found.
    pub fn all_classes(&self) -> ClassSet {
        let mut all = self.classes;
        for class in [self.terms.and_then(|terms| terms.class), self.claim.class].into_iter().flatten() {
            all.insert(class);
        }
        all
    }

    /// The request's class.
    pub fn class(&self) -> DataClass {
        self.all_classes().highest()
    }

    /// Whether the key has a limit of money.
    fn is_limited(&self) -> bool {
        self.terms.is_some_and(|terms| terms.dollars_per_month.is_some())
    }

    /// Whether so many dollars are left of the key's month.
    pub(super) fn has_left(&self, dollars: f64) -> bool {
        self.dollars_left.map_or(!self.is_limited(), |left| left >= dollars)
    }
}

/// One step of the way to a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rule, key or backend that it is about.
    pub about: String,
    /// What was found, in words.
    pub said: String,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.about, self.said)
    }
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The backends that may answer, in order; empty when the request is refused.
    pub candidates: Vec<String>,
    /// Why there is none.
    pub denial: Option<Denial>,
    /// The rule that decided; `None` when none fitted.
    pub rule: Option<String>,
    /// The request's class.
    pub class: DataClass,
    /// What is hidden before something leaves this machine.
    pub treatments: Treatments,
    /// How long what is kept is kept.
    pub retention: Option<String>,
    /// The most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// When a local answer is given up for the next candidate's.
    pub escalate: Option<Escalate>,
    /// What becomes of labels, where the rule says it.
    pub labels: Option<LabelTreatment>,
    /// Whether a provider may keep the answer, where the rule says it.
    pub store: Option<bool>,
    /// Whether names and places have to be looked for, and the request be decided about again, before anything leaves.
    pub find_names: bool,
    /// How it came to that, where [`explain_by_rules`] was asked.
    pub steps: Vec<Step>,
}

/// Why no backend may answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    /// A rule refuses.
    #[error("the policy's rule \"{rule}\" refuses this request")]
    Rule {
        /// The rule.
        rule: String,
    },
    /// A rule blocks what the request holds.
    #[error(
        "the policy's rule \"{rule}\" refuses requests that hold such data; take it out and send it again"
    )]
    Blocked {
        /// The rule.
        rule: String,
    },
    /// The rule masks, the request cannot be looked into, and nothing else is left.
    #[error(
        "the policy's rule \"{rule}\" masks what leaves, and this request has parts that cannot be looked into (pictures, \
         audio, files, token ids); send it without them"
    )]
    CannotMask {
        /// The rule.
        rule: String,
    },
    /// The rule wants names and places to be looked for, the search failed, and nothing else is left.
    #[error(
        "the policy's rule \"{rule}\" has names and places looked for before a request leaves, and they could not be; the \
         server's log says why"
    )]
    NamesUnknown {
        /// The rule.
        rule: String,
    },
    /// Nothing is left.
    #[error(
        "the policy leaves no backend for this request (class {class}, rule \"{rule}\"); `nearfield policy explain` says why"
    )]
    Nothing {
        /// The request's class.
        class: DataClass,
        /// The rule, or `none`.
        rule: String,
    },
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        let code = match denial {
            Denial::CannotMask { .. } => "cannot_mask",
            Denial::NamesUnknown { .. } => "names_unknown",
            _ => "policy_forbids",
        };
        Self::new(ErrorKind::PermissionDenied, denial.to_string()).with_code(code)
    }
}

impl Rules {
    /// What the file binds a key to, by its id or name.
    pub fn key_terms(&self, id: &str, name: Option<&str>) -> Option<&KeyTerms> {
        self.key.get(id).or_else(|| self.key.get(name?))
    }
}

/// Closes the candidate set of one request under the rules.
pub fn decide_by_rules(rules: &Rules, backends: &[BackendFacts], facts: &Facts<'_>) -> Verdict {
    weigh(rules, backends, facts, |_, _| {})
}

/// The same decision with the steps that led to it.
pub fn explain_by_rules(rules: &Rules, backends: &[BackendFacts], facts: &Facts<'_>) -> Verdict {
    let mut steps = Vec::new();
    let say = |about: &str, said: fmt::Arguments<'_>| {
        steps.push(Step { about: about.to_owned(), said: said.to_string() });
    };
    let verdict = weigh(rules, backends, facts, say);
    Verdict { steps, ..verdict }
}

fn weigh(
    rules: &Rules,
    backends: &[BackendFacts],
    facts: &Facts<'_>,
    mut say: impl FnMut(&str, fmt::Arguments<'_>),
) -> Verdict {
    let class = facts.class();
    say("class", format_args!("{}", ClassReason { facts, class }));
    let rule = rules.rule.iter().find(|rule| match rule.when.fails(facts) {
        None => {
            say(&rule.name, format_args!("applies"));
            true
        }
        Some(condition) => {
            say(&rule.name, format_args!("does not apply: `{condition}` does not hold"));
            false
        }
    });
    let verdict = |candidates, denial| Verdict {
        candidates,
        denial,
        rule: rule.map(|rule| rule.name.clone()),
        class,
        treatments: rule.map(Rule::treatments).unwrap_or_default(),
        retention: rule.and_then(|rule| rule.retention.clone()),
        max_tokens: rule.and_then(|rule| rule.max_tokens),
        escalate: rule.and_then(|rule| rule.escalate.clone()),
        labels: rule.and_then(|rule| rule.labels),
        store: rule.and_then(|rule| rule.store),
        find_names: false,
        steps: Vec::new(),
    };
    let name = || rule.map_or("none", |rule| rule.name.as_str()).to_owned();
    if let Some(rule) = rule {
        if rule.deny {
            return verdict(Vec::new(), Some(Denial::Rule { rule: name() }));
        }
        if holds(&rule.block, facts) {
            say(&rule.name, format_args!("blocks what the request holds"));
            return verdict(Vec::new(), Some(Denial::Blocked { rule: name() }));
        }
    } else {
        say("rules", format_args!("none applies, so the request stays on this machine"));
    }
    let mut candidates: Vec<String> = Vec::new();
    let (mut blind, mut unknown, mut leaves) = (false, false, false);
    for backend in in_order(rule, backends) {
        match objection(rules, rule, backend, facts) {
            None if candidates.contains(&backend.name) => {}
            None => {
                say(&backend.name, format_args!("may answer"));
                leaves |= backend.locality == Locality::Cloud;
                candidates.push(backend.name.clone());
            }
            Some(why) => {
                blind |= why == CANNOT_MASK;
                unknown |= why == NAMES_UNKNOWN;
                say(&backend.name, format_args!("may not answer: {why}"));
            }
        }
    }
    let denial = match candidates.is_empty() {
        false => None,
        true if blind => Some(Denial::CannotMask { rule: name() }),
        true if unknown => Some(Denial::NamesUnknown { rule: name() }),
        true => Some(Denial::Nothing { class, rule: name() }),
    };
    let wanted = rule.is_some_and(|rule| rule.find_names) && facts.names == Names::NotSought;
    let find_names = wanted && leaves;
    if find_names {
        say("names", format_args!("are looked for before the request leaves, and then it is decided again"));
    }
    Verdict { find_names, ..verdict(candidates, denial) }
}

/// The backends that a rule names, in its order; without a rule those of this machine.
fn in_order<'a>(rule: Option<&Rule>, backends: &'a [BackendFacts]) -> Vec<&'a BackendFacts> {
    match rule {
        None => backends.iter().filter(|backend| backend.locality == Locality::Local).collect(),
        Some(rule) => rule
            .backends
            .iter()
            .filter_map(|name| backends.iter().find(|backend| backend.name == *name))
            .collect(),
    }
}

/// Why a backend may not answer; `None` when it may.
fn objection(
    rules: &Rules,
    rule: Option<&Rule>,
    backend: &BackendFacts,
    facts: &Facts<'_>,
) -> Option<Cow<'static, str>> {
    if !backend.may_serve(facts.model) {
        return Some("it is not configured for this model".into());
    }
    let bound = facts.terms.and_then(|terms| terms.backends.as_ref());
    if bound.is_some_and(|names| !names.contains(&backend.name)) {
        return Some("the key is not bound to it".into());
    }
    if facts.claim.backends.as_ref().is_some_and(|names| !names.contains(&backend.name)) {
        return Some("the caller does not want it".into());
    }
    if backend.locality == Locality::Local {
        return None;
    }
    let Some(rule) = rule else { return Some("no rule lets the request leave".into()) };
    cloud_objection(rules, rule, backend, facts)
}

/// Why what cannot be looked into stays where something must be masked.
const CANNOT_MASK: &str = "the request has parts that cannot be looked into, and the rule masks";

/// Why what was not looked into stays where names must be known.
const NAMES_UNKNOWN: &str = "names and places could not be looked for, and the rule has them looked for";

/// Why a request may not leave for a backend.
fn cloud_objection(
    rules: &Rules,
    rule: &Rule,
    backend: &BackendFacts,
    facts: &Facts<'_>,
) -> Option<Cow<'static, str>> {
    if facts.claim.local_only {
        return Some("the caller wants this machine only".into());
    }
    if facts.connectivity == Connectivity::Offline {
        return Some("there is no network".into());
    }
    if facts.terms.and_then(|terms| terms.class).is_none() {
        return Some("the key declares no class, so its requests stay on this machine".into());
    }
    if let Some(why) = money_objection(backend, facts) {
        return Some(why);
    }
    let terms = rules.terms(&backend.name);
    if let Some(why) = region_objection(terms.region.as_deref(), backend, facts.model) {
        return Some(why);
    }
    if facts.all_classes().contains(DataClass::Health) && !terms.baa {
        return Some("health data goes nowhere without a business associate agreement (baa)".into());
    }
    let unmet =
        rule.require.iter().find(|text| !Demand::parse(text).is_some_and(|demand| demand.met(&terms)));
    if let Some(demand) = unmet {
        return Some(format!("the rule demands {demand}").into());
    }
    if holds(&rule.keep_local, facts) {
        return Some("the request holds what the rule keeps on this machine".into());
    }
    if rule.find_names && facts.names == Names::Unknown {
        return Some(NAMES_UNKNOWN.into());
    }
    let own = facts.issued.get(&backend.name).copied().unwrap_or(0);
    if facts.unscannable > own && !rule.treatments().is_empty() {
        return Some(CANNOT_MASK.into());
    }
    None
}

/// Why a model is answered elsewhere than is declared of its backend. The file was held against the configured models
/// when it was read; a caller may ask for others where a backend is not limited to some.
fn region_objection(
    declared: Option<&str>,
    backend: &BackendFacts,
    asked: &str,
) -> Option<Cow<'static, str>> {
    let declared = declared?;
    let model = backend.upstream_model(asked);
    let against = backend.addresses.iter().find_map(|address| against_model(declared, address, model));
    if let Some(what) = against {
        return Some(format!("region `{declared}` is declared, but {what}").into());
    }
    let hidden = backend.models.is_none() && hides_its_region(model);
    hidden.then(|| {
        format!("region `{declared}` is declared, and the model `{model}` does not say where it is answered")
            .into()
    })
}

/// Why a request costs more than its key may spend.
fn money_objection(backend: &BackendFacts, facts: &Facts<'_>) -> Option<Cow<'static, str>> {
    let left = match facts.dollars_left {
        Some(left) => left,
        None if facts.is_limited() => {
            return Some("the key has a limit of money, and what is left of it is not known".into());
        }
        None => return None,
    };
    if left <= 0.0 {
        return Some("the key's money for this month is spent".into());
    }
    match facts.estimates?.get(&backend.name) {
        None => Some("the key has a limit of money, and the price of this model there is not known".into()),
        Some(cost) if *cost > left => {
            Some(format!("it may cost ${cost:.4}, and the key has ${left:.4} left of this month").into())
        }
        Some(_) => None,
    }
}

/// Why a request has its class.
struct ClassReason<'a> {
    facts: &'a Facts<'a>,
    class: DataClass,
}

impl fmt::Display for ClassReason<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { facts, class } = self;
        let floor = facts.terms.and_then(|terms| terms.class).map_or("none", DataClass::as_str);
        let claim = facts.claim.class.map_or("none", DataClass::as_str);
        let found: Vec<String> =
            facts.found.iter().map(|(entity, count)| format!("{count} {entity}")).collect();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        write!(formatter, "{class} (floor of the key {floor}, claim {claim}, found {found})")
    }
}
