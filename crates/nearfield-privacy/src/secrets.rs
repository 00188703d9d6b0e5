//! Keys, tokens and passwords.

use crate::entity::{Entity, Span};

/// Beginnings of keys, with the fewest bytes that may follow.
const PREFIXES: &[(&[u8], usize)] = &[
    (b"AKIA", 16),
    (b"ASIA", 16),
    (b"ABIA", 16),
    (b"ACCA", 16),
    (b"AIza", 35),
    (b"ya29.", 20),
    (b"GOCSPX-", 20),
    (b"ghp_", 30),
    (b"gho_", 30),
    (b"ghu_", 30),
    (b"ghs_", 30),
    (b"ghr_", 30),
    (b"github_pat_", 22),
    (b"glpat-", 20),
    (b"sk-ant-", 20),
    (b"sk-proj-", 20),
    (b"sk-", 20),
    (b"sk_live_", 16),
    (b"sk_test_", 16),
    (b"rk_live_", 16),
    (b"rk_test_", 16),
    (b"pk_live_", 16),
    (b"whsec_", 24),
    (b"xoxb-", 20),
    (b"xoxp-", 20),
    (b"xoxa-", 20),
    (b"xoxr-", 20),
    (b"xoxs-", 20),
    (b"xapp-", 20),
    (b"hf_", 30),
    (b"npm_", 30),
    (b"pypi-", 30),
    (b"dop_v1_", 40),
    (b"SG.", 40),
    (b"gsk_", 30),
    (b"r8_", 30),
    (b"xai-", 30),
    (b"key-", 32),
    (b"shpat_", 30),
    (b"sq0atp-", 20),
    (b"EAACEdEose0cBA", 20),
    (b"dapi", 32),
    (b"lin_api_", 30),
    (b"nf-", 30),
    (b"AGE-SECRET-KEY-1", 40),
    (b"ABSK", 60),
    (b"tvly-", 20),
];

/// Bytes that a prefix begins with: most tokens begin with none of them.
const FIRSTS: [bool; 256] = {
    let mut firsts = [false; 256];
    let mut at = 0;
    while at < PREFIXES.len() {
        firsts[PREFIXES[at].0[0] as usize] = true;
        at += 1;
    }
    firsts
};

const fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Ends of runs that were walked already: a long run is walked once, not again for each token in it. Tokens must come in
/// the order of the text.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    key: usize,
    dotted: usize,
    /// The end of the dotted run without the dots at its end.
    trimmed: usize,
}

impl Runs {
    /// The end of the run of a key's bytes that goes through `at`.
    fn key_end(&mut self, text: &[u8], at: usize) -> usize {
        if at >= self.key {
            self.key = run_end(text, at);
        }
        self.key
    }

    /// The same with dots in it, which do not end it.
    fn dotted_end(&mut self, text: &[u8], at: usize) -> usize {
        if at >= self.dotted {
            self.trimmed = at;
            self.dotted = at;
            while let Some(&byte) = text.get(self.dotted).filter(|byte| is_key(**byte) || **byte == b'.') {
                self.dotted += 1;
                if byte != b'.' {
                    self.trimmed = self.dotted;
                }
            }
        }
        self.trimmed.max(at)
    }
}

fn run_end(text: &[u8], at: usize) -> usize {
    let at = at.min(text.len());
    at + text[at..].iter().take_while(|&&byte| is_key(byte)).count()
}

/// The key that the token `start..end` is part of.
pub(crate) fn key(text: &[u8], start: usize, end: usize, runs: &mut Runs) -> Option<Span> {
    let mut from = start;
    while from > 0 && start - from < 24 && (is_key(text[from - 1]) || text[from - 1] == b'.') {
        from -= 1;
    }
    let to = runs.key_end(text, end);
    if to - from < 16 {
        return None;
    }
    jwt(text, from, (start, end), to)
        .or_else(|| prefixed(text, from, start, to, runs))
        .or_else(|| webhook(text, from, to))
}

fn prefixed(text: &[u8], from: usize, start: usize, to: usize, runs: &mut Runs) -> Option<Span> {
    // A key may follow what is not part of it, such as `key=` (which ends the token) or a hyphen.
    let beginnings = (from..=start)
        .filter(|&at| FIRSTS[usize::from(text[at])] && (at == from || !text[at - 1].is_ascii_alphanumeric()));
    for at in beginnings {
        for (prefix, least) in PREFIXES {
            if text[at..to].starts_with(prefix) {
                let end = runs.dotted_end(text, to);
                let body = &text[at + prefix.len()..end];
                if body.len() >= *least && varied(body) {
                    return Some(Span::new(at, end, Entity::ApiKey, 98));
                }
            }
        }
    }
    None
}

/// Whether a text has the many different characters of something drawn by lot.
fn varied(text: &[u8]) -> bool {
    let mut seen = [false; 256];
    let mut kinds = 0;
    for &byte in text.iter().take(64) {
        kinds += usize::from(!std::mem::replace(&mut seen[usize::from(byte)], true));
    }
    kinds * 3 >= text.len().min(24)
}

