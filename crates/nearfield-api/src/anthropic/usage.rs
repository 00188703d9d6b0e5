//! Token counts.

use serde_json::Value;

use crate::Usage;
use crate::count::Counts as _;

/// Reads a `usage` object. `input_tokens` leaves out what came from a cache or went to one; thinking is part of
/// `output_tokens`.
pub(crate) fn decode(value: &Value) -> Option<Usage> {
    let count = |path: &[&str]| value.count(path).unwrap_or(0);
    let input = value.count(&["input_tokens"])?;
    let output = value.count(&["output_tokens"])?;
    let written = count(&["cache_creation_input_tokens"]);
    let hour = count(&["cache_creation", "ephemeral_1h_input_tokens"]);
    let minutes = value.count(&["cache_creation", "ephemeral_5m_input_tokens"]);
    let reasoning = count(&["output_tokens_details", "thinking_tokens"]).min(output);
    Some(Usage {
        input,
        cached_input: count(&["cache_read_input_tokens"]),
        // What is written without a lifetime counts for the shorter one.
        cache_write: minutes.unwrap_or(0).max(written.saturating_sub(hour)),
        cache_write_1h: hour,
        output: output - reasoning,
        reasoning,
        measured: true,
        ..Usage::default()
    })
}
