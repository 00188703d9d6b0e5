//! Integration tests.
mod perplexity;
