//! HMAC-SHA-256 (RFC 2104), for pseudonyms that only the holder of the key can recompute.

use sha2::{Digest as _, Sha256};

/// A key for pseudonyms. Never printed.
#[derive(Clone)]
pub struct HashKey([u8; 32]);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HashKey")
    }
}

impl HashKey {
    /// A key of 32 bytes drawn by a good generator.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The code of a message that comes in parts; each part's length is part of it.
    pub fn code(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut message = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
        for part in parts {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        hmac(&self.0, &message)
    }

    /// A short pseudonym of a value: sixteen hexadecimal digits.
    pub fn pseudonym(&self, kind: &str, value: &str) -> String {
        let [a, b, c, d, e, f, g, h, ..] =
            self.code(&[b"nearfield pseudonym", kind.as_bytes(), value.as_bytes()]);
        format!("{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; 64];
    if let Some(head) = block.get_mut(..key.len()) {
        head.copy_from_slice(key);
    } else {
        block[..32].copy_from_slice(&Sha256::digest(key));
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap();
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// RFC 4231, cases 1, 2 and 6.
    #[test]
    fn agrees_with_the_published_vectors() {
        assert_eq!(
            hex(&hmac(&[0x0b; 20], b"Hi There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn pseudonyms_depend_on_key_kind_and_value() {
        let key = HashKey::new([1; 32]);
        let own = key.pseudonym("EMAIL", "a@b.org");
        assert_eq!(own, key.pseudonym("EMAIL", "a@b.org"));
        assert_ne!(own, key.pseudonym("PHONE", "a@b.org"));
        assert_ne!(own, HashKey::new([2; 32]).pseudonym("EMAIL", "a@b.org"));
        assert_ne!(key.code(&[b"ab", b"c"]), key.code(&[b"a", b"bc"]));
        assert_eq!(format!("{key:?}"), "HashKey");
    }
}
