//! The policy file in force: replaced while requests run, asked again before every attempt.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Zoned;
use nearfield_api::{BackendLoad, Error, ErrorKind, Labels, Locality, Request, Terms};
use nearfield_privacy::{Detector, HashKey, Names as FoundNames, Survey, Vault};
use nearfield_router::rules::{
    Connectivity, Day, Denial, Escalate, Facts, LabelTreatment, NameSearch, Names, Rules, RulesError,
    Verdict, decide_by_rules,
};
use nearfield_router::{BackendFacts, mask_request, survey_request};
use nearfield_store::NanoDollars;

use super::Caller;
use super::budget::Month;
use super::seals::{Seal, unseal};

/// The rules in force, and those that were.
pub(super) struct Ruled {
    active: RwLock<Arc<Active>>,
    key: Arc<HashKey>,
    failures: AtomicU64,
}

/// One policy file, ready for use.
pub(super) struct Active {
    rules: Rules,
    detector: Detector,
    hash: String,
}

impl Active {
    fn new(rules: Rules, backends: &[BackendFacts]) -> Result<Self, RulesError> {
        rules.check(backends)?;
        Ok(Self { detector: rules.detector()?, hash: rules.hash(), rules })
    }
}

/// What a change of the rules changed: the hashes before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesChange {
    /// The hash of the rules that were in force.
    pub old: String,
    /// The hash of those that are now.
    pub new: String,
}

impl Ruled {
    pub(super) fn new(rules: Rules, key: HashKey, backends: &[BackendFacts]) -> Result<Self, RulesError> {
        let active = RwLock::new(Arc::new(Active::new(rules, backends)?));
        Ok(Self { active, key: Arc::new(key), failures: AtomicU64::new(0) })
    }

    pub(super) fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other rules in force; what cannot be used changes nothing.
    pub(super) fn replace(&self, rules: Rules, backends: &[BackendFacts]) -> Result<RulesChange, RulesError> {
        let next = Active::new(rules, backends)?;
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let change = RulesChange { old: active.hash.clone(), new: next.hash.clone() };
        *active = Arc::new(next);
        Ok(change)
    }

    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Looks at a request.
    pub(super) fn look(&self, caller: &Caller, request: &mut Request, backends: &[BackendFacts]) -> Looked {
        let active = self.active();
        let clouds = backends.iter().filter(|backend| backend.locality == Locality::Cloud);
        let clouds = clouds.map(|backend| backend.name.as_str());
        let issued = unseal(&self.key, clouds, &caller.key_id, request);
        let survey = survey_request(&active.detector, request);
        Looked { active, survey, issued, names: Names::NotSought, found: FoundNames::default() }
    }

    /// The dollars that a key may spend in a month, where the rules limit it.
    pub(super) fn limit(&self, caller: &Caller) -> Option<f64> {
        let active = self.active();
        active.rules.key_terms(&caller.key_id, caller.key_name.as_deref())?.dollars_per_month
    }
}

/// What a decision depends on beside the request and the rules.
#[derive(Clone)]
pub(super) struct Circumstances {
    pub(super) now: Zoned,
    /// Tokens of the prompt, estimated.
    pub(super) tokens: u64,
    pub(super) connectivity: Connectivity,
    /// How busy this machine's engine is.
    pub(super) load: Option<BackendLoad>,
    /// What the key has spent, where it has a limit.
    pub(super) month: Option<Arc<Month>>,
    /// Dollars that the request may cost, by cloud backend; empty for a key without a limit.
    pub(super) estimates: BTreeMap<String, f64>,
}

/// A request that was looked at.
pub(super) struct Looked {
    active: Arc<Active>,
    survey: Survey,
    /// Values that cannot be looked into and that a backend issued to the key itself, by backend.
    issued: BTreeMap<String, usize>,
    names: Names,
    /// Those that were found.
    found: FoundNames,
}

impl Looked {
    /// Who has to look for names and places in a request before anything of it may leave, and for which rule.
    pub(super) fn search(
        &self,
        caller: &Caller,
        request: &Request,
        backends: &[BackendFacts],
        circumstances: &Circumstances,
    ) -> Option<Search> {
        let by = self.active.rules.detection.names.as_ref()?;
        if !self.active.rules.rule.iter().any(|rule| rule.find_names) {
            return None;
        }
        let asked = self.asked(caller, request, circumstances.clone());
        let verdict = asked.decide(&self.active, &self.survey, backends);
        let rule = verdict.rule.filter(|_| verdict.find_names)?;
        Some(Search { by: by.clone(), rule, policy_hash: self.active.hash.clone() })
    }

