//! What the policy file says of detection: terms, forms of identifiers, and who looks for names.

use std::time::Duration;

use nearfield_api::Locality;
use nearfield_privacy::{DataClass, Detector, Entity, Format};
use serde::{Deserialize, Serialize};

use super::{Rules, RulesError, kinds, named};
use crate::BackendFacts;

/// What detection looks for beside what is built in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detection {
    /// Terms of the organisation.
    pub terms: Vec<TermEntry>,
    /// Forms of identifiers.
    pub formats: Vec<FormatEntry>,
    /// Kinds that are not looked for.
    pub ignore: Vec<String>,
    /// Who looks for names and places, where a rule says `find_names`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<NameSearch>,
}

/// Terms of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermEntry {
    /// How sensitive they are.
    pub class: DataClass,
    /// The terms.
    pub words: Vec<String>,
}

/// A form of identifiers, such as `MRN-######`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatEntry {
    /// What it is: `MRN`, `ACCOUNT`, `CUSTOM`.
    pub entity: String,
    /// How sensitive it is; that of the entity when absent.
    pub class: Option<DataClass>,
    /// The form: `#` a digit, `@` a letter, `*` either, `{2,5}` repeats.
    pub format: String,
}

/// The model that looks for names and places, which no pattern finds. It runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameSearch {
    /// The backend, one of this machine.
    pub backend: String,
    /// The model that it is asked for.
    pub model: String,
    /// How long the search in one request may take. What takes longer does not leave.
    #[serde(default = "NameSearch::default_seconds")]
    pub seconds: u32,
}

impl NameSearch {
    /// The longest search.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    const fn default_seconds() -> u32 {
        60
    }
}

/// What is known of the names and places in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// Nobody looked for them yet.
    #[default]
    NotSought,
    /// Those that were found are among the findings.
    Sought,
    /// The search failed: whether there are any is not known.
    Unknown,
}

impl Detection {
    pub(super) fn check_names(&self, backends: &[BackendFacts]) -> Result<(), RulesError> {
        let Some(names) = &self.names else { return Ok(()) };
        let place = || "detection.names".to_owned();
        let here = || backends.iter().filter(|backend| backend.locality == Locality::Local);
        if !here().any(|backend| backend.name == names.backend) {
            return Err(RulesError::Unknown {
                place: place(),
                kind: "backend of this machine",
                name: names.backend.clone(),
                known: named(here()),
            });
        }
        if names.model.trim().is_empty() || names.seconds == 0 {
            let why = "name a `model`, and at least one of `seconds`".to_owned();
            return Err(RulesError::Wrong { place: place(), why });
        }
        Ok(())
    }
}

impl Rules {
    /// The detector that the file asks for.
    ///
    /// # Errors
    /// A term, format or kind that cannot be used.
    pub fn detector(&self) -> Result<Detector, RulesError> {
        let mut detector = Detector::new();
        let wrong = |place: &str, error: String| RulesError::Wrong { place: place.to_owned(), why: error };
        for entry in &self.detection.terms {
            for word in &entry.words {
                let added = detector.add_term(word, entry.class);
                added.map_err(|error| wrong("detection.terms", error.to_string()))?;
            }
        }
        for entry in &self.detection.formats {
            let entity = entity(&entry.entity, "detection.formats")?;
            let class = entry.class.unwrap_or(entity.class());
            let format = Format::new(&entry.format, entity, class);
            detector.add_format(format.map_err(|error| wrong("detection.formats", error.to_string()))?);
        }
        for name in &self.detection.ignore {
            detector.ignore(entity(name, "detection.ignore")?);
        }
        Ok(detector)
    }
}

fn entity(name: &str, place: &str) -> Result<Entity, RulesError> {
    Entity::from_name(name).ok_or_else(|| RulesError::Unknown {
        place: place.to_owned(),
        kind: "kind of data",
        name: name.to_owned(),
        known: kinds(),
    })
}
