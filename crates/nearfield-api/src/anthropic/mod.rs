//! Anthropic's dialect: Messages. Pure functions, both ways.
//!
//! | direction | functions |
//! |---|---|
//! | requests | [`encode_request`], [`decode_request`] |
//! | answers | [`StreamDecoder`] |
//!
//! Thinking carries signatures that must come back as they were; they travel as [`crate::Opaque`] values. Instructions
//! are a field of their own here: system messages of other dialects are gathered there.

mod blocks;
mod decode_request;
mod encode_request;
mod reply;
mod stream;
mod usage;

pub use decode_request::decode_request;
pub use encode_request::{DEFAULT_MAX_TOKENS, encode_request};
pub use stream::StreamDecoder;
pub(crate) use usage::decode as decode_usage;

/// The version of the API that this module speaks, for the header `anthropic-version`.
pub const VERSION: &str = "2023-06-01";
