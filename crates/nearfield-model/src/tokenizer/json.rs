//! Tokenizers from `tokenizer.json`, the file of the Hugging Face `tokenizers` library.
//!
//! Of the library's many parts, those are read that the supported families use; anything else is an error that names it.

mod parts;
mod read;

use serde::Deserialize;
use serde_json::Value;

use super::error::TokenizerError;
use super::rank::{Alphabet, RankModel, set_byte_alphabet};
use super::vocabulary::{MAX_TOKENS, TokenKind, Vocabulary, parse_byte_token};
use super::{Model, Normalization, Roles, SPACE_MARK, Tokenizer, byte_level, matchers};
use read::File;

/// Texts of tokens with a role, from `tokenizer_config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTexts {
    /// Beginning of text.
    pub bos: Option<String>,
    /// End of text, or of a turn in chat models.
    pub eos: Option<String>,
}

/// What matters here of `tokenizer_config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Beginning and end tokens.
    pub special: SpecialTexts,
    /// The chat template; a file `chat_template.jinja` beside it goes first.
    pub chat_template: Option<String>,
}

impl TokenizerConfig {
    /// Reads the file. Of several named templates, `default` is taken.
    ///
    /// # Errors
    /// [`TokenizerError::Json`], or [`TokenizerError::UnsupportedPart`] for a template or token of an unknown shape.
    pub fn parse(file: &[u8]) -> Result<Self, TokenizerError> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default)]
            bos_token: Value,
            #[serde(default)]
            eos_token: Value,
            #[serde(default)]
            chat_template: Value,
        }
        let raw: Raw = serde_json::from_slice(file)
            .map_err(|source| TokenizerError::Json { file: "tokenizer_config.json", source })?;
        let chat_template = match raw.chat_template {
            Value::Null => None,
            Value::String(template) => Some(template),
            Value::Array(named) => named
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
                .and_then(|entry| entry.get("template")?.as_str())
                .map(str::to_owned),
            other => return Err(parts::unsupported("chat_template", &other)),
        };
        let special = SpecialTexts {
            bos: special_text("bos_token", raw.bos_token)?,
            eos: special_text("eos_token", raw.eos_token)?,
        };
        Ok(Self { special, chat_template })
    }
}

/// A special token is written as its text or as an object with `content`.
fn special_text(name: &str, value: Value) -> Result<Option<String>, TokenizerError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => match other.get("content").and_then(Value::as_str) {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(parts::unsupported(name, &other)),
        },
    }
}

impl Tokenizer {
    /// The tokenizer of a `tokenizer.json`.
    ///
    /// Whether plain text gets a beginning or end token follows the file's post-processor. `special` names the beginning
    /// and end tokens; without it the beginning token is the one that the post-processor adds.
    ///
    /// # Errors
    /// Parts that are not supported, by name; a file that is not JSON; a vocabulary that contradicts itself.
    pub fn from_json(file: &[u8], special: &SpecialTexts) -> Result<Self, TokenizerError> {
        let file: File = serde_json::from_slice(file)
            .map_err(|source| TokenizerError::Json { file: "tokenizer.json", source })?;
        let setup = parts::recognise(&file)?;
        let vocabulary = build_vocabulary(&file, setup.byte_level)?;
        let unknown = match &file.model.unk_token {
            Some(text) => Some(file.id_of(text).ok_or_else(|| missing("unk_token", text))?),
            None => None,
        };
        let alphabet = if setup.byte_level { Alphabet::Bytes } else { Alphabet::Characters { unknown } };
        let (mut left, mut right, mut joined) = (Vec::new(), Vec::new(), Vec::new());
        let merges = &file.model.merges;
        let model = RankModel::new(alphabet, file.model.ignore_merges, &merges.spans, |span| {
            let (first, second) = merges.halves(span)?;
            write_token(first, setup.byte_level, &mut left).then_some(())?;
            write_token(second, setup.byte_level, &mut right).then_some(())?;
            vocabulary.merge(&left, &right, &mut joined)
        })?;
        let (control, added) = matchers(&vocabulary);
        let normalization = Normalization {
            compose: setup.compose,
            space_mark: setup.space_mark,
            space_prefix: setup.space_prefix,
        };
        let roles = Roles { add_bos: setup.bos.is_some(), add_eos: setup.eos.is_some(), ..Roles::default() };
        let model = Model::Rank { model, pieces: setup.pre_tokenizer };
        let mut tokenizer = Self { vocabulary, model, normalization, control, added, roles };
        let find = |name: &str, text: Option<&String>| match text {
            Some(text) => tokenizer.token_id(text).map(Some).ok_or_else(|| missing(name, text)),
            None => Ok(None),
        };
        let bos = find("bos_token", setup.bos.as_ref().or(special.bos.as_ref()))?;
        let eos = find("eos_token", setup.eos.as_ref().or(special.eos.as_ref()))?;
        tokenizer.roles.bos = bos;
        tokenizer.roles.eos = eos;
        tokenizer.roles.fill_in_the_middle = tokenizer.fill_in_the_middle_by_text();
        Ok(tokenizer)
    }
}

