//! How much is found, and how much too much, on public labelled texts.

use nearfield_privacy::Detector;
use serde::Deserialize;

use crate::score::{Case, data, score};

#[test]
fn addresses_and_numbers_of_labelled_texts_are_found() {
    let Some(bytes) = data("pii/synth_dataset_v2.json") else { return };
    let cases: Vec<Case> = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(cases.len(), 1500);
    let (counts, remarks) = score(&Detector::new(), &cases);
    let about = |class: &str| {
        remarks.iter().filter(|line| line.contains(class)).cloned().collect::<Vec<_>>().join("\n")
    };
    for class in ["PHONE", "US_SSN", "EMAIL", "IP_ADDRESS", "CREDIT_CARD", "IBAN", "URL"] {
        let counts = counts[class];
        assert!(counts.recall() >= 0.95, "{class}: {counts:?}\n{}", about(class));
        assert!(counts.precision() >= 0.90, "{class}: {counts:?}\n{}", about(class));
    }
}

/// A value of a class in a text, or what only looks like one; drawn by `bench/privacy/cases.py`.
#[derive(Deserialize)]
struct Drawn {
    class: String,
    text: String,
    value: String,
    real: bool,
}

#[test]
fn drawn_values_are_told_from_near_misses() {
    let detector = Detector::new();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in include_str!("cases.jsonl").lines() {
        let drawn: Drawn = serde_json::from_str(line).unwrap();
        let start = drawn.text.find(&drawn.value).unwrap();
        let found = detector.find(&drawn.text).iter().any(|span| {
            span.entity.as_str() == drawn.class
                && span.start <= start
                && span.end >= start + drawn.value.len()
        });
        count += 1;
        if found != drawn.real {
            wrong.push(line);
        }
    }
    assert!(count > 350, "{count}");
    assert!(wrong.len() * 100 <= count, "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}