    /// Takes what a search brought, and looks at the request once more with it.
    pub(super) fn take(&mut self, request: &mut Request, found: Option<FoundNames>) {
        self.names = Names::Unknown;
        let Some(found) = found else { return };
        if let Ok(detector) = self.active.detector.with_names(&found) {
            self.survey = survey_request(&detector, request);
            (self.names, self.found) = (Names::Sought, found);
        }
    }

    /// Decides about a request.
    pub(super) fn admit(
        self,
        caller: &Caller,
        request: &Request,
        backends: &[BackendFacts],
        circumstances: Circumstances,
    ) -> Admitted {
        let month = circumstances.month.clone();
        let asked = self.asked(caller, request, circumstances);
        let Self { active, survey, found, .. } = self;
        let Some(month) = month else {
            let verdict = asked.decide(&active, &survey, backends);
            return Admitted { active, survey, found, asked, verdict, reserved: None };
        };
        let ((asked, verdict), reserved) = month.decide(|spent| {
            let asked = Asked { spent: Some(spent), ..asked };
            let verdict = asked.decide(&active, &survey, backends);
            // One of them answers. A retry or a hedge may cost more: then the next request finds less left.
            let costs = verdict.candidates.iter().filter_map(|name| asked.estimates.get(name));
            let reserved = costs.copied().reduce(f64::max).and_then(NanoDollars::from_dollars);
            ((asked, verdict), reserved)
        });
        let reserved = reserved.map(|sum| (month, sum));
        Admitted { active, survey, found, asked, verdict, reserved }
    }

    fn asked(&self, caller: &Caller, request: &Request, circumstances: Circumstances) -> Asked {
        let Circumstances { now, tokens, connectivity, load, month: _, estimates } = circumstances;
        Asked {
            caller: caller.clone(),
            model: request.model.clone(),
            tokens,
            tools: !request.tools.is_empty(),
            now,
            connectivity,
            load,
            spent: None,
            estimates,
            issued: self.issued.clone(),
            names: self.names,
        }
    }
}

/// A search for names and places.
pub(super) struct Search {
    pub(super) by: NameSearch,
    /// The rule that asks for it.
    pub(super) rule: String,
    pub(super) policy_hash: String,
}

/// The facts of a request that do not depend on the policy.
struct Asked {
    caller: Caller,
    model: String,
    tokens: u64,
    tools: bool,
    now: Zoned,
    connectivity: Connectivity,
    load: Option<BackendLoad>,
    /// What the key had spent before this request.
    spent: Option<NanoDollars>,
    estimates: BTreeMap<String, f64>,
    /// Values that cannot be looked into and that a backend issued to the key itself, by backend.
    issued: BTreeMap<String, usize>,
    names: Names,
}

impl Asked {
    fn decide(&self, active: &Active, survey: &Survey, backends: &[BackendFacts]) -> Verdict {
        let caller = &self.caller;
        let day = self.now.weekday().to_monday_zero_offset();
        let terms = active.rules.key_terms(&caller.key_id, caller.key_name.as_deref());
        let limit = terms.and_then(|terms| terms.dollars_per_month);
        let facts = Facts {
            key: &caller.key_id,
            key_name: caller.key_name.as_deref(),
            terms,
            claim: &caller.claim,
            model: &self.model,
            tokens: self.tokens,
            tools: self.tools,
            complexity: None,
            classes: survey.classes(),
            found: survey.counts(),
            names: self.names,
            unscannable: survey.unscannable_parts(),
            issued: &self.issued,
            minute: u16::try_from(i32::from(self.now.hour()) * 60 + i32::from(self.now.minute()))
                .unwrap_or(0),
            day: Day::from_monday(u8::try_from(day).unwrap_or(0)),
            dollars_left: limit.zip(self.spent).map(|(limit, spent)| limit - spent.dollars()),
            estimates: Some(&self.estimates),
            queued: self.load.map_or(0, |load| load.queued),
            free_cache: self.load.map(|load| load.free_cache),
            first_token: self.load.and_then(|load| load.first_token).map(|time| time.as_secs_f64()),
            connectivity: self.connectivity,
        };
        decide_by_rules(&active.rules, backends, &facts)
    }
}

