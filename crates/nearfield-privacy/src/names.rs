//! Names of persons and places that a model found in a text: what it said is held against the text, and what stands
//! there is found from then on as patterns find other things.

use std::collections::BTreeMap;

use aho_corasick::AhoCorasick;

use crate::{Entity, Span};

/// The most names that are kept of one request.
const MOST: usize = 5_000;
/// Longer values are no names.
const LONGEST: usize = 200;
/// How sure a finding is: less than anything that a pattern or a check says.
const CONFIDENCE: u8 = 45;

/// Names of persons and places, as they stand in the texts of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    values: BTreeMap<String, Found>,
}

/// What a value is, and whether it stands in the text as words of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    entity: Entity,
    whole: bool,
}

/// Why names are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamesError {
    /// The answer is no list of names.
    #[error("the model that looks for names and places answered something else than a list of them")]
    NotUnderstood,
    /// More than are kept.
    #[error("the request holds more than {MOST} names and places; send less at once")]
    TooMany,
}

impl Names {
    /// Takes a model's answer about a passage: lines such as `person: NAME` and `place: NAME`, or `none`. What does not
    /// stand in the passage is left out; of a name that is written differently there, the words that do stand there
    /// are taken. The words of a person's name count alone too.
    ///
    /// # Errors
    /// [`NamesError`]; nothing is known of the passage then.
    pub fn read(&mut self, passage: &str, answer: &str) -> Result<(), NamesError> {
        let mut understood = false;
        for line in answer.lines() {
            let line = line.trim_start_matches(|letter: char| !letter.is_alphanumeric()).trim_end();
            if line.is_empty() {
                continue;
            }
            if line.trim_end_matches('.').eq_ignore_ascii_case("none") {
                understood = true;
            } else if let Some((entity, value)) = labelled(line) {
                understood = true;
                self.take(passage, entity, value);
            } else if stands(passage, tidy(line)) == Some(true) {
                understood = true;
                self.take(passage, Entity::Person, line);
            }
            if self.values.len() > MOST {
                return Err(NamesError::TooMany);
            }
        }
        if understood { Ok(()) } else { Err(NamesError::NotUnderstood) }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn take(&mut self, passage: &str, entity: Entity, value: &str) {
        let value = tidy(value);
        let stood = self.note(entity, value, stands(passage, value));
        let parts = value.split([',', ';']).map(tidy).filter(|part| *part != value);
        for part in parts {
            self.note(entity, part, stands(passage, part));
        }
        if stood && entity != Entity::Person {
            return;
        }
        // A family name alone, or a name that was put in other words than the text has.
        for word in value.split(|letter: char| !letter.is_alphanumeric() && !matches!(letter, '-' | '\'')) {
            let named = word.chars().next().is_some_and(|first| !first.is_lowercase());
            if named && word.chars().count() > 2 {
                self.note(entity, word, stands(passage, word).filter(|whole| *whole));
            }
        }
    }

    /// Notes a value that [`stands`] in the passage. Returns whether it does and may be a name.
    fn note(&mut self, entity: Entity, value: &str, whole: Option<bool>) -> bool {
        let letters = value.chars().filter(|letter| letter.is_alphabetic()).count();
        if letters < 2 {
            return false;
        }
        let Some(whole) = whole else { return false };
        let found = self.values.entry(value.to_owned()).or_insert(Found { entity, whole });
        // Where it stands inside other words in one place, it is looked for inside words.
        found.whole &= whole;
        true
    }
}

/// Words that say in a line what follows.
const LABELS: [(&str, Entity); 8] = [
    ("person", Entity::Person),
    ("name", Entity::Person),
    ("place", Entity::Location),
    ("location", Entity::Location),
    ("city", Entity::Location),
    ("country", Entity::Location),
    ("address", Entity::Location),
    ("street", Entity::Location),
];

fn labelled(line: &str) -> Option<(Entity, &str)> {
    let (label, value) = line.split_once(':')?;
    let label = label.trim_matches(|letter: char| !letter.is_alphabetic());
    let known = LABELS.iter().find(|(known, _)| label.eq_ignore_ascii_case(known))?;
    Some((known.1, value))
}

/// A value without what a list puts around it.
fn tidy(value: &str) -> &str {
    value.trim_matches(|letter: char| {
        letter.is_whitespace() || matches!(letter, '"' | '\'' | '`' | '*' | ',' | ';' | '.')
    })
}

/// Whether a value stands in a text: `Some(true)` as words of its own, `Some(false)` only inside others. What is too long
/// for a name is not looked for.
fn stands(text: &str, value: &str) -> Option<bool> {
    if value.is_empty() || value.len() > LONGEST {
        return None;
    }
    let mut any = None;
    for (start, _) in text.match_indices(value) {
        if is_whole(text, start, start + value.len()) {
            return Some(true);
        }
        any = Some(false);
    }
    any
}

/// Whether words begin at `start` and end at `end`.
fn is_whole(text: &str, start: usize, end: usize) -> bool {
    let (before, inside, after) = (text.get(..start), text.get(start..end), text.get(end..));
    let parted = |outer: Option<char>, inner: Option<char>| {
        let (Some(outer), Some(inner)) = (outer, inner) else { return true };
        !outer.is_alphanumeric() || is_unspaced(outer) || is_unspaced(inner)
    };
    let ends = |text: Option<&str>| text.and_then(|text| text.chars().next_back());
    let begins = |text: Option<&str>| text.and_then(|text| text.chars().next());
    parted(ends(before), begins(inside)) && parted(begins(after), ends(inside))
}

/// Letters of scripts that put no blanks between words: Thai to Khmer, kana, Han.
const fn is_unspaced(letter: char) -> bool {
    matches!(letter, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')
}

/// Finds names in texts.
#[derive(Clone, Debug)]
pub(crate) struct NameFinder {
    automaton: AhoCorasick,
    found: Vec<Found>,
}

impl NameFinder {
    /// `None` when there is nothing to find.
    pub(crate) fn new(names: &Names) -> Result<Option<Self>, NamesError> {
        if names.is_empty() {
            return Ok(None);
        }
        let automaton = AhoCorasick::new(names.values.keys()).map_err(|_| NamesError::TooMany)?;
        Ok(Some(Self { automaton, found: names.values.values().copied().collect() }))
    }

    /// Adds every name in a text to the spans.
    pub(crate) fn find(&self, text: &str, spans: &mut Vec<Span>) {
        for found in self.automaton.find_overlapping_iter(text) {
            let (start, end) = (found.start(), found.end());
            let Some(kind) = self.found.get(found.pattern().as_usize()) else { continue };
            if !kind.whole || is_whole(text, start, end) {
                spans.push(Span::new(start, end, kind.entity, CONFIDENCE));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Detector;

    fn found<'a>(passage: &str, answer: &str, text: &'a str) -> Vec<(Entity, &'a str)> {
        let mut names = Names::default();
        names.read(passage, answer).unwrap();
        let detector = Detector::new().with_names(&names).unwrap();
        detector.find(text).iter().map(|span| (span.entity, &text[span.start..span.end])).collect()
    }

    #[test]
    fn what_the_model_lists_is_found_where_it_stands() {
        let text = "Jo Marlow of Leiden wrote; Marlow is in Leiden, not in Leidenstein. jo marlow?";
        let answer = "person: Jo Marlow\nplace: Leiden";
        let expected = [
            (Entity::Person, "Jo Marlow"),
            (Entity::Location, "Leiden"),
            (Entity::Person, "Marlow"),
            (Entity::Location, "Leiden"),
        ];
        assert_eq!(found(text, answer, text), expected);
    }

    #[test]
    fn lists_are_read_however_a_model_decorates_them() {
        for answer in [
            "- person: Jo Marlow",
            "1. Person: \"Jo Marlow\"",
            "**Person**: Jo Marlow.",
            "Here they are:\nJo Marlow",
            "person: Dr. Jo Marlow",
            "person: Jo Marlow, Anna Beispiel",
        ] {
            let text = "Ask Jo Marlow.";
            let found = found(text, answer, text);
            assert!(found.iter().any(|(_, value)| value.contains("Marlow")), "{answer}: {found:?}");
        }
    }

    #[test]
    fn names_that_the_text_writes_differently_are_found_by_their_words() {
        let text = "MARLOW, Jo-Ann; born in Den\u{a0}Haag";
        let got = found(text, "person: Jo-Ann MARLOW\nplace: Den Haag", text);
        assert_eq!(
            got,
            [
                (Entity::Person, "MARLOW"),
                (Entity::Person, "Jo-Ann"),
                (Entity::Location, "Den"),
                (Entity::Location, "Haag")
            ]
        );
    }

    #[test]
    fn names_are_found_in_scripts_without_blanks_and_inside_words_where_they_only_stand_there() {
        let text = "请把文件发给王小明,谢谢";
        assert_eq!(found(text, "person: 王小明", text), [(Entity::Person, "王小明")]);
        let text = "Schreib Martas Bruder";
        assert_eq!(found(text, "person: Marta", text), [(Entity::Person, "Marta")]);
    }

    #[test]
    fn what_the_model_made_up_is_left_out() {
        assert_eq!(found("hello there", "person: Jo Marlow\nplace: -", "hello Jo Marlow"), []);
        assert_eq!(found("hello there", "None.", "hello"), []);
        let error = Names::default().read("hello", "I cannot help with that.").unwrap_err();
        assert_eq!(error, NamesError::NotUnderstood);
        assert_eq!(Names::default().read("hello", ""), Err(NamesError::NotUnderstood));
    }

    #[test]
    fn a_name_in_an_address_hides_no_address() {
        let text = "jo.marlow@marlow.example";
        let mut names = Names::default();
        names.read("Marlow, marlow", "person: marlow").unwrap();
        let detector = Detector::new().with_names(&names).unwrap();
        assert_eq!(detector.find(text).iter().map(|span| span.entity).collect::<Vec<_>>(), [Entity::Email]);
        let mut every = Vec::new();
        detector.find_every(text, &mut every);
        assert_eq!(every.iter().filter(|span| span.entity == Entity::Person).count(), 2);
    }

    #[test]
    fn a_name_is_found_as_the_value_of_a_field() {
        let mut names = Names::default();
        names.read("Marlow", "person: Marlow").unwrap();
        let detector = Detector::new().with_names(&names).unwrap();
        let mut spans = Vec::new();
        detector.find_in_field("surname", "Marlow", &mut spans);
        assert_eq!(spans.len(), 1);
    }
}
