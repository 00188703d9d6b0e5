//! Integration tests: files written by the test kit, read back through the public API.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod gguf;
mod tokenizer;
