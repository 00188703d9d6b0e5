//! Identifiers that mix letters and digits.

use sha2::{Digest as _, Sha256};

use crate::checks;
use crate::context::*;
use crate::entity::{Entity, Span};

/// The identifier that is the token `start..end` of letters and digits, or begins with it.
pub(crate) fn identifier(text: &[u8], start: usize, end: usize) -> Option<Span> {
    let token = &text[start..end];
    if let Some(span) = iban(text, start, end).or_else(|| crypto(token, start)) {
        return Some(span);
    }
    if token.len() < 8 {
        let state = token.len() >= 3 && token[..2].iter().all(u8::is_ascii_uppercase);
        return if state { spaced_vehicle(text, start) } else { None };
    }
    if token.len() > 17 {
        return None;
    }
    let context = || Context::before(text, start);
    let (entity, sure) = match token.len() {
        9 | 10 if checks::uen(token) && (token[0].is_ascii_alphabetic() || context().near(UEN)) => {
            (Entity::SgUen, 90)
        }
        9 if token[0].is_ascii_digit() && checks::spanish(token) => (Entity::EsNif, 92),
        9 if matches!(token[0], b'X'..=b'Z' | b'x'..=b'z') && checks::spanish(token) => (Entity::EsNie, 92),
        9 if shape(token, b"AA9999999") && context().label(PASSPORT | IDENTITY) => labelled_card(context()),
        9 if checks::nric(token) => (Entity::SgNric, 90),
        9 if nino(token) => (Entity::UkNino, 85),
        // With a 9 for the second letter it is a letter and eight digits, as many other numbers are.
        9 if checks::dea(token) && (token[1] != b'9' || context().near(DEA)) => (Entity::MedicalLicense, 85),
        10 if checks::pan(token) && (is_capital(token) || context().near(PAN | TAX)) => (Entity::InPan, 85),
        10 if checks::epic(token) && context().near(VOTER) => (Entity::InVoter, 90),
        8..=11 if vehicle(token) => {
            let told = context().near(VEHICLE | PLATE);
            if !told && !common_vehicle(token) {
                return None;
            }
            (Entity::InVehicle, if told { 80 } else { 60 })
        }
        11 if checks::finnish(token) => (Entity::FiPersonal, 97),
        11 if mbi(token) => (Entity::UsMbi, 90),
        13 if token[..2].eq_ignore_ascii_case(b"IT") && italian_vat(token) => (Entity::ItVat, 90),
        15 if checks::gstin(token) => (Entity::InGstin, 97),
        16 if checks::fiscal_code(token) => (Entity::ItFiscalCode, 97),
        17 if token.iter().any(u8::is_ascii_alphabetic) && checks::vin(token) => (Entity::Vin, 90),
        _ => return None,
    };
    Some(Span::new(start, end, entity, sure))
}

fn labelled_card(context: Context) -> (Entity, u8) {
    (if context.label(PASSPORT) { Entity::Passport } else { Entity::IdentityCard }, 75)
}

/// Whether a token has the letters (`A`) and digits (`9`) of a shape.
fn shape(token: &[u8], shape: &[u8]) -> bool {
    token.len() == shape.len()
        && token.iter().zip(shape).all(|(byte, kind)| match kind {
            b'A' => byte.is_ascii_alphabetic(),
            _ => byte.is_ascii_digit(),
        })
}

/// Whether all letters of a token are capitals.
fn is_capital(token: &[u8]) -> bool {
    !token.iter().any(u8::is_ascii_lowercase)
}

/// A national insurance number: no D, F, I, Q, U, V first, no O second, some pairs never given out, then a letter A to D.
fn nino(token: &[u8]) -> bool {
    if !shape(token, b"AA999999A") {
        return false;
    }
    let [first, second] = [token[0].to_ascii_uppercase(), token[1].to_ascii_uppercase()];
    let never = matches!(&[first, second], b"BG" | b"GB" | b"KN" | b"NK" | b"NT" | b"TN" | b"ZZ");
    !never
        && !b"DFIQUV".contains(&first)
        && !b"DFIOQUV".contains(&second)
        && matches!(token[8].to_ascii_uppercase(), b'A'..=b'D')
}

