//! Check digits and check letters: arithmetic only, no idea of where a value stands in a text.

mod lettered;

pub(crate) use lettered::{dea, epic, finnish, fiscal_code, gstin, iban, nric, pan, spanish, uen, vin};

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

/// Whether a year of the Gregorian calendar has this day.
fn is_date(year: u32, month: u32, day: u32) -> bool {
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let last = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=last).contains(&day)
}

/// The number that two digits are.
const fn pair(digits: &[u8], at: usize) -> u32 {
    digits[at] as u32 * 10 + digits[at + 1] as u32
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

/// Aadhaar: twelve digits with Verhoeff's check; none begins with 0 or 1 or reads the same backwards.
pub(crate) fn aadhaar(digits: &[u8]) -> bool {
    digits.len() == 12 && digits[0] >= 2 && !digits.iter().eq(digits.iter().rev()) && verhoeff(digits)
}

/// NHS number: ten digits, mod 11 with weights 10 to 2.
pub(crate) fn nhs(digits: &[u8]) -> bool {
    let [body @ .., check] = digits else { return false };
    let expected = (11 - weighted(body, &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11) % 11;
    digits.len() == 10 && u32::from(*check) == expected
}

/// PESEL: eleven digits that begin with a date, whose month says the century; mod 10.
pub(crate) fn pesel(digits: &[u8]) -> bool {
    if digits.len() != 11 {
        return false;
    }
    let century = [1900, 2000, 2100, 2200, 1800][(pair(digits, 2) / 20) as usize];
    is_date(century + pair(digits, 0), pair(digits, 2) % 20, pair(digits, 4))
        && weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_multiple_of(10)
}

/// Australian business number: eleven digits, mod 89 after one is taken from the first; the two in front are the check,
/// from 11 on.
pub(crate) fn abn(digits: &[u8]) -> bool {
    digits.len() == 11
        && pair(digits, 0) >= 11
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

/// Thai national identity number: thirteen digits, the first of which is no 0 or 9; mod 11.
pub(crate) fn thai(digits: &[u8]) -> bool {
    digits.len() == 13
        && (1..=8).contains(&digits[0])
        && (11 - weighted(&digits[..12], &[13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11) % 10
            == u32::from(digits[12])
}

/// Korean resident (and foreigner) registration number: thirteen digits. A date, a digit for century and sex, a place up to
/// 96, a serial number, a check mod 11. Of numbers given out since October 2020, which have no check digit, most are not
/// recognised.
pub(crate) fn korean_resident(digits: &[u8]) -> bool {
    if digits.len() != 13 {
        return false;
    }
    let century = match digits[6] {
        1 | 2 | 5 | 6 => 1900,
        3 | 4 | 7 | 8 => 2000,
        _ => 1800,
    };
    let rest = weighted(&digits[..12], &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]) % 11;
    // Foreigners' numbers add two before the last digit is taken.
    let all = if (5..=8).contains(&digits[6]) { 13 } else { 11 };
    is_date(century + pair(digits, 0), pair(digits, 2), pair(digits, 4))
        && pair(digits, 7) <= 96
        && (all - rest) % 10 == u32::from(digits[12])
}

/// Korean business registration number: ten digits. An office from 101 on, a kind, a serial number, a check mod 10.
pub(crate) fn korean_business(digits: &[u8]) -> bool {
    if digits.len() != 10 || digits[0] == 0 || digits[..3] == [1, 0, 0] {
        return false;
    }
    let sum = weighted(&digits[..9], &[1, 3, 7, 1, 3, 7, 1, 3, 5]) + u32::from(digits[8]) * 5 / 10;
    pair(digits, 3) > 0 && digits[5..9] != [0; 4] && (10 - sum % 10) % 10 == u32::from(digits[9])
}

/// Italian VAT number: seven digits of a company, three of its province, Luhn's check digit.
pub(crate) fn italian_vat(digits: &[u8]) -> bool {
    digits.len() == 11
        && digits[..7] != [0; 7]
        && matches!(u32::from(digits[7]) * 100 + pair(digits, 8), 1..=100 | 120 | 121 | 888 | 999)
        && luhn(digits)
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

    /// The check digit is right in each; another part is one that is never given out.
    #[test]
    fn parts_that_cannot_be_fail() {
        let wrong: [(Check, &str); 17] = [
            (aadhaar, "200009900002"),
            (aadhaar, "112341234124"),
            (pesel, "75023001237"),
            (pesel, "75130101231"),
            (abn, "10100989875"),
            (thai, "9101700230703"),
            (thai, "0101700230700"),
            (korean_resident, "7502301101230"),
            (korean_resident, "7503011970128"),
            (korean_resident, "7503015970121"),
            (korean_resident, "9913011123451"),
            (korean_business, "1008212345"),
            (korean_business, "1200012343"),
            (korean_business, "1208100002"),
            (italian_vat, "00000000018"),
            (italian_vat, "00743111015"),
            (npi, "3234567899"),
        ];
        for (check, number) in wrong {
            assert!(!check(&of(number)), "{number}");
        }
        // A foreigner's check digit is two more than a citizen's.
        assert!(korean_resident(&of("7503015960123")) && !korean_resident(&of("7503015960121")));
        assert!(aadhaar(&of("234123412346")) && italian_vat(&of("00743110157")));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert!(is_date(2000, 2, 29) && is_date(2024, 2, 29) && is_date(1999, 12, 31));
        for (year, month, day) in
            [(1900, 2, 29), (2023, 2, 29), (2024, 4, 31), (2024, 0, 1), (2024, 13, 1), (2024, 1, 0)]
        {
            assert!(!is_date(year, month, day), "{year}-{month}-{day}");
        }
    }
}
