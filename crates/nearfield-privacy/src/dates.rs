//! Dates that say more than a year, ages above 89, postal codes: what HIPAA's Safe Harbor takes out of a text.

use crate::context::{AGE, BIRTH, Context, MEDICAL, MRN, RECORD, ZIP, word_after};
use crate::entity::{Entity, Span};
use crate::number::Number;

/// The date that begins with the number's first group, or has it as its day beside a month's name.
pub(crate) fn date(text: &[u8], number: &Number, context: Context) -> Option<Span> {
    if context.label(MRN) || context.labels(MEDICAL | RECORD) {
        return None;
    }
    let (start, end) = figures(text, number).or_else(|| named(text, number))?;
    let entity = if context.near(BIRTH) { Entity::BirthDate } else { Entity::Date };
    Some(Span::new(start, time_end(text, end), entity, 80))
}

fn value(text: &[u8], from: usize, to: usize) -> u32 {
    text[from..to].iter().take(9).fold(0, |value, byte| value * 10 + u32::from(byte.wrapping_sub(b'0')))
}

/// `2024-05-01`, `1/5/2024`, `01.05.24`.
fn figures(text: &[u8], number: &Number) -> Option<(usize, usize)> {
    let gap = number.gap(text, 0);
    if number.count() < 3
        || gap.len() != 1
        || gap != number.gap(text, 1)
        || !matches!(gap[0], b'-' | b'/' | b'.')
    {
        return None;
    }
    let lengths = [number.len(0), number.len(1), number.len(2)];
    let parts = [0, 1, 2].map(|group| value(text, number.end(group) - number.len(group), number.end(group)));
    let month = |value: u32| (1..=12).contains(&value);
    let day = |value: u32| (1..=31).contains(&value);
    let fits = match lengths {
        [4, 1..=2, 1..=2] => (1000..=2999).contains(&parts[0]) && month(parts[1]) && day(parts[2]),
        [1..=2, 1..=2, 4] => {
            (1000..=2999).contains(&parts[2])
                && (month(parts[0]) && day(parts[1]) || day(parts[0]) && month(parts[1]))
        }
        // Two figures for a year could be anything with dots: versions, sections.
        [1..=2, 1..=2, 2] => {
            gap[0] == b'/' && (month(parts[0]) && day(parts[1]) || day(parts[0]) && month(parts[1]))
        }
        _ => false,
    };
    let more = number.count() > 3 && number.gap(text, 2) == gap;
    (fits && !more).then(|| (number.start, number.end(2)))
}

/// Months in small letters, by their first three; the rest must go on as the name does.
const MONTHS: [&[u8]; 12] = [
    b"january",
    b"february",
    b"march",
    b"april",
    b"may",
    b"june",
    b"july",
    b"august",
    b"september",
    b"october",
    b"november",
    b"december",
];

fn is_month(word: &[u8]) -> bool {
    (3..=9).contains(&word.len())
        && MONTHS.iter().any(|month| {
            let whole = month.len() == word.len()
                || word.len() == 3
                || (word.len() == 4 && month.starts_with(b"sep"));
            whole && month.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word))
        })
}

/// `5 May 1975`, `May 5th, 1975`, `5 May`.
fn named(text: &[u8], number: &Number) -> Option<(usize, usize)> {
    let (start, mut end) = (number.start, number.end(0));
    if number.len(0) > 2 || !(1..=31).contains(&value(text, start, end)) {
        return None;
    }
    if text
        .get(end..end + 2)
        .is_some_and(|word| [b"st", b"nd", b"rd", b"th"].iter().any(|own| own.eq_ignore_ascii_case(word)))
    {
        end += 2;
    }
    let letters = |from: usize| {
        text[from.min(text.len())..].iter().take(10).take_while(|byte| byte.is_ascii_alphabetic()).count()
    };
    let year_after = |end: usize| {
        let from = end + text[end..].iter().take(2).take_while(|byte| matches!(byte, b' ' | b',')).count();
        let len = text[from..].iter().take(5).take_while(|byte| byte.is_ascii_digit()).count();
        if len == 4 && from > end { from + 4 } else { end }
    };
    // The month before the day.
    if start >= 4 && text[start - 1] == b' ' {
        let word_end = start - 1 - usize::from(text[start - 2] == b'.');
        let len =
            text[..word_end].iter().rev().take(10).take_while(|byte| byte.is_ascii_alphabetic()).count();
        let word = &text[word_end - len..word_end];
        if word.first().is_some_and(u8::is_ascii_uppercase) && is_month(word) {
            return Some((word_end - len, year_after(end)));
        }
    }
    let from = end + text[end..].iter().take(4).take_while(|&&byte| byte == b' ' || byte == b'-').count();
    let from = if text[from.min(text.len())..].starts_with(b"of ") { from + 3 } else { from };
    let len = letters(from);
    if from > end && text.get(from).is_some_and(u8::is_ascii_uppercase) && is_month(&text[from..from + len]) {
        let end = from + len;
        let dashed = text.get(end) == Some(&b'-')
            && text[end + 1..].iter().take(5).take_while(|byte| byte.is_ascii_digit()).count() == 4;
        return Some((start, if dashed { end + 5 } else { year_after(end) }));
    }
    None
}

/// Past a time of day: `T12:20:39Z`, ` 12:20`.
fn time_end(text: &[u8], end: usize) -> usize {
    let clock = |at: usize| {
        text.get(at..at + 3)
            .is_some_and(|part| part[0] == b':' && part[1].is_ascii_digit() && part[2].is_ascii_digit())
    };
    if !matches!(text.get(end), Some(b'T' | b' '))
        || !text.get(end + 1..end + 3).is_some_and(|hour| hour.iter().all(u8::is_ascii_digit))
    {
        return end;
    }
    let mut at = end + 3;
    if !clock(at) {
        return end;
    }
    while clock(at) {
        at += 3;
    }
    at
}

/// An age above 89, which HIPAA counts as identifying.
pub(crate) fn age(text: &[u8], number: &Number, context: Context) -> Option<Span> {
    let (start, end) = (number.start, number.end(0));
    let age = value(text, start, end);
    let says = context.label(AGE) || word_after(text, end) == AGE;
    (number.len(0) <= 3 && (90..=125).contains(&age) && says).then(|| Span::new(start, end, Entity::Age, 70))
}

/// A postal code that a word calls so.
pub(crate) fn zip(text: &[u8], number: &Number, context: Context) -> Option<Span> {
    if !context.label(ZIP) || !(3..=6).contains(&number.len(0)) {
        return None;
    }
    let second = number.count() > 1 && number.len(1) <= 4 && matches!(number.gap(text, 0), b"-" | b" ");
    Some(Span::new(number.start, number.end(usize::from(second)), Entity::ZipCode, 60))
}
