//! Token counts.

use serde_json::Value;

use crate::Usage;
use crate::count::Counts as _;

/// Reads a `usage` object. Both main counts hold their parts: the cache's tokens, and reasoning.
pub(crate) fn decode(value: &Value) -> Option<Usage> {
    let count = |path: &[&str]| value.count(path).unwrap_or(0);
    let input = value.count(&["input_tokens"])?;
    let output = value.count(&["output_tokens"])?;
    let cached = count(&["input_tokens_details", "cached_tokens"]).min(input);
    let cache_write = count(&["input_tokens_details", "cache_write_tokens"]).min(input - cached);
    let reasoning = count(&["output_tokens_details", "reasoning_tokens"]).min(output);
    let usage = Usage {
        input: input - cached - cache_write,
        cached_input: cached,
        cache_write,
        output: output - reasoning,
        reasoning,
        measured: true,
        ..Usage::default()
    };
    Some(usage.check_total(value.count(&["total_tokens"])))
}
