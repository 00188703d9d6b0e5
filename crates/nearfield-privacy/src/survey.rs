//! A look at every string of a request: what is in it, before anything is decided about it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::form::Form;
use crate::{ClassSet, DataClass, Detector, Entity, Span};

/// What the strings of one request hold. The strings are visited once here and, in the same order, once more by a
/// [`crate::Masker`].
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Findings of each text, in the order of the visit.
    pub(crate) texts: Vec<Vec<Span>>,
    /// Values found anywhere, with what they are: they are masked everywhere.
    pub(crate) values: BTreeMap<String, (Entity, DataClass)>,
    /// Forms of placeholders that some text already holds.
    pub(crate) taken: Vec<Form>,
    classes: ClassSet,
    counts: BTreeMap<Entity, usize>,
    unscannable: usize,
    bytes: usize,
}

impl Survey {
    /// An empty survey.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at one text; `field` is the name that it stands under, where that says something.
    pub fn text(&mut self, detector: &Detector, field: Option<&str>, text: &str) {
        let mut spans = Vec::new();
        match field {
            Some(field) => detector.find_in_field(field, text, &mut spans),
            None => detector.find_into(text, &mut spans),
        }
        for span in &spans {
            self.classes.insert(span.class);
            *self.counts.entry(span.entity).or_default() += 1;
            if let Some(value) = text.get(span.start..span.end) {
                self.values.entry(value.to_owned()).or_insert((span.entity, span.class));
            }
        }
        self.bytes = self.bytes.saturating_add(text.len());
        Form::note_taken(text, &mut self.taken);
        self.texts.push(spans);
    }

    /// Looks at a text that may be JSON, such as the arguments of a tool: its strings as they read after unescaping, and
    /// the text as it stands.
    pub fn json_text(&mut self, detector: &Detector, field: Option<&str>, text: &str) {
        if let Some(tree) = crate::mask::as_tree(text) {
            self.value(detector, field, &tree);
        }
        self.text(detector, field, text);
    }

    /// Looks at every key, string and long number of a tree.
    pub fn value(&mut self, detector: &Detector, field: Option<&str>, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => self.text(detector, field, &number.to_string()),
            Value::String(text) => self.text(detector, field, text),
            Value::Array(values) => values.iter().for_each(|value| self.value(detector, field, value)),
            Value::Object(entries) => {
                for (key, value) in entries {
                    self.text(detector, None, key);
                    self.value(detector, Some(key), value);
                }
            }
        }
    }

    /// Notes something that cannot be looked into: an image, a file, a list of token ids.
    pub fn unscannable(&mut self) {
        self.unscannable += 1;
    }

    /// The classes of everything found.
    pub const fn classes(&self) -> ClassSet {
        self.classes
    }

    /// How often each kind was found.
    pub const fn counts(&self) -> &BTreeMap<Entity, usize> {
        &self.counts
    }

    /// How many parts could not be looked into.
    pub const fn unscannable_parts(&self) -> usize {
        self.unscannable
    }

    /// Bytes of all texts.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}
