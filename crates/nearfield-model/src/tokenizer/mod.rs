//! Tokenizers: text to token ids and back.
//!
//! Two algorithms cover the supported models: byte-pair encoding by merge rank ([`Tokenizer::from_gguf`] with `gpt2`
//! vocabularies, and `tokenizer.json`), and merging by score (`llama` vocabularies of GGUF files, Gemma 3 among them).
//! Vocabularies are kept in flat tables, so that 262 thousand tokens load in a few hundredths of a second.

mod byte_level;
mod encoding;
mod error;
mod generation;
mod gguf;
mod json;
mod merge;
mod metadata;
mod pretokenizer;
mod prompt;
mod rank;
mod score;
mod special;
mod stop_tokens;
mod table;
mod unicode;
mod vocabulary;

use std::borrow::Cow;
use std::sync::Arc;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

pub use encoding::Encoding;
pub use error::TokenizerError;
pub use generation::GenerationConfig;
pub use gguf::GgufVocabulary;
pub use json::{SpecialTexts, TokenizerConfig};
use merge::Merger;
pub use pretokenizer::PreTokenizer;
pub use prompt::PromptText;
use rank::RankModel;
use score::ScoreModel;
pub(crate) use special::SpecialMatcher;
pub use stop_tokens::StopTokens;
pub use vocabulary::TokenKind;
use vocabulary::Vocabulary;

/// The character that stands for a space in `SentencePiece` vocabularies, U+2581.
const SPACE_MARK: char = '\u{2581}';

/// Whether control tokens are recognised in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// They are: for text written by this program or by a chat template.
    Parse,
    /// They are not: their text is ordinary text. Added tokens that steer nothing (runs of spaces, HTML tags) still are.
    AsText,
}

/// The three tokens that frame a fill-in-the-middle prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillInTheMiddle {
    /// Stands before the text in front of the gap.
    pub prefix: u32,
    /// Stands before the text behind the gap.
    pub suffix: u32,
    /// Stands last; the model continues with the middle.
    pub middle: u32,
}

/// Tokens with a role, as far as the files name them.
#[derive(Debug, Clone, Default)]
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    end_of_turn: Option<u32>,
    end_of_message: Option<u32>,
    fill_in_the_middle: Option<FillInTheMiddle>,
    add_bos: bool,
    add_eos: bool,
}

/// What happens to ordinary text before it is encoded.
#[derive(Debug, Clone, Copy, Default)]
struct Normalization {
    /// Unicode normalization form C.
    compose: bool,
    /// U+2581 counts as a space.
    space_mark: bool,
    /// A space goes in front of text at the start and behind each special token.
    space_prefix: bool,
}

#[derive(Debug)]
enum Model {
    Rank { model: RankModel, pieces: Option<PreTokenizer> },
    Score(ScoreModel),
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    model: Model,
    normalization: Normalization,
    /// Tokens recognised in trusted text only.
    control: Arc<SpecialMatcher>,
    /// Tokens recognised in any text.
    added: SpecialMatcher,
    roles: Roles,
}

impl Tokenizer {
    /// Number of tokens. Ids at and above it, which padded embeddings may have, mean nothing.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Tokens of a text, without anything added at its ends.
    pub fn encode(&self, text: &str, special: Special) -> Encoding {
        let mut encoding = Encoding::default();
        self.encode_into(text, |_, _| special == Special::Parse, &mut encoding);
        encoding
    }

    /// Tokens of a text with the beginning-of-text and end-of-text tokens that the vocabulary asks for.
    pub fn encode_framed(&self, text: &str, special: Special) -> Encoding {
        let mut encoding = Encoding { ids: self.bos_to_add().into_iter().collect(), ..Encoding::default() };
        self.encode_into(text, |_, _| special == Special::Parse, &mut encoding);
        encoding.ids.extend(self.eos_to_add());
        encoding
    }

    /// Tokens of a rendered prompt: control tokens are recognised in its trusted parts only.
    ///
    /// Nothing is added at the ends: a chat template writes the beginning-of-text token itself where it belongs.
    pub fn encode_prompt(&self, prompt: &PromptText) -> Encoding {
        let mut encoding = Encoding::default();
        self.encode_into(prompt.as_str(), |start, end| prompt.allows(start, end), &mut encoding);
        encoding
    }

