//! Check digits and check letters of values that mix letters and digits.

use super::{digits, is_date, luhn, pair};

/// ISO 7064 mod 97-10 of an IBAN without blanks, in any case: country and check digits move to the end, letters count
/// from 10.
pub(crate) fn iban(text: &[u8]) -> bool {
    if text.len() < 5 {
        return false;
    }
    let (head, tail) = text.split_at(4);
    let mut rest = 0u32;
    for byte in tail.iter().chain(head).map(u8::to_ascii_uppercase) {
        rest = match byte {
            b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
            b'A'..=b'Z' => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
            _ => return false,
        };
    }
    rest == 1
}

/// Spanish NIF (eight digits and a letter) and NIE (X, Y or Z, seven digits, a letter).
pub(crate) fn spanish(text: &[u8]) -> bool {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let [head @ .., letter] = text else { return false };
    let mut number = 0u32;
    for (at, byte) in head.iter().map(u8::to_ascii_uppercase).enumerate() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'X'..=b'Z' if at == 0 => byte - b'X',
            _ => return false,
        };
        number = number * 10 + u32::from(digit);
    }
    head.len() == 8 && LETTERS[(number % 23) as usize] == letter.to_ascii_uppercase()
}

/// Italian fiscal code of a person: sixteen characters, the last a check letter; year, month's letter and day (of women 40
/// more) are a date.
pub(crate) fn fiscal_code(text: &[u8]) -> bool {
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let [head @ .., check] = text else { return false };
    if head.len() != 15 {
        return false;
    }
    let mut sum = 0;
    let mut digits = [0u8; 15];
    for ((at, byte), digit) in head.iter().map(u8::to_ascii_uppercase).enumerate().zip(&mut digits) {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A',
            _ => return false,
        };
        let letter_wanted = matches!(at, 0..=5 | 8 | 11);
        *digit = match byte {
            b'A'..=b'Z' if letter_wanted => 0,
            b'0'..=b'9' if !letter_wanted => value,
            // Namesakes get letters in place of digits; letters are never replaced by digits.
            b'L'..=b'N' if !letter_wanted => byte - b'L',
            b'P'..=b'V' if !letter_wanted => byte - b'P' + 3,
            _ => return false,
        };
        sum += if at % 2 == 0 { ODD[usize::from(value)] } else { u32::from(value) };
    }
    let Some(month) = b"ABCDEHLMPRST".iter().position(|letter| letter.eq_ignore_ascii_case(&head[8])) else {
        return false;
    };
    let day = pair(&digits, 9);
    // Leap years are the same in both centuries, 1900 aside.
    is_date(2000 + pair(&digits, 6), month as u32 + 1, if day > 40 { day - 40 } else { day })
        && check.to_ascii_uppercase() == b'A' + (sum % 26) as u8
}

/// Singapore NRIC or FIN: a letter, seven digits, a check letter.
pub(crate) fn nric(text: &[u8]) -> bool {
    let [kind, body @ .., check] = text else { return false };
    if body.len() != 7 || !body.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum: u32 =
        body.iter().zip([2, 7, 6, 5, 4, 3, 2]).map(|(&byte, weight)| u32::from(byte - b'0') * weight).sum();
    let (shift, letters): (u32, &[u8; 11]) = match kind.to_ascii_uppercase() {
        b'S' => (0, b"JZIHGFEDCBA"),
        b'T' => (4, b"JZIHGFEDCBA"),
        b'F' => (0, b"XWUTRQPNMLK"),
        b'G' => (4, b"XWUTRQPNMLK"),
        b'M' => {
            let at = 10 - (sum + 3) % 11;
            return b"KLJNPQRTUWX"[at as usize] == check.to_ascii_uppercase();
        }
        _ => return false,
    };
    letters[((sum + shift) % 11) as usize] == check.to_ascii_uppercase()
}

