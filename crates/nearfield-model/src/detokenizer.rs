//! Streaming detokenization: tokens in, whole characters out.

use std::sync::Arc;

use crate::tokenizer::{Special, TokenKind, Tokenizer, TokenizerError};

/// Turns bytes that arrive in pieces into text, without ever splitting a character.
///
/// Bytes that are not UTF-8 become U+FFFD, one for each longest run that could have begun a character, as in
/// [`String::from_utf8_lossy`]; the text of all pieces together equals that of all bytes together.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes the next bytes and appends the characters they complete to `into`.
    pub fn push(&mut self, bytes: &[u8], into: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    into.push_str(text);
                    self.pending.clear();
                    return;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at_checked(error.valid_up_to()).unwrap_or((rest, &[]));
                    into.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(invalid) = error.error_len() else {
                        self.pending = after.to_vec();
                        return;
                    };
                    into.push(char::REPLACEMENT_CHARACTER);
                    rest = after.get(invalid..).unwrap_or_default();
                }
            }
        }
    }

    /// Ends the stream; the beginning of a character that never came becomes U+FFFD.
    pub fn finish(&mut self, into: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            into.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Turns generated tokens into text as they come.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    characters: Utf8Stream,
    special: Special,
    /// Control tokens that appear as their text in any case.
    shown: Arc<[u32]>,
}

impl Detokenizer {
    /// A detokenizer for tokens that continue a prompt, so that a first space is part of the answer.
    ///
    /// With [`Special::Parse`] control tokens appear as their text, with [`Special::AsText`] they are left out.
    pub fn new(special: Special) -> Self {
        Self { characters: Utf8Stream::default(), special, shown: Arc::default() }
    }

    /// Shows these control tokens as their text too.
    #[must_use]
    pub fn showing(mut self, tokens: Arc<[u32]>) -> Self {
        self.shown = tokens;
        self
    }

    /// Takes the next token and appends the characters it completes to `into`.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`]; the state is unchanged then.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, into: &mut String) -> Result<(), TokenizerError> {
        let bytes = tokenizer.token_bytes(id)?;
        let is_text = tokenizer.token_kind(id).is_some_and(TokenKind::is_text);
        if is_text {
            self.characters.push(bytes, into);
        } else {
            // A control token stands between characters, so one that was not finished stays so.
            self.characters.finish(into);
            if self.special == Special::Parse || self.shown.contains(&id) {
                self.characters.push(bytes, into);
            }
        }
        Ok(())
    }

    /// Ends the answer; the beginning of a character that never came becomes U+FFFD.
    pub fn finish(&mut self, into: &mut String) {
        self.characters.finish(into);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn streamed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let (mut stream, mut text) = (Utf8Stream::default(), String::new());
        for piece in pieces {
            stream.push(piece, &mut text);
        }
        stream.finish(&mut text);
        text
    }

    #[test]
    fn a_character_appears_when_it_is_complete() {
        let (mut stream, mut text) = (Utf8Stream::default(), String::new());
        for (byte, expected) in "é🙂".bytes().zip(["", "é", "é", "é", "é", "é🙂"]) {
            stream.push(&[byte], &mut text);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_broken_character_is_replaced_as_soon_as_it_is_known_to_be_broken() {
        let (mut stream, mut text) = (Utf8Stream::default(), String::new());
        stream.push(b"\xF0\x9F", &mut text);
        assert_eq!(text, "");
        stream.push(b"x", &mut text);
        assert_eq!(text, "\u{FFFD}x");
    }

    proptest! {
        #[test]
        fn pieces_equal_the_whole(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80_u8..0xC0, Just(0xE2), Just(0xF0), Just(b'a')], 0..60),
            sizes in prop::collection::vec(1_usize..5, 0..60),
        ) {
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for size in sizes {
                let (head, tail) = rest.split_at(size.min(rest.len()));
                pieces.push(head);
                rest = tail;
            }
            pieces.push(rest);
            prop_assert_eq!(streamed(pieces), String::from_utf8_lossy(&bytes));
        }
    }
}
