//! What is allowed in a policy file and yet not wise, or contradicts what is configured.

use nearfield_privacy::{DataClass, Entity};

use super::region::{Address, against_address, against_model};
use super::{Demand, Rules};

/// What is configured of a cloud backend, as far as it says where content goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The backend's name.
    pub name: String,
    /// The base address.
    pub url: String,
    /// Models, as the provider is asked for them.
    pub models: Vec<String>,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Allowed, and to be thought about.
    Warning,
    /// A contradiction; the file is not used.
    Failure,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How grave.
    pub severity: Severity,
    /// What it is about.
    pub place: String,
    /// What it is, and what to do.
    pub said: String,
}

/// Looks for contradictions, for rules that never apply and for trust in what detection cannot do.
pub fn lint(rules: &Rules, endpoints: &[Endpoint]) -> Vec<Finding> {
    let mut findings = never_applying(rules);
    for endpoint in endpoints {
        let declared = rules.terms(&endpoint.name).region;
        if let Some(region) = declared {
            let said = contradictions(&region, endpoint);
            findings.extend(said.into_iter().map(|said| Finding {
                severity: Severity::Failure,
                place: format!("backend.{}", endpoint.name),
                said,
            }));
        }
    }
    let is_cloud = |name: &String| endpoints.iter().any(|endpoint| endpoint.name == *name);
    for (at, rule) in rules.rule.iter().enumerate() {
        let mut warn = |said: String| {
            findings.push(Finding { severity: Severity::Warning, place: rule.place(at), said });
        };
        if !rule.backends.iter().any(is_cloud) {
            continue;
        }
        let classes = rule.when.classes();
        let lowest = classes.iter().min().copied().unwrap_or_default();
        if lowest < DataClass::Personal && !floors_are_declared(rules, rule.when.key.as_deref()) {
            let who = if rule.find_names {
                "names and places only as far as a small model finds them, health content not at all"
            } else {
                "names, places and health content are not found by patterns"
            };
            warn(format!(
                "lets requests leave because detection finds nothing in them; {who}: give the keys that handle them a \
                 `class` of personal or health"
            ));
        }
        let masked = rule.mask.iter().chain(&rule.hash).next().is_some();
        if masked && classes.iter().any(|class| *class >= DataClass::Personal) {
            let said = if rule.find_names {
                "masks what patterns and a small model find; names and places that it misses, and health content in \
                 prose, leave as they are"
            } else {
                "masks what patterns find; names, places and health content in prose leave as they are; `find_names` has \
                 names and places looked for"
            };
            warn(said.to_owned());
        }
        if classes.contains(&DataClass::Health)
            && !rule.require.iter().any(|text| Demand::parse(text) == Some(Demand::Baa))
        {
            warn(
                "is for health data and does not demand `baa`; backends without one are left out anyway"
                    .to_owned(),
            );
        }
        if !rule.find_names && names_people(rule) {
            warn(
                "names PERSON or LOCATION, which only the model of `[detection.names]` finds; say `find_names = true`"
                    .to_owned(),
            );
        }
        if classes.contains(&DataClass::Secret) && !masks_secrets(rule) {
            warn("lets credentials leave as they are; mask `secret` or keep them local".to_owned());
        }
    }
    for (name, terms) in &rules.key {
        if terms.class.is_none() {
            findings.push(Finding {
                severity: Severity::Warning,
                place: format!("key.{name}"),
                said: "declares no class, so its requests stay on this machine".to_owned(),
            });
        }
    }
    findings
}

/// Whether every key that a rule is for has a floor that says what its content is.
fn floors_are_declared(rules: &Rules, keys: Option<&[String]>) -> bool {
    keys.is_some_and(|keys| {
        keys.iter().all(|key| rules.key.get(key).is_some_and(|terms| terms.class == Some(DataClass::Public)))
    })
}

fn names_people(rule: &super::Rule) -> bool {
    [&rule.mask, &rule.hash, &rule.keep_local, &rule.block].iter().any(|names| {
        names.iter().any(|name| matches!(Entity::from_name(name), Some(Entity::Person | Entity::Location)))
    })
}

fn masks_secrets(rule: &super::Rule) -> bool {
    [&rule.mask, &rule.hash, &rule.keep_local, &rule.block]
        .iter()
        .any(|names| names.iter().any(|name| name == "secret"))
}

