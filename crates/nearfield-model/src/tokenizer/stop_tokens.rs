//! Which tokens end an answer.

use super::Tokenizer;
use super::generation::GenerationConfig;
use super::vocabulary::TokenKind;

/// Texts that end an answer wherever they are a control token of the vocabulary.
const ENDS: [&str; 20] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<eos>",
    "</s>",
    "<turn|>",
    "<|tool_response>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
    // A model that completes code goes on with the next file of the repository when it has finished this one.
    "<|fim_pad|>",
    "<|file_sep|>",
    "<|repo_name|>",
    "<reponame>",
];

/// Whether a token's text is one that ends an answer.
pub(super) fn is_end(text: &[u8]) -> bool {
    // Nearly all of a vocabulary is dismissed by its first byte.
    matches!(text.first(), Some(b'<' | b'[')) && ENDS.iter().any(|end| end.as_bytes() == text)
}

/// The tokens that end an answer; few, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopTokens {
    ids: Vec<u32>,
}

impl StopTokens {
    /// Unites all sources: the generation config, the roles in the vocabulary's metadata, the vocabulary's control tokens
    /// that always end a turn or text, and such texts in the chat template even where the vocabulary calls them plain.
    pub fn collect(tokenizer: &Tokenizer, config: &GenerationConfig, template: Option<&str>) -> Self {
        let roles = &tokenizer.roles;
        let named = [roles.eos, roles.end_of_turn, roles.end_of_message].into_iter().flatten();
        let by_text = ENDS.iter().filter_map(|text| {
            let id = tokenizer.token_id(text)?;
            let in_template = template.is_some_and(|template| template.contains(text));
            match tokenizer.token_kind(id)? {
                TokenKind::Control => Some(id),
                TokenKind::UserDefined if in_template => Some(id),
                _ => None,
            }
        });
        let mut ids: Vec<u32> = config.eos_token_ids.iter().copied().chain(named).chain(by_text).collect();
        ids.retain(|&id| (id as usize) < tokenizer.vocabulary_size());
        ids.sort_unstable();
        ids.dedup();
        Self { ids }
    }

    /// Whether a token ends an answer.
    pub fn contains(&self, id: u32) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// All of them, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}
