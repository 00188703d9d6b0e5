//! Tokenizers from the metadata of GGUF files.

use super::error::TokenizerError;
use super::pretokenizer::PreTokenizer;
use super::rank::{Alphabet, RankModel, set_byte_alphabet};
use super::score::ScoreModel;
use super::vocabulary::{MAX_MERGES, MAX_TOKENS, TokenKind, Vocabulary, parse_byte_token};
use super::{FillInTheMiddle, Model, Normalization, Roles, SPACE_MARK, Tokenizer, byte_level, matchers};

/// The tokenizer's part of a GGUF file's metadata, borrowed from the file. Each field is the value of the key
/// `tokenizer.ggml.` followed by the name given here.
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufVocabulary<'a> {
    /// `model`: `gpt2` (by merge rank) or `llama` (by score).
    pub model: &'a str,
    /// `pre`: the pre-tokenizer's name.
    pub pre: Option<&'a str>,
    /// `tokens`: text of each token, in the vocabulary's own writing.
    pub tokens: &'a [&'a str],
    /// `scores`: one per token; empty when absent.
    pub scores: &'a [f32],
    /// `token_type`: one per token; empty when absent.
    pub token_types: &'a [i32],
    /// `merges`: two halves with a space between, best first; empty when absent.
    pub merges: &'a [&'a str],
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`
    pub eos: Option<u32>,
    /// `eot_token_id`
    pub end_of_turn: Option<u32>,
    /// `eom_token_id`
    pub end_of_message: Option<u32>,
    /// `unknown_token_id`
    pub unknown: Option<u32>,
    /// `fim_pre_token_id`, or `prefix_token_id` in older files
    pub fim_prefix: Option<u32>,
    /// `fim_suf_token_id`, or `suffix_token_id` in older files
    pub fim_suffix: Option<u32>,
    /// `fim_mid_token_id`, or `middle_token_id` in older files
    pub fim_middle: Option<u32>,
    /// `add_bos_token`
    pub add_bos: Option<bool>,
    /// `add_eos_token`
    pub add_eos: Option<bool>,
    /// `add_space_prefix`
    pub add_space_prefix: Option<bool>,
}

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// Unknown kinds of tokenizers and pre-tokenizers by name; a vocabulary that is too large or contradicts itself.
    pub fn from_gguf(file: &GgufVocabulary<'_>) -> Result<Self, TokenizerError> {
        check_size("tokens", file.tokens.len(), MAX_TOKENS)?;
        check_size("merges", file.merges.len(), MAX_MERGES)?;
        if !file.token_types.is_empty() && file.token_types.len() != file.tokens.len() {
            let what = format!("{} token types for {} tokens", file.token_types.len(), file.tokens.len());
            return Err(TokenizerError::Damaged { what });
        }
        match file.model {
            "gpt2" => by_rank(file),
            "llama" => by_score(file),
            name => Err(TokenizerError::UnknownModel { name: name.to_owned() }),
        }
    }
}

/// An error when a count passes its limit.
pub(super) fn check_size(what: &'static str, found: usize, limit: usize) -> Result<(), TokenizerError> {
    if found > limit { Err(TokenizerError::TooLarge { what, found, limit }) } else { Ok(()) }
}

fn kind_of(file: &GgufVocabulary<'_>, id: usize) -> Result<TokenKind, TokenizerError> {
    match file.token_types.get(id) {
        None => Ok(TokenKind::Normal),
        Some(&value) => TokenKind::from_gguf(value).ok_or_else(|| TokenizerError::Damaged {
            what: format!("token {id} has the unknown type {value}"),
        }),
    }
}

/// The bytes of a `<0xNN>` token.
fn byte_token(text: &str, id: usize) -> Result<[u8; 1], TokenizerError> {
    parse_byte_token(text).map(|byte| [byte]).ok_or_else(|| TokenizerError::Damaged {
        what: format!("byte token {id} does not name a byte: {text:?}"),
    })
}

/// A byte-level vocabulary with merges.
fn by_rank(file: &GgufVocabulary<'_>) -> Result<Tokenizer, TokenizerError> {
    let pre = PreTokenizer::from_gguf_name(file.pre.ok_or(TokenizerError::MissingPreTokenizer)?)?;
    let text_bytes = file.tokens.iter().map(|token| token.len()).sum();
    let mut vocabulary = Vocabulary::with_capacity(file.tokens.len(), text_bytes);
    let mut bytes = Vec::new();
    for (id, text) in file.tokens.iter().enumerate() {
        let kind = kind_of(file, id)?;
        match kind {
            TokenKind::Normal => {
                if !byte_level::decode(text, &mut bytes) {
                    let what = format!("token {id} is not written in the byte alphabet: {text:?}");
                    return Err(TokenizerError::Damaged { what });
                }
                vocabulary.push(&bytes, kind)?;
            }
            TokenKind::Byte => vocabulary.push(&byte_token(text, id)?, kind)?,
            _ => vocabulary.push(text.as_bytes(), kind)?,
        }
    }
    set_byte_alphabet(&mut vocabulary);
    let (mut left_bytes, mut right_bytes, mut joined) = (Vec::new(), Vec::new(), Vec::new());
    let model = RankModel::new(Alphabet::Bytes, pre.takes_whole_pieces(), file.merges, |merge| {
        let (left, right) = split_merge(merge)?;
        if !byte_level::decode(left, &mut left_bytes) || !byte_level::decode(right, &mut right_bytes) {
            return None;
        }
        vocabulary.merge(&left_bytes, &right_bytes, &mut joined)
    })?;
    let normalization = Normalization { compose: pre == PreTokenizer::Qwen35, ..Normalization::default() };
    finish(
        file,
        vocabulary,
        Model::Rank { model, pieces: Some(pre) },
        normalization,
        pre == PreTokenizer::Llama3,
    )
}

/// Both halves of a merge. A half is never empty, so the space between is looked for behind the first character.
pub(super) fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge.get(first..)?.find(' ')?;
    Some((merge.get(..space)?, merge.get(space + 1..)?))
}

/// A vocabulary with scores.
fn by_score(file: &GgufVocabulary<'_>) -> Result<Tokenizer, TokenizerError> {
    let text_bytes = file.tokens.iter().map(|token| token.len()).sum();
    let mut vocabulary = Vocabulary::with_capacity(file.tokens.len(), text_bytes);
    let mut unmarked = String::new();
    for (id, text) in file.tokens.iter().enumerate() {
        let kind = kind_of(file, id)?;
        match kind {
            TokenKind::Byte => vocabulary.push(&byte_token(text, id)?, kind)?,
            TokenKind::Normal => {
                unmarked.clear();
                unmarked.extend(text.chars().map(|at| if at == SPACE_MARK { ' ' } else { at }));
                vocabulary.push(unmarked.as_bytes(), kind)?;
            }
            _ => vocabulary.push(text.as_bytes(), kind)?,
        }
    }
    let model = ScoreModel::new(&vocabulary, file.scores, file.unknown)?;
    let space_prefix = file.add_space_prefix.unwrap_or(true);
    let normalization = Normalization { compose: false, space_mark: true, space_prefix };
    finish(file, vocabulary, Model::Score(model), normalization, true)
}

/// Adds the tokens with a role.
fn finish(
    file: &GgufVocabulary<'_>,
    vocabulary: Vocabulary,
    model: Model,
    normalization: Normalization,
    add_bos_by_default: bool,
) -> Result<Tokenizer, TokenizerError> {
    let named = [
        ("bos", file.bos),
        ("eos", file.eos),
        ("end-of-turn", file.end_of_turn),
        ("end-of-message", file.end_of_message),
        ("unknown", file.unknown),
        ("fill-in-the-middle prefix", file.fim_prefix),
        ("fill-in-the-middle suffix", file.fim_suffix),
        ("fill-in-the-middle middle", file.fim_middle),
    ];
    for (name, id) in named {
        if let Some(id) = id
            && id as usize >= vocabulary.len()
        {
            let what =
                format!("the {name} token {id} is outside the vocabulary of {} tokens", vocabulary.len());
            return Err(TokenizerError::Damaged { what });
        }
    }
    let roles = Roles {
        bos: file.bos,
        eos: file.eos,
        end_of_turn: file.end_of_turn,
        end_of_message: file.end_of_message,
        fill_in_the_middle: None,
        add_bos: file.add_bos.unwrap_or(add_bos_by_default),
        add_eos: file.add_eos.unwrap_or(false),
    };
    if roles.add_bos && roles.bos.is_none() || roles.add_eos && roles.eos.is_none() {
        let what = "it asks for a beginning or end token that it does not name".to_owned();
        return Err(TokenizerError::Damaged { what });
    }
    let (control, added) = matchers(&vocabulary);
    let mut tokenizer = Tokenizer { vocabulary, model, normalization, control, added, roles };
    tokenizer.roles.fill_in_the_middle = tokenizer.find_fill_in_the_middle(file);
    Ok(tokenizer)
}

impl Tokenizer {
    fn find_fill_in_the_middle(&self, file: &GgufVocabulary<'_>) -> Option<FillInTheMiddle> {
        match (file.fim_prefix, file.fim_suffix, file.fim_middle) {
            (Some(prefix), Some(suffix), Some(middle)) => Some(FillInTheMiddle { prefix, suffix, middle }),
            _ => self.fill_in_the_middle_by_text(),
        }
    }

    /// Fill-in-the-middle tokens by their usual texts; only special tokens count.
    pub(super) fn fill_in_the_middle_by_text(&self) -> Option<FillInTheMiddle> {
        const TEXTS: [[&str; 3]; 6] = [
            ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
            ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
            ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
            ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
            ["<PRE>", "<SUF>", "<MID>"],
            ["▁<PRE>", "▁<SUF>", "▁<MID>"],
        ];
        let special = |text: &str| {
            self.token_id(text).filter(|&id| {
                matches!(self.token_kind(id), Some(TokenKind::Control | TokenKind::UserDefined))
            })
        };
        TEXTS.iter().find_map(|[prefix, suffix, middle]| {
            Some(FillInTheMiddle {
                prefix: special(prefix)?,
                suffix: special(suffix)?,
                middle: special(middle)?,
            })
        })
    }
}