/// A national insurance number or vehicle registration in parts, two letters before the digits that begin at `start`.
pub(crate) fn spaced(text: &[u8], start: usize) -> Option<Span> {
    let from = start.checked_sub(3)?;
    if text[from..start - 1].iter().all(u8::is_ascii_uppercase)
        && matches!(text[start - 1], b' ' | b'-')
        && let Some(span) = spaced_vehicle(text, from)
    {
        return Some(span);
    }
    spaced_nino(text, start)
}

/// A national insurance number in pairs, `AB 12 34 56 C`, whose digits begin at `start`.
fn spaced_nino(text: &[u8], start: usize) -> Option<Span> {
    let from = start.checked_sub(3)?;
    let written = text.get(from..from + 13)?;
    if written[2] != b' ' || written[5] != b' ' || written[8] != b' ' || written[11] != b' ' {
        return None;
    }
    let mut token = [0; 9];
    for (into, from) in token.iter_mut().zip([0, 1, 3, 4, 6, 7, 9, 10, 12]) {
        *into = written[from];
    }
    let free = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric());
    let bounded = free(from.checked_sub(1).and_then(|at| text.get(at))) && free(text.get(from + 13));
    (bounded && nino(&token)).then(|| Span::new(from, from + 13, Entity::UkNino, 85))
}

/// A vehicle registration of India: a state, a district of one or two digits, a series of one to three letters and four
/// digits (`MH12AB1234`, `DL8CAF5030`), or of the series for all states (`22BH1234AB`).
fn vehicle(token: &[u8]) -> bool {
    const STATES: &[u8] = b"APARASBRCGGAGJHRHPJKJHKAKLMPMHMNMLMZNLODORPBRJSKTNTRTSTGUAUKUPWBANCHDDDLLALDPYDN";
    if token.get(2..4).is_some_and(|series| series.eq_ignore_ascii_case(b"BH")) {
        return all_india(token);
    }
    let [one, two, place @ .., _, _, _, _] = token else { return false };
    let state = [one.to_ascii_uppercase(), two.to_ascii_uppercase()];
    let district = place.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (district, series) = place.split_at(district);
    let serial = &token[token.len() - 4..];
    matches!(district, [b'1'..=b'9'] | [_, b'1'..=b'9'] | [b'1'..=b'9', b'0'])
        && (1..=3).contains(&series.len())
        && series.iter().all(u8::is_ascii_alphabetic)
        && serial.iter().all(u8::is_ascii_digit)
        && *serial != *b"0000"
        && STATES.chunks(2).any(|known| known == state)
}

/// A vehicle registration of the series for all states: a year from 2021 on, `BH`, four digits, one or two letters.
fn all_india(token: &[u8]) -> bool {
    let (Some(year), Some(serial), Some(series)) = (token.get(..2), token.get(4..8), token.get(8..)) else {
        return false;
    };
    let letter = |byte: &u8| byte.is_ascii_alphabetic() && !b"IO".contains(&byte.to_ascii_uppercase());
    year.iter().chain(serial).all(u8::is_ascii_digit)
        && year >= b"21".as_slice()
        && serial != b"0000"
        && (1..=2).contains(&series.len())
        && series.iter().all(letter)
}

/// Whether a vehicle registration has the form of nearly all, that needs no word beside it: two digits for the district
/// (Delhi has one) and one or two letters.
fn common_vehicle(token: &[u8]) -> bool {
    let delhi = token[..2].eq_ignore_ascii_case(b"DL");
    delhi && token.len() > 8 || token[3].is_ascii_digit() && token.len() < 11 || token[0].is_ascii_digit()
}

