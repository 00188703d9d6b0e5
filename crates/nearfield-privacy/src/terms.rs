//! What an operator adds: terms of a list, and formats such as `MRN-######`.

use crate::entity::{DataClass, Entity, Span};

/// One element of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Digit,
    Letter,
    Either,
    Literal(u8),
}

/// A form of identifiers: `#` is a digit, `@` a letter, `*` either, everything else itself (in any case); `\` takes the next
/// character as itself, and `{2,5}` after an element repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    parts: Vec<(Element, usize, usize)>,
    entity: Entity,
    class: DataClass,
}

/// A term or format that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TermError {
    /// Nothing to look for.
    #[error("an empty term or format matches everywhere; remove it")]
    Empty,
    /// Too short to mean anything.
    #[error(
        "the term `{term}` has fewer than three characters and would match in every text; write a longer one"
    )]
    Short {
        /// The term.
        term: String,
    },
    /// Beyond what is read.
    #[error("the format `{format}` is not understood at character {at}: {why}")]
    Format {
        /// The format.
        format: String,
        /// Where.
        at: usize,
        /// Why.
        why: &'static str,
    },
}

/// The most characters that a format may stand for.
const LONGEST: usize = 128;

impl Format {
    /// Reads a format for an entity.
    ///
    /// # Errors
    /// [`TermError`] when it is empty, longer than 128 characters, not ASCII, or has a repetition that means nothing.
    pub fn new(format: &str, entity: Entity, class: DataClass) -> Result<Self, TermError> {
        let fault = |at, why| TermError::Format { format: format.to_owned(), at, why };
        let bytes = format.as_bytes();
        let mut parts: Vec<(Element, usize, usize)> = Vec::new();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            let element = match byte {
                b'#' => Element::Digit,
                b'@' => Element::Letter,
                b'*' => Element::Either,
                b'\\' => {
                    at += 1;
                    Element::Literal(
                        *bytes.get(at - 1).ok_or_else(|| fault(at, "nothing follows the backslash"))?,
                    )
                }
                b'{' => {
                    let len = bytes[at..]
                        .iter()
                        .position(|&byte| byte == b'}')
                        .ok_or_else(|| fault(at, "no closing brace"))?;
                    let (least, most) = repetition(&format[at..at + len])
                        .ok_or_else(|| fault(at, "write {n} or {least,most}"))?;
                    let last = parts.last_mut().ok_or_else(|| fault(at, "nothing to repeat"))?;
                    (last.1, last.2) = (least, most);
                    at += len + 1;
                    continue;
                }
                _ if !byte.is_ascii() => {
                    return Err(fault(at, "only ASCII characters can be part of a format"));
                }
                _ => Element::Literal(byte.to_ascii_lowercase()),
            };
            parts.push((element, 1, 1));
        }
        if parts.is_empty() {
            return Err(TermError::Empty);
        }
        let (least, most) = parts.iter().fold((0usize, 0usize), |sum, part| (sum.0 + part.1, sum.1 + part.2));
        if most > LONGEST {
            return Err(fault(format.len(), "it stands for more than 128 characters"));
        }
        if least < 3 {
            return Err(TermError::Short { term: format.to_owned() });
        }
        Ok(Self { parts, entity, class })
    }

    /// The span of this form that begins at `start`, which is the beginning of a word.
    pub(crate) fn at(&self, text: &[u8], start: usize) -> Option<Span> {
        let end = follow(&self.parts, text, start)?;
        Some(Span { start, end, entity: self.entity, class: self.class, confidence: 90 })
    }

    /// Whether a text in this form may begin with `byte`.
    pub(crate) fn begins_with(&self, byte: u8) -> bool {
        self.parts
            .iter()
            .take_while(|part| part.1 == 0)
            .chain(self.parts.iter().find(|part| part.1 > 0))
            .any(|part| part.0.is(byte))
    }
}

impl Element {
    fn is(self, byte: u8) -> bool {
        match self {
            Self::Digit => byte.is_ascii_digit(),
            Self::Letter => byte.is_ascii_alphabetic(),
            Self::Either => byte.is_ascii_alphanumeric(),
            Self::Literal(own) => byte.eq_ignore_ascii_case(&own),
        }
    }
}

fn repetition(inside: &str) -> Option<(usize, usize)> {
    let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
    let (least, most) = (least.trim().parse().ok()?, most.trim().parse().ok()?);
    (least <= most && (1..=64).contains(&most)).then_some((least, most))
}

/// The longest way to the end of a word through all parts: each place that part `n` may end at is kept, so that no
/// repetition is tried twice.
fn follow(parts: &[(Element, usize, usize)], text: &[u8], start: usize) -> Option<usize> {
    let mut ends: u128 = 1;
    for (element, least, most) in parts {
        let mut next = 0u128;
        for offset in 0..LONGEST {
            if ends >> offset & 1 == 0 {
                continue;
            }
            for count in 0..=*most {
                if count >= *least && offset + count < LONGEST {
                    next |= 1 << (offset + count);
                }
                if !text.get(start + offset + count).is_some_and(|&byte| element.is(byte)) {
                    break;
                }
            }
        }
        ends = next;
        if ends == 0 {
            return None;
        }
    }
    (0..LONGEST)
        .rev()
        .filter(|&offset| ends >> offset & 1 == 1)
        .map(|offset| start + offset)
        .find(|&end| end <= text.len() && text.get(end).is_none_or(|byte| !byte.is_ascii_alphanumeric()))
}

