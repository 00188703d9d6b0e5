//! Identifiers that are only digits: cards, social security numbers and the national numbers with check digits.

use crate::checks;
use crate::context::*;
use crate::entity::{Entity, Span};
use crate::number::Number;

/// The payment card number that begins with the number's first group.
pub(crate) fn card(text: &[u8], number: &Number) -> Option<Span> {
    let groups = if (12..=19).contains(&number.len(0)) {
        1
    } else if number.has_form(text, &[4, 4, 4, 4, 3], b" -") {
        5
    } else if number.has_form(text, &[4, 4, 4, 4], b" -") {
        4
    } else if number.has_form(text, &[4, 6, 5], b" -") || number.has_form(text, &[4, 4, 4], b" -") {
        3
    } else {
        return None;
    };
    let (digits, count) = number.digits(text, groups)?;
    let digits = &digits[..count];
    let sure = if count >= 13 { 95 } else { 75 };
    (issued(digits) && checks::luhn(digits))
        .then(|| Span::new(number.start, number.end(groups - 1), Entity::CreditCard, sure))
}

/// Whether a card scheme issues numbers that begin so and are so long.
fn issued(digits: &[u8]) -> bool {
    let lead =
        |count: usize| digits[..count].iter().fold(0u32, |value, &digit| value * 10 + u32::from(digit));
    let count = digits.len();
    match digits[0] {
        0 => lead(4) == 604 && (12..=19).contains(&count),
        4 => matches!(count, 13 | 16 | 19),
        5 => match lead(2) {
            51..=55 => count == 16,
            _ => matches!(lead(2), 50 | 56..=58) && (12..=19).contains(&count),
        },
        2 => (2221..=2720).contains(&lead(4)) && count == 16 || matches!(lead(4), 2131) && count == 15,
        1 => lead(4) == 1800 && count == 15,
        3 => match lead(2) {
            34 | 37 => count == 15,
            30 | 36 | 38 | 39 => (14..=19).contains(&count),
            35 => (15..=19).contains(&count),
            _ => false,
        },
        6 => (12..=19).contains(&count) && (count >= 16 || matches!(lead(2), 60 | 63 | 67 | 69)),
        9 => lead(4) == 9792 && count == 16,
        _ => false,
    }
}

/// The social security or individual taxpayer number of the United States that begins with the number's first group.
pub(crate) fn ssn(text: &[u8], number: &Number, context: Context) -> Option<Span> {
    let told = context.label(SSN | ITIN) || context.near(SSN | ITIN);
    let groups = if number.has_form(text, &[3, 2, 4], if told { b"- ." } else { b"-" }) {
        3
    } else if told && number.len(0) == 9 {
        1
    } else {
        return None;
    };
    if follows_figures(text, number.start)
        || (groups == 3 && number.count() > 3 && number.gap(text, 2) == b"-")
    {
        return None;
    }
    let (digits, _) = number.digits(text, groups)?;
    let pair = digits[3] * 10 + digits[4];
    let serial = digits[5..9].iter().any(|&digit| digit > 0);
    let (area, end) = (&digits[..3], number.end(groups - 1));
    if digits[0] == 9 {
        let issued = matches!(pair, 50..=65 | 70..=88 | 90..=92 | 94..=99);
        return issued.then(|| Span::new(number.start, end, Entity::UsItin, 85));
    }
    let valid = *area != [0, 0, 0] && *area != [6, 6, 6] && pair > 0 && serial;
    valid.then(|| Span::new(number.start, end, Entity::UsSsn, if told { 95 } else { 85 }))
}

fn follows_figures(text: &[u8], start: usize) -> bool {
    start >= 2 && matches!(text[start - 1], b'-' | b'.') && text[start - 2].is_ascii_digit()
}

/// The national number with a check digit that begins with the number's first group.
pub(crate) fn national(text: &[u8], number: &Number, context: Context) -> Option<Span> {
    let groups = (1..=number.count()).rev().find(|&groups| {
        (8..=14).contains(&number.total(groups))
            && (0..groups - 1).all(|group| matches!(number.gap(text, group), b" " | b"-"))
    });
    let mut groups = groups?;
    loop {
        let (digits, count) = number.digits(text, groups)?;
        if let Some((entity, sure)) = numeric(text, number, &digits[..count.min(20)], context) {
            return Some(Span::new(number.start, number.end(groups - 1), entity, sure));
        }
        groups -= 1;
        if groups == 0 || number.total(groups) < 8 {
            return None;
        }
    }
}

fn numeric(text: &[u8], number: &Number, digits: &[u8], context: Context) -> Option<(Entity, u8)> {
    let near = |words| context.near(words);
    let plus = number.start.checked_sub(1).is_some_and(|before| text[before] == b'+');
    let found = match digits.len() {
        8 if near(TFN) && checks::tfn(digits) => (Entity::AuTfn, 85),
        9 if near(ROUTING) && checks::aba(digits) => (Entity::UsRouting, 85),
        9 if (near(TFN) || context.labels(TAX | RECORD)) && checks::tfn(digits) => (Entity::AuTfn, 90),
        9 if near(ACN | BRN) && checks::acn(digits) => (Entity::AuAcn, 85),
        10 if near(NHS) && checks::nhs(digits) => (Entity::UkNhs, 95),
        10 if near(NPI) && checks::npi(digits) => (Entity::Npi, 95),
        10 | 11 if near(MEDICARE) && checks::au_medicare(digits) => (Entity::AuMedicare, 85),
        10 if (near(BRN | RRN) || number.has_form(text, &[3, 2, 5], b"-"))
            && checks::korean_business(digits) =>
        {
            (Entity::KrBusiness, 80)
        }
        11 if near(PESEL) && checks::pesel(digits) => (Entity::PlPesel, 95),
        11 if near(ABN | BRN) && checks::abn(digits) => (Entity::AuAbn, 95),
        11 if near(VAT) && checks::italian_vat(digits) => (Entity::ItVat, 90),
        12 if (near(AADHAAR) || !plus && number.has_form(text, &[4, 4, 4], b" -"))
            && checks::aadhaar(digits) =>
        {
            (Entity::InAadhaar, if near(AADHAAR) { 95 } else { 65 })
        }
        13 if (near(RRN) || number.has_form(text, &[6, 7], b"-")) && checks::korean_resident(digits) => {
            (Entity::KrResident, 90)
        }
        13 if (near(THAI) || number.has_form(text, &[1, 4, 5, 2, 1], b"- ")) && checks::thai(digits) => {
            (Entity::ThTnin, 95)
        }
        8 | 12 | 13 | 14 if near(GTIN) && checks::gs1(digits) => (Entity::DeviceId, 90),
        _ => return None,
    };
    Some(found)
}

/// The Finnish identity code whose date is the number's first group.
pub(crate) fn finnish(text: &[u8], start: usize) -> Option<Span> {
    let code = text.get(start..start + 11)?;
    let ends = text.get(start + 11).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    (ends && checks::finnish(code)).then(|| Span::new(start, start + 11, Entity::FiPersonal, 97))
}