/// A JSON web token: three parts, the first of which is base64 of `{"`. The token `start..end` is part of it, and the run
/// of a key's bytes after it ends at `to`.
fn jwt(text: &[u8], from: usize, (start, end): (usize, usize), to: usize) -> Option<Span> {
    let at = (from..=start).find(|&at| text[at..].starts_with(b"eyJ"))?;
    let dot = text[at..end].iter().position(|&byte| !is_key(byte)).map_or(to, |len| at + len);
    let body = text.get(dot + 1..dot + 13).filter(|body| body.iter().all(|&byte| is_key(byte)));
    if dot - at < 12 || text.get(dot) != Some(&b'.') || body.is_none() {
        return None;
    }
    let mut end = run_end(text, dot + 13);
    if text.get(end) == Some(&b'.') {
        end = run_end(text, end + 1);
    }
    Some(Span::new(at, end, Entity::Jwt, 98))
}

/// A bot token of the form `123456789:AA...`, or a long token beside a chat service's address.
fn webhook(text: &[u8], from: usize, to: usize) -> Option<Span> {
    let digits = text[from..to].iter().take(11).take_while(|byte| byte.is_ascii_digit()).count();
    let at = from + digits;
    if !(8..=10).contains(&digits)
        || at != to
        || text.get(at) != Some(&b':')
        || !text[at + 1..].starts_with(b"AA")
    {
        return None;
    }
    let body = text[at + 1..].iter().take(36).take_while(|&&byte| is_key(byte)).count();
    (body == 35).then(|| Span::new(from, at + 1 + body, Entity::ApiKey, 95))
}

/// The private key whose armour begins at `start`; without its end it reaches to the end of the text.
pub(crate) fn private_key(text: &[u8], start: usize) -> Option<Span> {
    let head = &text[start..text.len().min(start + 64)];
    let line = head.iter().position(|&byte| byte == b'\n' || byte == b'\\').unwrap_or(head.len());
    let names = |what: &[u8]| head[..line].windows(what.len()).any(|window| window == what);
    if !head.starts_with(b"-----BEGIN ") || !names(b"PRIVATE KEY") {
        return None;
    }
    let mut at = start + line;
    let end = loop {
        match text[at..].iter().position(|&byte| byte == b'-') {
            None => break text.len(),
            Some(found) => {
                at += found;
                if text[at..].starts_with(b"-----END ") {
                    let tail = &text[at + 9..];
                    break tail
                        .windows(5)
                        .take(64)
                        .position(|window| window == b"-----")
                        .map_or(text.len(), |len| at + 14 + len);
                }
                at += 1;
            }
        }
    };
    Some(Span::new(start, end, Entity::PrivateKey, 100))
}

/// Whether the name of a field announces a password or token.
pub(crate) fn announces(field: &[u8]) -> bool {
    let inside = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte >= 0x80;
    let start = field.len() - field.iter().rev().take_while(inside).count();
    least(&field[start..], &field[..start]).is_some()
}

/// How many bytes a secret has at least that the word `word` announces, in which a text `before` may end.
fn least(word: &[u8], before: &[u8]) -> Option<usize> {
    let mut small = [0u8; 12];
    let name = small.get_mut(..word.len())?;
    name.copy_from_slice(word);
    name.make_ascii_lowercase();
    Some(match &*name {
        b"password" | b"passwd" | b"pwd" | b"passphrase" | b"pass" | b"passcode" => 6,
        b"secret" | b"token" | b"apikey" | b"bearer" | b"credential" => 12,
        b"key"
            if [b"api".as_slice(), b"access", b"secret", b"private", b"auth", b"account"].iter().any(
                |kind| {
                    before.len() > kind.len()
                        && before[before.len() - 1 - kind.len()..before.len() - 1].eq_ignore_ascii_case(kind)
                },
            ) =>
        {
            12
        }
        _ => return None,
    })
}

/// The password or token after a `:` or `=` at `at` that the word `word` before it announces.
pub(crate) fn assigned(text: &[u8], word: &[u8], before: &[u8], at: usize) -> Option<Span> {
    let least = least(word, before)?;
    let quote = |byte: u8| matches!(byte, b'"' | b'\'' | b'`');
    let mut start = at + 1;
    while start < text.len()
        && start < at + 6
        && (text[start] == b' ' || text[start] == b'=' || quote(text[start]))
    {
        start += 1;
    }
    let quoted = start > 0 && quote(text[start - 1]);
    let len = text[start.min(text.len())..]
        .iter()
        .take(512)
        .take_while(|&&byte| byte > b' ' && !quote(byte) && !matches!(byte, b',' | b';' | b'<' | b')' | b'}'))
        .count();
    let mut end = start + len;
    // A cut in the middle of a character would not be a span of the text.
    while end > start && (text[end - 1] == b'.' || text.get(end).is_some_and(|byte| byte & 0xC0 == 0x80)) {
        end -= 1;
    }
    let value = &text[start.min(end)..end];
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    let marks =
        value.iter().any(|byte| matches!(byte, b'!' | b'#' | b'$' | b'%' | b'^' | b'&' | b'*' | b'@'));
    // Code names variables after what they hold; a value that is only letters and a call is no secret.
    let code = value.iter().any(|byte| matches!(byte, b'(' | b'[' | b'{')) || value.starts_with(b"$");
    let drawn = if least < 12 {
        digits > 0 && digits < value.len() || marks || quoted && digits > 0
    } else {
        digits >= 2 && varied(value)
    };
    (value.len() >= least && drawn && !code).then(|| Span::new(start, end, Entity::Credential, 70))
}