/// Singapore's unique entity number: a business (eight digits), a company (its year and five digits) or another body (`R`,
/// `S` or `T`, a year, a kind, four digits), and a check letter mod 11. Forms, kinds and weights are those that
/// python-stdnum's `sg.uen` knows.
pub(crate) fn uen(text: &[u8]) -> bool {
    const KINDS: &[u8] = b"CCCDCHCLCMCPCSCXDPFBFCFMFNGAGBGSHSLLLPMBMCMDMHMMMQNBNRPAPBPFRFRPSMSSTCTUVHXL";
    let [body @ .., check] = text else { return false };
    let figures = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let (weights, letters, shift): (&[u32], &[u8; 11], u32) = match body {
        _ if body.len() == 8 && figures(body) => (&[10, 4, 9, 3, 8, 2, 7, 1], b"XMKECAWLJDB", 0),
        [b'1', b'8' | b'9', ..] | [b'2', b'0', ..] if body.len() == 9 && figures(body) => {
            (&[10, 8, 6, 4, 9, 7, 5, 3, 1], b"ZKCMDNERGWH", 0)
        }
        [b'R' | b'S' | b'T' | b'r' | b's' | b't', year @ .., one, two, _, _, _, _]
            if year.len() == 2 && figures(year) && figures(&body[5..]) =>
        {
            let kind = [one.to_ascii_uppercase(), two.to_ascii_uppercase()];
            if !KINDS.chunks(2).any(|known| known == kind) {
                return false;
            }
            (&[4, 3, 5, 3, 10, 2, 2, 5, 7], b"ABCDEFGHJKL", 6)
        }
        _ => return false,
    };
    // Where letters count, I and O are left out of them and digits come after them.
    let value = |byte: u8| match byte.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => u32::from(digit - b'0') + if shift > 0 { 22 } else { 0 },
        letter @ b'A'..=b'H' => u32::from(letter - b'A'),
        letter @ b'J'..=b'N' => u32::from(letter - b'J') + 8,
        letter => u32::from(letter.wrapping_sub(b'P')) + 13,
    };
    let sum: u32 = body.iter().zip(weights).map(|(&byte, weight)| value(byte) * weight).sum();
    letters[((sum + shift) % 11) as usize] == check.to_ascii_uppercase()
}

/// Finnish personal identity code: date, century sign, three digits, check character.
pub(crate) fn finnish(text: &[u8]) -> bool {
    const CHECK: &[u8; 31] = b"0123456789ABCDEFHJKLMNPRSTUVWXY";
    if text.len() != 11 {
        return false;
    }
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .try_fold(0u32, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
    };
    let (Some(date), Some(serial)) = (number(&text[..6]), number(&text[7..10])) else { return false };
    let century = match text[6].to_ascii_uppercase() {
        b'+' => 1800,
        b'-' | b'U'..=b'Y' => 1900,
        b'A'..=b'F' => 2000,
        _ => return false,
    };
    is_date(century + date % 100, date / 100 % 100, date / 10_000)
        && serial >= 2
        && CHECK[((date * 1000 + serial) % 31) as usize] == text[10].to_ascii_uppercase()
}

/// Indian permanent account number: five letters, the fourth of which says what kind of holder, four digits, a letter. How
/// the last letter is made is not public.
pub(crate) fn pan(text: &[u8]) -> bool {
    text.len() == 10
        && text[..5].iter().chain(&text[9..]).all(u8::is_ascii_alphabetic)
        && text[5..9].iter().all(u8::is_ascii_digit)
        && b"ABCFGHJKLPT".contains(&text[3].to_ascii_uppercase())
        && text[5..9] != *b"0000"
}

/// Number of an Indian voter's card: three letters, seven digits with Luhn's check.
pub(crate) fn epic(text: &[u8]) -> bool {
    text.len() == 10
        && text[..3].iter().all(u8::is_ascii_alphabetic)
        && matches!(digits::<7>(&text[3..]), Some((digits, 7)) if luhn(&digits))
}

/// Indian goods-and-services tax number: a state, the holder's permanent account number, a count from 1, `Z` (`C` for those
/// who collect the tax for others), a mod 36 check.
pub(crate) fn gstin(text: &[u8]) -> bool {
    const ALPHABET: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let Some((state, 2)) = text.get(..2).and_then(digits::<2>) else { return false };
    if text.len() != 15
        || !matches!(pair(&state, 0), 1..=38 | 97 | 99)
        || !pan(&text[2..12])
        || text[12] == b'0'
        || !matches!(text[13].to_ascii_uppercase(), b'Z' | b'C')
    {
        return false;
    }
    let mut sum = 0;
    let mut last = 0;
    for (at, byte) in text.iter().map(u8::to_ascii_uppercase).enumerate() {
        let value = match byte {
            b'0'..=b'9' => u32::from(byte - b'0'),
            b'A'..=b'Z' => u32::from(byte - b'A') + 10,
            _ => return false,
        };
        if at < 14 {
            let product = value * if at % 2 == 0 { 1 } else { 2 };
            sum += product / 36 + product % 36;
        }
        last = byte;
    }
    ALPHABET[((36 - sum % 36) % 36) as usize] == last
}

