//! OpenAI's second dialect: Responses. Pure functions, both ways.
//!
//! | direction | functions |
//! |---|---|
//! | requests | [`encode_request`], [`decode_request`] |
//! | answers | [`StreamDecoder`] |
//!
//! A conversation is a list of items here: messages, calls, their results, reasoning. Each item is a message of its own
//! in the tree.

mod content;
mod decode_request;
mod encode_request;
mod items;
mod reply;
mod stream;
mod usage;

pub use decode_request::decode_request;
pub use encode_request::encode_request;
pub use stream::StreamDecoder;
pub(crate) use usage::decode as decode_usage;

/// Marks the message that came as `instructions`, beside the list of items.
pub(crate) const INSTRUCTIONS: &str = "instructions";