/// A request that the rules have decided about.
pub(super) struct Admitted {
    active: Arc<Active>,
    survey: Survey,
    /// Names and places in it, as a model found them.
    found: FoundNames,
    asked: Asked,
    verdict: Verdict,
    /// What is set aside for it, and of which month.
    reserved: Option<(Arc<Month>, NanoDollars)>,
}

impl Admitted {
    pub(super) fn hash(&self) -> String {
        self.active.hash.clone()
    }

    pub(super) fn candidates(&self) -> &[String] {
        &self.verdict.candidates
    }

    pub(super) fn denial(&self) -> Option<&Denial> {
        self.verdict.denial.as_ref()
    }

    /// Why, in words for the reply and the ledger: the rule and the class. Never content.
    pub(super) fn reason(&self) -> String {
        let Verdict { rule, class, .. } = &self.verdict;
        let rule = rule.as_deref().unwrap_or("no rule applies: this machine only");
        format!("{rule} ({class})")
    }

    /// How long what is kept of it is kept, as the rule names it.
    pub(super) fn retention(&self) -> Option<String> {
        self.verdict.retention.clone()
    }

    /// What tags the values that a backend issues to the caller.
    pub(super) fn seal(&self, ruled: &Ruled, backend: &str) -> Seal {
        Seal {
            key: Arc::clone(&ruled.key),
            backend: backend.to_owned(),
            key_id: self.asked.caller.key_id.clone(),
        }
    }

    /// When a local answer is given up for the next candidate's.
    pub(super) fn escalate(&self) -> Option<&Escalate> {
        self.verdict.escalate.as_ref()
    }

    /// What is set aside for it, and of which month.
    pub(super) fn reserved(&self) -> Option<&(Arc<Month>, NanoDollars)> {
        self.reserved.as_ref()
    }

    /// The request as it may go to a candidate now, and what turns its placeholders back.
    ///
    /// # Errors
    /// The rules in force by now do not let it go there, or it cannot be masked. Nothing may leave then.
    pub(super) fn outgoing(
        &self,
        ruled: &Ruled,
        backends: &[BackendFacts],
        candidate: &BackendFacts,
        mut request: Box<Request>,
    ) -> Result<(Box<Request>, Option<Arc<Vault>>), Error> {
        let refused =
            |message: &str, code: &str| Error::new(ErrorKind::PermissionDenied, message).with_code(code);
        let newest = ruled.active();
        if newest.hash != self.active.hash {
            // Other rules may look for other things: what they found was found by their own detection.
            let detector = newest
                .detector
                .with_names(&self.found)
                .map_err(|error| refused(&error.to_string(), "cannot_mask"))?;
            let survey = survey_request(&detector, &mut request);
            let verdict = self.asked.decide(&newest, &survey, backends);
            let same = verdict.treatments == self.verdict.treatments
                && (verdict.labels, verdict.store) == (self.verdict.labels, self.verdict.store)
                && survey.counts() == self.survey.counts()
                && !verdict.find_names;
            if !verdict.candidates.contains(&candidate.name) || !same {
                return Err(refused(
                    "the policy was changed and does not allow this attempt any more; send the request again",
                    "policy_changed",
                ));
            }
        }
        if let Some(most) = self.verdict.max_tokens {
            request.max_tokens = Some(request.max_tokens.map_or(most, |own| own.min(most)));
        }
        if candidate.locality == Locality::Local {
            return Ok((request, None));
        }
        request.terms = Terms { labels_ready: self.verdict.labels.is_some(), store: self.verdict.store };
        // Of the labels as they came: what masking leaves of them is the same for everybody.
        let labels = self.verdict.labels.map(|how| labels(&ruled.key, how, &request.labels));
        if self.verdict.treatments.is_empty() {
            request.labels = labels.unwrap_or_else(|| std::mem::take(&mut request.labels));
            return Ok((request, None));
        }
        let masked = mask_request(&mut request, &self.survey, &self.verdict.treatments, Some(&ruled.key))
            .map_err(|error| refused(&error.to_string(), "cannot_mask"))?;
        request.labels = labels.unwrap_or_else(|| std::mem::take(&mut request.labels));
        Ok((request, Some(masked.vault).filter(|vault| !vault.is_empty())))
    }
}

/// Labels as a rule lets them leave.
fn labels(key: &HashKey, how: LabelTreatment, own: &Labels) -> Labels {
    own.replaced(|label| match how {
        LabelTreatment::Drop => None,
        LabelTreatment::Pseudonym => Some(key.pseudonym("LABEL", label)),
    })
}
