//! From the survey through the mask and back: nothing that was found is left, and what was masked comes back. `fuzz/` asks
//! the same of any text.

use std::fmt::Write as _;
use std::sync::Arc;

use nearfield_privacy::{Detector, Entity, HashKey, Masker, Survey, Treatments, Vault};
use proptest::prelude::*;

fn treatments(hash: bool) -> Treatments {
    let mut treatments = Treatments::none();
    for name in ["public", "internal", "personal", "health", "secret"] {
        assert!(treatments.set(name, hash));
    }
    treatments
}

/// The texts of one request, masked.
fn masked(texts: &[&str], treatments: &Treatments) -> (Vec<String>, Arc<Vault>) {
    let detector = Detector::new();
    let mut survey = Survey::new();
    for text in texts {
        survey.json_text(&detector, None, text);
    }
    let key = HashKey::new([5; 32]);
    let mut masker = Masker::new(&survey, treatments, Some(&key)).unwrap();
    let masked = texts
        .iter()
        .map(|text| masker.json_text(text).unwrap().unwrap_or_else(|| (*text).to_owned()))
        .collect();
    (masked, masker.finish().unwrap().vault)
}

#[test]
fn escapes_of_json_that_was_cut_off_hide_nothing() {
    let broken = [
        (r#"{"to":"jo\u0040x.org"#, r#"{"to":"[EMAIL_1]"#),
        (r#"{"to":"\u006a\u006f@x.org","cc"#, r#"{"to":"[EMAIL_1]","cc"#),
        (r#"{"note":"see\n4111111111111111"#, r#"{"note":"see\n[CREDIT_CARD_1]"#),
        (r#"[{"arguments":"{\"to\":\"jo\\u0040x.org\",\"a"#, r#"[{"arguments":"{\"to\":\"[EMAIL_1]\",\"a"#),
        (r#"{\"password\":\"hunter!!\",\"a"#, r#"{\"password\":\"[CREDENTIAL_1]\",\"a"#),
        (r#"{"a":"jo\u0040x.org"} {"a":1}"#, r#"{"a":"[EMAIL_1]"} {"a":1}"#),
        (r#"the literal "jo\u0040x.org""#, r#"the literal "[EMAIL_1]""#),
    ];
    for (text, expected) in broken {
        let (said, vault) = masked(&[text], &treatments(false));
        assert_eq!(said, [expected]);
        assert_eq!(vault.restore(&said[0], false), text);
    }
}

#[test]
fn a_value_is_known_however_it_is_written() {
    let texts = ["SSN 078051121 is hers", r#"{"compare":"07\u00380511\u0032\u0031"#, r#"["\u003078051121"]"#];
    let (said, vault) = masked(&texts, &treatments(false));
    assert_eq!(said, ["SSN [US_SSN_1] is hers", r#"{"compare":"[US_SSN_2]"#, r#"["[US_SSN_1]"]"#]);
    assert_eq!(vault.restore(&said[1], false), texts[1]);
    let (said, _) = masked(&texts, &treatments(true));
    let pseudonym = &said[0]["SSN ".len()..said[0].len() - " is hers".len()];
    assert_eq!(said[1], format!("{{\"compare\":\"{pseudonym}"));
    // With the letter of the escape before it, what was found is longer.
    let texts = [r#"{"a":"account\nA1234567"#, "compare A1234567"];
    let (said, vault) = masked(&texts, &treatments(false));
    assert_eq!(said, [r#"{"a":"account[ACCOUNT_1]"#, "compare [ACCOUNT_2]"]);
    assert_eq!(vault.restore(&said[0], false), texts[0]);
}

#[test]
fn placeholders_in_escapes_are_taken() {
    let text = r#"{"keep":"\u005bEMAIL_1\u005d","to":"jo@x.org"#;
    let (said, vault) = masked(&[text], &treatments(false));
    assert_eq!(said, [r#"{"keep":"\u005bEMAIL_1\u005d","to":"[EMAIL_1_A]"#]);
    assert_eq!(vault.restore(&said[0], false), text);
}

#[test]
fn secrets_without_a_digit_are_found_in_fields() {
    let mut spans = Vec::new();
    for (field, text, entity) in [
        ("password", "hunter!!", Entity::Credential),
        ("db_password", "hunter!!", Entity::Credential),
        ("note", "pwd=hunter!!", Entity::Credential),
        ("site", "www.x.org", Entity::Url),
    ] {
        Detector::new().find_in_field(field, text, &mut spans);
        assert_eq!(spans.iter().map(|span| span.entity).collect::<Vec<_>>(), [entity], "{field}: {text}");
        assert!(text[spans[0].start..].ends_with(&text[spans[0].start..spans[0].end]));
    }
    let (said, _) = masked(&[r#"{"password":"hunter!!"}"#], &treatments(false));
    assert_eq!(said, [r#"{"password":"[CREDENTIAL_1]"}"#]);
}

/// Whether a value stands in a text as a word of its own, whatever the case of its letters.
fn stands_in(text: &str, value: &str) -> bool {
    let (text, value) = (text.to_ascii_lowercase(), value.to_ascii_lowercase());
    let inside = |letter: char| letter.is_ascii_alphanumeric() || !letter.is_ascii();
    text.match_indices(&value).any(|(at, found)| {
        // Beside a placeholder begins and ends what was no word before.
        let before = text[..at].ends_with(|letter| inside(letter) || letter == ']');
        let after = text[at + found.len()..].starts_with(|letter| inside(letter) || letter == '[');
        !before && !after
    })
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "jo@x.org",
            "SSN 123-45-6789",
            "MRN 12345678",
            "tel +46 8 928 571 38",
            "4111 1111 1111 1111",
            "hunter!!",
            "password: ",
            "password=hunter2!",
            "UEN 53125226D",
            "www.x.org",
            "https://x.org/?a=jo@y.org",
            "12345678",
            "MH 12 AB 1234",
            "DOB 1975-05-05",
            "[EMAIL_1]",
            "\\u0040",
            "\\n",
            "\\\\u0040",
            "\\\"",
            "\\",
            "\"",
            "{\"a\":\"",
            "\"}",
            "[",
            "]",
            ",",
            " ",
            "é",
            "😀",
            "\n",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,3}",
    ]
}

/// A text with some of its characters written as escapes, as JSON within so many strings has them.
fn escaped(text: &str, every: usize, depth: u32) -> String {
    let mut units = [0; 2];
    let mut out = String::new();
    for (at, letter) in text.chars().enumerate() {
        if at % every != 0 {
            out.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut units) {
            write!(out, "{}u{unit:04x}", "\\".repeat(1 << depth)).unwrap();
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_that_was_found_is_left(
        pieces in proptest::collection::vec(proptest::collection::vec(piece(), 0..10), 1..4),
        hash: bool,
    ) {
        let texts: Vec<String> = pieces.iter().map(|pieces| pieces.concat()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (said, vault) = masked(&texts, &treatments(hash));
        let detector = Detector::new();
        let mut spans = Vec::new();
        for text in &texts {
            detector.find_every(text, &mut spans);
            // Short values are masked only where they were found, and one with escapes is known as it reads.
            let known = |value: &&str| value.len() >= 6 && !value.contains('\\');
            for value in spans.iter().map(|span| &text[span.start..span.end]).filter(known) {
                for said in &said {
                    prop_assert!(!stands_in(said, value), "{value:?} of {text:?} in {said:?}");
                }
            }
        }
        for (text, said) in texts.iter().zip(&said) {
            let json = serde_json::from_str::<serde_json::Value>(text).is_ok_and(|tree| tree.is_object() || tree.is_array());
            if json {
                prop_assert!(serde_json::from_str::<serde_json::Value>(said).is_ok(), "{said}");
            } else if !hash {
                prop_assert_eq!(&vault.restore(said, false), text);
            }
        }
    }

    #[test]
    fn no_escape_hides_a_value(
        before in "[ -~]{0,12}",
        value in prop::sample::select(vec!["jo.doe@example.org", "123-45-6789", "4111111111111111", "hunter!!", "12345678"]),
        every in 1usize..4,
        depth in 0u32..3,
    ) {
        let label = match value {
            "hunter!!" => "\"password\":\"",
            "12345678" => "\"mrn\":\"",
            _ => "\"a\":\"",
        };
        let text = format!("{{\"x\":\"{} \",{label}{}\",\"cut", before.replace(['\\', '"'], "'"), escaped(value, every, depth));
        let (said, vault) = masked(&[&text], &treatments(false));
        let kept = said[0].matches("\\u").count();
        prop_assert!(kept == 0 && !said[0].contains(value), "{text} -> {}", said[0]);
        prop_assert_eq!(vault.restore(&said[0], false), text);
    }

    /// A field's name is to its value what a word before it is to a text.
    #[test]
    fn a_field_is_a_word_before_its_value(
        field in prop::sample::select(vec!["password", "api_key", "secret", "mrn", "note", "phone", "é", ""]),
        pieces in proptest::collection::vec(piece(), 0..3),
    ) {
        let text = pieces.concat();
        let detector = Detector::new();
        let (mut spans, mut joined) = (Vec::new(), Vec::new());
        detector.find_every_in_field(field, &text, &mut spans);
        detector.find_every(&format!("{field}: {text}"), &mut joined);
        let label = field.len() + 2;
        joined.retain_mut(|span| {
            span.start = span.start.max(label) - label;
            span.end = span.end.saturating_sub(label);
            span.start < span.end
        });
        prop_assert_eq!(spans, joined);
    }
}
