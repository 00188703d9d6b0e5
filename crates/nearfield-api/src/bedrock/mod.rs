//! The dialect of AWS Bedrock: Converse and ConverseStream. Pure functions, both ways.
//!
//! | direction | functions |
//! |---|---|
//! | requests | [`encode_request`], [`decode_request`], [`route`] |
//! | answers | [`StreamDecoder`] |
//! | frames of streams | [`EventStreamDecoder`], [`write_message`] |
//!
//! Streams are not server-sent events but a binary framing with checksums. The model stands in the address.

mod blocks;
mod decode_request;
mod encode_request;
mod event_stream;
mod reply;
mod stream;
mod usage;

pub use decode_request::decode_request;
pub use encode_request::encode_request;
pub use event_stream::{EventStreamDecoder, EventStreamError, write_message};
pub use stream::StreamDecoder;
pub(crate) use usage::decode as decode_usage;

/// The route of a model, whose id may hold colons and slashes.
pub fn route(model: &str, stream: bool) -> String {
    let action = if stream { "converse-stream" } else { "converse" };
    format!("/model/{}/{action}", crate::wire::percent_encode(model))
}
