//! Reads model files: GGUF and safetensors, the architecture that they describe, tokenizers and chat templates.

mod error;
pub mod gguf;
mod mapped;

pub use error::ModelError;
