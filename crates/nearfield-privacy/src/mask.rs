//! Replaces what was found by placeholders or pseudonyms.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::form::Form;
use crate::json::{self, Kind};
use crate::restore::Vault;
use crate::terms::Terms;
use crate::{DataClass, Entity, HashKey, Span, Survey};

/// What happens to a finding before the text leaves; the later, the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// The strictest treatment of a value that is all of `kinds`, and the first kind that asks for it; `None` when it may
    /// stay.
    fn strictest(&self, kinds: &[(Entity, DataClass)]) -> Option<((Entity, DataClass), Treatment)> {
        let asked = kinds.iter().map(|&(entity, class)| ((entity, class), self.of(entity, class)));
        let hidden = asked.filter(|(_, treatment)| *treatment != Treatment::Pass);
        // Of equals the first: equal values get one pseudonym, wherever they stand.
        hidden.reduce(|first, next| if next.1 > first.1 { next } else { first })
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

/// Values of fewer bytes are masked only where they were found: they would be found inside everything.
const LEAST_KNOWN: usize = 6;

/// Masks the texts of one request, in the order in which a [`Survey`] saw them.
#[derive(Debug)]
pub struct Masker<'a> {
    survey: &'a Survey,
    treatments: &'a Treatments,
    key: Option<&'a HashKey>,
    form: Form,
    /// The number of the text that comes next.
    next: usize,
    /// Findings of the texts that are still to come.
    coming: std::slice::Iter<'a, (usize, Vec<Span>)>,
    /// Values found in some text, looked for in all.
    known: Terms,
    placeholders: HashMap<String, String>,
    originals: HashMap<String, String>,
    numbers: BTreeMap<Entity, usize>,
    counts: BTreeMap<Entity, usize>,
}

