//! Check digits and check letters: arithmetic only, no idea of where a value stands in a text.

/// Decimal digits of `text`, everything else left out; `None` when there are more than `N`.
pub(crate) fn digits<const N: usize>(text: &[u8]) -> Option<([u8; N], usize)> {
    let mut found = [0u8; N];
    let mut count = 0;
    for &byte in text {
        if byte.is_ascii_digit() {
            *found.get_mut(count)? = byte - b'0';
            count += 1;
        }
    }
    Some((found, count))
}

/// Luhn's check (ISO/IEC 7812-1) over decimal digits, the last of which is the check digit.
pub(crate) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, &digit)| {
            let digit = u32::from(digit);
            match (at % 2 == 1, digit * 2) {
                (false, _) => digit,
                (true, double @ 10..) => double - 9,
                (true, double) => double,
            }
        })
        .sum();
    !digits.is_empty() && sum.is_multiple_of(10)
}

/// The sum of digits times weights.
pub(crate) fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(&digit, weight)| u32::from(digit) * weight).sum()
}

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

/// Verhoeff's check over decimal digits, the last of which is the check digit.
pub(crate) fn verhoeff(digits: &[u8]) -> bool {
    const PRODUCT: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const STEP: [u8; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    let mut check = 0u8;
    for (at, &digit) in digits.iter().rev().enumerate() {
        let permuted = (0..at % 8).fold(digit % 10, |digit, _| STEP[usize::from(digit)]);
        check = PRODUCT[usize::from(check)][usize::from(permuted)];
    }
    check == 0
}

/// NHS number: ten digits, mod 11 with weights 10 to 2.
pub(crate) fn nhs(digits: &[u8]) -> bool {
    let [body @ .., check] = digits else { return false };
    let expected = (11 - weighted(body, &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11) % 11;
    digits.len() == 10 && u32::from(*check) == expected
}

/// PESEL: eleven digits, mod 10, with a month that says the century.
pub(crate) fn pesel(digits: &[u8]) -> bool {
    if digits.len() != 11 {
        return false;
    }
    let month = (digits[2] * 10 + digits[3]) % 20;
    let day = digits[4] * 10 + digits[5];
    (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_multiple_of(10)
}

/// Australian business number: eleven digits, mod 89 after one is taken from the first.
pub(crate) fn abn(digits: &[u8]) -> bool {
    digits.len() == 11
        && digits[0] > 0
        && (weighted(digits, &[10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]) - 10).is_multiple_of(89)
}

/// Australian company number: nine digits, mod 10.
pub(crate) fn acn(digits: &[u8]) -> bool {
    digits.len() == 9
        && (10 - weighted(&digits[..8], &[8, 7, 6, 5, 4, 3, 2, 1]) % 10) % 10 == u32::from(digits[8])
}

/// Australian tax file number: nine digits (eight in old ones), mod 11.
pub(crate) fn tfn(digits: &[u8]) -> bool {
    match digits.len() {
        9 => weighted(digits, &[1, 4, 3, 7, 5, 8, 6, 9, 10]).is_multiple_of(11),
        8 => weighted(digits, &[10, 7, 8, 4, 6, 3, 5, 1]).is_multiple_of(11),
        _ => false,
    }
}

/// Australian Medicare number: ten or eleven digits; the ninth checks the first eight.
pub(crate) fn au_medicare(digits: &[u8]) -> bool {
    (10..=11).contains(&digits.len())
        && (2..=6).contains(&digits[0])
        && weighted(&digits[..8], &[1, 3, 7, 9, 1, 3, 7, 9]) % 10 == u32::from(digits[8])
}

/// Thai national identity number: thirteen digits, mod 11.
pub(crate) fn thai(digits: &[u8]) -> bool {
    digits.len() == 13
        && digits[0] > 0
        && (11 - weighted(&digits[..12], &[13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11) % 10
            == u32::from(digits[12])
}

/// Korean resident (and foreigner) registration number: thirteen digits that begin with a date.
pub(crate) fn korean_resident(digits: &[u8]) -> bool {
    if digits.len() != 13 {
        return false;
    }
    let month = digits[2] * 10 + digits[3];
    let day = digits[4] * 10 + digits[5];
    let sum = weighted(&digits[..12], &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]);
    let rest = sum % 11;
    // Foreigners' numbers add two before the last digit is taken.
    let all = if (5..=8).contains(&digits[6]) { 13 } else { 11 };
    (1..=12).contains(&month) && (1..=31).contains(&day) && (all - rest) % 10 == u32::from(digits[12])
}

/// Korean business registration number: ten digits.
pub(crate) fn korean_business(digits: &[u8]) -> bool {
    if digits.len() != 10 {
        return false;
    }
    let sum = weighted(&digits[..9], &[1, 3, 7, 1, 3, 7, 1, 3, 5]) + u32::from(digits[8]) * 5 / 10;
    (10 - sum % 10) % 10 == u32::from(digits[9])
}

/// ABA routing number of a bank in the United States: nine digits, mod 10, with a first pair that is in use.
pub(crate) fn aba(digits: &[u8]) -> bool {
    digits.len() == 9
        && matches!(digits[0] * 10 + digits[1], 1..=12 | 21..=32 | 61..=72 | 80)
        && weighted(digits, &[3, 7, 1, 3, 7, 1, 3, 7, 1]).is_multiple_of(10)
}

/// National provider identifier: ten digits, Luhn with the prefix 80840.
pub(crate) fn npi(digits: &[u8]) -> bool {
    if digits.len() != 10 || !matches!(digits[0], 1 | 2) {
        return false;
    }
    let mut whole = [8, 0, 8, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    whole[5..].copy_from_slice(digits);
    luhn(&whole)
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

/// Italian fiscal code of a person: sixteen characters, the last a check letter.
pub(crate) fn fiscal_code(text: &[u8]) -> bool {
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let [head @ .., check] = text else { return false };
    if head.len() != 15 {
        return false;
    }
    let mut sum = 0;
    for (at, byte) in head.iter().map(u8::to_ascii_uppercase).enumerate() {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A',
            _ => return false,
        };
        let letter_wanted = matches!(at, 0..=5 | 8 | 11);
        if letter_wanted != byte.is_ascii_uppercase() {
            // Namesakes get letters in place of digits; letters are never replaced by digits.
            let substituted = !letter_wanted && matches!(byte, b'L'..=b'N' | b'P'..=b'V');
            if !substituted {
                return false;
            }
        }
        sum += if at % 2 == 0 { ODD[usize::from(value)] } else { u32::from(value) };
    }
    check.to_ascii_uppercase() == b'A' + (sum % 26) as u8
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
    let (Some(day), Some(month), Some(date), Some(serial)) =
        (number(&text[..2]), number(&text[2..4]), number(&text[..6]), number(&text[7..10]))
    else {
        return false;
    };
    (1..=31).contains(&day)
        && (1..=12).contains(&month)
        && matches!(text[6].to_ascii_uppercase(), b'+' | b'-' | b'A'..=b'F' | b'U'..=b'Y')
        && serial >= 2
        && CHECK[((date * 1000 + serial) % 31) as usize] == text[10].to_ascii_uppercase()
}

/// Indian goods-and-services tax number: fifteen characters, the last a mod 36 check.
pub(crate) fn gstin(text: &[u8]) -> bool {
    const ALPHABET: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    if text.len() != 15 {
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
        let digit_wanted = matches!(at, 0 | 1 | 7..=10);
        let letter_wanted = matches!(at, 2..=6 | 11);
        if digit_wanted && !byte.is_ascii_digit() || letter_wanted && byte.is_ascii_digit() {
            return false;
        }
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

/// GS1 check digit, as in the device identifier of a UDI: weights 3 and 1 from the right.
pub(crate) fn gs1(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, &digit)| u32::from(digit) * if at % 2 == 1 { 3 } else { 1 })
        .sum();
    matches!(digits.len(), 8 | 12 | 13 | 14) && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&[u8]) -> bool;

    fn of(text: &str) -> Vec<u8> {
        text.bytes().filter(u8::is_ascii_digit).map(|byte| byte - b'0').collect()
    }

    /// Published examples of each number; every single-digit change of them must fail.
    #[test]
    fn examples_pass_and_their_neighbours_fail() {
        let numeric: [(&str, Check, &str); 14] = [
            ("card", luhn, "4111111111111111"),
            ("aadhaar", verhoeff, "234123412346"),
            ("nhs", nhs, "9434765919"),
            ("pesel", pesel, "44051401359"),
            ("abn", abn, "51824753556"),
            ("acn", acn, "004085616"),
            ("tfn", tfn, "123456782"),
            ("medicare", au_medicare, "2123456701"),
            ("thai", thai, "1101700230708"),
            ("brn", korean_business, "1208147521"),
            ("aba", aba, "021000021"),
            ("npi", npi, "1234567893"),
            ("gs1", gs1, "4006381333931"),
            ("rrn", korean_resident, "9710139019902"),
        ];
        for (name, check, example) in numeric {
            let digits = of(example);
            assert!(check(&digits), "{name}");
            assert!(!check(&digits[1..]), "{name} shortened");
            let mut wrong = digits.clone();
            let at = if name == "medicare" { 8 } else { wrong.len() - 1 };
            wrong[at] = (wrong[at] + 1) % 10;
            assert!(!check(&wrong), "{name} with a wrong digit");
        }
    }

    #[test]
    fn lettered_examples_pass_and_their_neighbours_fail() {
        let lettered: [(Check, &str); 11] = [
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
        for check in [iban, spanish, fiscal_code, nric, finnish, gstin, vin, dea] {
            assert!(!check(b""));
            assert!(!check("éééééééé".as_bytes()));
        }
    }
}
