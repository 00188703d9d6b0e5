//! A policy file as an officer would write it, with its examples.

use nearfield_api::Locality;
use nearfield_privacy::DataClass;
use nearfield_router::BackendFacts;
use nearfield_router::rules::{
    Denial, Endpoint, Examples, Facts, Names, Rules, Severity, check_examples, explain_by_rules, lint,
};

pub(crate) const POLICY: &str = r#"
[backend.eu]
processor = "Example Cloud Ireland Ltd"
region = "eu"
retention_days = 0
dpa = true

[backend.hospital]
processor = "Example Health Cloud Inc"
region = "us"
retention_days = 30
dpa = true
baa = true

[key.website]
subject = "marketing"
purpose = "texts"
class = "public"

[key.ward]
subject = "hospital"
purpose = "letters"
class = "health"
backends = ["local", "hospital"]

[key.desk]
purpose = "support"
class = "internal"

[key.metered]
class = "internal"
dollars_per_month = 50

[key.loose]
purpose = "support"

[detection]
terms = [{ class = "internal", words = ["Project Heron"] }]
formats = [{ entity = "MRN", format = "W#{6,8}" }]

[[rule]]
name = "credentials never leave"
when = { class = ["secret"] }
backends = ["local"]

[[rule]]
name = "no work at night for the website"
when = { key = ["website"], hours = "22:00-06:00" }
deny = true

[[rule]]
name = "health data only with an agreement, and without identifiers"
when = { class = ["health"] }
backends = ["local", "hospital"]
require = ["baa"]
mask = ["hipaa"]
retention = "six-years"

[[rule]]
name = "personal data is masked before it leaves"
when = { class = ["personal"], purpose = ["support"] }
backends = ["local", "eu"]
require = ["dpa", "region:eu", "retention:0", "no-training"]
mask = ["personal"]
keep_local = ["US_SSN"]

[[rule]]
name = "hard questions go to the cloud first"
when = { complexity_from = 0.7, dollars_left = 1 }
backends = ["eu", "local"]
mask = ["personal"]
max_tokens = 2000

[[rule]]
name = "everything else starts here"
backends = ["local", "eu"]
mask = ["personal"]
"#;

const EXAMPLES: &str = r#"
[[example]]
name = "plain text of the website"
key = "website"
text = "Write a slogan for a bakery."
expect = ["local", "eu"]
expect_rule = "everything else starts here"
expect_class = "public"

[[example]]
name = "a customer's address"
key = "desk"
text = "Answer jo@example.org, phone +46 8 928 571 38."
expect = ["local", "eu"]
expect_class = "personal"
expect_masked = ["EMAIL", "PHONE"]

[[example]]
name = "the website may not send personal data"
key = "website"
text = "Answer jo@example.org"
expect = ["local"]
expect_class = "personal"

[[example]]
name = "a social security number stays"
key = "desk"
text = "SSN 078-05-1120"
expect = ["local"]

[[example]]
name = "the ward's letters"
key = "ward"
text = "Summarise for W1234567, seen 5 May 2026."
expect = ["local", "hospital"]
expect_class = "health"
expect_masked = ["DATE", "MRN"]

[[example]]
name = "a picture cannot be masked"
key = "ward"
text = "What is this?"
unscannable = 1
expect = ["local"]

[[example]]
name = "a record number lifts the class"
key = "desk"
text = "MRN: 12345678"
expect = ["local", "hospital"]
expect_class = "health"

[[example]]
name = "a key stays"
key = "desk"
text = "use AKIAIOSFODNN7EXAMPLE"
expect = ["local"]
expect_rule = "credentials never leave"

[[example]]
name = "how hard it is nobody measures"
key = "metered"
text = "Prove it."
complexity = 0.9
dollars_left = 20
expect = ["local", "eu"]
expect_rule = "everything else starts here"

[[example]]
name = "a month that begins"
key = "metered"
text = "Prove it."
expect = ["local", "eu"]

[[example]]
name = "the month is spent"
key = "metered"
text = "Prove it."
dollars_left = 0
expect = ["local"]

[[example]]
name = "no network"
key = "desk"
text = "Prove it."
connectivity = "offline"
expect = ["local"]

[[example]]
name = "a caller may narrow and raise"
key = "desk"
text = "Prove it."
claim = "health"
want = ["eu"]
expect = []