/// A part of a text that must not leave.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: usize,
    end: usize,
    entity: Entity,
    treatment: Treatment,
    /// Of findings that overlap, the one with the highest says what it is: the longest, the surest.
    rank: (usize, u8, DataClass),
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
        let hidden = survey.values.iter().filter_map(|(value, kinds)| {
            let (_, class) = treatments.strictest(kinds)?.0;
            Some((value.as_bytes(), class))
        });
        let mut known = Vec::new();
        for (at, (value, class)) in hidden.enumerate() {
            if at >= MOST {
                return Err(MaskError::TooMany);
            }
            if value.len() >= LEAST_KNOWN {
                known.push((value.to_vec(), class));
            }
        }
        Ok(Self {
            survey,
            treatments,
            key,
            form,
            next: 0,
            coming: survey.texts.iter(),
            known: Terms::of(known),
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
        if self.next >= self.survey.visited {
            return Err(MaskError::Changed);
        }
        let spans = match self.coming.as_slice().first() {
            Some((number, spans)) if *number == self.next => {
                self.coming.next();
                spans.as_slice()
            }
            _ => &[],
        };
        self.next += 1;
        let hidden = self.hidden(text, spans)?;
        if hidden.is_empty() {
            return Ok(None);
        }
        let mut masked = String::with_capacity(text.len());
        let mut at = 0;
        for region in &hidden {
            let (Some(before), Some(value)) =
                (text.get(at..region.start), text.get(region.start..region.end))
            else {
                return Err(MaskError::Changed);
            };
            masked.push_str(before);
            masked.push_str(&self.replacement(value, region)?);
            at = region.end;
        }
        masked.push_str(text.get(at..).ok_or(MaskError::Changed)?);
        Ok(Some(masked))
    }

    /// What has to be hidden in a text, in order and without overlaps: what was found there, and what was found elsewhere.
    /// Of findings one within the other the outermost that is to be hidden goes whole.
    fn hidden(&self, text: &str, spans: &[Span]) -> Result<Vec<Region>, MaskError> {
        let mut hidden = Vec::new();
        for span in spans {
            hidden.extend(self.region(text, span)?);
        }
        if !self.known.is_empty() {
            let mut known = self.known_in(text);
            if let Some(reading) = json::unescaped(text) {
                for span in &mut known {
                    *span = reading.widened(span);
                }
                known.extend(self.known_in(&reading.text).iter().map(|span| reading.stands(span)));
            }
            for span in known {
                hidden.extend(self.region(text, &span)?);
            }
        }
        hidden.sort_unstable_by_key(|region| (region.start, region.end));
        hidden.dedup_by(|later, earlier| {
            if later.start >= earlier.end {
                return false;
            }
            earlier.end = earlier.end.max(later.end);
            earlier.treatment = earlier.treatment.max(later.treatment);
            if later.rank > earlier.rank {
                (earlier.entity, earlier.rank) = (later.entity, later.rank);
            }
            true
        });
        Ok(hidden)
    }

    /// Where values that were found in some text stand in this one.
    fn known_in(&self, text: &str) -> Vec<Span> {
        let bytes = text.as_bytes();
        let mut spans = Vec::new();
        for at in 0..bytes.len() {
            if at == 0 || !bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] < 0x80 {
                let mut longest = None;
                self.known.each_at(bytes, at, |span| longest = Some(span));
                spans.extend(longest);
            }
        }
        spans
    }

    /// The region of a finding, when it has to be hidden for what it is here or for what its value is anywhere.
    fn region(&self, text: &str, span: &Span) -> Result<Option<Region>, MaskError> {
        let &Span { start, end, entity, class, confidence } = span;
        let value = text.get(start..end).ok_or(MaskError::Changed)?;
        let own = [(entity, class)];
        let kinds = Some(self.survey.kinds(value)).filter(|kinds| !kinds.is_empty()).unwrap_or(&own);
        Ok(self.treatments.strictest(kinds).map(|((entity, class), treatment)| Region {
            start,
            end,
            entity,
            treatment,
            rank: (end - start, confidence, class),
        }))
    }

    fn replacement(&mut self, value: &str, region: &Region) -> Result<String, MaskError> {
        *self.counts.entry(region.entity).or_default() += 1;
        let kind = region.entity.as_str();
        if region.treatment == Treatment::Hash {
            let key = self.key.ok_or(MaskError::NoKey)?;
            // However a value is written, it has one pseudonym.
            let read = json::unescaped(value);
            let value = read.as_ref().map_or(value, |read| &read.text);
            return Ok(format!("[{kind}#{}]", key.pseudonym(kind, value)));
        }
        if let Some(placeholder) = self.placeholders.get(value) {
            return Ok(placeholder.clone());
        }
        if self.placeholders.len() >= MOST {
            return Err(MaskError::TooMany);
        }
        let number = self.numbers.entry(region.entity).or_default();
        *number += 1;
        let placeholder = self.form.placeholder(kind, *number);
        self.placeholders.insert(value.to_owned(), placeholder.clone());
        self.originals.insert(placeholder.clone(), value.to_owned());
        Ok(placeholder)
    }

    /// A text that may be JSON, masked: keys, strings and numbers inside the JSON, so that it stays JSON. What is not
    /// masked stays as it was written.
    ///
    /// # Errors
    /// As for [`Masker::text`].
    pub fn json_text(&mut self, text: &str) -> Result<Option<String>, MaskError> {
        let Some(literals) = json::literals(text) else { return self.text(text) };
        let mut masked = String::new();
        let mut at = 0;
        for literal in literals {
            let own = match literal.kind {
                Kind::String => self.json_text(&literal.text)?,
                Kind::Key | Kind::Number => self.text(&literal.text)?,
            };
            if let Some(own) = own {
                masked.push_str(text.get(at..literal.start).ok_or(MaskError::Changed)?);
                masked.push_str(&Value::from(own).to_string());
                at = literal.end;
            }
        }
        if at == 0 {
            return Ok(None);
        }
        masked.push_str(text.get(at..).ok_or(MaskError::Changed)?);
        Ok(Some(masked))
    }

    /// Ends the masking.
    ///
    /// # Errors
    /// [`MaskError::Changed`] when not every text of the survey was visited.
    pub fn finish(self) -> Result<Masked, MaskError> {
        if self.next != self.survey.visited {
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