/// Terms to look for, whatever the case of their letters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// In small letters, in order: those that begin alike stand together.
    sorted: Vec<(Vec<u8>, DataClass)>,
}

impl Terms {
    /// Many terms at once, in small letters; short ones too.
    pub(crate) fn of(mut terms: Vec<(Vec<u8>, DataClass)>) -> Self {
        terms.retain(|(term, _)| !term.is_empty());
        terms.sort_unstable();
        Self { sorted: terms }
    }

    pub(crate) fn add(&mut self, term: &str, class: DataClass) -> Result<(), TermError> {
        let small = term.trim().to_ascii_lowercase().into_bytes();
        if small.is_empty() {
            return Err(TermError::Empty);
        }
        if small.len() < 3 {
            return Err(TermError::Short { term: term.to_owned() });
        }
        let entry = (small, class);
        let at = self.sorted.partition_point(|known| *known < entry);
        self.sorted.insert(at, entry);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    pub(crate) fn firsts(&self) -> impl Iterator<Item = u8> {
        self.sorted.iter().filter_map(|(term, _)| term.first().copied())
    }

    /// Every term that stands at `start`, which is the beginning of a word; the longest comes last. What is looked at is
    /// the text as far as some term goes, however many there are.
    pub(crate) fn each_at(&self, text: &[u8], start: usize, mut found: impl FnMut(Span)) {
        let small = |at: usize| text.get(start + at).map(u8::to_ascii_lowercase);
        let free =
            |end: usize| text.get(end).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte < 0x80);
        // The terms that begin as the text does, as far as it was looked at.
        let mut left = self.sorted.as_slice();
        let mut len = 0;
        loop {
            let (whole, longer) = left.split_at(left.partition_point(|(term, _)| term.len() == len));
            let end = start + len;
            if !whole.is_empty() && free(end) {
                for (_, class) in whole {
                    found(Span { start, end, entity: Entity::Custom, class: *class, confidence: 100 });
                }
            }
            left = longer;
            let (Some((first, _)), Some((last, _))) = (left.first(), left.last()) else { return };
            let mut common = 0;
            while let (Some(one), Some(other)) = (first.get(len), last.get(len))
                && one == other
            {
                if small(len) != Some(*one) {
                    return;
                }
                len += 1;
                common += 1;
            }
            if common == 0 {
                let Some(byte) = small(len) else { return };
                let from = left.partition_point(|(term, _)| term[len] < byte);
                let to = left.partition_point(|(term, _)| term[len] <= byte);
                left = &left[from..to];
                len += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(format: &str, text: &str) -> Option<usize> {
        let format = Format::new(format, Entity::Mrn, DataClass::Health).unwrap();
        format.at(text.as_bytes(), 0).map(|span| span.end)
    }

    #[test]
    fn formats_say_what_they_match() {
        assert_eq!(end("MRN-######", "mrn-123456 x"), Some(10));
        assert_eq!(end("MRN-######", "MRN-12345"), None);
        assert_eq!(end("MRN-######", "MRN-1234567"), None);
        assert_eq!(end("@@#{4,6}", "AB12345"), Some(7));
        assert_eq!(end("@{1,3}#{2,4}*{0,2}", "abc1234xy."), Some(9));
        assert_eq!(end(r"\#\#####", "##123 "), None);
        assert_eq!(end(r"\#\####", "##123 "), Some(5));
        assert_eq!(end("***{1,60}*{1,60}", &"a".repeat(121)), Some(121));
    }

    #[test]
    fn unusable_formats_are_refused() {
        for format in ["", "#", "{3}", "#{", "#{3,1}", "#{x}", "é##", "\\", "#{64}#{64}#{64}"] {
            assert!(Format::new(format, Entity::Mrn, DataClass::Health).is_err(), "{format}");
        }
    }

    #[test]
    fn terms_stand_as_words() {
        let mut terms = Terms::default();
        terms.add("Project Heron", DataClass::Internal).unwrap();
        terms.add("project", DataClass::Public).unwrap();
        let at = |text: &str| {
            let mut longest = None;
            terms.each_at(text.as_bytes(), 0, |span| longest = Some(span.end));
            longest
        };
        assert_eq!(at("PROJECT HERON!"), Some(13));
        assert_eq!(at("Project Herons"), Some(7));
        assert_eq!(at("projects"), None);
        assert!(terms.add("ab", DataClass::Public).is_err());
        assert!(terms.add("  ", DataClass::Public).is_err());
    }

    #[test]
    fn every_term_at_a_place_is_found_and_only_these() {
        let words = ["abc", "abcd", "abd", "ab cd", "ab cd", "b12", "abcd efg"];
        let mut terms = Terms::default();
        for word in words {
            terms.add(word, DataClass::Personal).unwrap();
        }
        for text in ["abcd efg", "abc", "abce", "ab cd.", "ABD", "ab", "b12", "z", "", "abcd efgh"] {
            let mut found = Vec::new();
            terms.each_at(text.as_bytes(), 0, |span| found.push(span.end));
            let mut expected: Vec<usize> = words
                .iter()
                .filter(|word| {
                    text.to_ascii_lowercase()
                        .strip_prefix(**word)
                        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
                })
                .map(|word| word.len())
                .collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "{text}");
        }
    }
}
