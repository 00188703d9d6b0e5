//! Masking and restoring, from survey to answer.

use std::sync::Arc;

use nearfield_privacy::{Detector, HashKey, MaskError, Masker, Restorer, Survey, Treatments, Vault};
use proptest::prelude::*;
use serde_json::{Value, json};

fn personal() -> Treatments {
    let mut treatments = Treatments::none();
    for class in ["personal", "health", "secret"] {
        assert!(treatments.set(class, false));
    }
    treatments
}

fn survey(texts: &[&str]) -> Survey {
    let mut survey = Survey::new();
    for text in texts {
        survey.text(&Detector::new(), None, text);
    }
    survey
}

#[test]
fn placeholders_are_numbered_by_first_appearance_and_equal_values_share_one() {
    let texts = ["b@x.org then a@x.org", "a@x.org and +46 8 928 571 38"];
    let survey = survey(&texts);
    let treatments = personal();
    let mut masker = Masker::new(&survey, &treatments, None).unwrap();
    let masked: Vec<String> = texts.iter().map(|text| masker.text(text).unwrap().unwrap()).collect();
    assert_eq!(masked, ["[EMAIL_1] then [EMAIL_2]", "[EMAIL_2] and [PHONE_1]"]);
    let vault = masker.finish().unwrap().vault;
    assert_eq!(vault.restore("[EMAIL_2]/[EMAIL_3]/[PHONE_1]", false), "a@x.org/[EMAIL_3]/+46 8 928 571 38");
}

#[test]
fn a_value_found_once_is_masked_everywhere() {
    let texts = ["SSN 078051121 is hers", "compare 078051121 with the list"];
    let survey = survey(&texts);
    let treatments = personal();
    let mut masker = Masker::new(&survey, &treatments, None).unwrap();
    let masked: Vec<String> = texts.iter().map(|text| masker.text(text).unwrap().unwrap()).collect();
    assert_eq!(masked, ["SSN [US_SSN_1] is hers", "compare [US_SSN_1] with the list"]);
}

#[test]
fn a_form_that_the_text_holds_is_not_used() {
    let text = "keep [EMAIL_1], mask a@x.org";
    let survey = survey(&[text]);
    let treatments = personal();
    let mut masker = Masker::new(&survey, &treatments, None).unwrap();
    assert_eq!(masker.text(text).unwrap().unwrap(), "keep [EMAIL_1], mask [EMAIL_1_A]");
    assert_eq!(masker.finish().unwrap().vault.restore("[EMAIL_1] [EMAIL_1_A]", false), "[EMAIL_1] a@x.org");
}

