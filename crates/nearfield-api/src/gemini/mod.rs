//! Google's dialect: generateContent and streamGenerateContent, as the Gemini API and Vertex AI speak it. Pure
//! functions, both ways.
//!
//! | direction | functions |
//! |---|---|
//! | requests | [`encode_request`], [`decode_request`], [`route`] |
//! | answers | [`StreamDecoder`] |
//!
//! The model and whether to stream stand in the address, not in the body. Signatures of thoughts must come back with
//! the part that they came with; they travel as [`crate::Opaque`] values.

mod decode_request;
mod encode_request;
mod models;
mod parts;
mod reply;
mod settings;
mod stream;
mod usage;

pub use decode_request::decode_request;
pub use encode_request::encode_request;
pub use models::decode_models;
pub use stream::StreamDecoder;
pub(crate) use usage::decode as decode_usage;

/// The route of a model below `models/`' parent: `/models/NAME:generateContent`, or the streaming one.
pub fn route(model: &str, stream: bool) -> String {
    let model = model.strip_prefix("models/").unwrap_or(model);
    let model = crate::wire::percent_encode(model);
    if stream {
        format!("/models/{model}:streamGenerateContent?alt=sse")
    } else {
        format!("/models/{model}:generateContent")
    }
}