/// A vehicle registration of an Indian state whose parts a blank or hyphen parts, `MH 12 AB 1234`, from its first letter.
fn spaced_vehicle(text: &[u8], from: usize) -> Option<Span> {
    let mut token = [0; 11];
    let (mut count, mut parts, mut at) = (0, 1, from);
    loop {
        match *text.get(at).unwrap_or(&b'.') {
            byte @ (b'A'..=b'Z' | b'0'..=b'9') => {
                *token.get_mut(count)? = byte;
                count += 1;
            }
            b' ' | b'-'
                if count >= 2 && text[at - 1].is_ascii_alphanumeric() && !ends_in_four(&token[..count]) =>
            {
                parts += 1;
            }
            _ => break,
        }
        at += 1;
    }
    let token = &token[..count];
    let bounded = text.get(at).is_none_or(|byte| !byte.is_ascii_alphanumeric())
        && from.checked_sub(1).is_none_or(|before| !text[before].is_ascii_alphanumeric());
    let whole = parts > 1 && bounded && token.first().is_some_and(u8::is_ascii_uppercase);
    (whole && vehicle(token)).then(|| Span::new(from, at, Entity::InVehicle, 75))
}

/// Whether a token ends in a letter and four digits: no registration goes on then.
fn ends_in_four(token: &[u8]) -> bool {
    matches!(token, [.., letter, one, two, three, four]
        if letter.is_ascii_alphabetic() && [one, two, three, four].iter().all(|byte| byte.is_ascii_digit()))
}

/// A Medicare beneficiary identifier: digits and letters at fixed places, no S, L, O, I, B, Z.
fn mbi(token: &[u8]) -> bool {
    token.len() == 11
        && token.iter().map(u8::to_ascii_uppercase).zip(b"1AX9AX9AA99").all(|(byte, kind)| {
            let letter = byte.is_ascii_uppercase() && !b"SLOIBZ".contains(&byte);
            match kind {
                b'1' => matches!(byte, b'1'..=b'9'),
                b'A' => letter,
                b'X' => letter || byte.is_ascii_digit(),
                _ => byte.is_ascii_digit(),
            }
        })
}

/// A Medicare beneficiary identifier with its hyphens, `1EG4-TE5-MK73`, that begins at `start`.
pub(crate) fn hyphened_mbi(text: &[u8], start: usize) -> Option<Span> {
    let written = text.get(start..start + 13)?;
    if written[4] != b'-' || written[8] != b'-' || text.get(start + 13).is_some_and(u8::is_ascii_alphanumeric)
    {
        return None;
    }
    let mut token = [0; 11];
    for (into, from) in token.iter_mut().zip([0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12]) {
        *into = written[from];
    }
    mbi(&token).then(|| Span::new(start, start + 13, Entity::UsMbi, 92))
}

fn italian_vat(token: &[u8]) -> bool {
    checks::digits::<11>(&token[2..]).is_some_and(|(digits, count)| checks::italian_vat(&digits[..count]))
}

/// An IBAN in one piece or in fours.
fn iban(text: &[u8], start: usize, end: usize) -> Option<Span> {
    let token = &text[start..end];
    if token.len() < 4
        || !token[..2].iter().all(u8::is_ascii_alphabetic)
        || !token[2..4].iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    if token.len() >= 15 {
        let fits = iban_length(token) == Some(token.len());
        return (token.len() <= 34 && fits && checks::iban(token))
            .then(|| Span::new(start, end, Entity::Iban, 98));
    }
    if token.len() != 4 {
        return None;
    }
    let wanted = iban_length(token)?;
    let mut joined = [0u8; 34];
    let mut count = 0;
    let mut at = start;
    while count < wanted {
        let byte = *text.get(at)?;
        if byte.is_ascii_alphanumeric() {
            joined[count] = byte;
            count += 1;
        } else if !(matches!(byte, b' ' | b'-') && count.is_multiple_of(4)) {
            return None;
        }
        at += 1;
    }
    let free = text.get(at).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    (free && checks::iban(&joined[..count])).then(|| Span::new(start, at, Entity::Iban, 98))
}

