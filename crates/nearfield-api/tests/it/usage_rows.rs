//! Real usage bodies, each with the extractions of several normalisers.
//!
//! The rule: of a row's alternatives keep those whose input and output make the provider's total, where it is given
//! (when none does, what is missing must be unattributed); of these take the one with most fields; its counts are
//! inclusive and are turned into our buckets.

use nearfield_api::{Dialect, Usage};
use serde_json::{Value, json};

/// Reads a row's body and compares it with what the rule says.
pub(crate) fn check(row: &Value) -> Result<Usage, String> {
    let body = &row["body"];
    // Services that embed or rank answer with counts of other names, for which no backend of ours asks.
    let Some((dialect, counts)) = shape(body) else { return embedding(row) };
    let expected = expected(row, counts)?;
    let read = dialect.decode_usage(counts).ok_or("no usage is read")?;
    compare(&read, expected, counts).map(|()| read)
}

fn shape(body: &Value) -> Option<(Dialect, &Value)> {
    if let Some(counts) = body.get("usageMetadata") {
        return Some((Dialect::Gemini, counts));
    }
    let counts = body.get("usage")?;
    let has = |name: &str| counts.get(name).is_some_and(|value| !value.is_null());
    let dialect = if has("inputTokens") {
        Dialect::Bedrock
    } else if has("completion_tokens") {
        Dialect::OpenAiChat
    } else if has("cache_creation_input_tokens") || (has("input_tokens") && !has("total_tokens")) {
        Dialect::Anthropic
    } else if has("input_tokens") && has("output_tokens") {
        Dialect::OpenAiResponses
    } else {
        return None;
    };
    Some((dialect, counts))
}

/// Bodies of services that generate nothing: no output is expected of them.
fn embedding(row: &Value) -> Result<Usage, String> {
    let alternatives = row["expected_usage"].as_array().ok_or("no alternatives")?;
    let generates = alternatives.iter().any(|wanted| wanted.get("output_tokens").is_some());
    let counts = &row["body"]["usage"];
    // One provider counts under `tokens`, beside what it charges.
    if generates && counts.get("tokens").is_none() {
        return Err("a shape that is not known".to_owned());
    }
    Ok(Usage::NONE)
}

fn count(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

fn expected<'a>(row: &'a Value, counts: &Value) -> Result<&'a Value, String> {
    let alternatives = row["expected_usage"].as_array().ok_or("no alternatives")?;
    let total =
        ["total_tokens", "totalTokens", "totalTokenCount"].iter().find_map(|name| counts[name].as_u64());
    let fits = |wanted: &&Value| {
        total.is_none_or(|total| count(wanted, "input_tokens") + count(wanted, "output_tokens") == total)
    };
    let most = |wanted: &&Value| wanted.as_object().map_or(0, serde_json::Map::len);
    let fitting = alternatives.iter().filter(fits).max_by_key(most);
    fitting.or_else(|| alternatives.iter().max_by_key(most)).ok_or_else(|| "no alternative".to_owned())
}

fn compare(read: &Usage, wanted: &Value, counts: &Value) -> Result<(), String> {
    let cached = count(wanted, "cache_read_tokens");
    let written = count(wanted, "cache_write_tokens");
    let modal = &read.modalities;
    for (name, ours, theirs) in [
        ("input", read.input, count(wanted, "input_tokens") - cached - written),
        ("cached", read.cached_input, cached),
        ("written", read.cache_write + read.cache_write_1h, written),
        ("output", read.output + read.reasoning, count(wanted, "output_tokens")),
        ("tools", modal.tool_input, count(wanted, "input_tool_tokens")),
    ] {
        if ours != theirs {
            return Err(format!("{name}: {ours} and not {theirs}"));
        }
    }
    // These stand only in some rows' alternatives.
    for (name, ours, field) in [
        ("reasoning", read.reasoning, "output_reasoning_tokens"),
        ("5m", read.cache_write, "cache_write_5m_tokens"),
        ("audio in", modal.audio_input, "input_audio_tokens"),
        ("image in", modal.image_input, "input_image_tokens"),
        ("video in", modal.video_input, "input_video_tokens"),
        ("image cached", modal.image_cached, "cache_image_read_tokens"),
        ("image out", modal.image_output, "output_image_tokens"),
    ] {
        if wanted.get(field).is_some() && ours != count(wanted, field) {
            return Err(format!("{name}: {ours} and not {}", wanted[field]));
        }
    }
    let total =
        ["total_tokens", "totalTokens", "totalTokenCount"].iter().find_map(|name| counts[name].as_u64());
    match total {
        Some(total)
            if read.total_tokens() != total && read.unattributed == 0 && read.stated_total != Some(total) =>
        {
            Err(format!("the total is {} and not {total}", read.total_tokens()))
        }
        _ => Ok(()),
    }
}

#[test]
fn the_rule_prefers_what_makes_the_total() {
    let row = json!({"body": {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
        "completion_tokens_details": {"reasoning_tokens": 2}}},
        "expected_usage": [{"input_tokens": 10}, {"input_tokens": 10, "output_reasoning_tokens": 2, "output_tokens": 7},
            {"input_tokens": 10, "output_reasoning_tokens": 2, "output_tokens": 5}]});
    let usage = check(&row).unwrap();
    assert_eq!((usage.output, usage.reasoning), (3, 2));
    let mut other = row;
    other["expected_usage"] = json!([{"input_tokens": 9, "output_tokens": 6}]);
    assert!(check(&other).is_err());
}
