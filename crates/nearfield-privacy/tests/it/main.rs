//! Detection and masking from outside, on public and drawn texts.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accuracy;
mod drawn;
mod linear;
mod masking;
mod nested;
mod score;
mod whole_way;
