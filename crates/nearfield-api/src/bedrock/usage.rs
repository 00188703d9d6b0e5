//! Token counts.

use serde_json::Value;

use crate::Usage;
use crate::count::Counts as _;

/// Reads a `usage` object. `inputTokens` leaves out what came from a cache or went to one; the same counts arrive
/// under two names.
pub(crate) fn decode(value: &Value) -> Option<Usage> {
    let either =
        |name: &str, other: &str| value.count(&[name]).or_else(|| value.count(&[other])).unwrap_or(0);
    let input = value.count(&["inputTokens"])?;
    let output = value.count(&["outputTokens"])?;
    let written = either("cacheWriteInputTokens", "cacheWriteInputTokenCount");
    let details = value.get("cacheDetails").and_then(Value::as_array).into_iter().flatten();
    let hour = details
        .filter(|detail| detail.get("ttl").and_then(Value::as_str) == Some("1h"))
        .filter_map(|detail| detail.count(&["inputTokens"]))
        .fold(0, u64::saturating_add)
        .min(written);
    let usage = Usage {
        input,
        cached_input: either("cacheReadInputTokens", "cacheReadInputTokenCount"),
        cache_write: written - hour,
        cache_write_1h: hour,
        output,
        measured: true,
        ..Usage::default()
    };
    Some(usage.check_total(value.count(&["totalTokens"])))
}
