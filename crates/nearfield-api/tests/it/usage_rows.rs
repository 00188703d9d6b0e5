//! Real usage bodies, each with the extractions of several normalisers.
//!
//! The rule: of a row's alternatives keep those whose input and output make the provider's total, where it is given
//! (when none does, what is missing must be unattributed); of these take the one with most fields; its counts are
//! inclusive and are turned into our buckets. A main count that no alternative names is the one that the body states.

use nearfield_api::{Dialect, Usage};
use serde_json::{Map, Value, json};

/// Fields of alternatives that are no tokens of ours: searches are not counted in tokens, and what a provider's tool
/// read is text where nothing else is said.
const NOT_COMPARED: [&str; 2] = ["web_searches", "input_text_tool_tokens"];

/// Where bodies state their main counts.
const INPUTS: [&str; 6] = [
    "/prompt_tokens",
    "/input_tokens",
    "/inputTokens",
    "/promptTokenCount",
    "/tokens/input_tokens",
    "/billed_units/input_tokens",
];
const OUTPUTS: [&str; 6] = [
    "/completion_tokens",
    "/output_tokens",
    "/outputTokens",
    "/candidatesTokenCount",
    "/tokens/output_tokens",
    "/billed_units/output_tokens",
];

/// Reads a row's body and compares it with what the rule says. Tells whose counts they are.
pub(crate) fn check(row: &Value) -> Result<(&'static str, Usage), String> {
    let (whose, dialect, counts) = shape(&row["body"]).ok_or("a shape that is not known")?;
    let expected = expected(row, counts)?;
    let read = dialect.decode_usage(counts).ok_or("no usage is read")?;
    compare(&read, &expected, counts).map(|()| (whose, read))
}

fn shape(body: &Value) -> Option<(&'static str, Dialect, &Value)> {
    if let Some(counts) = body.get("usageMetadata") {
        return Some(("gemini", Dialect::Gemini, counts));
    }
    let counts = body.get("usage").or_else(|| body.get("meta"))?;
    let has = |name: &str| counts.get(name).is_some_and(|value| !value.is_null());
    let (whose, dialect) = if has("inputTokens") {
        ("bedrock", Dialect::Bedrock)
    } else if has("completion_tokens") {
        ("openai's chat and all that is like it", Dialect::OpenAiChat)
    } else if has("cache_creation_input_tokens") || (has("input_tokens") && !has("total_tokens")) {
        ("anthropic", Dialect::Anthropic)
    } else if has("input_tokens") && has("output_tokens") {
        ("openai's responses", Dialect::OpenAiResponses)
    } else if has("prompt_tokens") {
        ("openai's embeddings", Dialect::OpenAiChat)
    } else if has("tokens") {
        ("cohere's chat", Dialect::OpenAiChat)
    } else if has("billed_units") {
        ("cohere's embeddings", Dialect::OpenAiChat)
    } else {
        return None;
    };
    Some((whose, dialect, counts))
}

