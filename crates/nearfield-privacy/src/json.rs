//! JSON inside a text: its strings as they read after unescaping, with the way back to where they stand.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use crate::Span;

/// What a literal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Key,
    String,
    Number,
}

/// A key, string or number of a JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Literal<'a> {
    /// Its first byte in the text, a string's quote.
    pub(crate) start: usize,
    /// One past its last byte.
    pub(crate) end: usize,
    pub(crate) kind: Kind,
    /// As it reads.
    pub(crate) text: Cow<'a, str>,
    escapes: Vec<Escape>,
}

/// An escape: where it stands in the JSON, and where in the string what it says.
#[derive(Clone, Copy, Debug)]
struct Escape {
    raw: (usize, usize),
    read: (usize, usize),
}

/// The literals of a text in order; `None` when it is no JSON object or array. Keys that stand twice come twice.
pub(crate) fn literals(text: &str) -> Option<Literals<'_>> {
    let first = text.bytes().find(|byte| !byte.is_ascii_whitespace())?;
    if !matches!(first, b'{' | b'[') || serde_json::from_str::<IgnoredAny>(text).is_err() {
        return None;
    }
    Some(Literals { text, at: 0 })
}

/// Calls `visit` with a text as it reads, or, where it is a JSON object or array, with its keys and strings, in which there
/// may be JSON again.
pub fn each_text(text: &str, visit: &mut dyn FnMut(&str)) {
    let Some(literals) = literals(text) else {
        return visit(unescaped(text).as_ref().map_or(text, |reading| &reading.text));
    };
    for literal in literals {
        match literal.kind {
            Kind::String => each_text(&literal.text, visit),
            Kind::Key => visit(&literal.text),
            Kind::Number => {}
        }
    }
}

/// Walks through a text that is JSON.
#[derive(Clone, Debug)]
pub(crate) struct Literals<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Literals<'a> {
    type Item = Literal<'a>;

    fn next(&mut self) -> Option<Literal<'a>> {
        let bytes = self.text.as_bytes();
        let begins = |byte: &u8| matches!(byte, b'"' | b'-' | b'0'..=b'9');
        let start = self.at + bytes.get(self.at..)?.iter().position(begins)?;
        if bytes[start] == b'"' {
            return Some(self.string(start));
        }
        let inside = |byte: &&u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
        let end = start + bytes[start..].iter().take_while(inside).count();
        self.at = end;
        let text = Cow::Borrowed(self.text.get(start..end)?);
        Some(Literal { start, end, kind: Kind::Number, text, escapes: Vec::new() })
    }
}

impl<'a> Literals<'a> {
    /// The string whose opening quote is at `start`.
    fn string(&mut self, start: usize) -> Literal<'a> {
        let bytes = self.text.as_bytes();
        let mut read = String::new();
        let mut escapes = Vec::new();
        // What was not copied yet begins here.
        let mut from = start + 1;
        let mut at = from;
        while let Some(&byte) = bytes.get(at).filter(|&&byte| byte != b'"') {
            if byte != b'\\' {
                at += 1;
                continue;
            }
            read.push_str(self.text.get(from..at).unwrap_or_default());
            let (letter, end) = escape(bytes, at);
            let begun = read.len();
            read.push(letter);
            escapes.push(Escape { raw: (at, end), read: (begun, read.len()) });
            (from, at) = (end, end);
        }
        let rest = self.text.get(from..at.min(bytes.len())).unwrap_or_default();
        let text = if escapes.is_empty() {
            Cow::Borrowed(rest)
        } else {
            read.push_str(rest);
            Cow::Owned(read)
        };
        let end = (at + 1).min(bytes.len());
        let mut next = end;
        while bytes.get(next).is_some_and(u8::is_ascii_whitespace) {
            next += 1;
        }
        let kind = if bytes.get(next) == Some(&b':') { Kind::Key } else { Kind::String };
        self.at = end;
        Literal { start, end, kind, text, escapes }
    }
}

/// How a text reads that is no JSON as a whole but holds JSON's escapes, as the arguments of a tool do that were cut off.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) text: String,
    escapes: Vec<Escape>,
}

