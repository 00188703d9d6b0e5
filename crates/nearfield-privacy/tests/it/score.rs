//! Counts of hits, misses and false alarms on labelled texts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nearfield_privacy::{Detector, Entity};
use serde::Deserialize;

/// One labelled text.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) full_text: String,
    pub(crate) spans: Vec<Label>,
}

/// One labelled span; positions count characters.
#[derive(Deserialize)]
pub(crate) struct Label {
    pub(crate) entity_type: String,
    pub(crate) start_position: usize,
    pub(crate) end_position: usize,
}

/// Hits, misses and false alarms of a class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: usize,
    pub(crate) misses: usize,
    pub(crate) false_alarms: usize,
}

impl Counts {
    /// Counts a value that is one of the class or only looks like one, and whether it was taken for one.
    pub(crate) fn note(&mut self, real: bool, found: bool) {
        match (real, found) {
            (true, true) => self.hits += 1,
            (true, false) => self.misses += 1,
            (false, true) => self.false_alarms += 1,
            (false, false) => {}
        }
    }

    pub(crate) fn recall(self) -> f64 {
        share(self.hits, self.hits + self.misses)
    }

    pub(crate) fn precision(self) -> f64 {
        share(self.hits, self.hits + self.false_alarms)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// Which of our entities a label means.
pub(crate) fn means(label: &str) -> Option<&'static [Entity]> {
    Some(match label {
        "PHONE_NUMBER" => &[Entity::Phone],
        "US_SSN" => &[Entity::UsSsn],
        "EMAIL_ADDRESS" => &[Entity::Email],
        "IP_ADDRESS" => &[Entity::IpAddress],
        "CREDIT_CARD" => &[Entity::CreditCard],
        "IBAN_CODE" => &[Entity::Iban],
        "DOMAIN_NAME" => &[Entity::Url],
        "DATE_TIME" => &[Entity::Date, Entity::BirthDate],
        "US_DRIVER_LICENSE" => &[Entity::DriverLicense],
        "ZIP_CODE" => &[Entity::ZipCode],
        _ => return None,
    })
}

/// Whether nine tenths of `start..end` are found to be an entity.
pub(crate) fn finds(detector: &Detector, entity: Entity, text: &str, start: usize, end: usize) -> bool {
    detector.find(text).iter().any(|span| {
        span.entity == entity
            && span.end.min(end).saturating_sub(span.start.max(start)) * 10 >= (end - start) * 9
    })
}

/// What was missed or wrongly found, for a person to read.
pub(crate) type Remarks = Vec<String>;

/// Scores the detector by label.
pub(crate) fn score(detector: &Detector, cases: &[Case]) -> (BTreeMap<&'static str, Counts>, Remarks) {
    let mut counts: BTreeMap<&'static str, Counts> = BTreeMap::new();
    let mut remarks = Remarks::new();
    for case in cases {
        let text = &case.full_text;
        let offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let found = detector.find(text);
        let mut used = vec![false; found.len()];
        for label in &case.spans {
            let Some(entities) = means(&label.entity_type) else { continue };
            let (start, end) = (offsets[label.start_position], offsets[label.end_position]);
            let entry = counts.entry(entities[0].as_str()).or_default();
            let mut covered = 0;
            for (span, used) in found.iter().zip(&mut used) {
                let overlap = span.end.min(end).saturating_sub(span.start.max(start));
                if overlap > 0 && entities.contains(&span.entity) {
                    covered += overlap;
                    *used = true;
                }
            }
            if covered * 10 >= (end - start) * 9 {
                entry.hits += 1;
            } else {
                entry.misses += 1;
                remarks.push(format!("missed {}: {:?} in {text:?}", label.entity_type, &text[start..end]));
            }
        }
        for (span, used) in found.iter().zip(used) {
            if !used {
                counts.entry(span.entity.as_str()).or_default().false_alarms += 1;
                remarks.push(format!("false {}: {:?} in {text:?}", span.entity, &text[span.start..span.end]));
            }
        }
    }
    (counts, remarks)
}

/// A file of the public test data; `None` when it is not here, which CI does not forgive.
pub(crate) fn data(path: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("NEARFIELD_TEST_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    match std::fs::read(root.join(path)) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{path}: {error}");
            eprintln!("skipped: {path} is not here; set NEARFIELD_TEST_DATA");
            None
        }
    }
}
