//! What narrows a decision beside the rule's own conditions: where a model is answered, what a request counts as.

use std::collections::BTreeMap;

use nearfield_api::Locality;
use nearfield_privacy::{ClassSet, DataClass};
use nearfield_router::BackendFacts;
use nearfield_router::rules::{Address, Claim, Denial, Facts, Rules, Verdict, explain_by_rules};

fn rules(text: &str) -> Rules {
    let rules: Rules = toml::from_str(text).unwrap();
    let backends = [("local", Locality::Local), ("eu", Locality::Cloud)];
    rules.check(&backends.map(|(name, locality)| BackendFacts::new(name, locality))).unwrap();
    rules
}

fn said(verdict: &Verdict, about: &str) -> String {
    let steps = verdict.steps.iter().filter(|step| step.about == about);
    steps.map(|step| step.said.clone()).collect::<Vec<_>>().join("; ")
}

const BEDROCK: &str = r#"
[backend.eu]
region = "eu"

[key.k]
class = "internal"

[[rule]]
name = "only in the union"
backends = ["eu"]
require = ["region:eu"]
"#;

fn bedrock(url: &str) -> BackendFacts {
    BackendFacts {
        model_map: BTreeMap::from([
            ("fast".to_owned(), "eu.anthropic.claude-haiku-4-5-v1:0".to_owned()),
            ("anywhere".to_owned(), "global.anthropic.claude-haiku-4-5-v1:0".to_owned()),
            ("global.mine".to_owned(), "eu.anthropic.claude-haiku-4-5-v1:0".to_owned()),
        ]),
        addresses: vec![Address::new(url)],
        ..BackendFacts::new("eu", Locality::Cloud)
    }
}

#[test]
fn a_model_that_is_answered_elsewhere_leaves_its_backend_out() {
    let rules = rules(BEDROCK);
    let backends = [bedrock("https://bedrock-runtime.eu-central-1.amazonaws.com")];
    for (model, allowed) in [
        ("anthropic.claude-haiku-4-5-v1:0", true),
        ("eu.anthropic.claude-haiku-4-5-v1:0", true),
        ("fast", true),
        ("global.mine", true),
        ("anywhere", false),
        ("global.anthropic.claude-haiku-4-5-v1:0", false),
        ("us.anthropic.claude-haiku-4-5-v1:0", false),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-haiku-4-5-v1:0", false),
        ("arn:aws:bedrock:eu-central-1:1:application-inference-profile/abc", false),
    ] {
        let facts = Facts { key: "k", terms: rules.key_terms("k", None), model, ..Facts::default() };
        let verdict = explain_by_rules(&rules, &backends, &facts);
        assert_eq!(!verdict.candidates.is_empty(), allowed, "{model}");
        if !allowed {
            let why = said(&verdict, "eu");
            assert!(
                why.contains("region `eu` is declared") && why.contains(backends[0].upstream_model(model)),
                "{why}"
            );
        }
    }
    // A model that the operator has named is the operator's matter.
    let named = BackendFacts {
        models: Some(vec!["arn:aws:bedrock:eu-central-1:1:application-inference-profile/abc".to_owned()]),
        ..bedrock("https://bedrock-runtime.eu-central-1.amazonaws.com")
    };
    let model = named.models.as_ref().unwrap()[0].clone();
    let facts = Facts { key: "k", terms: rules.key_terms("k", None), model: &model, ..Facts::default() };
    assert_eq!(explain_by_rules(&rules, &[named], &facts).candidates, ["eu"]);
    // Elsewhere such names mean nothing.
    let facts = Facts { key: "k", terms: rules.key_terms("k", None), model: "us.large", ..Facts::default() };
    let other = [bedrock("https://llm.example.org/v1")];
    assert_eq!(explain_by_rules(&rules, &other, &facts).candidates, ["eu"]);
}