/// Vehicle identification number: seventeen characters, the ninth a mod 11 check (ISO 3779 as used in North America).
pub(crate) fn vin(text: &[u8]) -> bool {
    const WEIGHTS: [u32; 17] = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];
    if text.len() != 17 {
        return false;
    }
    let mut sum = 0;
    for (byte, weight) in text.iter().map(u8::to_ascii_uppercase).zip(WEIGHTS) {
        let value = match byte {
            b'0'..=b'9' => u32::from(byte - b'0'),
            b'A'..=b'H' => u32::from(byte - b'A') + 1,
            b'J'..=b'N' => u32::from(byte - b'J') + 1,
            b'P' => 7,
            b'R' => 9,
            b'S'..=b'Z' => u32::from(byte - b'S') + 2,
            _ => return false,
        };
        sum += value * weight;
    }
    let expected = match sum % 11 {
        10 => b'X',
        digit => b'0' + digit as u8,
    };
    text[8].to_ascii_uppercase() == expected
}

/// DEA number of a prescriber: two letters (the second may be 9), seven digits, the last a check.
pub(crate) fn dea(text: &[u8]) -> bool {
    let [kind, name, body @ ..] = text else { return false };
    let Some((digits, 7)) = digits::<7>(body) else { return false };
    let sum = digits[0] + digits[2] + digits[4] + 2 * (digits[1] + digits[3] + digits[5]);
    body.len() == 7
        && matches!(kind.to_ascii_uppercase(), b'A'..=b'H' | b'J'..=b'M' | b'P'..=b'U' | b'X')
        && (name.is_ascii_alphabetic() || *name == b'9')
        && sum % 10 == digits[6]
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&[u8]) -> bool;

    #[test]
    fn lettered_examples_pass_and_their_neighbours_fail() {
        let lettered: [(Check, &str); 17] = [
            (iban, "GB82WEST12345698765432"),
            (iban, "DE89370400440532013000"),
            (spanish, "12345678Z"),
            (spanish, "X1234567L"),
            (fiscal_code, "RSSMRA85T10A562S"),
            (nric, "S1234567D"),
            (finnish, "131052-308T"),
            (gstin, "27AAPFU0939F1ZV"),
            (vin, "1M8GDM9AXKP042788"),
            (dea, "BB1388568"),
            (nric, "G1234567X"),
            (epic, "WKH1186253"),
            (uen, "00192200M"),
            (uen, "197401143C"),
            (uen, "S16FC0121D"),
            (uen, "T01FC6132D"),
            (uen, "53125226D"),
        ];
        for (check, example) in lettered {
            assert!(check(example.as_bytes()), "{example}");
            assert!(check(example.to_ascii_lowercase().as_bytes()), "{example} in small letters");
            assert!(!check(&example.as_bytes()[1..]), "{example} shortened");
            let mut wrong = example.as_bytes().to_vec();
            let at = wrong.iter().rposition(u8::is_ascii_digit).unwrap();
            wrong[at] = if wrong[at] == b'9' { b'0' } else { wrong[at] + 1 };
            assert!(!check(&wrong), "{example} with a wrong digit");
        }
        for check in [iban, spanish, fiscal_code, nric, finnish, gstin, vin, dea, pan, epic, uen] {
            assert!(!check(b""));
            for len in 1..12 {
                assert!(!check("é".repeat(len).as_bytes()));
            }
        }
    }

    /// The check character is right in each that has one; another part is one that is never given out.
    #[test]
    fn parts_that_cannot_be_fail() {
        let wrong: [(Check, &str); 16] = [
            (finnish, "310252-308Y"),
            (finnish, "290200X1239"),
            (finnish, "010180-0014"),
            (fiscal_code, "RSSMRA85B30A562G"),
            (fiscal_code, "RSSMRA85F10A562R"),
            (fiscal_code, "RSSMRA85T72A562C"),
            (gstin, "39AAPFU0939F1ZQ"),
            (gstin, "27AAPXU0939F1ZU"),
            (gstin, "27AAPFU0000F1ZJ"),
            (gstin, "27AAPFU0939F0ZW"),
            (gstin, "27AAPFU0939F1AA"),
            (pan, "ABMXA3211G"),
            (pan, "ACUPA0000R"),
            (uen, "179912345C"),
            (uen, "T08XX1234H"),
            (uen, "U08LL1234A"),
        ];
        for (check, value) in wrong {
            assert!(!check(value.as_bytes()), "{value}");
        }
        assert!(finnish(b"290200A1239") && uen(b"189912345H") && uen(b"T08LL1234H") && pan(b"ACUPA7085R"));
        assert!(gstin(b"97AAPFU0939F1ZO") && gstin(b"29AACCF0683K1CO"));
    }
}
