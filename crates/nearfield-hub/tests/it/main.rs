//! Pulls against servers on this machine that misbehave, and one against the real package index.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says why it is skipped"
)]

mod addresses;
mod catalogue;
mod credentials;
mod hugging_face;
mod package_index;
mod real_index;
mod store;
mod support;
