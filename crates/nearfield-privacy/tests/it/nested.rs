//! One finding within another, and one value that is several things: a rule that names any of them applies.

use nearfield_privacy::{DataClass, Detector, Entity, Format, HashKey, Masker, Survey, Treatments};

fn treatments(mask: &[&str], hash: &[&str]) -> Treatments {
    let mut treatments = Treatments::none();
    assert!(mask.iter().all(|name| treatments.set(name, false)));
    assert!(hash.iter().all(|name| treatments.set(name, true)));
    treatments
}

fn survey(detector: &Detector, texts: &[&str]) -> Survey {
    let mut survey = Survey::new();
    for text in texts {
        survey.text(detector, None, text);
    }
    survey
}

fn masked(detector: &Detector, texts: &[&str], treatments: &Treatments) -> Vec<String> {
    let survey = survey(detector, texts);
    let key = HashKey::new([3; 32]);
    let mut masker = Masker::new(&survey, treatments, Some(&key)).unwrap();
    let masked =
        texts.iter().map(|text| masker.text(text).unwrap().unwrap_or_else(|| (*text).to_owned())).collect();
    masker.finish().unwrap();
    masked
}

#[test]
fn no_kind_hides_behind_another() {
    let detector = Detector::new();
    for (text, kinds) in [
        ("https://x.org/?ssn=123-45-6789", &[Entity::Url, Entity::UsSsn][..]),
        ("see https://x.org/?mail=jo@x.org&mrn=12345678", &[Entity::Url, Entity::Email, Entity::Mrn]),
        ("http://[fe80::1:2]/", &[Entity::Url, Entity::IpAddress]),
        ("https://x.org/ghp_abcdefghijklmnopqrstuvwxyz0123456789", &[Entity::Url, Entity::ApiKey]),
        ("postgres://me:s3cret@db.example.org/x", &[Entity::Credential, Entity::Email]),
        ("tel 070 123-45-6789", &[Entity::Phone, Entity::UsSsn]),
        ("account number 12 123-45-6789", &[Entity::UsSsn]),
        ("sk-abcdefgh-123-45-6789-ABCDEFGH", &[Entity::ApiKey, Entity::UsSsn]),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\nSSN 123-45-6789", &[Entity::PrivateKey, Entity::UsSsn]),
    ] {
        let survey = survey(&detector, &[text]);
        for kind in kinds {
            assert!(survey.counts().contains_key(kind), "{kind} in {text}: {:?}", survey.counts());
            assert!(survey.classes().contains(kind.class()), "{kind} in {text}");
        }
        // What is shown beside other detectors counts none of them.
        let settled = detector.find(text);
        assert!(settled.windows(2).all(|pair| pair[0].end <= pair[1].start), "{text}");
    }
}

#[test]
fn an_operators_terms_hide_nothing() {
    let mut detector = Detector::new();
    detector.add_term("jo@x.org", DataClass::Internal).unwrap();
    detector.add_term("Heron North", DataClass::Internal).unwrap();
    detector.add_term("Heron", DataClass::Health).unwrap();
    detector.add_format(Format::new("###-##-####", Entity::Account, DataClass::Personal).unwrap());
    let survey = survey(&detector, &["jo@x.org of Heron North, 123-45-6789"]);
    for kind in [Entity::Custom, Entity::Email, Entity::UsSsn, Entity::Account] {
        assert!(survey.counts().contains_key(&kind), "{kind}: {:?}", survey.counts());
    }
    assert!(survey.classes().contains(DataClass::Health) && survey.classes().contains(DataClass::Internal));
    let said = masked(&detector, &["jo@x.org of Heron North"], &treatments(&["EMAIL"], &[]));
    assert_eq!(said, ["[EMAIL_1] of Heron North"]);
}

#[test]
fn the_outermost_that_is_to_be_masked_is_masked() {
    let detector = Detector::new();
    let text = "https://x.org/?mail=jo@y.org and https://x.org/";
    let said = |mask: &[&str], hash: &[&str]| masked(&detector, &[text], &treatments(mask, hash)).concat();
    assert_eq!(said(&["URL"], &[]), "[URL_1] and [URL_2]");
    assert_eq!(said(&["URL", "EMAIL"], &[]), "[URL_1] and [URL_2]");
    let inner = said(&["EMAIL"], &[]);
    assert!(!inner.contains("y.org") && inner.ends_with(" and https://x.org/"), "{inner}");
    // A part that must not come back takes the whole with it.
    let whole = said(&["URL"], &["EMAIL"]);
    assert!(whole.starts_with("[URL#") && whole.ends_with("] and [URL_1]"), "{whole}");
}

#[test]
fn a_value_is_everything_that_it_was_found_to_be() {
    let detector = Detector::new();
    let texts = ["visit on 1975-05-05", "DOB 1975-05-05", "again 1975-05-05"];
    let personal = masked(&detector, &texts, &treatments(&["personal"], &[]));
    assert_eq!(personal, ["visit on [BIRTH_DATE_1]", "DOB [BIRTH_DATE_1]", "again [BIRTH_DATE_1]"]);
    // The strictest treatment of its kinds is that of all its places.
    let hashed = masked(&detector, &texts, &treatments(&["DATE"], &["BIRTH_DATE"]));
    assert!(hashed.iter().all(|text| text.contains("[BIRTH_DATE#")), "{hashed:?}");
    // Too short to be looked for in every word, and still one value where it was found twice.
    let texts = ["zip 12345", "MRN 12345"];
    let health = masked(&detector, &texts, &treatments(&["health"], &[]));
    assert_eq!(health, ["zip [MRN_1]", "MRN [MRN_1]"]);
    // The case of letters makes no other value.
    let texts = ["DL: AB123456", "licence ab123456"];
    let both = masked(&detector, &texts, &treatments(&["DRIVER_LICENSE"], &[]));
    assert!(both.iter().all(|text| !text.to_lowercase().contains("ab123456")), "{both:?}");
}
