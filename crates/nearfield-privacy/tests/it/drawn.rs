//! A thousand values of every class with a check, and a thousand with one digit changed. The checks are worked out here a
//! second time, as rules that make a check digit; the library's judge one.

use nearfield_privacy::{Detector, Entity};

use crate::score::{Counts, finds};

const EACH: usize = 1000;

/// Numbers that look drawn by lot (SplitMix64), the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    fn of(&mut self, letters: &str) -> char {
        letters.as_bytes()[self.below(letters.len())].into()
    }

    fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// A value of a form: `#` is a digit, `+` one that is not 0, `@` a letter, everything else itself.
    fn form(&mut self, form: &str) -> String {
        form.chars()
            .map(|sign| match sign {
                '#' => self.of("0123456789"),
                '+' => self.of("123456789"),
                '@' => self.of("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
                sign => sign,
            })
            .collect()
    }
}

/// A class, or a form of one.
struct Kind {
    entity: Entity,
    label: &'static str,
    /// Draws a value with anything where its check belongs.
    body: fn(&mut Draw) -> String,
    /// Where the check begins, from the end.
    place: usize,
    /// The check of a value, worked out from the rest of it; none when no value has this rest.
    check: fn(&str) -> Option<String>,
}

impl Kind {
    fn complete(&self, value: &str) -> Option<String> {
        let check = (self.check)(value)?;
        let at = value.len() - self.place;
        Some([&value[..at], check.as_str(), &value[at + check.len()..]].concat())
    }

    fn draw(&self, draw: &mut Draw) -> String {
        loop {
            let body = (self.body)(draw);
            if let Some(value) = self.complete(&body) {
                return value;
            }
        }
    }

    /// The value with another digit in one place, which its check does not fit.
    fn spoil(&self, value: &str, draw: &mut Draw) -> String {
        loop {
            let at = draw.below(value.len());
            let digit = draw.of("0123456789").to_string();
            if !value.as_bytes()[at].is_ascii_digit() || value[at..=at] == digit {
                continue;
            }
            let spoiled = [&value[..at], digit.as_str(), &value[at + 1..]].concat();
            if self.complete(&spoiled).as_ref() != Some(&spoiled) {
                return spoiled;
            }
        }
    }
}

/// Digits of a value times weights, over so many digits as there are weights.
fn sum(value: &str, weights: &[u32]) -> u32 {
    value
        .chars()
        .filter_map(|letter| letter.to_digit(10))
        .zip(weights)
        .map(|(digit, weight)| digit * weight)
        .sum()
}

fn one(digit: u32) -> Option<String> {
    (digit < 10).then(|| digit.to_string())
}

fn letter(of: &str, at: u32) -> Option<String> {
    of.get(at as usize..=at as usize).map(str::to_owned)
}

/// Luhn's check digit for the digits before the last.
fn luhn(value: &str) -> Option<String> {
    let digits: Vec<u32> = value.chars().filter_map(|letter| letter.to_digit(10)).collect();
    let (_, body) = digits.split_last()?;
    let doubled =
        |(at, digit): (usize, &u32)| if at % 2 == 0 { digit * 2 / 10 + digit * 2 % 10 } else { *digit };
    one((10 - body.iter().rev().enumerate().map(doubled).sum::<u32>() % 10) % 10)
}

/// Verhoeff's check digit: turns and reflections of a pentagon, after a permutation that is applied once more each place.
fn verhoeff(value: &str) -> Option<String> {
    let times = |one: u32, other: u32| match (one < 5, other < 5) {
        (true, true) => (one + other) % 5,
        (true, false) => 5 + (one + other) % 5,
        (false, true) => 5 + (one - other) % 5,
        (false, false) => (5 + one - other) % 5,
    };
    let sum = |digits: &str| {
        digits.chars().rev().enumerate().fold(0, |sum, (at, digit)| {
            let turned = (0..at % 8).fold(digit.to_digit(10).unwrap_or(0), |digit, _| {
                [1, 5, 7, 6, 2, 8, 3, 0, 9, 4][digit as usize]
            });
            times(sum, turned)
        })
    };
    let body = &value[..value.len() - 1];
    (0..10).map(|digit| digit.to_string()).find(|digit| sum(&format!("{body}{digit}")) == 0)
}