/// How long the IBANs of a country are, for those in the registry of 2024.
fn iban_length(token: &[u8]) -> Option<usize> {
    let country = [token[0].to_ascii_uppercase(), token[1].to_ascii_uppercase()];
    let len = match &country {
        b"NO" => 15,
        b"BE" => 16,
        b"DK" | b"FI" | b"FO" | b"GL" | b"NL" | b"SD" | b"FK" => 18,
        b"MK" | b"SI" => 19,
        b"AT" | b"BA" | b"EE" | b"KZ" | b"LT" | b"LU" | b"XK" | b"MN" => 20,
        b"CH" | b"HR" | b"LI" | b"LV" => 21,
        b"BG" | b"BH" | b"CR" | b"DE" | b"GB" | b"GE" | b"IE" | b"ME" | b"RS" | b"VA" => 22,
        b"AE" | b"GI" | b"IL" | b"IQ" | b"TL" | b"SO" | b"OM" => 23,
        b"AD" | b"CZ" | b"ES" | b"MD" | b"PK" | b"RO" | b"SA" | b"SE" | b"SK" | b"TN" | b"VG" => 24,
        b"LY" | b"PT" | b"ST" => 25,
        b"IS" | b"TR" => 26,
        b"FR" | b"GR" | b"IT" | b"MC" | b"MR" | b"SM" | b"BI" | b"DJ" => 27,
        b"AL" | b"AZ" | b"BY" | b"CY" | b"DO" | b"GT" | b"HN" | b"HU" | b"LB" | b"NI" | b"PL" | b"SV" => 28,
        b"BR" | b"EG" | b"PS" | b"QA" | b"UA" => 29,
        b"JO" | b"KW" | b"MU" | b"YE" => 30,
        b"MT" | b"SC" => 31,
        b"LC" => 32,
        b"RU" => 33,
        _ => return None,
    };
    Some(len)
}

/// An address of Bitcoin (base 58 or bech32) or Ethereum.
fn crypto(token: &[u8], start: usize) -> Option<Span> {
    let found = match token {
        [b'0', b'x' | b'X', hex @ ..] if hex.len() == 40 => hex.iter().all(u8::is_ascii_hexdigit),
        [b'1' | b'3', ..] if (26..=35).contains(&token.len()) => base58(token),
        [b'b' | b'B', b'c' | b'C', b'1', data @ ..] if (11..=87).contains(&data.len()) => bech32(data),
        _ => false,
    };
    found.then(|| Span::new(start, start + token.len(), Entity::Crypto, 95))
}

/// Base 58 with four bytes of a double SHA-256 at the end.
fn base58(token: &[u8]) -> bool {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut bytes = [0u8; 25];
    for byte in token {
        let Some(digit) = ALPHABET.iter().position(|known| known == byte) else { return false };
        let mut carry = digit as u32;
        for place in bytes.iter_mut().rev() {
            carry += u32::from(*place) * 58;
            *place = (carry & 0xFF) as u8;
            carry >>= 8;
        }
        if carry > 0 {
            return false;
        }
    }
    let (body, check) = bytes.split_at(21);
    let first: [u8; 32] = Sha256::digest(body).into();
    let second: [u8; 32] = Sha256::digest(first).into();
    second[..4] == *check
}

/// Bech32 and bech32m (BIP 173, BIP 350) under the human-readable part `bc`.
fn bech32(data: &[u8]) -> bool {
    const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const STEPS: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let mut sum = 1u32;
    let mut take = |value: u32| {
        let top = sum >> 25;
        sum = ((sum & 0x01ff_ffff) << 5) ^ value;
        for (bit, step) in STEPS.iter().enumerate() {
            if (top >> bit) & 1 == 1 {
                sum ^= step;
            }
        }
    };
    // The letters of `bc`, expanded.
    for value in [3, 3, 0, 2, 3] {
        take(value);
    }
    for byte in data {
        let Some(value) = ALPHABET.iter().position(|known| known.eq_ignore_ascii_case(byte)) else {
            return false;
        };
        take(value as u32);
    }
    matches!(sum, 1 | 0x2bc8_30a3)
}
