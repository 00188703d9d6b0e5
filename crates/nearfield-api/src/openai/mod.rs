//! OpenAI's dialect: chat completions, completions, models and error bodies. Pure functions, both ways.
//!
//! | direction | functions |
//! |---|---|
//! | what a client sends us | [`parse_chat_request`], [`parse_completions_request`] |
//! | what we answer | [`ReplyCollector`], [`StreamEncoder`], [`error_body`], [`models_body`] |
//! | what we send to a backend of this dialect | [`encode_request`] |
//! | what such a backend answers | [`crate::Dialect::decoder`], [`decode_error`], [`decode_models`] |
//!
//! Towards us the reading is strict: a field that would change the answer and is not supported, and a field that is
//! not known, are errors that name it. Towards a backend it is lenient in form (absent, null or odd optional fields)
//! and strict in substance (an answer that was cut is never taken for a whole one).

mod answer_extras;
mod chat_request;
mod chunk_decoder;
mod completions_request;
mod delta;
mod encode_messages;
mod encode_request;
mod error_body;
mod finish_reason;
mod limits;
mod logprobs;
mod messages;
mod models;
mod reply;
mod retry_after;
mod sampling;
mod stream_encoder;
mod text_chunk;
pub(crate) mod tools;
mod upstream_error;
mod usage;

#[cfg(test)]
mod request_tests;

pub use chat_request::parse_chat_request;
pub(crate) use chunk_decoder::ChunkDecoder;
pub use completions_request::{COMPLETIONS_DEFAULT_MAX_TOKENS, parse_completions_request};
pub(crate) use encode_request::encode_labels;
pub use encode_request::{MaxTokensField, UpstreamOptions, encode_request};
pub use error_body::error_body;
pub use limits::Limits;
pub use models::{ModelEntry, decode_models, model_body, models_body};
pub use reply::{ReplyCollector, ReplyHead};
pub use retry_after::parse_retry_after;
pub use stream_encoder::StreamEncoder;
pub use upstream_error::{decode_error, decode_stream_error};
pub(crate) use usage::decode as decode_usage;

/// The two routes of this dialect that generate text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/v1/chat/completions`: a conversation.
    Chat,
    /// `/v1/completions`: plain text to continue or fill in.
    Completions,
}

impl Endpoint {
    /// The route below the API's base, which usually ends in `/v1`.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
        }
    }

    /// The route that a prompt goes to.
    pub const fn of(prompt: &crate::Prompt) -> Self {
        match prompt {
            crate::Prompt::Chat(_) => Self::Chat,
            crate::Prompt::Text { .. } | crate::Prompt::Tokens(_) => Self::Completions,
        }
    }
}

/// What a client wants of a stream beyond its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// A last chunk tells the usage.
    pub include_usage: bool,
}
