//! The tokens of a model: their bytes, their kinds, and the index from bytes to id.

use super::error::TokenizerError;
use super::table::{Arena, NO_TOKEN, TextIndex};

/// The most tokens a vocabulary may have; the largest published ones have about 262 thousand.
pub(super) const MAX_TOKENS: usize = 1 << 22;
/// The most merges a vocabulary may have.
pub(super) const MAX_MERGES: usize = 1 << 23;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of ordinary text.
    Normal,
    /// Stands for text that the vocabulary cannot express.
    Unknown,
    /// Steers the model: turn markers, beginning and end of text.
    Control,
    /// An added piece of text, recognised before ordinary ones.
    UserDefined,
    /// A free place, never produced.
    Unused,
    /// One byte of a character that has no token.
    Byte,
}

impl TokenKind {
    /// The kind from a value of `tokenizer.ggml.token_type`.
    pub(super) fn from_gguf(value: i32) -> Option<Self> {
        Some(match value {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            0 | 5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether tokens of this kind carry text for a reader.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined | Self::Byte)
    }
}

/// Bytes, kinds and index of all tokens.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// What each token contributes to decoded text; for control tokens, their text.
    bytes: Arena,
    kinds: Vec<TokenKind>,
    /// Ordinary tokens by their bytes.
    ordinary: TextIndex,
    /// Tokens of single bytes: byte tokens, or single-byte tokens of a byte-level vocabulary.
    pub(super) of_byte: [u32; 256],
}

impl Vocabulary {
    pub(super) fn with_capacity(tokens: usize, bytes: usize) -> Self {
        Self {
            bytes: Arena::with_capacity(tokens, bytes),
            kinds: Vec::with_capacity(tokens),
            ordinary: TextIndex::with_capacity(tokens),
            of_byte: [NO_TOKEN; 256],
        }
    }

    /// Appends the next token. Only ordinary tokens with a text enter the index.
    pub(super) fn push(&mut self, bytes: &[u8], kind: TokenKind) -> Result<(), TokenizerError> {
        let id = self.kinds.len() as u32;
        if !self.bytes.push(bytes.iter().copied()) {
            return Err(TokenizerError::TooLarge {
                what: "bytes",
                found: usize::MAX,
                limit: u32::MAX as usize,
            });
        }
        self.kinds.push(kind);
        if kind == TokenKind::Normal && !bytes.is_empty() {
            self.index(id)?;
        }
        if let ([byte], TokenKind::Byte) = (bytes, kind) {
            self.set_byte(*byte, id);
        }
        Ok(())
    }

    /// Makes the token that was pushed last one that merges can lead to, whatever its kind.
    pub(super) fn index_last(&mut self) -> Result<(), TokenizerError> {
        self.index((self.kinds.len() as u32).saturating_sub(1))
    }

    fn index(&mut self, id: u32) -> Result<(), TokenizerError> {
        match self.ordinary.insert(&self.bytes, id) {
            None => Ok(()),
            Some(other) => {
                Err(TokenizerError::Damaged { what: format!("tokens {other} and {id} have the same text") })
            }
        }
    }

    /// Makes `id` the token of a single byte.
    pub(super) fn set_byte(&mut self, byte: u8, id: u32) {
        if let Some(place) = self.of_byte.get_mut(usize::from(byte)) {
            *place = id;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The ordinary token with exactly these bytes.
    pub(super) fn ordinary(&self, bytes: &[u8]) -> Option<u32> {
        self.ordinary.get(&self.bytes, bytes)
    }

    /// The ids of two ordinary tokens and of the one that is both joined; `joined` is reused memory.
    pub(super) fn merge(&self, left: &[u8], right: &[u8], joined: &mut Vec<u8>) -> Option<(u32, u32, u32)> {
        joined.clear();
        joined.extend_from_slice(left);
        joined.extend_from_slice(right);
        Some((self.ordinary(left)?, self.ordinary(right)?, self.ordinary(joined)?))
    }

    /// The token of a byte, or [`NO_TOKEN`].
    pub(super) fn byte_token(&self, byte: u8) -> u32 {
        self.of_byte.get(usize::from(byte)).copied().unwrap_or(NO_TOKEN)
    }

    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id)
    }

    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Ids, bytes and kinds of all tokens.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[u8], TokenKind)> {
        (0_u32..).zip(&self.kinds).map(|(id, &kind)| (id, self.bytes.get(id).unwrap_or_default(), kind))
    }
}

/// The byte that a byte token's text `<0xNN>` names.
pub(super) fn parse_byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}
