//! How much is found, and how much too much, on public labelled texts.

use std::collections::BTreeMap;

use nearfield_privacy::{Detector, Entity};
use serde::Deserialize;

use crate::score::{Case, Counts, data, finds, score};

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

/// A value of a class in a text, or what only looks like one; drawn by `bench/privacy/cases.py`. After a slash the class says
/// which form of it.
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
    let mut classes: BTreeMap<String, (Counts, usize, Vec<&str>)> = BTreeMap::new();
    for line in include_str!("cases.jsonl").lines() {
        let drawn: Drawn = serde_json::from_str(line).unwrap();
        let entity = Entity::from_name(drawn.class.split('/').next().unwrap()).unwrap();
        let start = drawn.text.find(&drawn.value).unwrap();
        let found = finds(&detector, entity, &drawn.text, start, start + drawn.value.len());
        let (counts, near_misses, wrong) = classes.entry(drawn.class).or_default();
        *near_misses += usize::from(!drawn.real);
        counts.note(drawn.real, found);
        if found != drawn.real {
            wrong.push(line);
        }
    }
    assert!(classes.len() >= 56, "{}", classes.len());
    for (class, (counts, near_misses, wrong)) in classes {
        assert!(counts.hits + counts.misses >= 12 && near_misses >= 12, "{class}: {counts:?}");
        let enough = counts.recall() >= 0.99 && counts.precision() >= 0.99;
        assert!(enough, "{class}: {counts:?}\n{}", wrong.join("\n"));
    }
}