#[test]
fn a_demand_for_the_union_is_not_met_in_london_or_zurich() {
    for (region, met) in
        [("eu-west-1", true), ("europe-west4", true), ("eu-west-2", false), ("eu-central-2", false)]
    {
        let rules = rules(&BEDROCK.replace("region = \"eu\"", &format!("region = \"{region}\"")));
        let backends = [BackendFacts::new("eu", Locality::Cloud)];
        let facts = Facts { key: "k", terms: rules.key_terms("k", None), ..Facts::default() };
        assert_eq!(!explain_by_rules(&rules, &backends, &facts).candidates.is_empty(), met, "{region}");
    }
}

const HELD: &str = r#"
[backend.eu]
baa = true

[key.ward]
class = "health"

[key.desk]
class = "personal"

[key.lab]
class = "internal"

[[rule]]
name = "held"
when = { class = ["public", "internal", "personal", "health", "secret"] }
backends = ["local", "eu"]
LIST = ["CLASS"]
"#;

fn held(list: &str, class: &str, key: &str, claim: Option<DataClass>, found: Option<DataClass>) -> Verdict {
    let rules = rules(&HELD.replace("LIST", list).replace("CLASS", class));
    let backends = [BackendFacts::new("local", Locality::Local), BackendFacts::new("eu", Locality::Cloud)];
    let claim = Claim { class: claim, ..Claim::default() };
    let classes = found.map(ClassSet::of).unwrap_or_default();
    let facts = Facts { key, terms: rules.key_terms(key, None), claim: &claim, classes, ..Facts::default() };
    explain_by_rules(&rules, &backends, &facts)
}

#[test]
fn what_a_key_or_caller_says_a_request_is_counts_as_held() {
    use DataClass::{Health, Internal, Personal, Secret};
    for (class, key, claim, found, is_held) in [
        ("health", "ward", None, None, true),
        ("health", "lab", Some(Health), None, true),
        ("health", "lab", None, Some(Health), true),
        ("health", "desk", None, None, false),
        ("health", "lab", Some(Personal), Some(Personal), false),
        // A claim raises; it does not take away what the key says.
        ("personal", "desk", Some(Health), None, true),
        ("personal", "desk", None, Some(Secret), true),
        // A class is itself and not the ones above it.
        ("personal", "ward", None, None, false),
        ("internal", "lab", Some(Internal), None, true),
        ("secret", "lab", Some(Health), Some(Personal), false),
    ] {
        let case = format!("{class} {key} {claim:?} {found:?}");
        let blocked = held("block", class, key, claim, found);
        assert_eq!(matches!(blocked.denial, Some(Denial::Blocked { .. })), is_held, "{case}");
        let kept = held("keep_local", class, key, claim, found);
        let expected: &[&str] = if is_held { &["local"] } else { &["local", "eu"] };
        assert_eq!(kept.candidates, expected, "{case}");
    }
}

const MONEY: &str = r#"
[key.free]
class = "internal"

[key.metered]
class = "internal"
dollars_per_month = 20

[[rule]]
name = "while there is money"
when = { dollars_left = 5 }
backends = ["eu"]

[[rule]]
name = "else"
backends = ["local"]
"#;

#[test]
fn a_key_without_a_limit_has_any_sum_left() {
    let rules = rules(MONEY);
    let backends = [BackendFacts::new("local", Locality::Local), BackendFacts::new("eu", Locality::Cloud)];
    for (key, left, rule) in [
        ("free", None, "while there is money"),
        ("metered", Some(5.0), "while there is money"),
        ("metered", Some(4.99), "else"),
        // The ledger cannot say.
        ("metered", None, "else"),
        ("nobody", None, "while there is money"),
    ] {
        let facts = Facts { key, terms: rules.key_terms(key, None), dollars_left: left, ..Facts::default() };
        let verdict = explain_by_rules(&rules, &backends, &facts);
        assert_eq!(verdict.rule.as_deref(), Some(rule), "{key} {left:?}");
    }
}
