//! Who shares cached prompts with whom.

use std::collections::HashMap;

/// The domains in which local engines share the work on prompts: each key has its own, unless some are joined.
///
/// A prompt that another key of the domain has used is answered sooner. Whoever can measure that learns what others
/// ask, so only keys that trust each other belong together.
#[derive(Clone, Debug, Default)]
pub struct CacheDomains(HashMap<String, String>);

/// A key cannot be in two domains.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key {key:?} is in the cache domains {one:?} and {other:?}; leave it in one of them")]
pub struct KeyInTwoDomains {
    /// The key's id.
    pub key: String,
    /// A domain that lists it.
    pub one: String,
    /// Another one, or the same again.
    pub other: String,
}

impl CacheDomains {
    /// Joins the keys, by id, that are listed under one name.
    ///
    /// # Errors
    /// A key is listed twice.
    pub fn new<Key: Into<String>>(
        joined: impl IntoIterator<Item = (impl Into<String>, impl IntoIterator<Item = Key>)>,
    ) -> Result<Self, KeyInTwoDomains> {
        let mut domains = HashMap::new();
        for (name, keys) in joined {
            let name: String = name.into();
            for key in keys {
                let key = key.into();
                if let Some(one) = domains.insert(key.clone(), name.clone()) {
                    return Err(KeyInTwoDomains { key, one, other: name });
                }
            }
        }
        Ok(Self(domains))
    }

    /// The domain of a key. No key's own domain has the name of a joined one.
    pub(super) fn of(&self, key_id: &str) -> String {
        match self.0.get(key_id) {
            Some(name) => format!("joined:{name}"),
            None => format!("key:{key_id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_apart_unless_they_are_joined() {
        let domains = CacheDomains::new([("team", vec!["a", "b"]), ("c", vec!["d"])]).unwrap();
        assert_eq!(domains.of("a"), domains.of("b"));
        let different = ["a", "c", "d", "e"].map(|key| domains.of(key));
        for (index, one) in different.iter().enumerate() {
            assert!(!different[..index].contains(one), "{one}");
        }
    }

    #[test]
    fn a_key_in_two_domains_is_an_error_that_names_all_three() {
        let error = CacheDomains::new([("x", ["k"]), ("y", ["k"])]).unwrap_err();
        let text = error.to_string();
        assert!(["\"k\"", "\"x\"", "\"y\""].iter().all(|name| text.contains(name)), "{text}");
    }
}