    /// Text of some tokens; bytes that are not UTF-8 become U+FFFD.
    ///
    /// With [`Special::Parse`] control tokens appear as their text, with [`Special::AsText`] they are left out.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn decode(&self, ids: &[u32], special: Special) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        let mut at_start = self.normalization.space_prefix;
        for &id in ids {
            let kind = self.vocabulary.kind(id).ok_or_else(|| self.unknown_id(id))?;
            if !kind.is_text() {
                if special == Special::Parse {
                    bytes.extend_from_slice(self.token_bytes(id)?);
                }
                // Text behind a special token had a space put in front as well.
                at_start = self.normalization.space_prefix;
                continue;
            }
            let token = self.token_bytes(id)?;
            let prefixed = at_start && kind == TokenKind::Normal;
            bytes.extend_from_slice(if prefixed { token.strip_prefix(b" ").unwrap_or(token) } else { token });
            at_start = kind == TokenKind::UserDefined && self.normalization.space_prefix;
        }
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The bytes that a token adds to decoded text. A token may hold part of a character. For control tokens: their name.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], TokenizerError> {
        self.vocabulary.bytes(id).ok_or_else(|| self.unknown_id(id))
    }

    /// What a token is for, or `None` outside the vocabulary.
    pub fn token_kind(&self, id: u32) -> Option<TokenKind> {
        self.vocabulary.kind(id)
    }

    /// The token with exactly this text: a control or added token, or an ordinary one.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        let exact = |matcher: &SpecialMatcher| {
            matcher.at_start(text.as_bytes()).find(|&(length, _)| length == text.len()).map(|(_, id)| id)
        };
        exact(&self.control)
            .or_else(|| exact(&self.added))
            .or_else(|| self.vocabulary.ordinary(text.as_bytes()))
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// The beginning-of-text token, if plain text is to start with it.
    pub fn bos_to_add(&self) -> Option<u32> {
        self.roles.bos.filter(|_| self.roles.add_bos)
    }

    /// The end-of-text token, if plain text is to end with it.
    pub fn eos_to_add(&self) -> Option<u32> {
        self.roles.eos.filter(|_| self.roles.add_eos)
    }

    /// The tokens of a fill-in-the-middle prompt, with models that know them.
    pub fn fill_in_the_middle(&self) -> Option<FillInTheMiddle> {
        self.roles.fill_in_the_middle
    }

    /// Tokens that are recognised in trusted text only.
    pub(crate) fn control(&self) -> &Arc<SpecialMatcher> {
        &self.control
    }

    fn unknown_id(&self, id: u32) -> TokenizerError {
        TokenizerError::UnknownId { id, size: self.vocabulary.len() }
    }

    /// Cuts out special tokens, longest first at each place, and encodes what lies between.
    fn encode_into(&self, text: &str, control_allowed: impl Fn(usize, usize) -> bool, into: &mut Encoding) {
        let bytes = text.as_bytes();
        let mut merger = Merger::default();
        let (mut start, mut place) = (0, 0);
        while let Some(&byte) = bytes.get(place) {
            let found = if self.control.may_start(byte) || self.added.may_start(byte) {
                let rest = bytes.get(place..).unwrap_or_default();
                let control =
                    self.control.at_start(rest).filter(|&(length, _)| control_allowed(place, place + length));
                control.chain(self.added.at_start(rest)).max_by_key(|&(length, _)| length)
            } else {
                None
            };
            let Some((length, id)) = found else {
                place += 1;
                continue;
            };
            self.encode_ordinary(text.get(start..place).unwrap_or_default(), &mut merger, into);
            into.ids.push(id);
            place += length;
            start = place;
        }
        self.encode_ordinary(text.get(start..).unwrap_or_default(), &mut merger, into);
    }

    /// Encodes text without special tokens.
    fn encode_ordinary(&self, text: &str, merger: &mut Merger, into: &mut Encoding) {
        if text.is_empty() {
            return;
        }
        let text = self.normalize(text);
        match &self.model {
            Model::Score(model) => model.encode(&self.vocabulary, &text, merger, into),
            Model::Rank { model, pieces: Some(pieces) } => {
                pieces.split(&text, &mut |piece| model.encode(&self.vocabulary, piece, merger, into));
            }
            Model::Rank { model, pieces: None } => model.encode(&self.vocabulary, &text, merger, into),
        }
    }

    fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        if self.normalization.compose && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            text = Cow::Owned(text.nfc().collect());
        }
        if self.normalization.space_mark && text.contains(SPACE_MARK) {
            text = Cow::Owned(text.replace(SPACE_MARK, " "));
        }
        if self.normalization.space_prefix {
            text.to_mut().insert(0, ' ');
        }
        text
    }
}

/// Builds a tokenizer's matchers from its finished vocabulary.
fn matchers(vocabulary: &Vocabulary) -> (Arc<SpecialMatcher>, SpecialMatcher) {
    let (mut control, mut added) = (Vec::new(), Vec::new());
    for (id, bytes, kind) in vocabulary.iter() {
        let looks = || std::str::from_utf8(bytes).is_ok_and(special::looks_like_control);
        match kind {
            TokenKind::Control | TokenKind::Unknown => control.push((bytes.into(), id)),
            TokenKind::UserDefined if looks() => control.push((bytes.into(), id)),
            // Vocabularies hold such texts as ordinary tokens too, which no ordinary text comes to be cut into.
            TokenKind::Normal if stop_tokens::is_end(bytes) => control.push((bytes.into(), id)),
            TokenKind::UserDefined => added.push((bytes.into(), id)),
            TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => {}
        }
    }
    (Arc::new(SpecialMatcher::new(control)), SpecialMatcher::new(added))
}
