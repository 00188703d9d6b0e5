//! Texts that were made to be slow: what is done for each byte must not grow with the text.

use std::time::{Duration, Instant};

use nearfield_privacy::{DataClass, Detector, Entity, Format, Masker, Restorer, Survey, Treatments};
use proptest::prelude::*;

const SIZE: usize = 1_000_000;
/// Generous: a slow machine needs a tenth of it. What is quadratic needs minutes.
const LIMIT: Duration = Duration::from_secs(5);

fn treatments() -> Treatments {
    let mut treatments = Treatments::none();
    assert!(["hipaa", "secret", "personal"].iter().all(|name| treatments.set(name, false)));
    treatments
}

/// Surveyed, masked, restored.
fn whole_way(detector: &Detector, texts: &[&str]) {
    let treatments = treatments();
    let mut survey = Survey::new();
    for text in texts {
        survey.json_text(detector, Some("note"), text);
    }
    // More values than are kept are refused; that must be quick too.
    let Ok(mut masker) = Masker::new(&survey, &treatments, None) else { return };
    let masked: Result<Vec<_>, _> = texts.iter().map(|text| masker.json_text(text)).collect();
    let Ok(masked) = masked else { return };
    let vault = masker.finish().unwrap().vault;
    for (text, masked) in texts.iter().zip(masked) {
        let _ = vault.restore(&masked.unwrap_or_else(|| (*text).to_owned()), true);
    }
}

fn within_the_limit(name: &str, run: impl FnOnce()) {
    let begun = Instant::now();
    run();
    let took = begun.elapsed();
    assert!(took < LIMIT, "{name} took {took:?}");
}

#[test]
fn no_pattern_makes_detection_slow() {
    let detector = Detector::new();
    for pattern in [
        "1-",
        "1a-",
        "a1_b2-c3-",
        "sk-1-",
        "sk-aB3dE5gH7jK9mN1pQ3-",
        "eyJ-1-",
        "eyJhbGciOiJIUzI1NiJ9-eyJ1-",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.",
        "sk-a1.",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n1a",
        "-----BEGIN CERTIFICATE-----\n",
        "00:",
        "00-",
        "fe:",
        ":",
        "::1",
        "a@",
        "@a.b",
        "jo@x.org",
        "a://",
        "www.",
        "a://b:c@d",
        "http://a:b@c.org/?u=",
        "pass:",
        "pass:a1",
        "api key=",
        "GB82 ",
        "1 ",
        "12 34 56 78 ",
        "070-1 ",
        "tel 1 ",
        "MRN 1.",
        "1.1.1.1.",
        "2024-05-01T12:00:00:",
        "5 May-",
        "account a1/",
        "plate A1-",
        "[",
        "[EMAIL_",
        "[A_1_B]",
        "{\"a\":",
        "\\u0040",
        "\u{e9}1",
        " ",
        ".",
        "a",
        "1",
    ] {
        let text = pattern.repeat(SIZE / pattern.len());
        within_the_limit(pattern, || whole_way(&detector, &[&text]));
    }
}

#[test]
fn long_ends_of_many_beginnings_are_walked_once() {
    let detector = Detector::new();
    for (many, long) in
        [("sk-1-", "."), ("eyJ1-", "a"), ("a://", "."), ("www.", "!"), ("00:", "0"), ("[A", " ")]
    {
        let text = many.repeat(SIZE / 2 / many.len()) + &long.repeat(SIZE / 2);
        within_the_limit(many, || whole_way(&detector, &[&text]));
    }
}

