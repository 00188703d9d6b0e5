//! Replaces what was found by placeholders or pseudonyms.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::form::Form;
use crate::restore::Vault;
use crate::terms::Terms;
use crate::{DataClass, Entity, HashKey, Span, Survey};

/// What happens to a finding before the text leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It stays as it is.
    Pass,
    /// A placeholder takes its place, and it comes back in the answer.
    Mask,
    /// A pseudonym under the local key takes its place, for good.
    Hash,
}

/// Which findings get which treatment. What names an entity goes before what names a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Treatments {
    entities: BTreeMap<Entity, Hide>,
    classes: BTreeMap<DataClass, Hide>,
    hipaa: Option<Hide>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hide {
    Mask,
    Hash,
}

impl Treatments {
    /// Nothing is hidden.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a treatment for a class (`personal`), an entity (`EMAIL`), or all of HIPAA's identifiers (`hipaa`). Returns
    /// whether the name means something.
    #[must_use]
    pub fn set(&mut self, name: &str, hash: bool) -> bool {
        let hide = if hash { Hide::Hash } else { Hide::Mask };
        if name == "hipaa" {
            self.hipaa = Some(hide);
        } else if let Some(class) = DataClass::from_name(name) {
            self.classes.insert(class, hide);
        } else if let Some(entity) = Entity::from_name(name) {
            self.entities.insert(entity, hide);
        } else {
            return false;
        }
        true
    }

    /// Whether nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty() && self.classes.is_empty() && self.hipaa.is_none()
    }

    /// Whether a pseudonym may be asked for, which needs a key.
    pub fn hashes(&self) -> bool {
        self.entities.values().chain(self.classes.values()).chain(&self.hipaa).any(|hide| *hide == Hide::Hash)
    }

    /// Whether everything of a class is hidden.
    pub fn hides_class(&self, class: DataClass) -> bool {
        self.classes.contains_key(&class)
    }

    /// The treatment of a finding.
    pub fn of(&self, entity: Entity, class: DataClass) -> Treatment {
        let hipaa = self.hipaa.filter(|_| entity.hipaa());
        match self.entities.get(&entity).or_else(|| self.classes.get(&class)).copied().or(hipaa) {
            None => Treatment::Pass,
            Some(Hide::Mask) => Treatment::Mask,
            Some(Hide::Hash) => Treatment::Hash,
        }
    }
}

/// Why a request cannot be masked; it must not leave then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// The text holds something of every form that placeholders may have.
    #[error(
        "the request already holds text in every form that a placeholder could have; send it without them"
    )]
    NoForm,
    /// More values than are kept.
    #[error("the request holds more than {MOST} values that must be masked; send less at once")]
    TooMany,
    /// The visit found other texts than the survey did: a fault of ours.
    #[error("the request changed between its survey and its masking; this is a fault of the program")]
    Changed,
    /// Pseudonyms were asked for and there is no key.
    #[error(
        "the policy asks for pseudonyms, and there is no key to make them with; see `hash` in the policy"
    )]
    NoKey,
}

/// The most values that one request may have masked.
const MOST: usize = 20_000;

/// Masks the texts of one request, in the order in which a [`Survey`] saw them.
#[derive(Debug)]
pub struct Masker<'a> {
    survey: &'a Survey,
    treatments: &'a Treatments,
    key: Option<&'a HashKey>,
    form: Form,
    next: usize,
    /// Values found in some text, looked for in all.
    known: Terms,
    placeholders: HashMap<String, String>,
    originals: HashMap<String, String>,
    numbers: BTreeMap<Entity, usize>,
    counts: BTreeMap<Entity, usize>,
}

impl<'a> Masker<'a> {
    /// Starts to mask a request.
    ///
    /// # Errors
    /// [`MaskError`] when no form of placeholders is free, or a key is missing.
    pub fn new(
        survey: &'a Survey,
        treatments: &'a Treatments,
        key: Option<&'a HashKey>,
    ) -> Result<Self, MaskError> {
        if treatments.hashes() && key.is_none() {
            return Err(MaskError::NoKey);
        }
        let form = Form::free(&survey.taken).ok_or(MaskError::NoForm)?;
        let mut known = Terms::default();
        let hidden =
            survey.values.iter().filter(|(_, found)| treatments.of(found.0, found.1) != Treatment::Pass);
        for (at, (value, (_, class))) in hidden.enumerate() {
            if at >= MOST {
                return Err(MaskError::TooMany);
            }
            // Short values would be found inside everything; where they were found they are masked anyway.
            if value.len() >= 6 {
                known.add(value, *class).map_err(|_| MaskError::Changed)?;
            }
        }
        Ok(Self {
            survey,
            treatments,
            key,
            form,
            next: 0,
            known,
            placeholders: HashMap::new(),
            originals: HashMap::new(),
            numbers: BTreeMap::new(),
            counts: BTreeMap::new(),
        })
    }

