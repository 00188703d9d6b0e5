//! SHA-256 digests: the one hash by which files are known.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Bytes read from a file at a time while hashing.
const READ_BYTES: usize = 1 << 20;

/// A SHA-256 digest; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// The text was not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is written as 64 hexadecimal digits")]
pub struct InvalidDigest;

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Reads the whole file and returns its digest and its length in bytes.
    ///
    /// # Errors
    /// Any error of opening or reading the file.
    pub fn of_file(path: &Path) -> io::Result<(Self, u64)> {
        let mut hasher = Hasher::default();
        let bytes = hasher.update_from(&mut File::open(path)?)?;
        Ok((hasher.finish(), bytes))
    }

    /// The first `digits` hexadecimal digits (at most 64), for names of folders.
    pub(crate) fn short(&self, digits: usize) -> String {
        self.to_string().chars().take(digits).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let mut digits = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8));
        let mut bytes = [0_u8; 32];
        for byte in &mut bytes {
            match (digits.next(), digits.next()) {
                (Some(Some(high)), Some(Some(low))) => *byte = high << 4 | low,
                _ => return Err(InvalidDigest),
            }
        }
        if digits.next().is_some() {
            return Err(InvalidDigest);
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A digest in the making.
#[derive(Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds everything that `reader` gives and returns how many bytes that was.
    pub(crate) fn update_from(&mut self, reader: &mut impl Read) -> io::Result<u64> {
        let mut buffer = vec![0_u8; READ_BYTES];
        let mut total = 0_u64;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.update(buffer.get(..count).unwrap_or_default());
            total += count as u64;
        }
    }

    /// The digest of everything added.
    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
    }

    #[test]
    fn text_and_digest_convert_both_ways() {
        let digest: Digest = EMPTY.to_uppercase().parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        for wrong in ["", "e3", &EMPTY[1..], &format!("{EMPTY}0"), &EMPTY.replace('e', "g")] {
            assert_eq!(wrong.parse::<Digest>(), Err(InvalidDigest), "{wrong}");
        }
    }
}