fn missing(name: &str, text: &str) -> TokenizerError {
    TokenizerError::Damaged { what: format!("its {name} {text:?} is not a token") }
}

/// The bytes of an ordinary token's text.
fn write_token(text: &str, byte_level: bool, into: &mut Vec<u8>) -> bool {
    if byte_level {
        return byte_level::decode(text, into);
    }
    into.clear();
    let mut buffer = [0; 4];
    for character in text.chars() {
        let character = if character == SPACE_MARK { ' ' } else { character };
        into.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
    }
    true
}

/// Puts the model's tokens and the added ones in the order of their ids; gaps become unused tokens.
fn build_vocabulary(file: &File, byte_level: bool) -> Result<Vocabulary, TokenizerError> {
    enum Entry<'f> {
        Gap,
        Model(&'f str),
        Added(&'f read::AddedToken),
        /// An added token that the model's vocabulary has too, so that merges may name it.
        Both(&'f read::AddedToken),
    }
    let highest = file
        .model
        .vocab
        .entries()
        .map(|(id, _)| id)
        .chain(file.added_tokens.iter().map(|token| token.id))
        .max();
    let size = highest.map_or(0, |id| id as usize + 1);
    super::gguf::check_size("tokens", size, MAX_TOKENS)?;
    let mut entries: Vec<Entry<'_>> = (0..size).map(|_| Entry::Gap).collect();
    for (id, text) in file.model.vocab.entries() {
        let Some(entry) = entries.get_mut(id as usize) else { continue };
        if !matches!(entry, Entry::Gap) {
            return Err(TokenizerError::Damaged { what: format!("two tokens have the id {id}") });
        }
        *entry = Entry::Model(text);
    }
    for token in &file.added_tokens {
        let Some(entry) = entries.get_mut(token.id as usize) else { continue };
        match entry {
            Entry::Model(text) if *text != token.content => {
                return Err(TokenizerError::Damaged { what: format!("two tokens have the id {}", token.id) });
            }
            Entry::Model(_) if !byte_level && !token.special && !token.content.is_empty() => {
                *entry = Entry::Both(token);
            }
            _ => *entry = Entry::Added(token),
        }
    }
    let mut vocabulary = Vocabulary::with_capacity(size, file.model.vocab.bytes());
    let mut bytes = Vec::new();
    for (id, entry) in entries.iter().enumerate() {
        match entry {
            Entry::Gap => vocabulary.push(b"", TokenKind::Unused)?,
            Entry::Added(token) if token.special => {
                vocabulary.push(token.content.as_bytes(), TokenKind::Control)?;
            }
            Entry::Added(token) => vocabulary.push(token.content.as_bytes(), TokenKind::UserDefined)?,
            Entry::Both(token) if write_token(&token.content, byte_level, &mut bytes) => {
                let same = bytes == token.content.as_bytes();
                // Runs of space marks are met as spaces, which merges put together.
                let kind = if same { TokenKind::UserDefined } else { TokenKind::Normal };
                vocabulary.push(&bytes, kind)?;
                if same {
                    vocabulary.index_last()?;
                }
            }
            Entry::Both(token) => vocabulary.push(token.content.as_bytes(), TokenKind::UserDefined)?,
            Entry::Model(text) => match parse_byte_token(text) {
                Some(byte) if file.model.byte_fallback => vocabulary.push(&[byte], TokenKind::Byte)?,
                _ if write_token(text, byte_level, &mut bytes) => {
                    vocabulary.push(&bytes, TokenKind::Normal)?;
                }
                _ => {
                    let what = format!("token {id} is not written in the byte alphabet: {text:?}");
                    return Err(TokenizerError::Damaged { what });
                }
            },
        }
    }
    if byte_level {
        set_byte_alphabet(&mut vocabulary);
    }
    Ok(vocabulary)
}