fn count(value: &Map<String, Value>, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn total(counts: &Value) -> Option<u64> {
    ["total_tokens", "totalTokens", "totalTokenCount"].iter().find_map(|name| counts[name].as_u64())
}

/// What the rule says, with both main counts.
fn expected(row: &Value, counts: &Value) -> Result<Map<String, Value>, String> {
    let alternatives: Vec<_> =
        row["expected_usage"].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let fits = |wanted: &&&Map<String, Value>| {
        let named = count(wanted, "input_tokens") + count(wanted, "output_tokens");
        total(counts).is_none_or(|total| named == total)
    };
    let most = |wanted: &&&Map<String, Value>| wanted.len();
    let fitting = alternatives.iter().filter(fits).max_by_key(most);
    let chosen = fitting.or_else(|| alternatives.iter().max_by_key(most));
    let mut wanted = chosen.map_or_else(Map::new, |wanted| (**wanted).clone());
    for (field, names) in [("input_tokens", INPUTS), ("output_tokens", OUTPUTS)] {
        let stated = names.iter().find_map(|name| counts.pointer(name)?.as_u64());
        if let (false, Some(stated)) = (wanted.contains_key(field), stated) {
            wanted.insert(field.to_owned(), json!(stated));
        }
    }
    if wanted.is_empty() { Err("nothing to compare with".to_owned()) } else { Ok(wanted) }
}

fn compare(read: &Usage, wanted: &Map<String, Value>, counts: &Value) -> Result<(), String> {
    let cached = count(wanted, "cache_read_tokens");
    let written = count(wanted, "cache_write_tokens");
    let modal = &read.modalities;
    let mut compared = Vec::from(NOT_COMPARED);
    for (name, ours, field, theirs) in [
        ("input", read.input, "input_tokens", count(wanted, "input_tokens") - cached - written),
        ("cached", read.cached_input, "cache_read_tokens", cached),
        ("written", read.cache_write + read.cache_write_1h, "cache_write_tokens", written),
        ("output", read.completion_tokens(), "output_tokens", count(wanted, "output_tokens")),
        ("tools", modal.tool_input, "input_tool_tokens", count(wanted, "input_tool_tokens")),
    ] {
        compared.push(field);
        if ours != theirs {
            return Err(format!("{name}: {ours} and not {theirs}"));
        }
    }
    let no_text = modal.image_output + modal.audio_output;
    // These stand only in some rows' alternatives.
    for (name, ours, field) in [
        ("reasoning", read.reasoning, "output_reasoning_tokens"),
        ("5m", read.cache_write, "cache_write_5m_tokens"),
        ("audio in", modal.audio_input, "input_audio_tokens"),
        ("image in", modal.image_input, "input_image_tokens"),
        ("video in", modal.video_input, "input_video_tokens"),
        ("image cached", modal.image_cached, "cache_image_read_tokens"),
        ("image out", modal.image_output, "output_image_tokens"),
        (
            "text cached",
            read.cached_input - modal.image_cached - modal.audio_cached,
            "cache_text_read_tokens",
        ),
        ("text out", read.output - no_text, "output_text_tokens"),
    ] {
        compared.push(field);
        if wanted.contains_key(field) && ours != count(wanted, field) {
            return Err(format!("{name}: {ours} and not {}", wanted[field]));
        }
    }
    // Text is what is left of a prompt, and sometimes more is left than the provider calls text.
    compared.push("input_text_tokens");
    let left = read.prompt_tokens() - modal.audio_input - modal.image_input - modal.video_input;
    if left < count(wanted, "input_text_tokens") {
        return Err(format!("text in: {left} and not {}", wanted["input_text_tokens"]));
    }
    if let Some(field) = wanted.keys().find(|field| !compared.contains(&field.as_str())) {
        return Err(format!("{field} is compared with nothing"));
    }
    match total(counts) {
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
    let (_, usage) = check(&row).unwrap();
    assert_eq!((usage.output, usage.reasoning), (3, 2));
    let mut other = row;
    other["expected_usage"] = json!([{"input_tokens": 9, "output_tokens": 6}]);
    assert!(check(&other).is_err());
}

#[test]
fn no_form_of_row_passes_with_another_count() {
    let charged = json!({"input_tokens": 3, "output_tokens": 2});
    for (body, expected) in [
        (json!({"usage": {"prompt_tokens": 4, "total_tokens": 4}}), json!({"input_tokens": 4})),
        (json!({"meta": {"billed_units": {"input_tokens": 4}}}), json!({"input_tokens": 4})),
        (
            json!({"usage": {"billed_units": charged, "cached_tokens": 5,
                "tokens": {"input_tokens": 9, "output_tokens": 4}}}),
            json!({"input_tokens": 9, "output_tokens": 4, "cache_read_tokens": 5}),
        ),
    ] {
        let row = |expected: &Value| json!({"body": &body, "expected_usage": [expected]});
        check(&row(&expected)).unwrap();
        for field in expected.as_object().unwrap().keys() {
            let mut other = expected.clone();
            other[field] = json!(other[field].as_u64().unwrap() - 1);
            assert!(check(&row(&other)).is_err(), "{body}: {field}");
        }
    }
    // Nothing expected: the body's own counts.
    for expected in [json!([]), json!([{}])] {
        let row = |body: Value| json!({"body": body, "expected_usage": &expected});
        check(&row(json!({"usage": {"tokens": {"input_tokens": 9, "output_tokens": 4}}}))).unwrap();
        // These are read as more than they state, since the total is said to be more.
        let more = json!({"usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 7,
            "completion_tokens_details": {"reasoning_tokens": 1}}});
        assert!(check(&row(more)).is_err());
        assert!(check(&row(json!({"usage": {"prompt_tokens": 4}}))).is_err(), "no usage");
        assert!(check(&row(json!({"counts": {"prompt_tokens": 4}}))).is_err(), "a shape that is not known");
    }
}
