//! A look at every string of a request: what is in it, before anything is decided about it.

use std::collections::{BTreeMap, HashMap};

use crate::entity::unite;
use crate::form::Form;
use crate::json::{self, Kind};
use crate::{ClassSet, DataClass, Detector, Entity, Span};

/// Values up to this many bytes are looked for in the whole request. What a word beside it gives away is never so long;
/// longer ones (keys, addresses) are found wherever they stand.
const LONGEST_KNOWN: usize = 512;
/// Numbers of so many characters are looked at like strings; for shorter ones the JSON around them speaks.
const LONG_NUMBER: usize = 7;

/// What the strings of one request hold. The strings are visited once here and, in the same order, once more by a
/// [`crate::Masker`].
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Findings of each text that has any, with its number in the order of the visit.
    pub(crate) texts: Vec<(usize, Vec<Span>)>,
    /// How many texts there were.
    pub(crate) visited: usize,
    /// Values found anywhere, in small letters and without escapes, with everything that they were found to be: they are
    /// masked everywhere.
    pub(crate) values: HashMap<String, Vec<(Entity, DataClass)>>,
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

    /// Looks at one text; `field` is the name that it stands under, where that says something. Where it holds escapes of
    /// JSON it is looked at as it reads too.
    pub fn text(&mut self, detector: &Detector, field: Option<&str>, text: &str) {
        self.with(detector, field, text, Vec::new());
    }

    /// Looks at a text that may be a JSON object or array, such as the result of a tool: at the text as it stands, for what
    /// one part says of another, and at its keys, strings and long numbers as they read after unescaping, in which there
    /// may be JSON again.
    pub fn json_text(&mut self, detector: &Detector, field: Option<&str>, text: &str) {
        self.inside(detector, field, text, Vec::new());
    }

    /// As [`Survey::json_text`], with what was found already in what holds the text.
    fn inside(&mut self, detector: &Detector, field: Option<&str>, text: &str, mut known: Vec<Span>) {
        let Some(literals) = json::literals(text) else { return self.with(detector, field, text, known) };
        known.append(&mut look(detector, field, text));
        unite(&mut known);
        let mut field = field.map(str::to_owned);
        let mut waiting = known.iter().peekable();
        // Those that have begun and go on; of each kind one at most.
        let mut open: Vec<&Span> = Vec::new();
        for literal in literals {
            while let Some(span) = waiting.next_if(|span| span.start < literal.end) {
                open.push(span);
            }
            open.retain(|span| span.end > literal.start);
            let parts: Vec<Span> = open.iter().filter_map(|span| literal.part_of(span)).collect();
            match literal.kind {
                Kind::String => self.inside(detector, field.as_deref(), &literal.text, parts),
                Kind::Key => {
                    self.with(detector, None, &literal.text, parts);
                    field = Some(literal.text.into_owned());
                }
                Kind::Number => {
                    if literal.text.len() >= LONG_NUMBER {
                        self.with(detector, field.as_deref(), &literal.text, parts);
                    } else {
                        self.note(&literal.text, parts);
                    }
                }
            }
        }
        // What lies in no literal cannot be masked, but it was found.
        for span in &known {
            self.classes.insert(span.class);
            self.counts.entry(span.entity).or_insert(1);
        }
    }

    /// A text that is no JSON, with what was found already in what holds it.
    fn with(&mut self, detector: &Detector, field: Option<&str>, text: &str, mut known: Vec<Span>) {
        let mut spans = look(detector, field, text);
        let own = spans.len();
        spans.append(&mut known);
        if let Some(reading) = json::unescaped(text) {
            // What is found in both may be longer in one of them, and is known as either.
            for span in &mut spans {
                self.know(text, span);
                *span = reading.widened(span);
            }
            for span in look(detector, field, &reading.text) {
                self.know(&reading.text, &span);
                spans.push(reading.stands(&span));
            }
            Form::note_taken(&reading.text, &mut self.taken);
        }
        if spans.len() > own {
            unite(&mut spans);
        }
        self.note(text, spans);
    }

    /// Has a value looked for in the whole request.
    fn know(&mut self, text: &str, span: &Span) {
        if let Some(value) = text.get(span.start..span.end).filter(|value| value.len() <= LONGEST_KNOWN) {
            let kinds = self.values.entry(known_as(value)).or_default();
            if !kinds.contains(&(span.entity, span.class)) {
                kinds.push((span.entity, span.class));
            }
        }
    }

    fn note(&mut self, text: &str, spans: Vec<Span>) {
        for span in &spans {
            self.classes.insert(span.class);
            *self.counts.entry(span.entity).or_default() += 1;
            self.know(text, span);
        }
        self.bytes = self.bytes.saturating_add(text.len());
        Form::note_taken(text, &mut self.taken);
        if !spans.is_empty() {
            self.texts.push((self.visited, spans));
        }
        self.visited += 1;
    }

    /// Everything that a value was found to be, anywhere in the request.
    pub(crate) fn kinds(&self, value: &str) -> &[(Entity, DataClass)] {
        if value.len() > LONGEST_KNOWN {
            return &[];
        }
        self.values.get(&known_as(value)).map_or(&[], Vec::as_slice)
    }

    /// Notes something that cannot be looked into: an image, a file, a list of token ids.
    pub fn unscannable(&mut self) {
        self.unscannable += 1;
    }

    /// The classes of everything found.
    pub const fn classes(&self) -> ClassSet {
        self.classes
    }

    /// How often each kind was found, also within another: a number in an address is both.
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

/// A value in the form in which it is known.
fn known_as(value: &str) -> String {
    json::unescaped(value).map_or_else(|| value.to_ascii_lowercase(), |read| read.text.to_ascii_lowercase())
}

fn look(detector: &Detector, field: Option<&str>, text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    match field {
        Some(field) => detector.find_every_in_field(field, text, &mut spans),
        None => detector.find_every(text, &mut spans),
    }
    spans
}