[[example]]
name = "a claim does not lower"
key = "ward"
text = "hello"
claim = "public"
expect = ["local", "hospital"]

[[example]]
name = "no declared class"
key = "loose"
text = "hello"
expect = ["local"]

[[example]]
name = "night"
key = "website"
time = "23:10"
text = "hello"
expect = []
expect_rule = "no work at night for the website"
"#;

pub(crate) fn backends() -> Vec<BackendFacts> {
    [("local", Locality::Local), ("eu", Locality::Cloud), ("hospital", Locality::Cloud)]
        .map(|(name, locality)| BackendFacts::new(name, locality))
        .into()
}

fn rules() -> Rules {
    let rules: Rules = toml::from_str(POLICY).unwrap();
    rules.check(&backends()).unwrap();
    rules
}

#[test]
fn examples_come_out_as_expected() {
    let examples: Examples = toml::from_str(EXAMPLES).unwrap();
    let outcomes = check_examples(&rules(), &backends(), &examples).unwrap();
    assert_eq!(outcomes.len(), 16);
    for outcome in outcomes {
        let steps: Vec<String> = outcome.verdict.steps.iter().map(ToString::to_string).collect();
        assert!(
            outcome.differences.is_empty(),
            "{}: {:?}\n{}",
            outcome.name,
            outcome.differences,
            steps.join("\n")
        );
    }
}

#[test]
fn what_no_server_measures_is_said() {
    let found = lint(&rules(), &[]);
    let never: Vec<_> = found.iter().filter(|finding| finding.said.starts_with("never applies: ")).collect();
    assert_eq!(never.len(), 1, "{found:?}");
    assert_eq!(never[0].place, "rule 5 (hard questions go to the cloud first)");
    assert_eq!(never[0].severity, Severity::Warning);
    let text = r#"
        [[example]]
        key = "metered"
        complexity = 0.9
        dollars_left = 3
        [[example]]
        key = "desk"
        dollars_left = 3
        [[example]]
        key = "desk"
        local_only = true
        expect = ["local"]
    "#;
    let examples: Examples = toml::from_str(text).unwrap();
    let outcomes = check_examples(&rules(), &backends(), &examples).unwrap();
    let warned: Vec<Vec<bool>> = outcomes
        .iter()
        .map(|outcome| outcome.warnings.iter().map(|said| said.contains("`complexity`")).collect())
        .collect();
    assert_eq!(warned, [vec![true], vec![false], vec![]], "{outcomes:?}");
    assert!(outcomes[2].differences.is_empty(), "{outcomes:?}");
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let text = r#"
        [[example]]
        key = "desk"
        text = "hello jo@example.org"
        expect = ["eu"]
        expect_rule = "x"
        expect_class = "health"
        expect_masked = ["PHONE"]
    "#;
    let examples: Examples = toml::from_str(text).unwrap();
    assert_eq!(check_examples(&rules(), &backends(), &examples).unwrap()[0].differences.len(), 4);
}

