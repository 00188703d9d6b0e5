//! The policy file: what may go where, readable by the person who answers for it and testable by a command.
//!
//! Rules stand in order; the first one whose conditions all hold decides. When none does, the request stays on this
//! machine. What no rule can widen: a key's own backends, a key without a declared class (this machine only), health
//! content (only where a business associate agreement is declared), and content that cannot be looked into (not where
//! something must be masked).

mod condition;
mod decide;
mod detection;
mod escalate;
mod examples;
mod lint;
mod region;

use std::collections::BTreeMap;

use nearfield_privacy::{DataClass, Entity, Treatments};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::BackendFacts;

pub use condition::{Connectivity, Day, When};
pub use decide::{Claim, Denial, Facts, Step, Verdict, decide_by_rules, explain_by_rules};
pub use detection::{Detection, FormatEntry, NameSearch, Names, TermEntry};
pub use escalate::{ALTERNATIVES, Escalate, Signals};
pub use examples::{Example, ExampleOutcome, Examples, check_examples};
pub use lint::{Endpoint, Finding, Severity, lint};
pub use region::Address;

/// A policy file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// What is declared of each cloud backend, by its name in the configuration.
    pub backend: BTreeMap<String, BackendTerms>,
    /// What each key is bound to, by its name or id.
    pub key: BTreeMap<String, KeyTerms>,
    /// What detection looks for beside what is built in.
    pub detection: Detection,
    /// The rules, the first that fits decides.
    pub rule: Vec<Rule>,
}

/// What is declared of a backend: facts that rules may demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendTerms {
    /// Who processes the data, as in the contract.
    pub processor: Option<String>,
    /// Where: `eu`, `us`, `eu-west-1`.
    pub region: Option<String>,
    /// For how many days content is kept there; 0 for none.
    pub retention_days: Option<u32>,
    /// Whether there is a data processing agreement.
    pub dpa: bool,
    /// Whether there is a business associate agreement.
    pub baa: bool,
    /// Whether content may be used for training there.
    pub trains: bool,
}

/// What a key is bound to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyTerms {
    /// Whose key it is.
    pub subject: Option<String>,
    /// What its requests are for.
    pub purpose: Option<String>,
    /// The lowest class of its requests. Without it they stay on this machine.
    pub class: Option<DataClass>,
    /// The backends that its requests may reach; all when absent.
    pub backends: Option<Vec<String>>,
    /// Dollars that its requests may cost in a calendar month.
    pub dollars_per_month: Option<f64>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// What it says, in a sentence; stands in the ledger and in explanations.
    pub name: String,
    /// When it applies. All of it must hold.
    pub when: When,
    /// Whether the request is refused.
    pub deny: bool,
    /// The backends that may answer, in the order to try them.
    pub backends: Vec<String>,
    /// What must be declared of a cloud backend: `baa`, `dpa`, `no-training`, `region:eu`, `retention:30`.
    pub require: Vec<String>,
    /// What is masked before it leaves: classes, kinds, or `hipaa`.
    pub mask: Vec<String>,
    /// What is replaced by a pseudonym before it leaves.
    pub hash: Vec<String>,
    /// What may not leave: with it in the request, only this machine may answer.
    pub keep_local: Vec<String>,
    /// What makes the request be refused.
    pub block: Vec<String>,
    /// How long what is kept of the request is kept: a name that the store knows.
    pub retention: Option<String>,
    /// The most tokens that an answer may have.
    pub max_tokens: Option<u32>,
    /// Whether a model of this machine looks for names and places before a request leaves: the one that
    /// [`Detection::names`] names.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub find_names: bool,
    /// What becomes of the caller's labels, in place of what is configured of the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelTreatment>,
    /// Whether the provider may keep the answer where the caller lets it, in place of what is configured of the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// When an answer of this machine is given up for the next candidate's before anybody has seen it.
    pub escalate: Option<Escalate>,
}

/// What becomes of `user`, `safety_identifier`, `prompt_cache_key` and `metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelTreatment {
    /// None is sent.
    Drop,
    /// Each is sent as a pseudonym under the local key, `metadata` not at all.
    Pseudonym,
}

/// A policy file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// A name that nothing has.
    #[error("{place}: there is no {kind} `{name}`; known are {known}")]
    Unknown {
        /// Where it stands.
        place: String,
        /// What kind of name.
        kind: &'static str,
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// Something else that cannot be meant.
    #[error("{place}: {why}")]
    Wrong {
        /// Where it stands.
        place: String,
        /// What is wrong and what to do.
        why: String,
    },
}

