//! E-mail addresses, web addresses, IP and hardware addresses. Each function is given the byte that gave the thing away.

use std::net::Ipv6Addr;

use crate::context::{Context, VERSION};
use crate::entity::{DataClass, Entity, Span};

const fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || byte >= 0x80
        || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'' | b'=' | b'#' | b'&' | b'*')
}

/// The e-mail address around the `@` at `at`.
pub(crate) fn email(text: &[u8], at: usize) -> Option<Span> {
    // RFC 5321 gives the local part 64 bytes.
    let mut start = at;
    while start > 0 && at - start < 64 && is_local(text[start - 1]) {
        start -= 1;
    }
    let may_begin = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0xC0 || byte == b'_';
    while start < at && !may_begin(text[start]) {
        start += 1;
    }
    let end = host(text, at + 1)?;
    let letters =
        text[at + 1..end].iter().rev().take_while(|&&byte| byte.is_ascii_alphabetic() || byte >= 0x80);
    let top = letters.count();
    (start < at && top >= 2 && text[end - top - 1] == b'.').then(|| Span::new(start, end, Entity::Email, 95))
}

/// The end of the host name that begins at `at`, when it has at least two labels.
fn host(text: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    let mut dots = 0;
    while let Some(&byte) = text.get(end) {
        match byte {
            b'.' if end > at && text[end - 1] != b'.' && next_is_label(text, end + 1) => dots += 1,
            b'-' => {}
            _ if byte.is_ascii_alphanumeric() || byte >= 0x80 => {}
            _ => break,
        }
        end += 1;
        if end - at > 255 {
            return None;
        }
    }
    (dots > 0).then_some(end)
}

fn next_is_label(text: &[u8], at: usize) -> bool {
    text.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte >= 0x80)
}

/// No more of an address is looked at.
const LONGEST_URL: usize = 4097;

/// The web address whose `://` begins at `colon`, and the password in it.
pub(crate) fn url(text: &[u8], colon: usize, stop: &mut Stop, spans: &mut Vec<Span>) {
    let mut start = colon;
    while start > 0
        && colon - start < 16
        && (text[start - 1].is_ascii_alphanumeric() || text[start - 1] == b'+')
    {
        start -= 1;
    }
    if start == colon || !text[start].is_ascii_alphabetic() {
        return;
    }
    let from = colon + 3;
    let end = stop.url_end(text, from);
    if end < from + 2 {
        return;
    }
    let authority = text[from..end]
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .map_or(end, |len| from + len);
    let mut span = Span::new(start, end, Entity::Url, 96);
    if let Some(user) = text[from..authority].iter().rposition(|&byte| byte == b'@')
        && let Some(name) = text[from..from + user].iter().position(|&byte| byte == b':')
        && name + 1 < user
    {
        // `user:password@host`: the whole address is a credential.
        span.entity = Entity::Credential;
        span.class = DataClass::Secret;
    }
    spans.push(span);
}

/// The web address that begins with `www.` at `start`.
pub(crate) fn www(text: &[u8], start: usize, stop: &mut Stop) -> Option<Span> {
    let end = stop.url_end(text, start);
    host(text, start).filter(|&host| host > start + 6 && host <= end)?;
    Some(Span::new(start, end, Entity::Url, 90))
}

/// Where the address that was looked at last ends: one that holds many others is walked once. Addresses must come in the
/// order of the text.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    at: usize,
    /// Its end without the marks of the sentence around it.
    trimmed: usize,
}

const fn ends_url(byte: u8) -> bool {
    byte <= b' ' || matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'|' | b'\\' | b'^')
}

const fn is_around(byte: u8) -> bool {
    matches!(byte, b'.' | b',' | b';' | b':' | b'!' | b'?' | b')' | b']' | b'\'' | b'*')
}