    /// One text, masked; `None` when nothing in it had to be.
    ///
    /// # Errors
    /// [`MaskError`]; nothing may leave then.
    pub fn text(&mut self, text: &str) -> Result<Option<String>, MaskError> {
        let survey = self.survey;
        let spans = survey.texts.get(self.next).ok_or(MaskError::Changed)?;
        self.next += 1;
        let hidden = self.hidden(text, spans);
        if hidden.is_empty() {
            return Ok(None);
        }
        let mut masked = String::with_capacity(text.len());
        let mut at = 0;
        for span in &hidden {
            let (Some(before), Some(value)) = (text.get(at..span.start), text.get(span.start..span.end))
            else {
                return Err(MaskError::Changed);
            };
            masked.push_str(before);
            masked.push_str(&self.replacement(value, span)?);
            at = span.end;
        }
        masked.push_str(text.get(at..).ok_or(MaskError::Changed)?);
        Ok(Some(masked))
    }

    /// What has to be hidden in a text: what was found there, and what was found elsewhere.
    fn hidden(&self, text: &str, spans: &[Span]) -> Vec<Span> {
        let mut hidden: Vec<Span> = spans
            .iter()
            .filter(|span| self.treatments.of(span.entity, span.class) != Treatment::Pass)
            .copied()
            .collect();
        if !self.known.is_empty() {
            let bytes = text.as_bytes();
            for at in 0..bytes.len() {
                let begins = at == 0 || !bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] < 0x80;
                if begins && let Some(mut span) = self.known.at(bytes, at) {
                    let value = text.get(span.start..span.end);
                    if let Some((entity, class)) = value.and_then(|value| self.survey.values.get(value)) {
                        (span.entity, span.class) = (*entity, *class);
                    }
                    hidden.push(span);
                }
            }
            crate::entity::settle(&mut hidden);
        }
        hidden
    }

    fn replacement(&mut self, value: &str, span: &Span) -> Result<String, MaskError> {
        *self.counts.entry(span.entity).or_default() += 1;
        let kind = span.entity.as_str();
        if self.treatments.of(span.entity, span.class) == Treatment::Hash {
            let key = self.key.ok_or(MaskError::NoKey)?;
            return Ok(format!("[{kind}#{}]", key.pseudonym(kind, value)));
        }
        if let Some(placeholder) = self.placeholders.get(value) {
            return Ok(placeholder.clone());
        }
        if self.placeholders.len() >= MOST {
            return Err(MaskError::TooMany);
        }
        let number = self.numbers.entry(span.entity).or_default();
        *number += 1;
        let placeholder = self.form.placeholder(kind, *number);
        self.placeholders.insert(value.to_owned(), placeholder.clone());
        self.originals.insert(placeholder.clone(), value.to_owned());
        Ok(placeholder)
    }

    /// A text that may be JSON, masked: its strings inside the JSON, so that it stays JSON.
    ///
    /// # Errors
    /// As for [`Masker::text`].
    pub fn json_text(&mut self, text: &str) -> Result<Option<String>, MaskError> {
        let Some(mut tree) = as_tree(text) else { return self.text(text) };
        let changed = self.value(&mut tree)?;
        let plain = self.text(text)?;
        // A key that stands twice, or an escape, hides from one of the two looks; what was looked at is what leaves.
        let differs = plain.is_some() || text.contains("\\u") || text.contains("\\/");
        if !changed && !differs {
            return Ok(None);
        }
        if !changed && plain.is_some() {
            return Ok(plain);
        }
        serde_json::to_string(&tree).map(Some).map_err(|_| MaskError::Changed)
    }

    /// Every key, string and long number of a tree, masked in place; whether anything was.
    ///
    /// # Errors
    /// As for [`Masker::text`].
    pub fn value(&mut self, value: &mut Value) -> Result<bool, MaskError> {
        match value {
            Value::Null | Value::Bool(_) => Ok(false),
            Value::Number(number) => {
                let masked = self.text(&number.to_string())?;
                let changed = masked.is_some();
                if let Some(masked) = masked {
                    *value = Value::String(masked);
                }
                Ok(changed)
            }
            Value::String(text) => {
                let masked = self.text(text)?;
                let changed = masked.is_some();
                if let Some(masked) = masked {
                    *text = masked;
                }
                Ok(changed)
            }
            Value::Array(values) => {
                let mut changed = false;
                for value in values {
                    changed |= self.value(value)?;
                }
                Ok(changed)
            }
            Value::Object(entries) => {
                let mut changed = false;
                let mut masked = serde_json::Map::with_capacity(entries.len());
                for (key, mut value) in std::mem::take(entries) {
                    let own = self.text(&key)?;
                    changed |= own.is_some();
                    changed |= self.value(&mut value)?;
                    masked.insert(own.unwrap_or(key), value);
                }
                *entries = masked;
                Ok(changed)
            }
        }
    }

    /// Ends the masking.
    ///
    /// # Errors
    /// [`MaskError::Changed`] when not every text of the survey was visited.
    pub fn finish(self) -> Result<Masked, MaskError> {
        if self.next != self.survey.texts.len() {
            return Err(MaskError::Changed);
        }
        Ok(Masked { vault: Arc::new(Vault::new(self.originals)), counts: self.counts })
    }
}

/// What masking did.
#[derive(Clone, Debug)]
pub struct Masked {
    /// Turns placeholders back; lives in memory only, as long as the request.
    pub vault: Arc<Vault>,
    /// How many findings of each kind were replaced.
    pub counts: BTreeMap<Entity, usize>,
}

/// The tree of a text that is a JSON object or array.
pub(crate) fn as_tree(text: &str) -> Option<Value> {
    let first = text.trim_start().bytes().next()?;
    if !matches!(first, b'{' | b'[') {
        return None;
    }
    serde_json::from_str(text).ok()
}
