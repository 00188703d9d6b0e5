//! The words before a value: many identifiers are only digits, and a word says which.

/// What words say, one bit each.
pub(crate) type Words = u64;

macro_rules! words {
    ($($name:ident: $($spelling:literal)|+;)*) => {
        #[expect(clippy::upper_case_acronyms, reason = "they number the constants below")]
        #[derive(Clone, Copy)]
        enum Bit { $($name,)* }
        $(pub(crate) const $name: Words = 1 << Bit::$name as u32;)*

        /// For each length and first letter of a word with a meaning its last letters, one bit each. Of a letter's byte the
        /// lower five bits count, which its case leaves alone.
        static ENDS: [[u32; 32]; LONGEST + 1] = {
            let spellings: &[&[u8]] = &[$($($spelling,)+)*];
            let mut ends = [[0; 32]; LONGEST + 1];
            let mut at = 0;
            while at < spellings.len() {
                let word = spellings[at];
                ends[word.len()][(word[0] & 31) as usize] |= 1 << (word[word.len() - 1] & 31);
                at += 1;
            }
            ends
        };

        /// The meaning of one word in small letters.
        fn meaning(word: &[u8]) -> Words {
            match word {
                $($($spelling)|+ => $name,)*
                _ => 0,
            }
        }
    };
}

words! {
    PHONE: b"phone" | b"phones" | b"telephone" | b"tel" | b"mobile" | b"mob" | b"cell" | b"cellphone" | b"desk" | b"call"
        | b"called" | b"fax" | b"answering" | b"whatsapp" | b"sms" | b"dial" | b"landline" | b"hotline" | b"telefon"
        | b"telefono" | b"tlf" | b"handy" | b"pager" | b"contact" | b"reach" | b"messages" | b"registered" | b"texted";
    SSN: b"ssn" | b"ssns" | b"social";
    ITIN: b"itin" | b"taxpayer";
    ACCOUNT: b"account" | b"acct" | b"accounts" | b"konto" | b"acc";
    BANK: b"bank" | b"checking" | b"savings" | b"deposit" | b"direct" | b"sort";
    ROUTING: b"routing" | b"aba" | b"rtn";
    MRN: b"mrn" | b"mrns";
    MEDICAL: b"medical" | b"hospital" | b"clinic" | b"clinical";
    RECORD: b"record" | b"chart" | b"file" | b"encounter";
    PATIENT: b"patient" | b"pt";
    PLAN: b"plan" | b"subscriber" | b"beneficiary" | b"hicn" | b"hpbn" | b"medicaid" | b"insured" | b"group";
    MEMBER: b"member" | b"policy" | b"enrollee";
    HEALTH: b"health" | b"insurance" | b"insurer" | b"healthplan";
    LICENSE: b"license" | b"licence" | b"certificate" | b"certification" | b"cert" | b"lic" | b"permit" | b"patente";
    DRIVER: b"driver" | b"drivers" | b"driving" | b"dl" | b"guida";
    PASSPORT: b"passport" | b"passports" | b"passaporto" | b"pasaporte" | b"passeport" | b"reisepass";
    IDENTITY: b"identity" | b"carta" | b"cie" | b"identification" | b"identit\xc3\xa0" | b"identit\xc3\xa9" | b"identidad"
        | b"personalausweis" | b"ausweis";
    BIRTH: b"dob" | b"birth" | b"birthday" | b"birthdate" | b"born";
    ZIP: b"zip" | b"zipcode" | b"postal" | b"postcode" | b"plz";
    AGE: b"age" | b"aged" | b"ages" | b"turned";
    NHS: b"nhs";
    PESEL: b"pesel";
    ABN: b"abn";
    ACN: b"acn";
    TFN: b"tfn";
    TAX: b"tax";
    AADHAAR: b"aadhaar" | b"aadhar" | b"uidai" | b"adhaar";
    THAI: b"thai" | b"tnin" | b"thailand";
    BRN: b"brn" | b"business" | b"company";
    VAT: b"vat" | b"iva" | b"partita" | b"piva";
    NPI: b"npi" | b"provider";
    MEDICARE: b"medicare";
    RRN: b"rrn" | b"frn" | b"resident" | b"korean" | b"foreigner";
    PLATE: b"plate" | b"plates" | b"licenseplate" | b"numberplate";
    VEHICLE: b"vehicle" | b"car" | b"registration" | b"reg";
    GTIN: b"gtin" | b"udi";
    SERIAL: b"serial" | b"imei" | b"implant" | b"pacemaker" | b"sn";
    DEVICE: b"device" | b"pump" | b"monitor" | b"equipment";
    BIOMETRIC: b"biometric" | b"fingerprint" | b"retina" | b"iris" | b"faceprint" | b"voiceprint" | b"palm";
    VOTER: b"voter" | b"epic" | b"voters";
    UEN: b"uen" | b"entity";
    PAN: b"pan" | b"permanent";
    VERSION: b"version" | b"release" | b"build" | b"v" | b"section" | b"chapter" | b"rfc";
    CARD: b"card" | b"cards" | b"cc" | b"credit" | b"debit" | b"visa" | b"mastercard" | b"amex";
    NINO: b"nino" | b"national" | b"ni";
    DEA: b"dea" | b"prescriber";
    VIN: b"vin" | b"chassis";
    ADMITTED: b"admitted" | b"discharged" | b"discharge" | b"admission" | b"deceased" | b"died" | b"visit";
    CONNECTOR: b"number" | b"no" | b"num" | b"nr" | b"id" | b"ids" | b"is" | b"was" | b"are" | b"code" | b"the" | b"my" | b"his" | b"her"
        | b"of" | b"s" | b"identifier" | b"value" | b"at" | b"on" | b"security" | b"address" | b"to" | b"and" | b"me" | b"template"
        | b"scan" | b"us" | b"uk" | b"de";
}

