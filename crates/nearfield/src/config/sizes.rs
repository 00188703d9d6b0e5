//! Amounts of memory: `"8 GB"`, `"512MiB"`, or a number of bytes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl Bytes {
    /// Reads a number with an optional unit, decimal (`GB`) or binary (`GiB`).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000 * 1000,
            "gb" => 1000 * 1000 * 1000,
            "tb" => 1000 * 1000 * 1000 * 1000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return None,
        };
        let bytes = number.parse::<f64>().ok()? * unit as f64;
        ((1.0..1e18).contains(&bytes)).then_some(Self(bytes as u64))
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| "expected an amount of memory such as 8GB or 512MiB".to_owned())
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

/// How much of the cache may hold the beginnings of earlier requests: an amount, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PrefixCache(pub(crate) u64);

impl std::str::FromStr for PrefixCache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "off" {
            return Ok(Self(0));
        }
        let bytes = Bytes::parse(text);
        bytes.map(|bytes| Self(bytes.0)).ok_or_else(|| "expected an amount such as 512MiB, or off".to_owned())
    }
}

impl<'de> Deserialize<'de> for PrefixCache {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an amount of memory such as \"8GB\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<Bytes, E> {
        u64::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .map(Bytes)
            .ok_or_else(|| E::custom("an amount of memory must be positive"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_cache_may_be_off() {
        assert_eq!("off".parse(), Ok(PrefixCache(0)));
        assert_eq!("1 MiB".parse(), Ok(PrefixCache(1 << 20)));
        assert!("on".parse::<PrefixCache>().is_err() && "-1".parse::<PrefixCache>().is_err());
    }

    #[test]
    fn amounts_have_units() {
        for (text, bytes) in
            [("8GB", 8_000_000_000), ("8 GiB", 8 << 30), ("1.5 mib", 3 << 19), ("4096", 4096), ("1 kB", 1000)]
        {
            assert_eq!(Bytes::parse(text), Some(Bytes(bytes)), "{text}");
        }
        for wrong in ["", "GB", "-1GB", "8 apples", "1e400GB", "0", "8.8.8GB"] {
            assert_eq!(Bytes::parse(wrong), None, "{wrong}");
        }
    }
}