/// The reading of a text; `None` when it holds no escape. However many backslashes stand before an escape, they belong to
/// it: JSON within JSON has twice as many each time.
pub(crate) fn unescaped(text: &str) -> Option<Reading> {
    let bytes = text.as_bytes();
    let mut reading = Reading { text: String::new(), escapes: Vec::new() };
    // What was not copied yet begins at `from`.
    let (mut from, mut at) = (0, 0);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        let start = at + found;
        at = start + bytes[start..].iter().take_while(|&&byte| byte == b'\\').count();
        let known = match bytes.get(at) {
            Some(b'u') => {
                bytes.get(at + 1..at + 5).is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
            }
            Some(byte) => b"nrtbf/\"".contains(byte),
            None => false,
        };
        if !known {
            continue;
        }
        reading.text.push_str(text.get(from..start).unwrap_or_default());
        let (letter, end) = escape(bytes, at - 1);
        let begun = reading.text.len();
        reading.text.push(letter);
        reading.escapes.push(Escape { raw: (start, end), read: (begun, reading.text.len()) });
        (from, at) = (end, end);
    }
    if reading.escapes.is_empty() {
        return None;
    }
    reading.text.push_str(text.get(from..).unwrap_or_default());
    Some(reading)
}

impl Reading {
    /// A finding in the reading as one in the text: an escape of which a part was found belongs to it whole.
    pub(crate) fn stands(&self, span: &Span) -> Span {
        let start = match self.last(|escape| escape.read.0 <= span.start) {
            None => span.start,
            Some(escape) if span.start < escape.read.1 => escape.raw.0,
            Some(escape) => escape.raw.1 + (span.start - escape.read.1),
        };
        let end = match self.last(|escape| escape.read.0 < span.end) {
            None => span.end,
            Some(escape) => escape.raw.1 + span.end.saturating_sub(escape.read.1),
        };
        Span { start, end, ..*span }
    }

    /// A finding in the text with the whole of the escapes that it begins or ends in.
    pub(crate) fn widened(&self, span: &Span) -> Span {
        let inside = |at: usize| self.last(|escape| escape.raw.0 < at).filter(|escape| at < escape.raw.1);
        Span {
            start: inside(span.start).map_or(span.start, |escape| escape.raw.0),
            end: inside(span.end).map_or(span.end, |escape| escape.raw.1),
            ..*span
        }
    }

    fn last(&self, before: impl Fn(&Escape) -> bool) -> Option<&Escape> {
        self.escapes.get(self.escapes.partition_point(before).checked_sub(1)?)
    }
}

/// What the escape at `at` says, and its end.
fn escape(bytes: &[u8], at: usize) -> (char, usize) {
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let simple = match bytes.get(at + 1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'u') => {
            let units = [unit(at), unit(at + 6)];
            let two = char::decode_utf16(units.into_iter().flatten()).next();
            return match two {
                Some(Ok(letter)) => (letter, at + 6 * letter.len_utf16()),
                _ => (char::REPLACEMENT_CHARACTER, at + 6),
            };
        }
        Some(&byte) => char::from(byte),
        None => char::REPLACEMENT_CHARACTER,
    };
    (simple, at + 2)
}

