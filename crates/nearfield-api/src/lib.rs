//! What every backend speaks: requests, events, usage, errors, and the one trait that joins them.
//!
//! No I/O happens here. The wire codecs translate between these types and a dialect's JSON, purely.

mod answer;
mod backend;
mod count;
mod dialect;
mod error;
mod event;
mod fields;
mod files;
mod message;
mod options;
mod plain;
mod request;
mod strings;
mod usage;
mod wire;

pub mod anthropic;
pub mod bedrock;
pub mod gemini;
pub mod json;
pub mod openai;
pub mod responses;
#[doc(hidden)]
pub mod sabotage;
pub mod sse;

pub use answer::AnswerDecoder;
pub use backend::{Backend, BackendLoad, EndpointState, EventStream, Locality, ModelInfo};
pub use dialect::{Dialect, Extra};
pub use error::{Error, ErrorKind};
pub use event::{EngineFacts, Event, FinishReason, TokenAlternative, TokenLogprob, Work};
pub use files::{is_data_url, is_encoded};
pub use message::{
    Content, Media, MediaSource, Message, Opaque, Part, Reasoning, Role, ToolCall, ToolResult,
};
pub use options::{Function, JsonSchema, Labels, OutputFormat, ReasoningOptions, Tool, ToolChoice};
pub use request::{Prompt, Request, Sampling, Terms};
pub use strings::{Place, visit_value};
pub use usage::{Modalities, Usage};
