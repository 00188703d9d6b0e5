//! Puts the originals back into an answer that comes in pieces.

use std::collections::HashMap;
use std::sync::Arc;

/// The placeholders of one request with what they stand for.
#[derive(Default)]
pub struct Vault {
    originals: HashMap<String, String>,
    /// The placeholders in order, to tell whether a text may become one.
    sorted: Vec<String>,
    /// Bytes of the longest.
    longest: usize,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Vault({})", self.originals.len())
    }
}

impl Vault {
    pub(crate) fn new(originals: HashMap<String, String>) -> Self {
        let mut sorted: Vec<String> = originals.keys().cloned().collect();
        sorted.sort_unstable();
        let longest = sorted.iter().map(String::len).max().unwrap_or(0);
        Self { originals, sorted, longest }
    }

    /// Whether there is nothing to restore.
    pub fn is_empty(&self) -> bool {
        self.originals.is_empty()
    }

    /// Whether `text` is the beginning of a placeholder, or one.
    fn may_become(&self, text: &str) -> bool {
        let at = self.sorted.partition_point(|known| known.as_str() < text);
        self.sorted.get(at).is_some_and(|known| known.starts_with(text))
    }

    /// A whole text, restored.
    pub fn restore(self: &Arc<Self>, text: &str, escape: bool) -> String {
        let mut restorer = Restorer::new(Arc::clone(self), escape);
        let mut restored = restorer.push(text);
        restored.push_str(&restorer.finish());
        restored
    }
}

/// Restores one stream of text. It holds back only what may be the beginning of a placeholder.
#[derive(Clone, Debug)]
pub struct Restorer {
    vault: Arc<Vault>,
    /// Whether the text is JSON: what is put back is escaped as in a JSON string.
    escape: bool,
    held: String,
}

impl Restorer {
    /// Starts a stream. `escape` is for text that is JSON itself, such as the arguments of a tool.
    pub fn new(vault: Arc<Vault>, escape: bool) -> Self {
        Self { vault, escape, held: String::new() }
    }

    /// The next piece of the stream, as far as it can be said already.
    pub fn push(&mut self, piece: &str) -> String {
        if self.held.is_empty() && !piece.contains('[') {
            return piece.to_owned();
        }
        let joined = std::mem::take(&mut self.held) + piece;
        let mut out = String::with_capacity(joined.len());
        let mut rest = joined.as_str();
        while let Some(open) = rest.find('[') {
            out.push_str(&rest[..open]);
            rest = &rest[open..];
            // A bracket that closes farther on closes no placeholder.
            match rest.bytes().take(self.vault.longest).position(|byte| byte == b']') {
                Some(close) if self.vault.originals.contains_key(&rest[..=close]) => {
                    self.put(&rest[..=close], &mut out);
                    rest = &rest[close + 1..];
                }
                None if self.vault.may_become(rest) => {
                    rest.clone_into(&mut self.held);
                    return out;
                }
                _ => {
                    out.push('[');
                    rest = &rest[1..];
                }
            }
        }
        out.push_str(rest);
        out
    }

    fn put(&self, placeholder: &str, out: &mut String) {
        let Some(original) = self.vault.originals.get(placeholder) else { return };
        if !self.escape {
            out.push_str(original);
            return;
        }
        let quoted = serde_json::Value::from(original.as_str()).to_string();
        out.push_str(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default());
    }

    /// What was held back, at the end of the stream.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes held back now.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Arc<Vault> {
        let pairs = [("[EMAIL_1]", "a\"b@c.org"), ("[EMAIL_10]", "ten@c.org"), ("[PHONE_1]", "+46 8 1")];
        Arc::new(Vault::new(pairs.map(|(from, to)| (from.to_owned(), to.to_owned())).into()))
    }

    const ANSWER: &str = "Dear [EMAIL_1], [EMAIL_10] [EMAIL_2] a[0] [[PHONE_1]] [EMA] é[ [PHONE_1";
    const RESTORED: &str = "Dear a\"b@c.org, ten@c.org [EMAIL_2] a[0] [+46 8 1] [EMA] é[ [PHONE_1";

    #[test]
    fn every_split_gives_the_same_answer() {
        let cuts: Vec<usize> = (0..=ANSWER.len()).filter(|&at| ANSWER.is_char_boundary(at)).collect();
        for &first in &cuts {
            for &second in cuts.iter().filter(|&&cut| cut >= first) {
                let mut restorer = Restorer::new(vault(), false);
                let mut out = String::new();
                for piece in [&ANSWER[..first], &ANSWER[first..second], &ANSWER[second..]] {
                    out.push_str(&restorer.push(piece));
                    assert!(restorer.held() < "[EMAIL_10]".len());
                }
                out.push_str(&restorer.finish());
                assert_eq!(out, RESTORED, "{first} {second}");
            }
        }
    }

    #[test]
    fn single_characters_pass_as_soon_as_they_can() {
        let mut restorer = Restorer::new(vault(), false);
        let pieces: Vec<String> =
            "[x] [EMAIL_1]!".chars().map(|one| restorer.push(&one.to_string())).collect();
        assert_eq!(pieces[..3], ["", "[x", "]"]);
        assert_eq!(pieces.concat(), "[x] a\"b@c.org!");
    }

    #[test]
    fn what_is_put_into_json_is_escaped() {
        let restored = vault().restore(r#"{"to":"[EMAIL_1]","n":[1]}"#, true);
        assert_eq!(restored, r#"{"to":"a\"b@c.org","n":[1]}"#);
        serde_json::from_str::<serde_json::Value>(&restored).unwrap();
    }
}
