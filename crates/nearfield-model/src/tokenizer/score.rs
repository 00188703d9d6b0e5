//! `SentencePiece`-style encoding by score: the neighbouring pair whose token has the best score merges first.

use super::encoding::Encoding;
use super::error::TokenizerError;
use super::merge::{Merger, Symbol};
use super::table::{Merge, NO_TOKEN};
use super::vocabulary::Vocabulary;

/// Scores of all tokens as priorities.
#[derive(Debug)]
pub(super) struct ScoreModel {
    /// By id; the best score has the lowest number.
    priorities: Vec<u32>,
    unknown: Option<u32>,
    /// The longest token, in bytes: longer pairs need no lookup.
    longest: u32,
}

impl ScoreModel {
    /// A model from one score a token.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        scores: &[f32],
        unknown: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        if scores.len() != vocabulary.len() {
            return Err(TokenizerError::Damaged {
                what: format!("{} scores for {} tokens", scores.len(), vocabulary.len()),
            });
        }
        if let Some(place) = scores.iter().position(|score| score.is_nan()) {
            return Err(TokenizerError::Damaged {
                what: format!("the score of token {place} is not a number"),
            });
        }
        let longest = vocabulary.iter().map(|(_, bytes, _)| bytes.len() as u32).max().unwrap_or(0);
        Ok(Self { priorities: scores.iter().map(|&score| priority(score)).collect(), unknown, longest })
    }

    /// Appends the tokens of a text.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        merger: &mut Merger,
        into: &mut Encoding,
    ) {
        if u32::try_from(text.len()).is_err() {
            into.lose(text.as_bytes());
            return;
        }
        let span = |start: u32, length: u32| text.as_bytes().get(start as usize..(start + length) as usize);
        merger.clear();
        for (start, character) in text.char_indices() {
            merger.push(Symbol { start: start as u32, length: character.len_utf8() as u32, id: NO_TOKEN });
        }
        merger.run(|left, right| {
            let length = left.length + right.length;
            if length > self.longest {
                return None;
            }
            let id = vocabulary.ordinary(span(left.start, length)?)?;
            Some(Merge { rank: *self.priorities.get(id as usize)?, id })
        });
        for symbol in merger.symbols() {
            let bytes = span(symbol.start, symbol.length).unwrap_or_default();
            match (symbol.id, vocabulary.ordinary(bytes)) {
                (NO_TOKEN, Some(id)) => into.ids.push(id),
                (NO_TOKEN, None) => self.fall_back(vocabulary, bytes, into),
                (id, _) => into.ids.push(id),
            }
        }
    }

    /// A character without a token: its bytes, or the unknown token, which loses what the character was.
    fn fall_back(&self, vocabulary: &Vocabulary, bytes: &[u8], into: &mut Encoding) {
        if bytes.iter().all(|&byte| vocabulary.byte_token(byte) != NO_TOKEN) {
            into.ids.extend(bytes.iter().map(|&byte| vocabulary.byte_token(byte)));
        } else {
            into.ids.extend(self.unknown);
            into.lose(bytes);
        }
    }
}

/// Order-reversing map from scores to integers.
fn priority(score: f32) -> u32 {
    // Adding zero makes the two zeros one. For IEEE numbers, flipping as below makes the order of bits that of values.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_have_lower_priorities() {
        let scores = [f32::INFINITY, 2.0, 1e-30, 0.0, -0.5, -1.0, -1000.0, -236_280.0, f32::NEG_INFINITY];
        assert!(scores.is_sorted_by(|left, right| priority(*left) < priority(*right)));
        assert_eq!(priority(0.0), priority(-0.0));
        assert!(priority(f32::NEG_INFINITY) < u32::MAX);
    }
}
