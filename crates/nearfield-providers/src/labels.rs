//! What becomes of the labels that callers send for their own bookkeeping.

use nearfield_api::Labels;

use crate::Secret;
use crate::encoding::{hex, hmac_sha256};

/// A rule for labels. They may name a person, so without a rule they stay here.
#[derive(Clone, Debug, Default)]
pub enum LabelRule {
    /// None is sent.
    #[default]
    Drop,
    /// Each is sent as a pseudonym: the same label gives the same pseudonym, and only who has the key can tell which.
    /// Metadata, which is more than a label, is dropped.
    Pseudonyms(Secret),
}

impl LabelRule {
    /// Applies the rule. Whether the provider keeps the answer is the caller's wish only when that is no.
    pub(crate) fn apply(&self, labels: &mut Labels) {
        let store = labels.store.filter(|store| !store);
        *labels = labels.replaced(|label| match self {
            Self::Drop => None,
            Self::Pseudonyms(key) => {
                let mac = hmac_sha256(key.expose().as_bytes(), label.as_bytes());
                Some(hex(mac.get(..16)?))
            }
        });
        labels.store = store;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_never_pass_as_they_are() {
        let labels = || Labels {
            user: Some("ann".to_owned()),
            prompt_cache_key: Some("k".to_owned()),
            metadata: Some(std::iter::once(("a".to_owned(), "ann".into())).collect()),
            store: Some(true),
            ..Labels::default()
        };
        let mut dropped = labels();
        LabelRule::Drop.apply(&mut dropped);
        assert_eq!(dropped, Labels::default());
        let rule = LabelRule::Pseudonyms(Secret::new("key"));
        let (mut one, mut two) = (labels(), labels());
        rule.apply(&mut one);
        rule.apply(&mut two);
        assert_eq!(one, two);
        let user = one.user.unwrap();
        assert!(user.starts_with("nf-") && !user.contains("ann") && user.len() == 35, "{user}");
        assert_eq!((one.metadata, one.store), (None, None));
        let mut other = labels();
        LabelRule::Pseudonyms(Secret::new("key2")).apply(&mut other);
        assert_ne!(other.user.unwrap(), user);
    }
}
