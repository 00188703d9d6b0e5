//! A request for generated text, whichever dialect it came in.

use std::collections::BTreeMap;

use crate::{Dialect, Extra, Labels, Message, OutputFormat, ReasoningOptions, Tool, ToolChoice};

/// One request. Built by a codec from a wire dialect or by the command line; what a backend does not support is an
/// error of kind [`crate::ErrorKind::InvalidRequest`], never ignored.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The model's name as the caller wrote it; a backend may map it.
    pub model: String,
    /// What to continue or answer.
    pub prompt: Prompt,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether and which tools it shall call.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several tools at once.
    pub parallel_tools: Option<bool>,
    /// The form of the answer.
    pub format: Option<OutputFormat>,
    /// How to think before the answer.
    pub reasoning: ReasoningOptions,
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
    /// What the caller sent for bookkeeping.
    pub labels: Labels,
    /// The dialect that the request came in, to which all `extra` fields and `Other` values in it belong. `None` when
    /// it has none.
    pub origin: Option<Dialect>,
    /// Fields of the body that only this dialect knows.
    pub extra: Extra,
    /// With whom a local engine may share the work on the prompt: what is read for one domain speeds up nothing in
    /// another. Set by whoever knows the caller, never read from the wire and never sent on it.
    pub cache_domain: String,
    /// What a policy decided about labels and about keeping the answer.
    pub terms: Terms,
}

/// What a policy decided about a request on its way out, in place of the backend's own settings. Never read from the wire and
/// never sent on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether [`Request::labels`] are as they may be sent. Otherwise the backend's settings say what becomes of them.
    pub labels_ready: bool,
    /// Whether the provider may keep the answer where the caller lets it.
    pub store: Option<bool>,
}

impl Request {
    /// A request that asks for nothing but an answer.
    pub fn new(model: impl Into<String>, prompt: Prompt) -> Self {
        Self {
            model: model.into(),
            prompt,
            tools: Vec::new(),
            tool_choice: None,
            parallel_tools: None,
            format: None,
            reasoning: ReasoningOptions::default(),
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            logprobs: None,
            choices: 1,
            stream: false,
            labels: Labels::default(),
            origin: None,
            extra: Extra::new(),
            cache_domain: String::new(),
            terms: Terms::default(),
        }
    }
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

impl Prompt {
    /// Bytes of content: of text, and four for each token id.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Chat(messages) => messages.iter().map(Message::bytes).sum(),
            Self::Text { text, suffix } => text.len() + suffix.as_ref().map_or(0, String::len),
            Self::Tokens(tokens) => tokens.len().saturating_mul(4),
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