/// What the configuration says against a declared region.
fn contradictions(region: &str, endpoint: &Endpoint) -> Vec<String> {
    let address = Address::new(&endpoint.url);
    let models = endpoint.models.iter().filter_map(|model| against_model(region, &address, model));
    let said = against_address(region, address.url()).into_iter().chain(models);
    said.map(|what| format!("region `{region}` is declared, but {what}; correct one of the two")).collect()
}

/// Why nothing is known of complexity.
pub(super) const NO_MEASURE: &str =
    "no measure of complexity is on, since routing by it was no better than by prompt length";

/// Rules that can never apply, because they ask for what no server measures.
fn never_applying(rules: &Rules) -> Vec<Finding> {
    let asks = |rule: &super::Rule| rule.when.complexity_from.or(rule.when.complexity_to).is_some();
    let finding = |(at, rule): (usize, &super::Rule)| Finding {
        severity: Severity::Warning,
        place: rule.place(at),
        said: format!("never applies: {NO_MEASURE} (`nearfield route eval`); take `complexity` out"),
    };
    rules.rule.iter().enumerate().filter(|(_, rule)| asks(rule)).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::BackendTerms;

    fn failures(region: &str, url: &str, model: &str) -> usize {
        let mut rules = Rules::default();
        let terms = BackendTerms { region: Some(region.to_owned()), ..BackendTerms::default() };
        rules.backend.insert("b".to_owned(), terms);
        let endpoint = Endpoint { name: "b".to_owned(), url: url.to_owned(), models: vec![model.to_owned()] };
        lint(&rules, &[endpoint]).iter().filter(|finding| finding.severity == Severity::Failure).count()
    }

    #[test]
    fn regions_that_contradict_endpoint_or_model_fail() {
        let bedrock = "https://bedrock-runtime.eu-central-1.amazonaws.com";
        for (region, url, model, count) in [
            ("eu-central-1", bedrock, "anthropic.claude-sonnet-5-v1:0", 0),
            ("eu", bedrock, "eu.anthropic.claude-sonnet-5-v1:0", 0),
            ("eu-central-1", bedrock, "eu.anthropic.claude-sonnet-5-v1:0", 1),
            ("eu", bedrock, "us.anthropic.claude-sonnet-5-v1:0", 1),
            ("eu", bedrock, "global.anthropic.claude-sonnet-5-v1:0", 1),
            ("us", bedrock, "anthropic.claude-sonnet-5-v1:0", 1),
            ("eu", "https://bedrock-runtime.us-east-1.amazonaws.com", "us.x", 2),
            ("eu", "https://europe-west4-aiplatform.googleapis.com/v1", "m", 0),
            ("us", "https://europe-west4-aiplatform.googleapis.com/v1", "m", 1),
            ("eu", "https://aiplatform.googleapis.com/v1/projects/p/locations/global", "m", 1),
            ("eu", "https://aiplatform.googleapis.com/v1/projects/p/locations/europe-west1/x", "m", 0),
            ("eu", "https://generativelanguage.googleapis.com/v1beta", "m", 1),
            ("eu", "https://api.openai.com/v1", "m", 1),
            ("eu", "https://eu.api.openai.com/v1", "m", 0),
            ("mars", "https://llm.example.org/v1", "m", 0),
            // London and Zurich are not in the union.
            ("eu", "https://bedrock-runtime.eu-west-2.amazonaws.com", "m", 1),
            ("eu", "https://bedrock-runtime.eu-central-2.amazonaws.com", "m", 1),
            ("eu-west-2", "https://bedrock-runtime.eu-west-2.amazonaws.com", "m", 0),
            ("eu", "https://europe-west2-aiplatform.googleapis.com/v1", "m", 1),
            ("eu", "https://bedrock-runtime-fips.us-east-1.amazonaws.com", "m", 1),
            ("us", "https://bedrock-runtime-fips.us-east-1.amazonaws.com", "global.m", 1),
            ("us", "https://aiplatform.eu.rep.googleapis.com/v1", "m", 1),
        ] {
            assert_eq!(failures(region, url, model), count, "{region} {url} {model}");
        }
    }
}
