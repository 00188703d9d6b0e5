//! The server as its clients see it: real connections, scripted backends, a real ledger.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod attempts;
mod backends;
mod budget;
mod claims;
mod cloud_faults;
mod conformance;
mod fallback;
mod guard;
mod large;
mod leaks;
mod limits;
mod local;
mod local_tools;
mod modes;
mod names;
#[cfg(unix)]
mod pools;
mod prefix;
mod property;
mod replies;
mod rows;
mod ruled;
mod rules;
mod shutdown;
mod support;
mod tiny;
mod tls;

// The modules say `crate::scripted`.
use nearfield_testkit::scripted;
