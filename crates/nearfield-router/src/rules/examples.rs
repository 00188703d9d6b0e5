//! A file of examples with the decisions that are expected of them.

use std::collections::BTreeMap;

use nearfield_privacy::{ClassSet, DataClass, Detector, Names as FoundNames, Survey};
use serde::Deserialize;

use super::condition::{Connectivity, Day};
use super::decide::{Claim, Facts, Verdict, explain_by_rules};
use super::lint::NO_MEASURE;
use super::{Names, Rules, RulesError};
use crate::BackendFacts;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Examples {
    /// The examples.
    pub example: Vec<Example>,
}

/// One example: a request in short, and what must be decided.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Example {
    /// What it shows.
    pub name: String,
    /// The key's name.
    pub key: String,
    /// The model.
    pub model: String,
    /// The prompt.
    pub text: String,
    /// The class that the caller claims.
    pub claim: Option<DataClass>,
    /// The backends that the caller narrows itself to.
    pub want: Option<Vec<String>>,
    /// Whether the caller wants the answer from this machine only.
    pub local_only: bool,
    /// Tokens; an estimate from the text when absent.
    pub tokens: Option<u64>,
    /// Whether tools come with it.
    pub tools: bool,
    /// How complex it is. No measure of it is on, so this decides nothing, and its outcome says so.
    pub complexity: Option<f64>,
    /// What the model that looks for names would list, such as `person: Jo Marlow`, one in a line; nothing when absent.
    pub names: Option<String>,
    /// Images and the like.
    pub unscannable: usize,
    /// Local time, `14:30`; noon when absent.
    pub time: Option<String>,
    /// Local day; Monday when absent.
    pub day: Option<Day>,
    /// Dollars left of the key's month; all of them when absent. A key without a limit has none to count.
    pub dollars_left: Option<f64>,
    /// Requests that wait for the local engine.
    pub queued: u32,
    /// The share of the local engine's cache that is free, 0 to 1.
    pub free_cache: Option<f64>,
    /// Seconds until the local engine's first token.
    pub first_token: Option<f64>,
    /// Whether there is a network.
    pub connectivity: Connectivity,
    /// The candidates that must come out, in order; empty when the request must be refused.
    pub expect: Vec<String>,
    /// The rule that must decide.
    pub expect_rule: Option<String>,
    /// The class that must come out.
    pub expect_class: Option<DataClass>,
    /// Kinds that must be masked or hashed in the text.
    pub expect_masked: Option<Vec<String>>,
}

/// How an example came out.
#[derive(Clone, Debug, PartialEq)]
pub struct ExampleOutcome {
    /// Its name.
    pub name: String,
    /// What differs from what was expected, in words; empty when nothing does.
    pub differences: Vec<String>,
    /// What it sets and no decision looks at, in words.
    pub warnings: Vec<String>,
    /// The decision.
    pub verdict: Verdict,
}

/// Decides every example.
///
/// # Errors
/// The rules' detection cannot be set up, or an example's time is not one.
pub fn check_examples(
    rules: &Rules,
    backends: &[BackendFacts],
    examples: &Examples,
) -> Result<Vec<ExampleOutcome>, RulesError> {
    let detector = rules.detector()?;
    examples.example.iter().map(|example| outcome(rules, backends, &detector, example)).collect()
}

