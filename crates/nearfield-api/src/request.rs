//! A request for generated text, whichever dialect it came in.

use std::collections::BTreeMap;

/// One request. Built by a codec from a wire dialect or by the command line; what a backend does not support is an
/// error of kind [`crate::ErrorKind::InvalidRequest`], never ignored.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The model's name as the caller wrote it; a backend may map it.
    pub model: String,
    /// What to continue or answer.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The largest number of tokens to generate for each choice; `None` leaves it to the backend's context.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Log probabilities: `Some(n)` asks for each token's own and its `n` most likely alternatives.
    pub logprobs: Option<u8>,
    /// How many independent answers (`n` on the wire), at least 1.
    pub choices: u32,
    /// Whether the caller wants the answer in pieces. Backends may use it as a hint; events are the same.
    pub stream: bool,
}

/// What a request starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A conversation, rendered with the model's chat template.
    Chat(Vec<Message>),
    /// Plain text to continue. With a `suffix` the model fills in what stands between the two.
    Text {
        /// What comes before.
        text: String,
        /// What comes after, for fill-in-the-middle.
        suffix: Option<String>,
    },
    /// Token ids to continue, in the model's own vocabulary.
    Tokens(Vec<u32>),
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text.
    pub content: String,
    /// The speaker's name, where the dialect has one.
    pub name: Option<String>,
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, in the newer spelling.
    Developer,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The role's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// How tokens are chosen. `None` leaves a setting to the backend's (for a local model: the model's own) default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f32>,
    /// Keeps the smallest set of tokens whose probability reaches this.
    pub top_p: Option<f32>,
    /// Keeps this many most likely tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Drops tokens less likely than this share of the most likely one.
    pub min_p: Option<f32>,
    /// Divides (or multiplies, when negative) the logits of tokens that have occurred; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Subtracted once from the logits of tokens that have been generated.
    pub presence_penalty: Option<f32>,
    /// Subtracted from the logits of generated tokens for each occurrence.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of single tokens, by id.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Makes sampling repeatable.
    pub seed: Option<u64>,
}
