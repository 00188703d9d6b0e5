//! What can be found, and how sensitive it is.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How sensitive content is; later classes are more sensitive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataClass {
    /// Meant for everybody.
    #[default]
    Public,
    /// Of the organisation, about nobody.
    Internal,
    /// About a person.
    Personal,
    /// About a person's health, or any identifier that stands beside such content.
    Health,
    /// Credentials and keys.
    Secret,
}

impl DataClass {
    /// All classes, the least sensitive first.
    pub const ALL: [Self; 5] = [Self::Public, Self::Internal, Self::Personal, Self::Health, Self::Secret];

    /// The name that policy, headers and ledger use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Personal => "personal",
            Self::Health => "health",
            Self::Secret => "secret",
        }
    }

    /// The class of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }
}

impl fmt::Display for DataClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A set of classes. The highest alone would forget that health content stands beside a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClassSet(u8);

impl ClassSet {
    /// The set of one class.
    pub const fn of(class: DataClass) -> Self {
        Self(1 << class as u8)
    }

    /// Adds a class.
    pub const fn insert(&mut self, class: DataClass) {
        self.0 |= 1 << class as u8;
    }

    /// Adds every class of another set.
    pub const fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether a class is in it.
    pub const fn contains(self, class: DataClass) -> bool {
        self.0 & (1 << class as u8) != 0
    }

    /// The most sensitive class; [`DataClass::Public`] of an empty set.
    pub fn highest(self) -> DataClass {
        DataClass::ALL.into_iter().rev().find(|&class| self.contains(class)).unwrap_or_default()
    }

    /// Its classes, the least sensitive first.
    pub fn iter(self) -> impl Iterator<Item = DataClass> {
        DataClass::ALL.into_iter().filter(move |&class| self.contains(class))
    }
}

macro_rules! entities {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $class:ident, $hipaa:literal;)*) => {
        /// A kind of thing that detection finds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Entity {
            $($(#[$doc])* $name,)*
        }

        impl Entity {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name that policy, placeholders and reports use.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// How sensitive it is on its own.
            pub const fn class(self) -> DataClass {
                match self { $(Self::$name => DataClass::$class,)* }
            }

            /// Whether HIPAA's Safe Harbor (45 CFR 164.514(b)(2)) counts it among the eighteen identifiers.
            pub const fn hipaa(self) -> bool {
                match self { $(Self::$name => $hipaa,)* }
            }
        }
    };
}

