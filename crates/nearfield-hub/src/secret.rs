//! What must never be printed: tokens, passwords in addresses, signed queries.

use std::fmt;

use reqwest::header::HeaderValue;
use url::{Origin, Url};

/// A token or password. Its `Debug` shows nothing of it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(hidden)")
    }
}

/// An `Authorization` value together with the one origin (scheme, host and port) that may see it.
#[derive(Clone)]
pub(crate) struct Credential {
    origin: Origin,
    header: HeaderValue,
}

impl Credential {
    /// A bearer token for the origin of `url`; `None` when it holds bytes that a header cannot carry.
    pub(crate) fn bearer(url: &Url, token: &Secret) -> Option<Self> {
        Self::new(url, format!("Bearer {}", token.reveal()))
    }

    fn new(url: &Url, value: String) -> Option<Self> {
        let mut header = HeaderValue::from_str(&value).ok()?;
        header.set_sensitive(true);
        Some(Self { origin: url.origin(), header })
    }

    /// The header for a request to `url`, if this credential is meant for it.
    pub(crate) fn header_for(&self, url: &Url) -> Option<HeaderValue> {
        (self.origin == url.origin()).then(|| self.header.clone())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credential(hidden)")
    }
}

/// Takes user name and password out of `url`, as a basic-authentication credential for its origin.
pub(crate) fn take_user_info(url: &mut Url) -> Option<Credential> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let pair = format!("{}:{}", percent_decode(url.username()), percent_decode(url.password().unwrap_or("")));
    strip_user_info(url);
    let origin_url = url.clone();
    Credential::new(&origin_url, format!("Basic {}", base64(pair.as_bytes())))
}

/// Removes user name and password from `url`.
pub(crate) fn strip_user_info(url: &mut Url) {
    // Both fail only for addresses without a host, which have no user name either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// `url` as it may be shown: no user name, password, query (signed addresses carry keys there) or fragment.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    strip_user_info(&mut url);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// `text` (the output of another program) with the user names, passwords and queries of addresses removed.
pub(crate) fn scrub(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        // A password may hold quotes, brackets and commas: up to the last `@` before the path all is user info.
        let authority_end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '<' | '>'))
            .unwrap_or(after.len());
        let authority = after.get(..authority_end).unwrap_or_default();
        let after = after.get(authority.rfind('@').map_or(0, |at| at + 1)..).unwrap_or_default();
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | ')' | ','))
            .unwrap_or(after.len());
        let (address, remaining) = after.split_at(end);
        clean.push_str(address.split('?').next().unwrap_or_default());
        rest = remaining;
    }
    clean.push_str(rest);
    clean
}

/// Undoes percent-encoding; bytes that are not UTF-8 are kept encoded.
pub(crate) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let decoded = match (first, tail) {
            (b'%', [high, low, ..]) => char::from(*high)
                .to_digit(16)
                .zip(char::from(*low).to_digit(16))
                .map(|(h, l)| (h << 4 | l) as u8),
            _ => None,
        };
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4_usize {
            if position <= chunk.len() {
                let code = (group >> (18 - 6 * position) & 63) as usize;
                text.push(char::from(ALPHABET.get(code).copied().unwrap_or(b'=')));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_vectors_of_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn user_info_leaves_the_address_and_is_bound_to_its_origin() {
        let mut url: Url = "https://ann:p%40ss@host.example/x.gguf".parse().unwrap();
        let credential = take_user_info(&mut url).unwrap();
        assert_eq!(url.as_str(), "https://host.example/x.gguf");
        assert_eq!(credential.header_for(&url).unwrap(), "Basic YW5uOnBAc3M=");
        for other in ["https://other.example/x", "http://host.example/x", "https://host.example:8443/x"] {
            assert!(credential.header_for(&other.parse().unwrap()).is_none(), "{other}");
        }
        assert!(!format!("{credential:?} {:?}", Secret::new("p@ss")).contains("p@ss"));
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        let url: Url = "https://u:p@host.example/a?X-Signature=s#f".parse().unwrap();
        assert_eq!(shown(&url), "https://host.example/a");
        assert_eq!(
            scrub("see https://user:pw@h/simple/?k=v, and 'http://h2/p' or ftp://a@b"),
            "see https://h/simple/, and 'http://h2/p' or ftp://b"
        );
        assert_eq!(scrub("nothing here: //x ://"), "nothing here: //x ://");
        assert_eq!(scrub("(https://u:a'b,c)d@e@h/p?q, x)"), "(https://h/p, x)");
        assert_eq!(scrub("https://u:p@h:8080 and @x"), "https://h:8080 and @x");
    }

    #[test]
    fn percent_decoding_keeps_what_is_not_an_escape() {
        assert_eq!(percent_decode("a%2Fb%zz%"), "a/b%zz%");
        assert_eq!(percent_decode("%ff"), "%ff");
    }
}