impl Example {
    /// Decides the example alone.
    ///
    /// # Errors
    /// Its time is not one.
    pub fn decide(
        &self,
        rules: &Rules,
        backends: &[BackendFacts],
        detector: &Detector,
    ) -> Result<(Verdict, Survey), RulesError> {
        let wrong = |why: String| RulesError::Wrong { place: format!("example ({})", self.name), why };
        let mut survey = Survey::new();
        let mut found = FoundNames::default();
        if let Some(names) = &self.names {
            found.read(&self.text, names).map_err(|_| {
                wrong("`names` is a list such as `person: Jo Marlow`, one in a line, or `none`".to_owned())
            })?;
        }
        let detector = detector.with_names(&found).map_err(|error| wrong(error.to_string()))?;
        survey.json_text(&detector, None, &self.text);
        let minute = match &self.time {
            None => 12 * 60,
            Some(time) => minute(time).ok_or_else(|| wrong("`time` is written as 14:30".to_owned()))?,
        };
        let claim = Claim { class: self.claim, backends: self.want.clone(), local_only: self.local_only };
        let terms = rules.key_terms(&self.key, None);
        let counts: BTreeMap<_, _> = survey.counts().clone();
        let facts = Facts {
            key: &self.key,
            key_name: None,
            terms,
            claim: &claim,
            model: &self.model,
            tokens: self.tokens.unwrap_or(self.text.len().div_ceil(4) as u64),
            tools: self.tools,
            // As in the server, which does not measure it.
            complexity: None,
            classes: survey.classes(),
            found: &counts,
            names: if self.names.is_some() { Names::Sought } else { Names::NotSought },
            unscannable: self.unscannable,
            issued: &BTreeMap::new(),
            minute,
            day: self.day.unwrap_or(Day::Mon),
            dollars_left: limit(rules, &self.key).map(|limit| self.dollars_left.unwrap_or(limit)),
            estimates: None,
            queued: self.queued,
            free_cache: self.free_cache,
            first_token: self.first_token,
            connectivity: self.connectivity,
        };
        Ok((explain_by_rules(rules, backends, &facts), survey))
    }

    /// What it sets and no decision looks at, neither here nor in the server.
    fn warnings(&self, rules: &Rules) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.complexity.is_some() {
            warnings.push(format!("`complexity` is left out of account: {NO_MEASURE}"));
        }
        if self.dollars_left.is_some() && limit(rules, &self.key).is_none() {
            warnings.push(format!(
                "`dollars_left` is left out of account: the key `{}` has no `dollars_per_month`",
                self.key
            ));
        }
        warnings
    }
}

/// The dollars that a key may spend in a month.
fn limit(rules: &Rules, key: &str) -> Option<f64> {
    rules.key_terms(key, None)?.dollars_per_month
}

fn outcome(
    rules: &Rules,
    backends: &[BackendFacts],
    detector: &Detector,
    example: &Example,
) -> Result<ExampleOutcome, RulesError> {
    let (verdict, survey) = example.decide(rules, backends, detector)?;
    let mut differences = Vec::new();
    if verdict.candidates != example.expect {
        differences.push(format!(
            "expected {}, decided {}",
            list(&example.expect),
            list(&verdict.candidates)
        ));
    }
    if example.expect_rule.is_some() && example.expect_rule != verdict.rule {
        let decided = verdict.rule.as_deref().unwrap_or("none");
        differences.push(format!(
            "expected the rule \"{}\", decided \"{decided}\"",
            example.expect_rule.as_deref().unwrap_or("")
        ));
    }
    if let Some(class) = example.expect_class
        && class != verdict.class
    {
        differences.push(format!("expected the class {class}, found {}", verdict.class));
    }
    if let Some(expected) = &example.expect_masked {
        let hidden: Vec<String> = survey
            .counts()
            .keys()
            .filter(|&&entity| {
                verdict.treatments.of(entity, entity.class()) != nearfield_privacy::Treatment::Pass
            })
            .map(ToString::to_string)
            .collect();
        let mut expected = expected.clone();
        expected.sort();
        let mut sorted = hidden;
        sorted.sort();
        if sorted != expected {
            differences.push(format!("expected {} to be masked, masked {}", list(&expected), list(&sorted)));
        }
    }
    let warnings = example.warnings(rules);
    Ok(ExampleOutcome { name: example.name.clone(), differences, warnings, verdict })
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn minute(time: &str) -> Option<u16> {
    let (hour, minute) = time.split_once(':')?;
    let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

/// An empty set, for callers that decide without a text.
impl Default for Facts<'_> {
    fn default() -> Self {
        static NOTHING: BTreeMap<nearfield_privacy::Entity, usize> = BTreeMap::new();
        static NOBODY: BTreeMap<String, usize> = BTreeMap::new();
        static CLAIM: Claim = Claim { class: None, backends: None, local_only: false };
        Self {
            key: "",
            key_name: None,
            terms: None,
            claim: &CLAIM,
            model: "",
            tokens: 0,
            tools: false,
            complexity: None,
            classes: ClassSet::default(),
            found: &NOTHING,
            names: Names::NotSought,
            unscannable: 0,
            issued: &NOBODY,
            minute: 0,
            day: Day::Mon,
            dollars_left: None,
            estimates: None,
            queued: 0,
            free_cache: None,
            first_token: None,
            connectivity: Connectivity::Online,
        }
    }
}
