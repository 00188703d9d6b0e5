//! Log probabilities that are told only as far as their text is.

use std::collections::VecDeque;

use nearfield_api::{TokenAlternative, TokenLogprob};
use nearfield_model::tokenizer::Tokenizer;

/// Entries whose text may still turn out to be part of a stop text.
#[derive(Debug, Default)]
pub(super) struct HeldLogprobs {
    /// An entry may be told once so many bytes of text have been shown.
    held: VecDeque<(usize, TokenLogprob)>,
    /// Bytes of text that the tokens so far have given.
    text: usize,
    /// Bytes of it that have been shown.
    shown: usize,
}

impl HeldLogprobs {
    /// A token came and gave so much text.
    pub(super) fn push(&mut self, entry: Option<TokenLogprob>, text: usize) {
        self.text += text;
        if let Some(entry) = entry {
            // A token that gives no text yet shows itself with the next character.
            let until = if text == 0 { self.text + 1 } else { self.text };
            self.held.push_back((until, entry));
        }
    }

    /// So much more text is shown: what may be told now.
    pub(super) fn show(&mut self, text: usize) -> Vec<TokenLogprob> {
        self.shown += text;
        let ready = self.held.iter().take_while(|(until, _)| *until <= self.shown).count();
        self.held.drain(..ready).map(|(_, entry)| entry).collect()
    }

    /// The answer ended of itself: all the rest.
    pub(super) fn finish(&mut self) -> Vec<TokenLogprob> {
        self.held.drain(..).map(|(_, entry)| entry).collect()
    }
}

/// The entry of a token.
pub(super) fn entry(tokenizer: &Tokenizer, token: u32, logprob: f32, others: &[(u32, f32)]) -> TokenLogprob {
    let alternative = |&(id, logprob): &(u32, f32)| {
        let (token, bytes) = spelled(tokenizer, id);
        TokenAlternative { token, bytes, logprob }
    };
    let (text, bytes) = spelled(tokenizer, token);
    TokenLogprob { token: text, bytes, logprob, alternatives: others.iter().map(alternative).collect() }
}

fn spelled(tokenizer: &Tokenizer, token: u32) -> (String, Option<Vec<u8>>) {
    // The model may have more rows than its tokenizer has tokens; such a row has a probability and no text.
    let Ok(bytes) = tokenizer.token_bytes(token) else { return (String::new(), None) };
    (String::from_utf8_lossy(bytes).into_owned(), Some(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> TokenLogprob {
        TokenLogprob { token: text.to_owned(), bytes: None, logprob: 0.0, alternatives: Vec::new() }
    }

    fn names(entries: Vec<TokenLogprob>) -> Vec<String> {
        entries.into_iter().map(|entry| entry.token).collect()
    }

    #[test]
    fn entries_wait_for_their_text() {
        let mut held = HeldLogprobs::default();
        held.push(Some(token("ab")), 2);
        assert_eq!(names(held.show(2)), ["ab"]);
        // Held back, as the beginning of a stop text.
        held.push(Some(token("x")), 1);
        assert!(held.show(0).is_empty());
        held.push(Some(token("y")), 1);
        assert_eq!(names(held.show(2)), ["x", "y"]);
    }

    #[test]
    fn half_a_character_waits_for_the_whole() {
        let mut held = HeldLogprobs::default();
        held.push(Some(token("\u{fffd}")), 0);
        assert!(held.show(0).is_empty());
        held.push(Some(token("second half")), 2);
        assert_eq!(names(held.show(2)), ["\u{fffd}", "second half"]);
        held.push(Some(token("rest")), 0);
        assert!(held.show(0).is_empty());
        assert_eq!(names(held.finish()), ["rest"]);
    }

    #[test]
    fn a_stop_text_takes_its_entries_along() {
        let mut held = HeldLogprobs::default();
        held.push(Some(token("a")), 1);
        held.push(Some(token("EN")), 2);
        held.push(Some(token("D")), 1);
        assert_eq!(names(held.show(1)), ["a"]);
    }
}