#[test]
fn json_of_many_parts_is_read_once() {
    let detector = Detector::new();
    let numbers = format!("[{}1]", "1,".repeat(SIZE / 2));
    let strings = format!("[{}1]", r#""jo\u0040x.org","#.repeat(SIZE / 16));
    let deep = "[".repeat(SIZE / 2) + &"]".repeat(SIZE / 2);
    let keys = format!("{{{}\"a\":1}}", r#""MRN":"12345678","#.repeat(SIZE / 17));
    let mut nested = "[\"jo@x.org\"]".to_owned();
    while nested.len() < SIZE / 2 {
        nested = serde_json::json!([nested]).to_string();
    }
    for (name, text) in
        [("numbers", numbers), ("strings", strings), ("deep", deep), ("keys", keys), ("nested", nested)]
    {
        within_the_limit(name, || whole_way(&detector, &[&text]));
    }
}

#[test]
fn many_values_and_terms_are_looked_for_at_once() {
    let mut detector = Detector::new();
    let values: Vec<String> = (0..19_000).map(|at| format!("jo{at}@example.org")).collect();
    let listed = values.join(" ");
    let prose = "jo jolly join jo1 ".repeat(SIZE / 18);
    within_the_limit("values", || whole_way(&detector, &[&listed, &prose]));
    let long = format!("password: {}", "1 ".repeat(250).replace(' ', "-"));
    let alike = format!("{long}a1 {long}b1");
    let repeated = "1-".repeat(SIZE / 2);
    within_the_limit("alike", || whole_way(&detector, &[&alike, &repeated]));
    for at in 0..2000 {
        detector.add_term(&format!("project {at}"), DataClass::Internal).unwrap();
    }
    detector.add_format(Format::new("*{1,60}-*{1,60}", Entity::Account, DataClass::Personal).unwrap());
    let projects = "project ".repeat(SIZE / 8);
    within_the_limit("terms", || whole_way(&detector, &[&projects]));
}

#[test]
fn an_answer_of_brackets_is_restored_quickly() {
    let detector = Detector::new();
    let mut survey = Survey::new();
    survey.text(&detector, None, "jo@x.org");
    let treatments = treatments();
    let mut masker = Masker::new(&survey, &treatments, None).unwrap();
    masker.text("jo@x.org").unwrap();
    let vault = masker.finish().unwrap().vault;
    within_the_limit("brackets", || {
        let answer = "[".repeat(SIZE) + "]";
        assert_eq!(vault.restore(&answer, false), answer);
        let mut restorer = Restorer::new(vault.clone(), false);
        let out: String = (0..SIZE).map(|_| restorer.push("[EM")).collect();
        assert_eq!(out.len() + restorer.held(), 3 * SIZE);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever a text is made of: it is masked without a panic, JSON stays JSON, and what was masked comes back.
    #[test]
    fn any_mixture_of_pieces_goes_the_whole_way(
        pieces in proptest::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "https://", "www.", "jo@x.org", "123-45-6789", "MRN ", "tel 070 ", "password: ", "hunter2!",
                    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "eyJhbGciOiJIUzI1NiJ9", "sk-",
                    "abcdEFGH12345678", "fe80::1", "00:1B:44:11:3A:B7", "4111 1111 1111 1111", "DOB ", "1975-05-05",
                    "[EMAIL_1]", "\\", "\\u0040", "\"", "{\"a\":\"", "\"}", "[", "]", ",", "é", "😀", "\n", " ",
                ])
                .prop_map(str::to_owned),
                "\\PC{0,3}",
            ],
            0..24,
        ),
    ) {
        let plain = pieces.concat();
        let quoted = serde_json::json!({"note": plain, "list": [plain, 4_111_111_111_111_111_u64]}).to_string();
        let escaped = quoted.replace('@', "\\u0040").replace('-', "\\u002d");
        let treatments = treatments();
        for text in [plain, quoted, escaped] {
            let mut survey = Survey::new();
            survey.json_text(&Detector::new(), None, &text);
            let mut masker = Masker::new(&survey, &treatments, None).unwrap();
            let masked = masker.json_text(&text).unwrap().unwrap_or_else(|| text.clone());
            let vault = masker.finish().unwrap().vault;
            let tree = serde_json::from_str::<serde_json::Value>(&text);
            if tree.is_ok_and(|tree| tree.is_object() || tree.is_array()) {
                let tree = serde_json::from_str::<serde_json::Value>(&masked);
                prop_assert!(tree.is_ok(), "{masked}");
                prop_assert!(!masked.contains("4111111111111111"), "{masked}");
            } else {
                prop_assert_eq!(vault.restore(&masked, false), text);
            }
        }
    }
}