entities! {
    /// An e-mail address.
    Email = "EMAIL", Personal, true;
    /// A telephone or fax number.
    Phone = "PHONE", Personal, true;
    /// A payment card number with Luhn's check.
    CreditCard = "CREDIT_CARD", Personal, true;
    /// An international bank account number with its check.
    Iban = "IBAN", Personal, true;
    /// An address of a cryptocurrency.
    Crypto = "CRYPTO", Personal, true;
    /// An address of IP version 4 or 6.
    IpAddress = "IP_ADDRESS", Personal, true;
    /// A hardware address.
    MacAddress = "MAC_ADDRESS", Personal, true;
    /// A web address.
    Url = "URL", Public, true;
    /// A date that says more than a year, or a time stamp.
    Date = "DATE", Public, true;
    /// A date that is called a date of birth.
    BirthDate = "BIRTH_DATE", Personal, true;
    /// An age above 89.
    Age = "AGE", Personal, true;
    /// A postal code that is called one.
    ZipCode = "ZIP_CODE", Public, true;
    /// Social security number, United States.
    UsSsn = "US_SSN", Personal, true;
    /// Individual taxpayer number, United States.
    UsItin = "US_ITIN", Personal, true;
    /// A bank account that is called one.
    BankAccount = "BANK_ACCOUNT", Personal, true;
    /// ABA routing number.
    UsRouting = "US_ROUTING", Internal, true;
    /// A driver's licence that is called one.
    DriverLicense = "DRIVER_LICENSE", Personal, true;
    /// A passport that is called one.
    Passport = "PASSPORT", Personal, true;
    /// An identity card that is called one.
    IdentityCard = "IDENTITY_CARD", Personal, true;
    /// DEA number of a prescriber.
    MedicalLicense = "MEDICAL_LICENSE", Personal, true;
    /// National provider identifier.
    Npi = "NPI", Personal, true;
    /// Medicare beneficiary identifier, United States.
    UsMbi = "US_MBI", Health, true;
    /// NHS number.
    UkNhs = "UK_NHS", Health, true;
    /// National insurance number, United Kingdom.
    UkNino = "UK_NINO", Personal, true;
    /// NIF, Spain.
    EsNif = "ES_NIF", Personal, true;
    /// NIE, Spain.
    EsNie = "ES_NIE", Personal, true;
    /// Fiscal code, Italy.
    ItFiscalCode = "IT_FISCAL_CODE", Personal, true;
    /// VAT number, Italy.
    ItVat = "IT_VAT_CODE", Internal, true;
    /// PESEL, Poland.
    PlPesel = "PL_PESEL", Personal, true;
    /// NRIC or FIN, Singapore.
    SgNric = "SG_NRIC_FIN", Personal, true;
    /// Unique entity number, Singapore.
    SgUen = "SG_UEN", Internal, true;
    /// Business number, Australia.
    AuAbn = "AU_ABN", Internal, true;
    /// Company number, Australia.
    AuAcn = "AU_ACN", Internal, true;
    /// Tax file number, Australia.
    AuTfn = "AU_TFN", Personal, true;
    /// Medicare number, Australia.
    AuMedicare = "AU_MEDICARE", Health, true;
    /// Permanent account number, India.
    InPan = "IN_PAN", Personal, true;
    /// Aadhaar, India.
    InAadhaar = "IN_AADHAAR", Personal, true;
    /// Vehicle registration, India.
    InVehicle = "IN_VEHICLE_REGISTRATION", Personal, true;
    /// Voter's card, India.
    InVoter = "IN_VOTER", Personal, true;
    /// Goods-and-services tax number, India.
    InGstin = "IN_GSTIN", Internal, true;
    /// Personal identity code, Finland.
    FiPersonal = "FI_PERSONAL_IDENTITY_CODE", Personal, true;
    /// Resident or foreigner registration number, Korea.
    KrResident = "KR_RRN", Personal, true;
    /// Business registration number, Korea.
    KrBusiness = "KR_BRN", Internal, true;
    /// National identity number, Thailand.
    ThTnin = "TH_TNIN", Personal, true;
    /// Medical record number.
    Mrn = "MRN", Health, true;
    /// Health plan beneficiary number.
    HealthPlan = "HEALTH_PLAN", Health, true;
    /// Account number.
    Account = "ACCOUNT", Personal, true;
    /// Certificate or licence number.
    License = "LICENSE", Personal, true;
    /// Vehicle identification number with its check.
    Vin = "VIN", Personal, true;
    /// A number plate that is called one.
    LicensePlate = "LICENSE_PLATE", Personal, true;
    /// Device identifier or serial number.
    DeviceId = "DEVICE_ID", Personal, true;
    /// Identifier of a biometric template.
    Biometric = "BIOMETRIC", Health, true;
    /// A key of a known kind: cloud, code host, payment, chat, model provider.
    ApiKey = "API_KEY", Secret, false;
    /// A JSON web token.
    Jwt = "JWT", Secret, false;
    /// A private key in PEM armour.
    PrivateKey = "PRIVATE_KEY", Secret, false;
    /// A password or token that is called one, or that stands in an address.
    Credential = "CREDENTIAL", Secret, false;
    /// A person's name, as a model lists it.
    Person = "PERSON", Personal, true;
    /// A place: a city, a country, a postal address, as a model lists it.
    Location = "LOCATION", Personal, true;
    /// A term or format of the operator.
    Custom = "CUSTOM", Personal, true;
}

impl fmt::Display for Entity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Entity {
    /// The kind of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|entity| entity.as_str().eq_ignore_ascii_case(name))
    }
}

