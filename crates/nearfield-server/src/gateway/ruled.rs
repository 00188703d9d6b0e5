//! The policy file in force: replaced while requests run, asked again before every attempt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Zoned;
use nearfield_api::{Error, ErrorKind, Locality, Request};
use nearfield_privacy::{Detector, HashKey, Survey, Vault};
use nearfield_router::rules::{
    Connectivity, Day, Denial, Facts, Rules, RulesError, Verdict, decide_by_rules,
};
use nearfield_router::{BackendFacts, mask_request, survey_request};

use super::Caller;
use super::account::estimated_tokens;

/// The rules in force, and those that were.
pub(super) struct Ruled {
    active: RwLock<Arc<Active>>,
    key: HashKey,
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
        let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
        rules.check(&names)?;
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
        Ok(Self { active, key, failures: AtomicU64::new(0) })
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

    /// Looks at a request and decides about it.
    pub(super) fn admit(
        &self,
        caller: &Caller,
        request: &mut Request,
        backends: &[BackendFacts],
        connectivity: Connectivity,
    ) -> Admitted {
        let active = self.active();
        let survey = survey_request(&active.detector, request);
        let asked = Asked {
            caller: caller.clone(),
            model: request.model.clone(),
            tokens: estimated_tokens(request),
            tools: !request.tools.is_empty(),
            now: Zoned::now(),
            connectivity,
        };
        let verdict = asked.decide(&active, &survey, backends);
        Admitted { active, survey, asked, verdict }
    }
}

/// The facts of a request that do not depend on the policy.
struct Asked {
    caller: Caller,
    model: String,
    tokens: u64,
    tools: bool,
    now: Zoned,
    connectivity: Connectivity,
}

impl Asked {
    fn decide(&self, active: &Active, survey: &Survey, backends: &[BackendFacts]) -> Verdict {
        let caller = &self.caller;
        let day = self.now.weekday().to_monday_zero_offset();
        let facts = Facts {
            key: &caller.key_id,
            key_name: caller.key_name.as_deref(),
            terms: active.rules.key_terms(&caller.key_id, caller.key_name.as_deref()),
            claim: &caller.claim,
            model: &self.model,
            tokens: self.tokens,
            tools: self.tools,
            complexity: None,
            classes: survey.classes(),
            found: survey.counts(),
            unscannable: survey.unscannable_parts(),
            minute: u16::try_from(i32::from(self.now.hour()) * 60 + i32::from(self.now.minute()))
                .unwrap_or(0),
            day: Day::from_monday(u8::try_from(day).unwrap_or(0)),
            dollars_left: None,
            queued: 0,
            connectivity: self.connectivity,
        };
        decide_by_rules(&active.rules, backends, &facts)
    }
}

/// A request that the rules have decided about.
pub(super) struct Admitted {
    active: Arc<Active>,
    survey: Survey,
    asked: Asked,
    verdict: Verdict,
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

    /// Why, in words for the reply and the ledger: the rule, the class, what is masked, how long it is kept. Never content.
    pub(super) fn reason(&self) -> String {
        let Verdict { rule, class, retention, .. } = &self.verdict;
        let rule = rule.as_deref().unwrap_or("no rule applies: this machine only");
        let kept = retention.as_ref().map_or_else(String::new, |name| format!(", kept {name}"));
        format!("{rule} ({class}{kept})")
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
        mut request: Request,
    ) -> Result<(Request, Option<Arc<Vault>>), Error> {
        let refused =
            |message: &str, code: &str| Error::new(ErrorKind::PermissionDenied, message).with_code(code);
        let newest = ruled.active();
        if newest.hash != self.active.hash {
            // Other rules may look for other things: what they found was found by their own detection.
            let survey = survey_request(&newest.detector, &mut request);
            let verdict = self.asked.decide(&newest, &survey, backends);
            let same =
                verdict.treatments == self.verdict.treatments && survey.counts() == self.survey.counts();
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
        if candidate.locality == Locality::Local || self.verdict.treatments.is_empty() {
            return Ok((request, None));
        }
        let masked = mask_request(&mut request, &self.survey, &self.verdict.treatments, Some(&ruled.key))
            .map_err(|error| refused(&error.to_string(), "cannot_mask"))?;
        Ok((request, Some(masked.vault).filter(|vault| !vault.is_empty())))
    }
}
