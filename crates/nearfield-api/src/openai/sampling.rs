//! The fields that chat completions and completions share.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Limits, StreamOptions};
use crate::fields::{Fields, Range, invalid_value, number, too_many, unsupported, wrong_type};
use crate::{Error, Labels, Sampling};

const PENALTY: Range = Range { low: -2.0, high: 2.0 };
const SHARE: Range = Range { low: 0.0, high: 1.0 };
const TEMPERATURE: Range = Range { low: 0.0, high: 2.0 };
const BIAS: Range = Range { low: -100.0, high: 100.0 };
/// Nothing in the field says an upper end; past this the penalty only bans.
const REPETITION: Range = Range { low: 0.01, high: 10.0 };

/// How tokens are chosen.
pub(crate) fn sampling(fields: &mut Fields, limits: &Limits) -> Result<Sampling, Error> {
    Ok(Sampling {
        temperature: fields.number("temperature", TEMPERATURE)?,
        top_p: fields.number("top_p", SHARE)?,
        // Servers with this field write "all tokens" as -1 or as 0.
        top_k: fields
            .integer("top_k", -1, i64::from(u32::MAX))?
            .map(|top_k| u32::try_from(top_k).unwrap_or(0)),
        min_p: fields.number("min_p", SHARE)?,
        repetition_penalty: fields.number("repetition_penalty", REPETITION)?,
        presence_penalty: fields.number("presence_penalty", PENALTY)?,
        frequency_penalty: fields.number("frequency_penalty", PENALTY)?,
        logit_bias: logit_bias(fields, limits)?,
        // The dialect's seed is signed, ours is not: the same 64 bits.
        seed: fields.integer("seed", i64::MIN, i64::MAX)?.map(i64::cast_unsigned),
    })
}

fn logit_bias(fields: &mut Fields, limits: &Limits) -> Result<BTreeMap<u32, f32>, Error> {
    let Some(value) = fields.take("logit_bias") else { return Ok(BTreeMap::new()) };
    let Value::Object(map) = value else {
        return Err(wrong_type("logit_bias", "an object from token ids to numbers", &value));
    };
    if map.len() > limits.logit_bias {
        return Err(too_many("logit_bias", "entries", limits.logit_bias));
    }
    map.iter()
        .map(|(key, value)| {
            // Only the plain spelling of a number: "01" and "+1" would let one token stand twice.
            let token =
                key.parse().ok().filter(|token: &u32| token.to_string() == *key).ok_or_else(|| {
                    invalid_value("logit_bias", "must have token ids as keys, such as \"1234\"")
                })?;
            Ok((token, number("logit_bias", value, BIAS)?))
        })
        .collect()
}

/// The model's name.
pub(crate) fn model(fields: &mut Fields, limits: &Limits) -> Result<String, Error> {
    let value = fields.required("model")?;
    let Value::String(model) = value else { return Err(wrong_type("model", "a string", &value)) };
    if model.is_empty() || model.len() > limits.name_bytes || model.chars().any(char::is_control) {
        return Err(invalid_value(
            "model",
            &format!("must be a model's name of 1 to {} bytes", limits.name_bytes),
        ));
    }
    Ok(model)
}

/// Texts that end the answer.
pub(crate) fn stop(fields: &mut Fields, limits: &Limits) -> Result<Vec<String>, Error> {
    let stops = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(items)) => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| match item {
                Value::String(stop) => Ok(stop),
                other => Err(wrong_type(&format!("stop[{i}]"), "a string", &other)),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    if stops.len() > limits.stops {
        return Err(too_many("stop", "texts", limits.stops));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > limits.stop_bytes) {
        return Err(invalid_value(
            "stop",
            &format!("must hold texts of 1 to {} bytes each", limits.stop_bytes),
        ));
    }
    Ok(stops)
}

/// How many answers.
pub(crate) fn choices(fields: &mut Fields, limits: &Limits) -> Result<u32, Error> {
    let n = fields.integer("n", 1, i64::from(limits.choices))?;
    Ok(n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1))
}

/// Whether to stream, and how.
pub(crate) fn stream(fields: &mut Fields) -> Result<(bool, StreamOptions), Error> {
    let stream = fields.bool("stream")?.unwrap_or(false);
    let Some(value) = fields.take("stream_options") else { return Ok((stream, StreamOptions::default())) };
    if !stream {
        return Err(invalid_value("stream_options", "can only be used together with `stream: true`"));
    }
    let mut inner = Fields::of(value, "stream_options")?;
    let include_usage = inner.bool("include_usage")?.unwrap_or(false);
    if inner.bool("include_obfuscation")?.unwrap_or(false) {
        return Err(unsupported(
            "stream_options.include_obfuscation",
            "chunks carry no padding; leave it out",
        ));
    }
    inner.finish()?;
    Ok((stream, StreamOptions { include_usage }))
}

/// The fields that do not touch the answer: labels for the caller's own bookkeeping and hints to caches.
pub(crate) fn labels(fields: &mut Fields) -> Result<Labels, Error> {
    let metadata = match fields.take("metadata") {
        None => None,
        Some(Value::Object(map)) => Some(map),
        Some(other) => return Err(wrong_type("metadata", "an object", &other)),
    };
    fields.string("prompt_cache_retention")?;
    Ok(Labels {
        user: fields.string("user")?,
        safety_identifier: fields.string("safety_identifier")?,
        prompt_cache_key: fields.string("prompt_cache_key")?,
        metadata,
        store: fields.bool("store")?,
    })
}