/// One finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What it is.
    pub entity: Entity,
    /// How sensitive it is; an operator's term may say more than [`Entity::class`].
    pub class: DataClass,
    /// How sure the recogniser is, in hundredths: 100 for a check over many digits, 50 for a shape with a word beside it.
    pub confidence: u8,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize, entity: Entity, confidence: u8) -> Self {
        Self { start, end, entity, class: entity.class(), confidence }
    }
}

/// Leaves spans that do not overlap, in order of the text: of two that do, the surer one stays, then the longer, then the
/// more sensitive. What the loser covered beyond the winner stays covered: the winner grows over it, so that nothing that
/// was found is left half visible.
pub(crate) fn settle(spans: &mut Vec<Span>) {
    spans.sort_unstable_by_key(|span| (span.start, span.end));
    spans.dedup_by(|later, earlier| {
        if later.start >= earlier.end {
            return false;
        }
        let rank = |span: &Span| (span.confidence, span.end - span.start, span.class);
        let (start, end) = (earlier.start, earlier.end.max(later.end));
        let class = earlier.class.max(later.class);
        if rank(later) > rank(earlier) {
            *earlier = *later;
        }
        (earlier.start, earlier.end, earlier.class) = (start, end, class);
        true
    });
}

/// Keeps every kind that was found, also within another, in order of the text, the longer first. Spans of one kind and
/// class that overlap become one, so that what is kept of a text stays in proportion to it.
pub(crate) fn unite(spans: &mut Vec<Span>) {
    let kind = |span: &Span| (span.entity, span.class);
    spans.sort_unstable_by_key(|span| (kind(span), span.start, span.end));
    spans.dedup_by(|later, earlier| {
        let same = kind(later) == kind(earlier) && later.start < earlier.end;
        if same {
            earlier.end = earlier.end.max(later.end);
            earlier.confidence = earlier.confidence.max(later.confidence);
        }
        same
    });
    spans.sort_unstable_by_key(|span| (span.start, Reverse(span.end), kind(span)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for (at, entity) in Entity::ALL.iter().enumerate() {
            assert_eq!(Entity::from_name(entity.as_str()), Some(*entity));
            assert!(Entity::ALL[..at].iter().all(|other| other.as_str() != entity.as_str()));
        }
        for class in DataClass::ALL {
            assert_eq!(DataClass::from_name(class.as_str()), Some(class));
        }
        assert_eq!(DataClass::from_name("Health"), None);
    }

    #[test]
    fn a_set_remembers_more_than_its_highest_class() {
        let mut set = ClassSet::of(DataClass::Health);
        set.insert(DataClass::Secret);
        assert_eq!(set.highest(), DataClass::Secret);
        assert!(set.contains(DataClass::Health) && !set.contains(DataClass::Personal));
        assert_eq!(ClassSet::default().highest(), DataClass::Public);
    }

    #[test]
    fn overlaps_leave_one_span_that_covers_all() {
        let mut spans = vec![
            Span::new(4, 12, Entity::Phone, 50),
            Span::new(0, 6, Entity::UsSsn, 90),
            Span::new(20, 25, Entity::Email, 90),
        ];
        settle(&mut spans);
        assert_eq!(spans.len(), 2);
        assert_eq!((spans[0].start, spans[0].end, spans[0].entity), (0, 12, Entity::UsSsn));
    }

    #[test]
    fn kinds_within_others_stay_and_one_kind_is_not_kept_twice() {
        let mut spans = vec![
            Span::new(9, 20, Entity::UsSsn, 85),
            Span::new(0, 30, Entity::Url, 96),
            Span::new(5, 30, Entity::Url, 90),
            Span::new(25, 40, Entity::Url, 90),
        ];
        unite(&mut spans);
        let left: Vec<_> = spans.iter().map(|span| (span.start, span.end, span.entity)).collect();
        assert_eq!(left, [(0, 40, Entity::Url), (9, 20, Entity::UsSsn)]);
    }
}
