//! The result of encoding.

use super::error::TokenizerError;

/// Tokens of a text, and how much of the text they could not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "the text may hold bytes that the vocabulary cannot express: see `exact`"]
pub struct Encoding {
    /// The token ids, in order.
    pub ids: Vec<u32>,
    /// Bytes of the text for which the vocabulary has no token. Some small vocabularies lack rare control characters.
    pub lost: usize,
    /// The first of the lost bytes.
    pub first_lost: Option<u8>,
}

impl Encoding {
    /// The ids, if they hold the whole text.
    ///
    /// # Errors
    /// [`TokenizerError::Unencodable`] when part of the text has no token.
    pub fn exact(self) -> Result<Vec<u32>, TokenizerError> {
        match self.first_lost {
            Some(byte) => Err(TokenizerError::Unencodable { count: self.lost, byte }),
            None => Ok(self.ids),
        }
    }

    /// Records bytes that have no token.
    pub(super) fn lose(&mut self, bytes: &[u8]) {
        self.lost += bytes.len();
        self.first_lost = self.first_lost.or(bytes.first().copied());
    }
}
