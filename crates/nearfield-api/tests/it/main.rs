//! Integration tests: whole answers through the codecs, and recorded exchanges.

#![expect(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod answers;
mod beyond_text;
mod cassettes;
mod same_json;
mod streams;
mod usage_rows;
