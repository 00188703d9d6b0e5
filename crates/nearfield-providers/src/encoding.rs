//! Base64, hexadecimal and the hashes that signatures are made of.

use aws_lc_rs::{digest, hmac};

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 for addresses and tokens: `-` and `_`, and no padding.
pub(crate) fn base64_url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| (group << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let digit = STANDARD[((group >> (18 - 6 * place)) & 63) as usize];
            text.push(match digit {
                b'+' => '-',
                b'/' => '_',
                other => other as char,
            });
        }
    }
    text
}

/// Standard base64, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = base64_url(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// The bytes of standard base64; white space is skipped. `None` for any other character.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        if byte == b'=' {
            break;
        }
        let digit = STANDARD.iter().position(|known| *known == byte)?;
        bits = (bits << 6) | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [digits[(byte >> 4) as usize] as char, digits[(byte & 15) as usize] as char])
        .collect()
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(crate) fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_there_and_back() {
        for (text, encoded) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foobar", "Zm9vYmFy"), ("\u{3ff}~", "z79-")]
        {
            assert_eq!(base64_url(text.as_bytes()), encoded);
        }
        assert_eq!(base64_decode("Zm9v\nYmE=").unwrap(), b"fooba");
        assert_eq!(base64_decode("Zm9!"), None);
    }

    /// RFC 4231, test case 2.
    #[test]
    fn hmac_of_the_rfc() {
        assert_eq!(
            hex(&hmac_sha256(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
