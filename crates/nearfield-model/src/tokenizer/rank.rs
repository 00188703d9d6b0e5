//! Byte-pair encoding by merge rank.

use super::encoding::Encoding;
use super::error::TokenizerError;
use super::merge::{Merger, Symbol};
use super::table::{Merge, MergeIndex, NO_TOKEN};
use super::vocabulary::Vocabulary;

/// What text consists of before the first merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// Bytes: every byte has its own token.
    Bytes,
    /// Characters; one without a token becomes byte tokens, or else the unknown token.
    Characters {
        /// The unknown token.
        unknown: Option<u32>,
    },
}

/// Merges and their ranks.
#[derive(Debug)]
pub(super) struct RankModel {
    merges: MergeIndex,
    alphabet: Alphabet,
    /// A piece that is itself a token is taken whole.
    whole_pieces: bool,
}

impl RankModel {
    /// A model from merges in order of rank. Both halves of a merge and its result must be ordinary tokens.
    ///
    /// `halves` gives the ids of both halves and of the result of a merge, as far as they exist.
    pub(super) fn new<M>(
        alphabet: Alphabet,
        whole_pieces: bool,
        list: &[M],
        mut halves: impl FnMut(&M) -> Option<(u32, u32, u32)>,
    ) -> Result<Self, TokenizerError> {
        let mut merges = MergeIndex::with_capacity(list.len());
        for (rank, merge) in (0..).zip(list) {
            let Some((left, right, id)) = halves(merge) else {
                return Err(TokenizerError::Damaged {
                    what: format!("merge {rank} names a token that is not there"),
                });
            };
            merges.insert(left, right, Merge { rank, id });
        }
        Ok(Self { merges, alphabet, whole_pieces })
    }

    /// Appends the tokens of one piece of text.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        piece: &str,
        merger: &mut Merger,
        into: &mut Encoding,
    ) {
        if self.whole_pieces
            && let Some(id) = vocabulary.ordinary(piece.as_bytes())
        {
            into.ids.push(id);
            return;
        }
        let Ok(length) = u32::try_from(piece.len()) else {
            into.lose(piece.as_bytes());
            return;
        };
        merger.clear();
        match self.alphabet {
            Alphabet::Bytes => {
                for (start, byte) in (0..length).zip(piece.bytes()) {
                    merger.push(Symbol { start, length: 1, id: vocabulary.byte_token(byte) });
                }
            }
            Alphabet::Characters { unknown } => {
                for (start, character) in piece.char_indices() {
                    push_character(vocabulary, unknown, start as u32, character, merger);
                }
            }
        }
        merger.run(|left, right| self.merges.get(left.id, right.id));
        for symbol in merger.symbols() {
            if symbol.id == NO_TOKEN {
                let start = symbol.start as usize;
                into.lose(piece.as_bytes().get(start..start + symbol.length as usize).unwrap_or_default());
            } else {
                into.ids.push(symbol.id);
            }
        }
    }
}

/// A character as itself, as byte tokens, or as the unknown token.
fn push_character(
    vocabulary: &Vocabulary,
    unknown: Option<u32>,
    start: u32,
    character: char,
    merger: &mut Merger,
) {
    let mut buffer = [0; 4];
    let bytes = character.encode_utf8(&mut buffer).as_bytes();
    if let Some(id) = vocabulary.ordinary(bytes) {
        merger.push(Symbol { start, length: bytes.len() as u32, id });
    } else if bytes.iter().all(|&byte| vocabulary.byte_token(byte) != NO_TOKEN) {
        for (place, &byte) in (start..).zip(bytes) {
            merger.push(Symbol { start: place, length: 1, id: vocabulary.byte_token(byte) });
        }
    } else {
        merger.push(Symbol { start, length: bytes.len() as u32, id: unknown.unwrap_or(NO_TOKEN) });
    }
}

/// Enters the single-byte tokens of a byte-level vocabulary as its alphabet.
pub(super) fn set_byte_alphabet(vocabulary: &mut Vocabulary) {
    for byte in 0..=u8::MAX {
        if let Some(id) = vocabulary.ordinary(&[byte]) {
            vocabulary.set_byte(byte, id);
        }
    }
}
