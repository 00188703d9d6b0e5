//! Perplexity and divergence against a reference, through the engine.
#![expect(clippy::unwrap_used, reason = "a test ends where its input is wrong")]

mod divergence;
mod perplexity;
mod support;