#[test]
fn arguments_stay_json_and_hide_nothing_behind_escapes_or_numbers() {
    let text = r#"{"to":"jo\u0040x.org","card":4111111111111111,"a@x.org":["tel +46 8 928 571 38"],"mrn":"12345678"}"#;
    let mut survey = Survey::new();
    survey.json_text(&Detector::new(), None, text);
    let treatments = personal();
    let mut masker = Masker::new(&survey, &treatments, None).unwrap();
    let masked = masker.json_text(text).unwrap().unwrap();
    let tree: Value = serde_json::from_str(&masked).unwrap();
    assert_eq!(
        tree,
        json!({"to": "[EMAIL_1]", "card": "[CREDIT_CARD_1]", "[EMAIL_2]": ["tel [PHONE_1]"], "mrn": "[MRN_1]"})
    );
    let vault = masker.finish().unwrap().vault;
    assert_eq!(vault.restore(r#"{"x":"[MRN_1]"}"#, true), r#"{"x":"12345678"}"#);
}

#[test]
fn a_key_that_stands_twice_hides_nothing() {
    let text = r#"{"note":"a@x.org","note":"nothing"}"#;
    let mut survey = Survey::new();
    survey.json_text(&Detector::new(), None, text);
    let treatments = personal();
    let mut masker = Masker::new(&survey, &treatments, None).unwrap();
    let masked = masker.json_text(text).unwrap().unwrap();
    assert!(!masked.contains("a@x.org"), "{masked}");
}

#[test]
fn what_is_masked_in_json_leaves_the_rest_as_it_was_written() {
    let text = r#" { "id" : 12345678901234567890123, "x":"\u00e9", "x":"jo\u0040x.org", "n":[1.50,[]] } "#;
    let (masked, vault) = json_masked(text, &personal());
    assert_eq!(masked, text.replace(r"jo\u0040x.org", "[EMAIL_1]"));
    assert_eq!(vault.restore("[EMAIL_1]", false), "jo@x.org");
}

#[test]
fn json_within_json_and_deep_json_hide_nothing() {
    let inner = json!({"to": "jo@x.org", "n": 1}).to_string().replace('@', "\\u0040");
    let text = json!([{"body": json!({"again": inner}).to_string()}]).to_string();
    let (masked, _) = json_masked(&text, &personal());
    let tree: Value = serde_json::from_str(&masked).unwrap();
    let body: Value = serde_json::from_str(tree[0]["body"].as_str().unwrap()).unwrap();
    let again: Value = serde_json::from_str(body["again"].as_str().unwrap()).unwrap();
    assert_eq!(again, json!({"to": "[EMAIL_1]", "n": 1}));
    let deep = format!("{}{}{}", "[".repeat(300), r#""jo\u0040x.org""#, "]".repeat(300));
    let (masked, _) = json_masked(&deep, &personal());
    assert!(masked.contains("\"[EMAIL_1]\""), "{masked}");
}

#[test]
fn one_field_of_json_says_what_another_holds() {
    let text = r#"{"type":"MRN","value":"4471"}"#;
    let (masked, _) = json_masked(text, &personal());
    assert_eq!(masked, r#"{"type":"MRN","value":"[MRN_1]"}"#);
    let (masked, _) = json_masked(r#"{"type":"MRN","value":44718}"#, &personal());
    assert_eq!(masked, r#"{"type":"MRN","value":"[MRN_1]"}"#);
}

fn json_masked(text: &str, treatments: &Treatments) -> (String, Arc<Vault>) {
    let mut survey = Survey::new();
    survey.json_text(&Detector::new(), None, text);
    let mut masker = Masker::new(&survey, treatments, None).unwrap();
    let masked = masker.json_text(text).unwrap().unwrap_or_else(|| text.to_owned());
    (masked, masker.finish().unwrap().vault)
}

#[test]
fn pseudonyms_need_a_key_and_do_not_come_back() {
    let text = "mail a@x.org";
    let survey = survey(&[text]);
    let mut treatments = Treatments::none();
    assert!(treatments.set("EMAIL", true));
    assert!(!treatments.set("EMIAL", true));
    assert_eq!(Masker::new(&survey, &treatments, None).unwrap_err(), MaskError::NoKey);
    let key = HashKey::new([7; 32]);
    let mut masker = Masker::new(&survey, &treatments, Some(&key)).unwrap();
    let masked = masker.text(text).unwrap().unwrap();
    assert!(masked.starts_with("mail [EMAIL#") && masked.len() == "mail [EMAIL#]".len() + 16, "{masked}");
    assert!(masker.finish().unwrap().vault.is_empty());
}

#[test]
fn a_request_that_changed_after_its_survey_does_not_leave() {
    let survey = survey(&["a@x.org"]);
    let treatments = personal();
    let mut masker = Masker::new(&survey, &treatments, None).unwrap();
    masker.text("a@x.org").unwrap();
    assert_eq!(masker.text("more").unwrap_err(), MaskError::Changed);
    let masker = Masker::new(&survey, &treatments, None).unwrap();
    assert_eq!(masker.finish().unwrap_err(), MaskError::Changed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Masked, echoed in pieces of any size, restored: the text as it was, and nothing personal on the way.
    #[test]
    fn an_echo_comes_back_as_it_was(
        words in proptest::collection::vec(
            prop_oneof![
                Just("a.b@example.org".to_owned()),
                Just("+46 8 928 571 38".to_owned()),
                Just("4111 1111 1111 1111".to_owned()),
                Just("[EMAIL_1]".to_owned()),
                Just("[PHONE_2_A]".to_owned()),
                "\\PC{0,6}",
                "[\\[\\]_A-Z0-9]{0,8}",
            ],
            0..12,
        ),
        step in 1usize..7,
    ) {
        let text = words.join(" ; ");
        let survey = survey(&[&text]);
        let treatments = personal();
        let mut masker = Masker::new(&survey, &treatments, None).unwrap();
        let masked = masker.text(&text).unwrap().unwrap_or_else(|| text.clone());
        for planted in ["a.b@example.org", "+46 8 928 571 38", "4111 1111 1111 1111"] {
            prop_assert!(!masked.contains(planted), "{masked}");
        }
        let mut restorer = Restorer::new(masker.finish().unwrap().vault, false);
        let letters: Vec<char> = masked.chars().collect();
        let mut restored = String::new();
        for piece in letters.chunks(step) {
            restored.push_str(&restorer.push(&piece.iter().collect::<String>()));
        }
        restored.push_str(&restorer.finish());
        prop_assert_eq!(restored, text);
    }
}
