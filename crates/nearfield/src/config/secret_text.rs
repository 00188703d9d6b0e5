//! Text that may be a secret by mistake: read, passed on, never shown.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// What stands where a reference to a secret should stand.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretText(String);

impl SecretText {
    /// The text, for the one place that reads it as a reference.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretText(hidden)")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

struct ReferenceVisitor;

/// Errors say what is expected, not what was found: it might be the key itself.
const EXPECTED: &str = "a key is not written here but referred to: \"env:NAME\" or \"file:PATH\"";

impl Visitor<'_> for ReferenceVisitor {
    type Value = SecretText;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("\"env:NAME\" or \"file:PATH\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SecretText, E> {
        let named = ["env:", "file:"]
            .iter()
            .any(|scheme| text.strip_prefix(scheme).is_some_and(|name| !name.trim().is_empty()));
        if named { Ok(SecretText(text.to_owned())) } else { Err(E::custom(EXPECTED)) }
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<SecretText, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<SecretText, E> {
        Err(E::custom(EXPECTED))
    }
}
