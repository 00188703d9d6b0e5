use super::*;

fn kinds(text: &str) -> Vec<(Entity, &str)> {
    Detector::new().find(text).iter().map(|span| (span.entity, &text[span.start..span.end])).collect()
}

#[test]
fn finds_what_stands_in_prose() {
    let text = "Call me at +46 (0)8 928 571 38, mail jo.d+x@example.co.uk; card 4111 1111 1111 1111.";
    assert_eq!(
        kinds(text),
        [
            (Entity::Phone, "+46 (0)8 928 571 38"),
            (Entity::Email, "jo.d+x@example.co.uk"),
            (Entity::CreditCard, "4111 1111 1111 1111"),
        ]
    );
    assert_eq!(
        kinds("SSN: 123-45-6789, born 5 May 1975"),
        [(Entity::UsSsn, "123-45-6789"), (Entity::BirthDate, "5 May 1975"),]
    );
    assert_eq!(
        kinds("from 10.0.0.1 via fe80::1ff:fe23:4567:890a and 00:1B:44:11:3A:B7"),
        [
            (Entity::IpAddress, "10.0.0.1"),
            (Entity::IpAddress, "fe80::1ff:fe23:4567:890a"),
            (Entity::MacAddress, "00:1B:44:11:3A:B7"),
        ]
    );
}

#[test]
fn finds_secrets() {
    assert_eq!(kinds("key AKIAIOSFODNN7EXAMPLE."), [(Entity::ApiKey, "AKIAIOSFODNN7EXAMPLE")]);
    assert_eq!(
        kinds("export TOKEN=ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
        [(Entity::ApiKey, "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),]
    );
    assert_eq!(kinds("password: hunter2!"), [(Entity::Credential, "hunter2!")]);
    assert_eq!(kinds("postgres://me:s3cret@db/x"), [(Entity::Credential, "postgres://me:s3cret@db/x")]);
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIE-x\n-----END RSA PRIVATE KEY-----";
    assert_eq!(kinds(&format!("a {pem} b")), [(Entity::PrivateKey, pem)]);
    assert_eq!(kinds("password: required"), []);
    assert_eq!(kinds("let token = parser.next_token();"), []);
}

#[test]
fn finds_health_identifiers_by_their_labels() {
    for (text, entity, value) in [
        ("MRN: 00-12-34-56", Entity::Mrn, "00-12-34-56"),
        ("medical record number is A1234567", Entity::Mrn, "A1234567"),
        ("Health plan ID HP-2837461", Entity::HealthPlan, "HP-2837461"),
        ("bank account number 0012345678", Entity::BankAccount, "0012345678"),
        ("license plate 7ABC123", Entity::LicensePlate, "7ABC123"),
        ("driver's license number is 2270-66-1551", Entity::DriverLicense, "2270-66-1551"),
        ("device serial number SN-93842-X", Entity::DeviceId, "SN-93842-X"),
        ("fingerprint id FP-99821", Entity::Biometric, "FP-99821"),
        ("aged 93", Entity::Age, "93"),
        ("VIN 1M8GDM9AXKP042788", Entity::Vin, "1M8GDM9AXKP042788"),
    ] {
        assert_eq!(kinds(text), [(entity, value)], "{text}");
    }
}

#[test]
fn fields_are_context() {
    let mut spans = Vec::new();
    Detector::new().find_in_field("patientMrn", "12345678", &mut spans);
    assert_eq!(spans.len(), 1);
    assert_eq!((spans[0].start, spans[0].end, spans[0].entity), (0, 8, Entity::Mrn));
    Detector::new().find_in_field("count", "12345678", &mut spans);
    assert!(spans.is_empty());
}

#[test]
fn numbers_of_daily_life_are_left_alone() {
    for text in [
        "version 1.2.3.4 of 3 apples, 100 000 000 people, 3... 2... 1... liftoff, 12:30, 50%",
        "at 99449 18 McPherson Road, 370 3911 Fourth Avenue",
        "std::fmt::Display, a::b, x[12:34], 0x1234, 1234567890",
    ] {
        assert_eq!(kinds(text), [], "{text}");
    }
}

#[test]
fn every_span_is_a_span_of_the_text() {
    use proptest::prelude::*;
    proptest!(ProptestConfig::with_cases(2000), |(text in "(\\PC|[0-9@:.+( )-]|https://|MRN |tel ){0,60}")| {
        let mut last = 0;
        for span in Detector::new().find(&text) {
            prop_assert!(span.start >= last && span.start < span.end);
            prop_assert!(text.get(span.start..span.end).is_some(), "{span:?}");
            last = span.end;
        }
    });
}
