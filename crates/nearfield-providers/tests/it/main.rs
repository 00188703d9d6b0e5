//! The backends against a cloud that misbehaves.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should say so at once, and one that goes on what it did"
)]

mod answers;
mod conformance;
mod conformance_faults;
mod connections;
mod faults;
mod models;
mod pool;
mod proxy;
mod recorded_streams;
mod secrets;
mod support;
mod tls;
