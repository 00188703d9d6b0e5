//! Integration tests: files written by the test kit, read back through the public API.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why it is skipped, helpers included"
)]

mod chat;
mod checkpoint;
mod compressed;
mod gguf;
mod text;
mod tokenizer;