impl Stop {
    fn url_end(&mut self, text: &[u8], from: usize) -> usize {
        if from >= self.at {
            (self.at, self.trimmed) = (from, from);
            while let Some(&byte) = text.get(self.at).filter(|byte| !ends_url(**byte)) {
                self.at += 1;
                if !is_around(byte) {
                    self.trimmed = self.at;
                }
            }
        }
        if self.at - from <= LONGEST_URL {
            return self.trimmed.max(from);
        }
        let mut end = from + LONGEST_URL;
        while end > from && is_around(text[end - 1]) {
            end -= 1;
        }
        // A cut in the middle of a character would not be a span of the text.
        while end > from && end < text.len() && text[end] & 0xC0 == 0x80 {
            end += 1;
        }
        end
    }
}

/// The address of IP version 4 that begins at `start`.
pub(crate) fn ipv4(text: &[u8], start: usize) -> Option<Span> {
    if start > 1 && text[start - 1] == b'.' && text[start - 2].is_ascii_digit() {
        return None;
    }
    let mut end = start;
    for part in 0..4 {
        let len = text[end..].iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        let value = text[end..end + len].iter().fold(0u32, |value, byte| value * 10 + u32::from(byte - b'0'));
        if len == 0 || len > 3 || value > 255 || (len > 1 && text[end] == b'0') {
            return None;
        }
        end += len;
        if part < 3 {
            if text.get(end) != Some(&b'.') {
                return None;
            }
            end += 1;
        }
    }
    let goes_on = match text.get(end) {
        Some(b'.') => text.get(end + 1).is_some_and(u8::is_ascii_digit),
        Some(byte) => byte.is_ascii_alphanumeric() || *byte == b'_',
        None => false,
    };
    // Loopback, the unspecified address and masks name nobody.
    let nobody = text[start..end].starts_with(b"127.")
        || [b"0.0.0.0".as_slice(), b"255.255.255.255", b"255.255.255.0"].contains(&&text[start..end]);
    if goes_on || nobody || Context::before(text, start).label(VERSION) {
        return None;
    }
    Some(Span::new(start, end, Entity::IpAddress, 90))
}

/// The address of IP version 6 around the colon at `colon`.
pub(crate) fn ipv6(text: &[u8], colon: usize) -> Option<Span> {
    let inside = |byte: u8| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.';
    let mut start = colon;
    while start > 0 && colon - start < 40 && inside(text[start - 1]) {
        start -= 1;
    }
    let mut end = colon;
    while end < text.len() && end - colon < 46 && inside(text[end]) {
        end += 1;
    }
    let bounded = |at: Option<&u8>| at.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    while end > start && matches!(text[end - 1], b'.') {
        end -= 1;
    }
    if text[start..end].ends_with(b":") && !text[start..end].ends_with(b"::") {
        end -= 1;
    }
    let found = &text[start..end];
    if !bounded(start.checked_sub(1).and_then(|at| text.get(at))) || !bounded(text.get(end)) {
        return None;
    }
    let colons = found.split(|&byte| byte == b':').count() - 1;
    if colons < 2 || !found.iter().any(u8::is_ascii_digit) {
        return None;
    }
    let _: Ipv6Addr = std::str::from_utf8(found).ok()?.parse().ok()?;
    Some(Span::new(start, end, Entity::IpAddress, 92))
}

/// The hardware address that has a pair of hexadecimal digits at `at`.
pub(crate) fn mac(text: &[u8], at: usize) -> Option<Span> {
    let separator = *text.get(at + 2).filter(|byte| matches!(byte, b':' | b'-')).or_else(|| {
        at.checked_sub(1).and_then(|before| text.get(before)).filter(|byte| matches!(byte, b':' | b'-'))
    })?;
    let pair = |at: usize| text.get(at..at + 2).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
    let mut start = at;
    while start >= 3 && text[start - 1] == separator && pair(start - 3) && at - start < 15 {
        start -= 3;
    }
    let mut end = start + 2;
    let mut pairs = 1;
    while pairs < 7 && text.get(end) == Some(&separator) && pair(end + 1) {
        end += 3;
        pairs += 1;
    }
    let bounded =
        |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != separator);
    let free = bounded(start.checked_sub(1).and_then(|before| text.get(before))) && bounded(text.get(end));
    (pairs == 6 && free).then(|| Span::new(start, end, Entity::MacAddress, 95))
}