impl Rules {
    /// A short hash of what the file says, the same for every spelling of it.
    pub fn hash(&self) -> String {
        // A serialised tree has one order of fields; its length cannot be ambiguous in JSON.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest: [u8; 32] =
            Sha256::new().chain_update(b"nearfield rules 1\n").chain_update(text).finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        format!("{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Checks every name and number against what exists. `backends` are the configured ones, the local one included.
    ///
    /// # Errors
    /// The first thing that cannot be meant.
    pub fn check(&self, backends: &[BackendFacts]) -> Result<(), RulesError> {
        let known = |place: String, names: &[String]| -> Result<(), RulesError> {
            match names.iter().find(|name| !backends.iter().any(|backend| backend.name == **name)) {
                None => Ok(()),
                Some(name) => Err(RulesError::Unknown {
                    place,
                    kind: "backend",
                    name: name.clone(),
                    known: named(backends.iter()),
                }),
            }
        };
        let declared: Vec<String> = self.backend.keys().cloned().collect();
        known("backend".to_owned(), &declared)?;
        for (name, terms) in &self.key {
            known(format!("key.{name}"), terms.backends.as_deref().unwrap_or_default())?;
            if terms.dollars_per_month.is_some_and(|dollars| !dollars.is_finite() || dollars < 0.0) {
                let why = "dollars_per_month must be a number of dollars, 0 or more".to_owned();
                return Err(RulesError::Wrong { place: format!("key.{name}"), why });
            }
        }
        self.detector()?;
        self.detection.check_names(backends)?;
        for (at, rule) in self.rule.iter().enumerate() {
            let place = rule.place(at);
            let wrong = |why: &str| Err(RulesError::Wrong { place: place.clone(), why: why.to_owned() });
            if rule.name.trim().is_empty() {
                return wrong("a rule needs a `name` that says what it is for");
            }
            if self.rule.iter().take(at).any(|other| other.name == rule.name) {
                return wrong("another rule has the same name; a decision must name one");
            }
            if rule.deny != rule.backends.is_empty() {
                return wrong("a rule either has `backends` or says `deny = true`");
            }
            if (1..rule.backends.len()).any(|at| rule.backends[..at].contains(&rule.backends[at])) {
                return wrong("a backend stands twice in `backends`");
            }
            known(place.clone(), &rule.backends)?;
            if rule.find_names && self.detection.names.is_none() {
                return wrong(
                    "`find_names` needs to know which model looks for them; write `[detection.names]`",
                );
            }
            rule.check_names(&place)?;
            rule.when.check(&place)?;
            if let Some(escalate) = &rule.escalate {
                if rule.backends.len() < 2 {
                    return wrong("`escalate` needs a second backend to go to");
                }
                escalate.check(&place)?;
            }
        }
        Ok(())
    }

    /// What is declared of a backend.
    pub(crate) fn terms(&self, backend: &str) -> BackendTerms {
        self.backend.get(backend).cloned().unwrap_or_default()
    }
}

impl Rule {
    pub(crate) fn place(&self, at: usize) -> String {
        if self.name.is_empty() {
            format!("rule {}", at + 1)
        } else {
            format!("rule {} ({})", at + 1, self.name)
        }
    }

    /// What is hidden before something leaves.
    pub fn treatments(&self) -> Treatments {
        let mut treatments = Treatments::none();
        for (names, hash) in [(&self.mask, false), (&self.hash, true)] {
            for name in names {
                // Names were checked when the file was read.
                let _ = treatments.set(name, hash);
            }
        }
        treatments
    }

    fn check_names(&self, place: &str) -> Result<(), RulesError> {
        for names in [&self.mask, &self.hash, &self.keep_local, &self.block] {
            for name in names {
                if !Treatments::none().set(name, false) {
                    return Err(RulesError::Unknown {
                        place: place.to_owned(),
                        kind: "class or kind of data",
                        name: name.clone(),
                        known: kinds(),
                    });
                }
            }
        }
        match self.require.iter().find(|demand| Demand::parse(demand).is_none()) {
            None => Ok(()),
            Some(name) => Err(RulesError::Unknown {
                place: place.to_owned(),
                kind: "demand",
                name: name.clone(),
                known: "baa, dpa, no-training, region:NAME, retention:DAYS, processor:NAME".to_owned(),
            }),
        }
    }
}

/// What a rule may demand of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Demand<'a> {
    Baa,
    Dpa,
    NoTraining,
    Region(&'a str),
    Retention(u32),
    Processor(&'a str),
}

impl<'a> Demand<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        Some(match text.split_once(':') {
            None if text == "baa" => Self::Baa,
            None if text == "dpa" => Self::Dpa,
            None if text == "no-training" => Self::NoTraining,
            Some(("region", region)) if !region.is_empty() => Self::Region(region),
            Some(("retention", days)) => Self::Retention(days.parse().ok()?),
            Some(("processor", name)) if !name.is_empty() => Self::Processor(name),
            _ => return None,
        })
    }

    /// Whether what is declared meets it. What is not declared never does.
    pub(crate) fn met(&self, terms: &BackendTerms) -> bool {
        match self {
            Self::Baa => terms.baa,
            Self::Dpa => terms.dpa,
            Self::NoTraining => !terms.trains && terms.processor.is_some(),
            Self::Region(region) => terms.region.as_deref().is_some_and(|own| region::lies_in(own, region)),
            Self::Retention(days) => terms.retention_days.is_some_and(|own| own <= *days),
            Self::Processor(name) => terms.processor.as_deref() == Some(name),
        }
    }
}

fn kinds() -> String {
    let classes = DataClass::ALL.iter().map(|class| class.as_str());
    let entities = Entity::ALL.iter().map(|entity| entity.as_str());
    classes.chain(["hipaa"]).chain(entities).collect::<Vec<_>>().join(", ")
}

fn named<'a>(backends: impl Iterator<Item = &'a BackendFacts>) -> String {
    backends.map(|backend| backend.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Whether a request holds something that a list of names means. A class counts as held where detection found something of
/// it, and where the key's floor or the caller's claim says that the request is of it.
pub(crate) fn holds(names: &[String], facts: &Facts<'_>) -> bool {
    if names.is_empty() {
        return false;
    }
    let mut treatments = Treatments::none();
    let known = names.iter().all(|name| treatments.set(name, false));
    let found = facts
        .found
        .keys()
        .any(|&entity| treatments.of(entity, entity.class()) != nearfield_privacy::Treatment::Pass);
    !known || found || facts.all_classes().iter().any(|class| treatments.hides_class(class))
}