/// The words before a value.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Context {
    /// Words within [`WINDOW`] bytes, in the same sentence.
    pub(crate) near: Words,
    /// Words that lead to the value with nothing between but `number`, `is` and their like.
    pub(crate) label: Words,
}

/// How far back words are looked at.
const WINDOW: usize = 56;
const LONGEST: usize = 16;

impl Context {
    /// The words before byte `at`.
    pub(crate) fn before(text: &[u8], at: usize) -> Self {
        let from = at.saturating_sub(WINDOW);
        let mut context = Self::default();
        let mut labelled = true;
        let mut end = at;
        while end > from {
            let byte = text[end - 1];
            if !is_letter(byte) {
                if ends_sentence(text, end - 1, at) {
                    break;
                }
                // A figure between a label and a value belongs to something else, unless it is part of its form.
                labelled &= !byte.is_ascii_digit();
                end -= 1;
                continue;
            }
            let start = word_start(text, end, from);
            let word = &text[start..end];
            let found =
                if may_mean(word) { lowered(word).map_or(0, |(word, len)| meaning(&word[..len])) } else { 0 };
            context.near |= found;
            labelled &= found != 0;
            if labelled {
                context.label |= found;
            }
            end = start;
        }
        context.label &= !CONNECTOR;
        context
    }

    /// Whether one of `words` is near.
    pub(crate) const fn near(self, words: Words) -> bool {
        self.near & words != 0
    }

    /// Whether one of `words` leads to the value.
    pub(crate) const fn label(self, words: Words) -> bool {
        self.label & words != 0
    }

    /// Whether all of `words` lead to the value.
    pub(crate) const fn labels(self, words: Words) -> bool {
        self.label & words == words
    }
}

/// The meaning of the word that begins at or after `at`, past blanks and a comma or hyphen.
pub(crate) fn word_after(text: &[u8], at: usize) -> Words {
    let mut start = at;
    while text.get(start).is_some_and(|byte| matches!(byte, b' ' | b'-' | b'(' | b',')) && start < at + 3 {
        start += 1;
    }
    let len =
        text[start.min(text.len())..].iter().take(LONGEST + 1).take_while(|&&byte| is_letter(byte)).count();
    lowered(&text[start.min(text.len())..][..len]).map_or(0, |(word, len)| match &word[..len] {
        b"office" | b"home" | b"work" | b"mobile" | b"cell" | b"fax" => PHONE,
        b"years" | b"year" | b"yo" | b"yrs" => AGE,
        _ => 0,
    })
}

/// Whether a word with a meaning is as long and begins and ends alike: most words of prose have none.
fn may_mean(word: &[u8]) -> bool {
    let (Some(first), Some(last)) = (word.first(), word.last()) else { return false };
    ENDS.get(word.len()).is_some_and(|ends| ends[usize::from(first & 31)] >> (last & 31) & 1 == 1)
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte >= 0x80
}

/// Whether the byte at `at` ends a sentence or paragraph, seen from the value at `value`.
fn ends_sentence(text: &[u8], at: usize, value: usize) -> bool {
    match text[at] {
        b'.' | b'!' | b'?' => {
            text.get(at + 1).is_some_and(u8::is_ascii_whitespace)
                && text.get(at + 2).is_some_and(u8::is_ascii_uppercase)
                && at + 2 < value
        }
        b'\n' => at > 0 && text[at - 1] == b'\n',
        _ => false,
    }
}

/// Where the word that ends at `end` begins; `phoneNumber` is two words.
fn word_start(text: &[u8], end: usize, from: usize) -> usize {
    let mut start = end;
    while start > from && is_letter(text[start - 1]) {
        start -= 1;
        if text[start].is_ascii_uppercase() && start + 1 < end && text[start + 1].is_ascii_lowercase() {
            break;
        }
    }
    start
}

fn lowered(word: &[u8]) -> Option<([u8; LONGEST], usize)> {
    let mut small = [0; LONGEST];
    let into = small.get_mut(..word.len())?;
    into.copy_from_slice(word);
    into.make_ascii_lowercase();
    Some((small, word.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(text: &str) -> Context {
        Context::before(text.as_bytes(), text.len())
    }

    #[test]
    fn words_lead_to_values() {
        assert!(before("Patient MRN: ").labels(MRN | PATIENT));
        assert!(before("medical record number is ").labels(MEDICAL | RECORD));
        assert!(before("{\"phoneNumber\": \"").label(PHONE));
        assert!(before("Carta d'identità n. ").near(IDENTITY) && before("PERSONALAUSWEIS: ").label(IDENTITY));
        let far = before("the phone in the hall cost ");
        assert!(far.near(PHONE) && !far.label(PHONE));
    }

    #[test]
    fn sentences_end_what_words_say() {
        assert!(!before("I lost my phone. There were ").near(PHONE));
        assert!(before("Tel. ").label(PHONE));
        assert!(!before("phone\n\n").near(PHONE));
        assert!(!before(&format!("phone{}", " ".repeat(80))).near(PHONE));
    }
}