fn date(draw: &mut Draw) -> String {
    format!("{:02}{:02}{:02}", draw.between(40, 99), draw.between(1, 12), draw.between(1, 28))
}

/// A foreigner's check digit is two more than a citizen's.
fn korean(value: &str) -> Option<String> {
    let all = if matches!(&value[7..8], "5" | "6" | "7" | "8") { 13 } else { 11 };
    one((all - sum(value, &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]) % 11) % 10)
}

fn spanish(value: &str) -> Option<String> {
    let number: u32 = value[..8].replace('X', "0").replace('Y', "1").replace('Z', "2").parse().ok()?;
    letter("TRWAGMYFPDXBNJZSQVHLCKE", number % 23)
}

fn gstin(value: &str) -> Option<String> {
    let total: u32 = (0u32..)
        .zip(value[..14].chars().filter_map(|letter| letter.to_digit(36)))
        .map(|(at, value)| value * (1 + at % 2))
        .map(|product| product / 36 + product % 36)
        .sum();
    letter("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (36 - total % 36) % 36)
}

fn vin(value: &str) -> Option<String> {
    let weights = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];
    let values = |letter: char| match letter {
        'J'..='R' => letter as u32 - 'I' as u32,
        'S'..='Z' => letter as u32 - 'Q' as u32,
        'A'..='H' => letter as u32 - '@' as u32,
        digit => digit as u32 - '0' as u32,
    };
    letter(
        "0123456789X",
        value.chars().map(values).zip(weights).map(|(value, weight)| value * weight).sum::<u32>() % 11,
    )
}

fn nric(value: &str) -> Option<String> {
    let shift = if matches!(&value[..1], "T" | "G") { 4 } else { 0 };
    let letters = if matches!(&value[..1], "S" | "T") { "JZIHGFEDCBA" } else { "XWUTRQPNMLK" };
    letter(letters, (sum(value, &[2, 7, 6, 5, 4, 3, 2]) + shift) % 11)
}

fn other_uen(value: &str) -> Option<String> {
    let known = "ABCDEFGHJKLMNPQRSTUVWX0123456789";
    let values = value[..9].chars().filter_map(|letter| known.find(letter));
    let total: usize = values.zip([4, 3, 5, 3, 10, 2, 2, 5, 7]).map(|(value, weight)| value * weight).sum();
    letter(known, (total as u32 - 5) % 11)
}

fn fiscal_code(value: &str) -> Option<String> {
    let odd = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let order = |letter: char| {
        if letter.is_ascii_digit() { letter as usize - '0' as usize } else { letter as usize - 'A' as usize }
    };
    let total: usize = value[..15]
        .chars()
        .enumerate()
        .map(|(at, sign)| if at % 2 == 0 { odd[order(sign)] } else { order(sign) })
        .sum();
    letter("ABCDEFGHIJKLMNOPQRSTUVWXYZ", total as u32 % 26)
}

fn finnish(value: &str) -> Option<String> {
    let number: u32 = format!("{}{}", &value[..6], &value[7..10]).parse().ok()?;
    letter("0123456789ABCDEFHJKLMNPRSTUVWXY", number % 31)
}

fn iban(value: &str) -> Option<String> {
    let number: u128 = format!("{}131400", &value[4..]).parse().ok()?;
    Some(format!("{:02}", 98 - number % 97))
}

