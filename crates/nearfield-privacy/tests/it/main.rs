//! Detection and masking from outside, on public and drawn texts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accuracy;
mod score;
