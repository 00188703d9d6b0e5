//! To be described.

pub mod gguf_writer;
