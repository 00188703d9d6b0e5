//! The policy from outside: files as people write them, and a million decisions against a checker of its own.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod file;
mod million;
mod narrow;
