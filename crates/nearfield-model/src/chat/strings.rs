//! String operations with Python's rules, where they are more than one of Rust's.

use minijinja::value::{Kwargs, Value, from_args};
use minijinja::{Error, ErrorKind};

use super::python::{ends_line, is_space};

/// Longest string in bytes that a single operation may make.
const MAX_LENGTH: usize = 16 << 20;

/// An error for a string that is too long to be meant.
pub(super) fn check_length(length: usize) -> Result<(), Error> {
    if length <= MAX_LENGTH {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidOperation, format!("a string of more than {MAX_LENGTH} bytes")))
}

/// `replace`, at most `limit` times.
pub(super) fn replace(text: &str, old: &str, new: &str, limit: usize) -> Result<String, Error> {
    let count = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    check_length(text.len().saturating_add(count.min(limit).saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, limit))
}

/// `split` without a separator: words between whitespace; the last or first is the rest once `limit` cuts are made.
pub(super) fn words(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let trimmed = |text: &'_ str| -> usize {
        if from_end { text.trim_end_matches(is_space).len() } else { text.trim_start_matches(is_space).len() }
    };
    let trim = |text| split_side(text, trimmed(text), from_end).0;
    let mut words = Vec::new();
    let mut rest = trim(text);
    while !rest.is_empty() {
        let length = if words.len() == limit {
            rest.len()
        } else if from_end {
            rest.rfind(is_space).map_or(rest.len(), |place| {
                rest.get(place..).unwrap_or_default().trim_start_matches(is_space).len()
            })
        } else {
            rest.find(is_space).unwrap_or(rest.len())
        };
        let (after, word) = split_side(rest, rest.len() - length, from_end);
        words.push(word);
        rest = trim(after);
    }
    if from_end {
        words.reverse();
    }
    words
}

/// Cuts a text in two: the `kept` bytes at its end, or at its start when working from the end, and the others.
fn split_side(text: &str, kept: usize, from_end: bool) -> (&str, &str) {
    let place = if from_end { kept } else { text.len() - kept };
    let (left, right) = text.split_at_checked(place).unwrap_or((text, ""));
    if from_end { (left, right) } else { (right, left) }
}

/// `splitlines`, with or without the line breaks.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(ends_line) {
        let ending = rest.get(end..).unwrap_or_default();
        let length =
            if ending.starts_with("\r\n") { 2 } else { ending.chars().next().map_or(1, char::len_utf8) };
        lines.push(rest.get(..if keep { end + length } else { end }).unwrap_or_default());
        rest = rest.get(end + length..).unwrap_or_default();
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// The part of a string from one character to another, as `text[from:to]`, and the number of characters before it. `None`
/// when it would start behind the end.
pub(super) fn window(text: &str, from: Option<i64>, to: Option<i64>) -> Option<(usize, &str)> {
    if from.is_none() && to.is_none() {
        return Some((0, text));
    }
    let length = text.chars().count() as i64;
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
    let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(length)).min(length));
    if from > to {
        return None;
    }
    let byte = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(place, _)| place);
    Some((from as usize, text.get(byte(from)..byte(to))?))
}

/// The methods that change case.
pub(super) fn changed_case(text: &str, method: &str) -> Option<String> {
    Some(match method {
        "lower" => text.to_lowercase(),
        "upper" => text.to_uppercase(),
        "casefold" => text.to_lowercase().replace('ß', "ss").replace('ς', "σ"),
        "capitalize" => {
            let mut characters = text.chars();
            let first = characters.next().map(char::to_uppercase);
            first.into_iter().flatten().collect::<String>() + &characters.as_str().to_lowercase()
        }
        "title" => {
            let mut titled = String::with_capacity(text.len());
            let mut in_word = false;
            for character in text.chars() {
                if in_word {
                    titled.extend(character.to_lowercase());
                } else {
                    titled.extend(character.to_uppercase());
                }
                in_word = character.is_lowercase() || character.is_uppercase();
            }
            titled
        }
        "swapcase" => text
            .chars()
            .flat_map(|character| -> Vec<char> {
                if character.is_uppercase() {
                    character.to_lowercase().collect()
                } else {
                    character.to_uppercase().collect()
                }
            })
            .collect(),
        _ => return None,
    })
}

/// The methods that ask for a kind of characters.
pub(super) fn is_of_kind(text: &str, method: &str) -> Option<bool> {
    let all = |kind: fn(char) -> bool| !text.is_empty() && text.chars().all(kind);
    let cased = |other: fn(char) -> bool, wanted: fn(char) -> bool| {
        text.chars().any(wanted) && !text.chars().any(other)
    };
    Some(match method {
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdigit" | "isdecimal" => all(is_digit),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isascii" => text.is_ascii(),
        "isupper" => cased(char::is_lowercase, char::is_uppercase),
        "islower" => cased(char::is_uppercase, char::is_lowercase),
        _ => return None,
    })
}

/// Decimal digits of the scripts in wide use.
fn is_digit(character: char) -> bool {
    const ZEROS: [u32; 8] = [0x30, 0x660, 0x6F0, 0x966, 0x9E6, 0xE50, 0xFF10, 0x1D7CE];
    let code = u32::from(character);
    ZEROS.iter().any(|&zero| (zero..zero + 10).contains(&code))
}

/// `format` with plain places: `{}`, `{0}` and `{name}`.
pub(super) fn format(text: &str, arguments: &[Value]) -> Result<String, Error> {
    let wrong = |problem: &'static str| Error::new(ErrorKind::InvalidOperation, problem);
    let (positional, named): (&[Value], Kwargs) = from_args(arguments)?;
    let mut out = String::new();
    let mut next = 0;
    let mut rest = text;
    while let Some(place) = rest.find(['{', '}']) {
        out.push_str(rest.get(..place).unwrap_or_default());
        let at = rest.get(place..).unwrap_or_default();
        if let Some(after) = at.strip_prefix("{{").or_else(|| at.strip_prefix("}}")) {
            out.push_str(at.get(..1).unwrap_or_default());
            rest = after;
            continue;
        }
        let (name, after) = at
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'))
            .ok_or_else(|| wrong("single braces in format"))?;
        rest = after;
        let value = if name.is_empty() {
            next += 1;
            positional.get(next - 1).cloned()
        } else if let Ok(number) = name.parse::<usize>() {
            positional.get(number).cloned()
        } else if name.contains([':', '!', '.', '[']) {
            return Err(wrong("format takes only plain places here: {}, {0} and {name}"));
        } else {
            named.get::<Option<Value>>(name)?
        };
        out.push_str(&value.ok_or_else(|| wrong("format has too few arguments"))?.to_string());
        check_length(out.len())?;
    }
    out.push_str(rest);
    Ok(out)
}