impl Literal<'_> {
    /// The part of a finding in the JSON that lies in this literal, as a finding in what it reads.
    pub(crate) fn part_of(&self, span: &Span) -> Option<Span> {
        let start = self.reads_at(span.start, true);
        let end = self.reads_at(span.end, false).min(self.text.len());
        let whole = start < end && self.text.is_char_boundary(start) && self.text.is_char_boundary(end);
        whole.then_some(Span { start, end, ..*span })
    }

    /// Where a byte of the JSON stands in what the literal reads; the inside of an escape belongs to no finding.
    fn reads_at(&self, at: usize, begins: bool) -> usize {
        let open = self.start + usize::from(self.kind != Kind::Number);
        let at = at.max(open);
        let before = self.escapes.partition_point(|escape| escape.raw.0 < at);
        match before.checked_sub(1).and_then(|last| self.escapes.get(last)) {
            None => at - open,
            Some(escape) if at >= escape.raw.1 => escape.read.1 + (at - escape.raw.1),
            Some(escape) => {
                if begins {
                    escape.read.1
                } else {
                    escape.read.0
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entity;

    fn all(text: &str) -> Vec<(Kind, String)> {
        literals(text).unwrap().map(|literal| (literal.kind, literal.text.into_owned())).collect()
    }

    #[test]
    fn literals_read_as_they_are_meant() {
        let text = r#" {"a\n" : [12, -3.5e+7, "\u00e9\ud83d\ude00\"\\ x", true, ""], "a\n":null} "#;
        assert_eq!(
            all(text),
            [
                (Kind::Key, "a\n".to_owned()),
                (Kind::Number, "12".to_owned()),
                (Kind::Number, "-3.5e+7".to_owned()),
                (Kind::String, "é😀\"\\ x".to_owned()),
                (Kind::String, String::new()),
                (Kind::Key, "a\n".to_owned()),
            ]
        );
        for text in ["", "12", "\"a\"", "[1", "{a}", "[link](x)", "{} {}"] {
            assert!(literals(text).is_none(), "{text}");
        }
        let deep = "[".repeat(4000) + "\"x\"" + &"]".repeat(4000);
        assert_eq!(all(&deep), [(Kind::String, "x".to_owned())]);
    }

    #[test]
    fn escapes_are_undone_outside_of_json_too() {
        for (text, reads) in [
            (r#"{"to":"jo\u0040x.org"#, r#"{"to":"jo@x.org"#),
            (r#"{\"a\\n\":\\\\u00e9\ud83d\ude00"#, "{\"a\n\":é😀"),
            (r"\ud83d \ude00", "\u{fffd} \u{fffd}"),
            (r"C:\dir\u00 \n", "C:\\dir\\u00 \n"),
        ] {
            assert_eq!(unescaped(text).unwrap().text, reads, "{text}");
        }
        for text in ["", "jo@x.org", r"C:\dir\", r"\u+041 \u004", r"\é", r"\\"] {
            assert!(unescaped(text).is_none(), "{text}");
        }
    }

    #[test]
    fn findings_in_a_reading_lead_back_to_whole_escapes() {
        let text = r"a\u0040b\\u00e9\nc";
        let reading = unescaped(text).unwrap();
        assert_eq!(reading.text, "a@bé\nc");
        for (found, stands) in [
            ("a", "a"),
            ("a@", r"a\u0040"),
            ("@b", r"\u0040b"),
            ("b", "b"),
            ("é", r"\\u00e9"),
            ("bé\nc", r"b\\u00e9\nc"),
            ("c", "c"),
            ("a@bé\nc", text),
        ] {
            let start = reading.text.find(found).unwrap();
            let span = reading.stands(&Span::new(start, start + found.len(), Entity::Email, 90));
            assert_eq!(&text[span.start..span.end], stands);
        }
        for (found, stands) in
            [("u0040b", r"\u0040b"), ("b\\", r"b\\u00e9"), ("b", "b"), ("nc", r"\nc"), (text, text)]
        {
            let start = text.find(found).unwrap();
            let span = reading.widened(&Span::new(start, start + found.len(), Entity::Email, 90));
            assert_eq!(&text[span.start..span.end], stands);
        }
    }

    #[test]
    fn findings_lead_into_the_literal() {
        let text = r#"["a\u0040b cd", 12345]"#;
        let found: Vec<Literal<'_>> = literals(text).unwrap().collect();
        let part = |literal: usize, start, end| {
            let part = found[literal].part_of(&Span::new(start, end, Entity::Email, 90));
            part.map(|span| found[literal].text[span.start..span.end].to_owned())
        };
        assert_eq!(part(0, 0, text.len()).unwrap(), "a@b cd");
        assert_eq!(part(0, 9, 13).unwrap(), "b cd"[..4].to_owned());
        // The last digits of an escape are no text of their own.
        assert_eq!(part(0, 5, 10).unwrap(), "b");
        assert_eq!(part(0, 2, 6).unwrap(), "a");
        assert_eq!(part(0, 14, 22), None);
        assert_eq!(part(1, 0, text.len()).unwrap(), "12345");
    }
}
