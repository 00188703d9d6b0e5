//! Identifiers that only a word before them gives away: medical records, health plans, accounts, licences, plates, devices.

use crate::context::*;
use crate::entity::{Entity, Span};

/// The identifier around the token `start..end`, when a label leads to it.
pub(crate) fn labelled(text: &[u8], start: usize, end: usize) -> Option<Span> {
    let (from, to) = extent(text, start, end);
    let digits = text[from..to].iter().filter(|byte| byte.is_ascii_digit()).count();
    let len = to - from;
    if !(4..=32).contains(&len) || digits < 3 {
        // A plate may hold fewer digits than any other identifier.
        return plate(text, from, to);
    }
    let context = Context::before(text, from);
    let found = if context.label == 0 || context.label(PLATE) { None } else { meaning(context, digits, len) };
    match found {
        Some((entity, sure)) => Some(Span::new(from, to, entity, sure)),
        // What stands before the last part of a plate may read as a word: `4V AG749`.
        None if context.near(PLATE) => plate(text, from, to),
        None => None,
    }
}

/// The number plate around `from..to`, whose parts a blank may part: `7ABC123`, `ABC 123`, `12-AB CD`.
fn plate(text: &[u8], from: usize, to: usize) -> Option<Span> {
    let sign = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'-';
    let led = |from: usize| Context::before(text, from).label(PLATE);
    let before = match from.checked_sub(1) {
        Some(blank) if text[blank] == b' ' => {
            text[..blank].iter().rev().take(5).take_while(|byte| sign(byte)).count()
        }
        _ => 0,
    };
    let start = match from - before.min(from) {
        earlier if (1..=4).contains(&before) && led(earlier - 1) => earlier - 1,
        _ if led(from) => from,
        _ => return None,
    };
    let after = match text.get(to) {
        Some(b' ') => text[to + 1..].iter().take(6).take_while(|byte| sign(byte)).count(),
        _ => 0,
    };
    let goes_on = text.get(to + 1 + after).is_some_and(u8::is_ascii_alphabetic);
    let end = if (2..=4).contains(&after) && !goes_on { to + 1 + after } else { to };
    (4..=10).contains(&(end - start)).then(|| Span::new(start, end, Entity::LicensePlate, 70))
}

/// What a label makes of a value. The order is from the narrowest label to the widest.
fn meaning(context: Context, digits: usize, len: usize) -> Option<(Entity, u8)> {
    let found = if context.label(MRN) || context.labels(MEDICAL | RECORD) || context.labels(PATIENT) {
        (Entity::Mrn, 80)
    } else if context.labels(HEALTH | PLAN)
        || context.labels(HEALTH | MEMBER)
        || context.label(PLAN)
        || context.label(MEMBER)
    {
        (Entity::HealthPlan, if context.label(HEALTH | PLAN) { 75 } else { 60 })
    } else if context.label(BIOMETRIC) {
        (Entity::Biometric, 75)
    } else if context.label(PLATE) || context.labels(VEHICLE | LICENSE) {
        (Entity::LicensePlate, 70)
    } else if context.label(DRIVER) && len >= 5 {
        (Entity::DriverLicense, 75)
    } else if context.label(PASSPORT) && (6..=9).contains(&len) {
        (Entity::Passport, 75)
    } else if context.label(BANK) && context.label(ACCOUNT) && (6..=18).contains(&digits) {
        (Entity::BankAccount, 75)
    } else if context.label(ACCOUNT) {
        (Entity::Account, 65)
    } else if context.label(SERIAL) || (context.label(DEVICE) && digits >= 4) {
        (Entity::DeviceId, 65)
    } else if context.label(LICENSE) {
        (Entity::License, 60)
    } else if context.label(IDENTITY) && len >= 7 {
        (Entity::IdentityCard, 60)
    } else if context.label(VEHICLE) && context.label(PLATE | LICENSE) {
        (Entity::LicensePlate, 60)
    } else {
        return None;
    };
    Some(found)
}

/// The whole value around a token: letters, digits and single hyphens, slashes or dots between them; digit groups that
/// single blanks part belong together too.
fn extent(text: &[u8], start: usize, end: usize) -> (usize, usize) {
    let inner = |byte: u8| matches!(byte, b'-' | b'/' | b'.' | b'_');
    let mut from = start;
    while from > 1 && start - from < 24 {
        let joint = inner(text[from - 1])
            && text[from - 2].is_ascii_alphanumeric()
            && text[from].is_ascii_alphanumeric();
        if !joint && !text[from - 1].is_ascii_alphanumeric() {
            break;
        }
        from -= 1;
    }
    // The loop stops before the first byte; it belongs to the value when it is a letter or digit.
    if from == 1 && text[0].is_ascii_alphanumeric() && text[1].is_ascii_alphanumeric() {
        from = 0;
    }
    let mut to = end;
    while to < text.len() && to - end < 32 {
        let next = text.get(to + 1).copied();
        let joint = inner(text[to]) && next.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let blank = text[to] == b' '
            && text[to - 1].is_ascii_digit()
            && next.is_some_and(|byte| byte.is_ascii_digit());
        if !joint && !blank && !text[to].is_ascii_alphanumeric() {
            break;
        }
        to += 1;
    }
    (from, to)
}
