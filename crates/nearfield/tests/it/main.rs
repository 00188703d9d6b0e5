//! The program as its users meet it: the real binary with a data folder of its own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on should say so at once"
)]

mod canary;
mod chat;
mod cloud;
mod configuration;
mod errors;
mod fit;
mod models;
#[cfg(target_os = "linux")]
mod offline;
mod policy;
#[cfg(target_os = "linux")]
mod reload;
mod route;
mod run;
mod serve;
mod support;
#[cfg(target_os = "linux")]
mod unfit;