const KINDS: &[Kind] = &[
    Kind {
        entity: Entity::CreditCard,
        label: "card number",
        place: 1,
        body: |draw| draw.form("4###############"),
        check: luhn,
    },
    Kind {
        entity: Entity::Iban,
        label: "IBAN",
        place: 20,
        body: |draw| draw.form("DE00##################"),
        check: iban,
    },
    Kind {
        entity: Entity::UkNhs,
        label: "NHS number",
        place: 1,
        body: |draw| draw.form("##########"),
        check: |value| one((11 - sum(value, &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11) % 11),
    },
    Kind {
        entity: Entity::PlPesel,
        label: "PESEL",
        place: 1,
        body: |draw| date(draw) + &draw.form("#####"),
        check: |value| one((10 - sum(value, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]) % 10) % 10),
    },
    Kind {
        entity: Entity::AuAbn,
        label: "ABN",
        place: 11,
        body: |draw| draw.form("00#########"),
        check: |value| Some((99 - sum(&value[2..], &[3, 5, 7, 9, 11, 13, 15, 17, 19]) % 89).to_string()),
    },
    Kind {
        entity: Entity::AuAcn,
        label: "ACN",
        place: 1,
        body: |draw| draw.form("#########"),
        check: |value| one((10 - sum(value, &[8, 7, 6, 5, 4, 3, 2, 1]) % 10) % 10),
    },
    Kind {
        entity: Entity::AuTfn,
        label: "TFN",
        place: 1,
        body: |draw| draw.form("+########"),
        check: |value| one(sum(value, &[1, 4, 3, 7, 5, 8, 6, 9]) % 11),
    },
    Kind {
        entity: Entity::AuMedicare,
        label: "Medicare number",
        place: 2,
        body: |draw| draw.of("23456").to_string() + &draw.form("#########"),
        check: |value| one(sum(value, &[1, 3, 7, 9, 1, 3, 7, 9]) % 10),
    },
    Kind {
        entity: Entity::EsNif,
        label: "NIF",
        place: 1,
        body: |draw| draw.form("########_"),
        check: spanish,
    },
    Kind {
        entity: Entity::EsNie,
        label: "NIE",
        place: 1,
        body: |draw| draw.of("XYZ").to_string() + &draw.form("#######_"),
        check: spanish,
    },
    Kind {
        entity: Entity::ItFiscalCode,
        label: "codice fiscale",
        place: 1,
        check: fiscal_code,
        body: |draw| {
            format!(
                "{}{:02}{}{:02}{}",
                draw.form("@@@@@@"),
                draw.below(100),
                draw.of("ABCDEHLMPRST"),
                draw.between(1, 28),
                draw.form("@###_")
            )
        },
    },
    Kind {
        entity: Entity::ItVat,
        label: "partita IVA",
        place: 1,
        body: |draw| draw.form("+######0+##"),
        check: luhn,
    },
    Kind {
        entity: Entity::SgNric,
        label: "NRIC",
        place: 1,
        body: |draw| draw.of("STFG").to_string() + &draw.form("#######_"),
        check: nric,
    },
    Kind {
        entity: Entity::SgUen,
        label: "UEN",
        place: 1,
        body: |draw| draw.form("########_"),
        check: |value| letter("XMKECAWLJDB", sum(value, &[10, 4, 9, 3, 8, 2, 7, 1]) % 11),
    },
    Kind {
        entity: Entity::SgUen,
        label: "UEN",
        place: 1,
        body: |draw| draw.between(1960, 2026).to_string() + &draw.form("#####_"),
        check: |value| letter("ZKCMDNERGWH", sum(value, &[10, 8, 6, 4, 9, 7, 5, 3, 1]) % 11),
    },
    Kind {
        entity: Entity::SgUen,
        label: "UEN",
        place: 1,
        body: |draw| draw.of("RST").to_string() + &draw.form("##LL####_"),
        check: other_uen,
    },
    Kind {
        entity: Entity::InAadhaar,
        label: "Aadhaar",
        place: 1,
        body: |draw| draw.of("23456789").to_string() + &draw.form("###########"),
        check: verhoeff,
    },
    Kind {
        entity: Entity::InVoter,
        label: "voter ID",
        place: 1,
        body: |draw| draw.form("@@@#######"),
        check: luhn,
    },
    Kind {
        entity: Entity::InGstin,
        label: "GSTIN",
        place: 1,
        body: |draw| format!("{:02}{}", draw.between(1, 37), draw.form("@@@P@###+@+Z_")),
        check: gstin,
    },
    Kind {
        entity: Entity::FiPersonal,
        label: "henkilötunnus",
        place: 1,
        check: finnish,
        body: |draw| {
            format!(
                "{:02}{:02}{:02}-{:03}_",
                draw.between(1, 28),
                draw.between(1, 12),
                draw.below(100),
                draw.between(2, 899)
            )
        },
    },
    Kind {
        entity: Entity::KrResident,
        label: "resident number",
        place: 1,
        check: korean,
        body: |draw| format!("{}-{}{:02}{}", date(draw), draw.of("12"), draw.below(96), draw.form("####")),
    },
    Kind {
        entity: Entity::KrResident,
        label: "foreigner number",
        place: 1,
        check: korean,
        body: |draw| format!("{}-{}{:02}{}", date(draw), draw.of("56"), draw.below(96), draw.form("####")),
    },
    Kind {
        entity: Entity::KrBusiness,
        label: "BRN",
        place: 1,
        body: |draw| draw.form("+1#-#+-###+#"),
        check: |value| {
            let ninth: u32 = value[10..11].parse().ok()?;
            one((10 - (sum(value, &[1, 3, 7, 1, 3, 7, 1, 3, 5]) + ninth * 5 / 10) % 10) % 10)
        },
    },
    Kind {
        entity: Entity::ThTnin,
        label: "Thai ID",
        place: 1,
        body: |draw| draw.of("12345678").to_string() + &draw.form("############"),
        check: |value| one((11 - sum(value, &[13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11) % 10),
    },
    Kind {
        entity: Entity::UsRouting,
        label: "routing number",
        place: 1,
        body: |draw| format!("{:02}{}", draw.between(1, 12), draw.form("#######")),
        check: |value| one((10 - sum(value, &[3, 7, 1, 3, 7, 1, 3, 7]) % 10) % 10),
    },
    Kind {
        entity: Entity::Npi,
        label: "NPI",
        place: 1,
        body: |draw| draw.of("12").to_string() + &draw.form("#########"),
        check: |value| luhn(&format!("80840{value}")),
    },
    Kind {
        entity: Entity::MedicalLicense,
        label: "DEA number",
        place: 1,
        body: |draw| draw.of("ABFGMPR").to_string() + &draw.form("@#######"),
        check: |value| one(sum(value, &[1, 2, 1, 2, 1, 2]) % 10),
    },
    Kind {
        entity: Entity::Vin,
        label: "VIN",
        place: 9,
        check: vin,
        body: |draw| {
            (0..13).map(|_| draw.of("0123456789ABCDEFGHJKLMNPRSTUVWXYZ")).collect::<String>()
                + &draw.form("####")
        },
    },
    Kind {
        entity: Entity::DeviceId,
        label: "UDI GTIN",
        place: 1,
        body: |draw| draw.form("##############"),
        check: |value| one((10 - sum(value, &[3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3]) % 10) % 10),
    },
];

#[test]
fn checks_tell_values_from_their_neighbours() {
    let detector = Detector::new();
    let mut draw = Draw(20);
    for kind in KINDS {
        let mut counts = Counts::default();
        let mut wrong = Vec::new();
        for _ in 0..EACH {
            let value = kind.draw(&mut draw);
            for (real, value) in [(true, value.clone()), (false, kind.spoil(&value, &mut draw))] {
                let text = format!("{} {value}", kind.label);
                let start = text.len() - value.len();
                let found = finds(&detector, kind.entity, &text, start, text.len());
                counts.note(real, found);
                if found != real {
                    wrong.push(text);
                }
            }
        }
        let enough = counts.recall() >= 0.99 && counts.precision() >= 0.99;
        assert!(enough, "{} ({}): {counts:?}\n{}", kind.entity, kind.label, wrong.join("\n"));
    }
}
