//! What every backend speaks: requests, events, usage, errors, and the one trait that joins them.
//!
//! No I/O happens here. The wire codecs translate between these types and a dialect's JSON, purely.

mod backend;
mod error;
mod event;
mod request;

pub mod json;
pub mod openai;
pub mod sse;

pub use backend::{Backend, EventStream, Locality, ModelInfo};
pub use error::{Error, ErrorKind};
pub use event::{EngineFacts, Event, FinishReason, TokenAlternative, TokenLogprob, Usage, Work};
pub use request::{Message, Prompt, Request, Role, Sampling};