#[test]
fn the_hash_tells_files_apart_and_forgets_spelling() {
    let own = rules().hash();
    assert_eq!(own.len(), 16);
    let spelled = POLICY.replace(
        "processor = \"Example Cloud Ireland Ltd\"\nregion = \"eu\"",
        "region = 'eu'\nprocessor = 'Example Cloud Ireland Ltd'",
    );
    assert_ne!(spelled, POLICY);
    assert_eq!(toml::from_str::<Rules>(&spelled).unwrap().hash(), own);
    for (from, to) in
        [("baa = true", "baa = false"), ("keep_local = [\"US_SSN\"]", ""), ("six-years", "ten-years")]
    {
        assert_ne!(toml::from_str::<Rules>(&POLICY.replace(from, to)).unwrap().hash(), own, "{from}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_word() {
    for (from, to, word) in [
        (
            "backends = [\"local\", \"hospital\"]\nrequire",
            "backends = [\"local\", \"hopsital\"]\nrequire",
            "hopsital",
        ),
        ("[backend.eu]", "[backend.ue]", "ue"),
        ("mask = [\"hipaa\"]", "mask = [\"hippa\"]", "hippa"),
        ("require = [\"baa\"]", "require = [\"bba\"]", "bba"),
        ("hours = \"22:00-06:00\"", "hours = \"22-6\"", "hours"),
        ("deny = true", "deny = true\nbackends = [\"local\"]", "deny"),
        ("W#{6,8}", "W#{8,6}", "repetition"),
        ("\"everything else starts here\"", "\"credentials never leave\"", "same name"),
        ("dollars_per_month = 50", "dollars_per_month = -1", "dollars"),
    ] {
        let changed = POLICY.replace(from, to);
        assert_ne!(changed, POLICY, "{from}");
        let rules: Rules = toml::from_str(&changed).unwrap();
        let error = rules.check(&backends()).unwrap_err().to_string();
        assert!(
            error.contains(word) || word == "repetition" && error.contains("{least,most}"),
            "{word}: {error}"
        );
    }
    assert!(toml::from_str::<Rules>("[[rule]]\nname = 'x'\nbackend = ['local']").is_err());
}

#[test]
fn rules_that_find_names_say_so_wherever_they_are_asked() {
    let text = "[key.k]\nclass = 'internal'\n[detection.names]\nbackend = 'local'\nmodel = 'm'\n\
        [[rule]]\nname = 'x'\nbackends = ['eu']\nfind_names = true\nmask = ['PERSON']\n\
        when = { class = ['internal', 'personal'] }";
    let rules: Rules = toml::from_str(text).unwrap();
    rules.check(&backends()).unwrap();
    let facts = Facts { key: "k", terms: rules.key_terms("k", None), ..Facts::default() };
    let verdict = explain_by_rules(&rules, &backends(), &facts);
    assert!(verdict.find_names && verdict.candidates == ["eu"], "{verdict:?}");
    assert!(verdict.steps.iter().any(|step| step.about == "names"), "{:?}", verdict.steps);
    let unknown = explain_by_rules(&rules, &backends(), &Facts { names: Names::Unknown, ..facts });
    assert!(matches!(unknown.denial, Some(Denial::NamesUnknown { .. })), "{unknown:?}");

    let endpoint = Endpoint { name: "eu".to_owned(), url: String::new(), models: Vec::new() };
    let warned = |text: &str, word: &str| {
        let findings = lint(&toml::from_str(text).unwrap(), std::slice::from_ref(&endpoint));
        findings.iter().any(|finding| finding.said.contains(word))
    };
    let without = text.replace("find_names = true\n", "");
    assert!(warned(&without, "only the model of `[detection.names]` finds"));
    assert!(!warned(text, "only the model of `[detection.names]` finds"));
    assert!(warned(text, "a small model"));

    let example = "[[example]]\nname = 'a'\nkey = 'k'\ntext = 'Ask Jo Marlow'\nnames = 'person: Jo Marlow'\n\
        expect = ['eu']\nexpect_class = 'personal'\nexpect_masked = ['PERSON']";
    let outcomes = check_examples(&rules, &backends(), &toml::from_str(example).unwrap()).unwrap();
    assert_eq!(outcomes[0].differences, Vec::<String>::new());
    let wrong = example.replace("person: Jo Marlow'", "who knows?'");
    assert!(check_examples(&rules, &backends(), &toml::from_str(&wrong).unwrap()).is_err());
}

#[test]
fn a_file_that_asks_for_no_names_has_the_hash_that_it_had() {
    let written = serde_json::to_string(&rules()).unwrap();
    assert!(!written.contains("find_names") && !written.contains("\"names\""), "{written}");
}

#[test]
fn lint_warns_where_patterns_are_trusted_too_far() {
    let endpoint = |name: &str| Endpoint {
        name: name.to_owned(),
        url: "https://llm.example.org".to_owned(),
        models: Vec::new(),
    };
    let found = lint(&rules(), &[endpoint("eu"), endpoint("hospital")]);
    assert!(found.iter().all(|finding| finding.severity == Severity::Warning));
    let about = |place: &str| found.iter().filter(|finding| finding.place.contains(place)).count();
    assert_eq!(about("key.loose"), 1, "{found:?}");
    assert_eq!(about("everything else"), 1);
    assert_eq!(about("health data only"), 1);
    assert_eq!(about("credentials"), 0);
    let secret = "[[rule]]\nname = 'x'\nbackends = ['eu']\nwhen = { class = ['secret', 'health'] }";
    let found = lint(&toml::from_str(secret).unwrap(), &[endpoint("eu")]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(DataClass::ALL.len(), 5);
}
