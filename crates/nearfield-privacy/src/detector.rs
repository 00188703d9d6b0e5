//! One pass over a text: runs of letters and digits are classed as they go by, and only a run that could be part of
//! something is looked at.

use crate::context::{CARD, Context};
use crate::entity::{DataClass, Entity, Span, settle, unite};
use crate::names::{NameFinder, Names, NamesError};
use crate::number::Number;
use crate::terms::{Format, TermError, Terms};
use crate::{dates, figures, labelled, lettered, net, phone, secrets};

/// Finds personal data, identifiers and secrets. Made once, used from any thread.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    terms: Terms,
    formats: Vec<Format>,
    /// Bytes that a term or format may begin with; empty when there are none.
    firsts: Vec<bool>,
    ignored: Vec<Entity>,
    names: Option<NameFinder>,
}

const DIGIT: u8 = 1;
const LETTER: u8 = 2;
const MARK: u8 = 4;

/// What each byte is to the pass.
const KINDS: [u8; 256] = {
    let mut kinds = [0u8; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'0'..=b'9' => DIGIT,
            b'A'..=b'Z' | b'a'..=b'z' | 0x80.. => LETTER,
            b'@' | b':' | b'=' | b'-' | b'.' => MARK,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

/// Runs of letters alone are looked at from here on: no word of prose is so long, and keys are.
const LONG_RUN: usize = 16;

impl Detector {
    /// A detector with everything that is built in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a term of the operator.
    pub fn add_term(&mut self, term: &str, class: DataClass) -> Result<(), TermError> {
        self.terms.add(term, class)?;
        self.note_firsts();
        Ok(())
    }

    /// Adds a format of the operator, for any entity.
    pub fn add_format(&mut self, format: Format) {
        self.formats.push(format);
        self.note_firsts();
    }

    /// Leaves findings of a kind out.
    pub fn ignore(&mut self, entity: Entity) {
        self.ignored.push(entity);
    }

    /// The same, for the texts of one request in which a model found names.
    ///
    /// # Errors
    /// There are too many to be looked for.
    pub fn with_names(&self, names: &Names) -> Result<Self, NamesError> {
        Ok(Self { names: NameFinder::new(names)?, ..self.clone() })
    }

    fn note_firsts(&mut self) {
        self.firsts =
            (0..=255u8).map(|byte| self.formats.iter().any(|format| format.begins_with(byte))).collect();
        for first in self.terms.firsts() {
            for byte in [first, first.to_ascii_uppercase()] {
                if let Some(may) = self.firsts.get_mut(usize::from(byte)) {
                    *may = true;
                }
            }
        }
    }

    /// What a text holds, in order, without overlaps: of findings that overlap the surest. Decisions are made on
    /// [`Detector::find_every`], which hides no kind behind another.
    pub fn find(&self, text: &str) -> Vec<Span> {
        let mut spans = Vec::new();
        self.find_into(text, &mut spans);
        spans
    }

    /// Puts what [`Detector::find`] finds into `spans`, which is emptied first.
    pub fn find_into(&self, text: &str, spans: &mut Vec<Span>) {
        self.pass(text, spans);
        settle(spans);
    }

    /// As [`Detector::find_into`], in a text that is the value of a field: the field's name stands before it as a word
    /// would.
    pub fn find_in_field(&self, field: &str, text: &str, spans: &mut Vec<Span>) {
        self.in_field(field, text, spans, Self::find_into);
    }

    /// Puts everything found in a text into `spans`, which is emptied first: every kind, also where one lies within
    /// another, in order of the text and the longer first.
    pub fn find_every(&self, text: &str, spans: &mut Vec<Span>) {
        let inner = self.pass(text, spans);
        spans.extend(inner);
        unite(spans);
    }

    /// As [`Detector::find_every`], in a text that is the value of a field.
    pub fn find_every_in_field(&self, field: &str, text: &str, spans: &mut Vec<Span>) {
        self.in_field(field, text, spans, Self::find_every);
    }

    /// Puts the findings of one pass into `spans` and returns those that lie within another.
    fn pass(&self, text: &str, spans: &mut Vec<Span>) -> Vec<Span> {
        spans.clear();
        let mut pass = Pass {
            text: text.as_bytes(),
            detector: self,
            spans,
            inner: Vec::new(),
            seen_to: 0,
            sealed_to: 0,
            key_to: 0,
            armour_to: 0,
            runs: secrets::Runs::default(),
            stop: net::Stop::default(),
        };
        pass.run();
        let mut inner = pass.inner;
        if let Some(names) = &self.names {
            names.find(text, spans);
        }
        if !self.ignored.is_empty() {
            let wanted = |span: &Span| !self.ignored.contains(&span.entity);
            spans.retain(wanted);
            inner.retain(wanted);
        }
        inner
    }

    fn in_field(
        &self,
        field: &str,
        text: &str,
        spans: &mut Vec<Span>,
        find: fn(&Self, &str, &mut Vec<Span>),
    ) {
        if !text.bytes().any(|byte| byte.is_ascii_digit() || matches!(byte, b'@' | b':' | b'=' | b'.'))
            && text.len() < LONG_RUN
            && self.firsts.is_empty()
            && self.names.is_none()
            && !secrets::announces(field.as_bytes())
        {
            spans.clear();
            return;
        }
        let mut from = field.len().saturating_sub(48);
        while !field.is_char_boundary(from) {
            from += 1;
        }
        let label = field.len() - from + 2;
        let mut joined = String::with_capacity(label + text.len());
        joined.push_str(&field[from..]);
        joined.push_str(": ");
        joined.push_str(text);
        find(self, &joined, spans);
        spans.retain_mut(|span| {
            span.start = span.start.max(label) - label;
            span.end = span.end.saturating_sub(label);
            span.start < span.end
        });
    }
}

/// Whether a finding of this kind may hold another: keys, and values that are taken by a word before them however they look.
const fn may_hold_others(entity: Entity) -> bool {
    matches!(
        entity,
        Entity::PrivateKey
            | Entity::ApiKey
            | Entity::Jwt
            | Entity::Phone
            | Entity::Mrn
            | Entity::HealthPlan
            | Entity::Biometric
            | Entity::LicensePlate
            | Entity::DriverLicense
            | Entity::Passport
            | Entity::BankAccount
            | Entity::Account
            | Entity::DeviceId
            | Entity::License
            | Entity::IdentityCard
    )
}

/// One pass over one text.
struct Pass<'a> {
    text: &'a [u8],
    detector: &'a Detector,
    spans: &'a mut Vec<Span>,
    /// Findings within what was found already.
    inner: Vec<Span>,
    /// Everything before this byte belongs to what was found already.
    seen_to: usize,
    /// Everything before this byte belongs to a value that holds no other.
    sealed_to: usize,
    /// Everything before this byte belongs to a key that was found already.
    key_to: usize,
    /// Everything before this byte belongs to a private key in its armour.
    armour_to: usize,
    runs: secrets::Runs,
    stop: net::Stop,
}

impl Pass<'_> {
    fn run(&mut self) {
        let text = self.text;
        let own = !self.detector.firsts.is_empty();
        let mut at = 0;
        // The last run of letters and digits.
        let mut last = (0, 0);
        while at < text.len() {
            let start = at;
            let mut kinds = 0;
            while let Some(&byte) = text.get(at) {
                let kind = KINDS[usize::from(byte)];
                if kind & (DIGIT | LETTER) == 0 {
                    break;
                }
                kinds |= kind;
                at += 1;
            }
            if at > start {
                if own && self.detector.firsts[usize::from(text[start])] {
                    self.operators(start);
                }
                if (kinds & DIGIT != 0 || at - start >= LONG_RUN) && start >= self.sealed_to {
                    self.token(start, at, kinds);
                }
                last = (start, at);
            }
            // Marks are few; most bytes between words are blanks.
            while let Some(&byte) = text.get(at) {
                let kind = KINDS[usize::from(byte)];
                if kind & (DIGIT | LETTER) != 0 {
                    break;
                }
                if kind == MARK {
                    self.mark(byte, at, last);
                }
                at += 1;
            }
        }
    }

    /// Notes a finding; `inner` says that what was found already holds it.
    fn found(&mut self, span: Span, inner: bool) {
        if inner {
            self.inner.push(span);
            return;
        }
        self.seen_to = self.seen_to.max(span.end);
        if !may_hold_others(span.entity) {
            self.sealed_to = self.sealed_to.max(span.end);
        }
        self.spans.push(span);
    }

    /// Terms and formats of the operator at the beginning of a word.
    fn operators(&mut self, start: usize) {
        self.spans.extend(self.detector.formats.iter().filter_map(|format| format.at(self.text, start)));
        // A shorter term may be of another class than the longest.
        let mut longest: Option<Span> = None;
        self.detector.terms.each_at(self.text, start, |span| self.inner.extend(longest.replace(span)));
        self.spans.extend(longest);
    }

    /// A byte that may belong to an address, a key or an assignment.
    fn mark(&mut self, byte: u8, at: usize, last: (usize, usize)) {
        let text = self.text;
        match byte {
            b'@' => self.spans.extend(net::email(text, at)),
            b'.' => {
                let (start, end) = last;
                if end == at && end - start == 3 && text[start..end].eq_ignore_ascii_case(b"www") {
                    self.spans.extend(net::www(text, start, &mut self.stop));
                }
            }
            b'-' => {
                if at >= self.armour_to
                    && text[at..].starts_with(b"-----BEGIN ")
                    && let Some(span) = secrets::private_key(text, at)
                {
                    self.armour_to = span.end;
                    self.found(span, false);
                }
            }
            b':' | b'=' => {
                if byte == b':' && text[at..].starts_with(b"://") {
                    net::url(text, at, &mut self.stop, self.spans);
                } else if byte == b':'
                    && text.get(at + 1).is_some_and(|next| next.is_ascii_hexdigit() || *next == b':')
                {
                    match self.spans.last().filter(|span| span.end > at).map(|span| span.entity) {
                        None => self.spans.extend(net::ipv6(text, at)),
                        Some(Entity::IpAddress | Entity::MacAddress) => {}
                        Some(_) => self.inner.extend(net::ipv6(text, at)),
                    }
                }
                // A quote may stand between a name and its colon.
                let near = last.1 == at || (last.1 + 1 == at && matches!(text[last.1], b'"' | b'\'' | b' '));
                if near && (3..=12).contains(&(last.1 - last.0)) {
                    self.spans.extend(secrets::assigned(text, &text[last.0..last.1], &text[..last.0], at));
                }
            }
            _ => {}
        }
    }

    /// A run of letters and digits with a digit in it, or a long one.
    fn token(&mut self, start: usize, end: usize, kinds: u8) {
        let text = self.text;
        let mut inner = start < self.seen_to;
        if start >= self.key_to
            && let Some(span) = secrets::key(text, start, end, &mut self.runs)
        {
            self.key_to = span.end;
            self.found(span, inner);
            inner = true;
        }
        let span = if text[start].is_ascii_digit() {
            self.figures(start, end, kinds)
        } else if kinds & DIGIT == 0 {
            None
        } else {
            lettered::identifier(text, start, end)
                .or_else(|| (end - start == 2).then(|| net::mac(text, start)).flatten())
                .or_else(|| (end - start == 4).then(|| lettered::hyphened_mbi(text, start)).flatten())
                .or_else(|| labelled::labelled(text, start, end))
        };
        if let Some(span) = span {
            self.found(span, inner);
        }
    }

    /// A run that begins with a digit: the surest recognisers first.
    fn figures(&self, start: usize, end: usize, kinds: u8) -> Option<Span> {
        let text = self.text;
        if kinds & LETTER != 0 {
            let mixed = lettered::identifier(text, start, end)
                .or_else(|| (end - start == 2).then(|| net::mac(text, start)).flatten())
                .or_else(|| (end - start == 4).then(|| lettered::hyphened_mbi(text, start)).flatten());
            if mixed.is_some() {
                return mixed;
            }
        }
        let number = Number::at(text, start);
        let len = number.len(0);
        let lone = number.count() == 1;
        if lone
            && kinds & LETTER == 0
            && len <= 2
            && !text.get(end).is_some_and(|byte| matches!(byte, b':' | b'-' | b' ' | b's' | b't'))
        {
            // By far the most common figure: a small number that stands alone.
            return self.small(&number);
        }
        if len == 2
            && let Some(span) = net::mac(text, start)
        {
            return Some(span);
        }
        if len <= 3
            && text.get(start + len) == Some(&b'.')
            && let Some(span) = net::ipv4(text, start)
        {
            return Some(span);
        }
        if len == 6
            && let Some(span) = figures::finnish(text, start)
        {
            return Some(span);
        }
        let context = Context::before(text, start);
        if let Some(span) = figures::card(text, &number) {
            // Where nothing speaks of a card, a number whose own word stands before it is meant.
            let other = || {
                figures::national(text, &number, context).or_else(|| {
                    if span.confidence < 90 { labelled::labelled(text, start, end) } else { None }
                })
            };
            return if context.near(CARD) { Some(span) } else { other().or(Some(span)) };
        }
        dates::date(text, &number, context)
            .or_else(|| figures::ssn(text, &number, context))
            .or_else(|| if number.total(8) >= 8 { figures::national(text, &number, context) } else { None })
            .or_else(|| if len <= 2 { lettered::spaced(text, start) } else { None })
            .or_else(|| labelled::labelled(text, start, end))
            .or_else(|| phone::phone(text, &number, context))
            .or_else(|| dates::zip(text, &number, context))
            .or_else(|| dates::age(text, &number, context))
    }

    /// One or two figures alone: a day beside a month, an age.
    fn small(&self, number: &Number) -> Option<Span> {
        let context = Context::before(self.text, number.start);
        dates::date(self.text, number, context).or_else(|| dates::age(self.text, number, context))
    }
}

#[cfg(test)]
mod tests;
