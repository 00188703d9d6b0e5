//! To be described.

pub mod file_server;
pub mod gguf_conversion;
pub mod gguf_writer;
