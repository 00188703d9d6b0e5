//! How much one request may ask for.

use crate::json::JsonLimits;

/// Bounds of a request body. What passes one is an error that says the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The JSON tree as a whole.
    pub json: JsonLimits,
    /// Messages of a conversation.
    pub messages: usize,
    /// Bytes of all prompt text together, the suffix included.
    pub prompt_bytes: usize,
    /// Tokens of a prompt that comes as token ids.
    pub prompt_tokens: usize,
    /// Bytes of a name: the model's, a speaker's.
    pub name_bytes: usize,
    /// Stop texts. OpenAI takes 4.
    pub stops: usize,
    /// Bytes of one stop text.
    pub stop_bytes: usize,
    /// Entries of `logit_bias`.
    pub logit_bias: usize,
    /// The largest `n`.
    pub choices: u32,
    /// The largest `top_logprobs`.
    pub top_logprobs: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            json: JsonLimits { bytes: 32 << 20, depth: 32, values: 2_000_000 },
            messages: 4096,
            prompt_bytes: 16 << 20,
            prompt_tokens: 1 << 20,
            name_bytes: 256,
            stops: 16,
            stop_bytes: 1024,
            logit_bias: 2048,
            choices: 128,
            top_logprobs: 20,
        }
    }
}
