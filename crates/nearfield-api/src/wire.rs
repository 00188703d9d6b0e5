//! Small helpers to write JSON trees.

use serde_json::{Map, Value, json};

use crate::fields::{Fields, wrong_type};
use crate::{Dialect, Error, Extra, MediaSource, Part, Request};

/// Puts a field that is set.
pub(crate) fn put(map: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(name.to_owned(), value.into());
    }
}

/// Puts a number with the digits that its 32 bits have, and not those of its nearest 64-bit neighbour.
pub(crate) fn put_number(map: &mut Map<String, Value>, name: &str, number: Option<f32>) {
    put(map, name, number.map(number_value));
}

/// See [`put_number`].
pub(crate) fn number_value(number: f32) -> Value {
    number
        .to_string()
        .parse::<f64>()
        .ok()
        .and_then(serde_json::Number::from_f64)
        .map_or(Value::Null, Value::Number)
}

/// Puts fields of the dialect's own behind what is written already; what is written wins.
pub(crate) fn put_extra(map: &mut Map<String, Value>, extra: &Extra) {
    for (name, value) in extra {
        if !map.contains_key(name) {
            map.insert(name.clone(), value.clone());
        }
    }
}

/// An object of one type with one string.
pub(crate) fn typed(kind: &str, name: &str, value: impl Into<Value>) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("type".to_owned(), kind.into());
    map.insert(name.to_owned(), value.into());
    map
}

/// A message's content: a string, or an array of `items` that `read` takes one by one.
pub(crate) fn string_or_parts(
    value: Value,
    path: &str,
    items: &str,
    read: impl Fn(Fields) -> Result<Part, Error>,
) -> Result<Vec<Part>, Error> {
    match value {
        Value::String(text) => Ok(vec![Part::text(text)]),
        Value::Array(parts) => parts
            .into_iter()
            .enumerate()
            .map(|(i, item)| read(Fields::of(item, &format!("{path}[{i}]"))?))
            .collect(),
        other => Err(wrong_type(path, &format!("a string or an array of {items}"), &other)),
    }
}

/// A file's bytes or address as one URL.
pub(crate) fn as_url(source: &MediaSource, media_type: Option<&str>) -> Option<String> {
    match source {
        MediaSource::Url(url) => Some(url.clone()),
        MediaSource::Inline(data) => {
            Some(format!("data:{};base64,{data}", media_type.unwrap_or("application/octet-stream")))
        }
        MediaSource::Text(_) | MediaSource::FileId(_) => None,
    }
}

/// A URL as a file's source, with the media type that a `data:` URL says.
pub(crate) fn from_url(url: String) -> (MediaSource, Option<String>) {
    let inline = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    match inline {
        Some((media_type, data)) => {
            let media_type = (!media_type.is_empty()).then(|| media_type.to_owned());
            (MediaSource::Inline(data.to_owned()), media_type)
        }
        None => (MediaSource::Url(url), None),
    }
}

/// Arguments of a tool call as the object that some dialects want.
pub(crate) fn arguments_value(arguments: &str, path: &str) -> Result<Value, Error> {
    if arguments.trim().is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_str(arguments) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(crate::fields::invalid_value(path, "must be the text of a JSON object for this backend")),
    }
}

/// A name as one segment of an address's path: all but letters, digits and `-._~` is encoded.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 15] {
                encoded.push(char::from(b"0123456789ABCDEF"[digit as usize]));
            }
        }
    }
    encoded
}

/// Fields of one dialect that say nothing which another would need: marks for caches, ids, states and empty lists.
const HARMLESS: [&str; 18] = [
    "annotations",
    "cache_control",
    "caller",
    "citations",
    "detail",
    "id",
    "index",
    "logprobs",
    "phase",
    "prompt_cache_retention",
    "service_tier",
    "status",
    "strict",
    "truncation",
    "type",
    "include",
    "instructions",
    "thinking",
];

/// Writes fields of the request's own dialect where that is the target, and refuses those that would be lost.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`] for a field that the target does not have.
pub(crate) fn carry_extra(
    map: &mut Map<String, Value>,
    extra: &Extra,
    request: &Request,
    target: Dialect,
) -> Result<(), Error> {
    if request.origin == Some(target) {
        put_extra(map, extra);
        return Ok(());
    }
    refuse_extra(extra, target)
}

/// Refuses fields that a translation would lose.
pub(crate) fn refuse_extra(extra: &Extra, target: Dialect) -> Result<(), Error> {
    match extra.iter().find(|(name, value)| !value.is_null() && !HARMLESS.contains(&name.as_str())) {
        None => Ok(()),
        Some((name, _)) => Err(untranslatable(name, target)),
    }
}

/// The error for what one dialect has and the backend's has not.
pub(crate) fn untranslatable(what: &str, target: Dialect) -> Error {
    let what = crate::json::shorten(what);
    Error::invalid(
        &what,
        format!(
            "`{what}` cannot be said to a backend that speaks the {} dialect; leave it out or ask a backend of the \
             request's own dialect.",
            target.as_str()
        ),
    )
    .with_code("unsupported_parameter")
}

/// Settings that not every dialect has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Choices,
    Logprobs,
    TopK,
    MinP,
    RepetitionPenalty,
    /// All three.
    Penalties,
    LogitBias,
    Seed,
    Stop,
}

/// Refuses settings that a dialect cannot say.
pub(crate) fn refuse_settings(request: &Request, target: Dialect, missing: &[Setting]) -> Result<(), Error> {
    let sampling = &request.sampling;
    for setting in missing {
        let (set, name) = match setting {
            Setting::Choices => (request.choices > 1, "n"),
            Setting::Logprobs => (request.logprobs.is_some(), "logprobs"),
            Setting::TopK => (sampling.top_k.is_some_and(|top_k| top_k > 0), "top_k"),
            Setting::MinP => (sampling.min_p.is_some_and(|min_p| min_p > 0.0), "min_p"),
            Setting::RepetitionPenalty => {
                (sampling.repetition_penalty.is_some_and(|penalty| penalty != 1.0), "repetition_penalty")
            }
            Setting::Penalties => {
                let on = |penalty: Option<f32>| penalty.is_some_and(|penalty| penalty != 0.0);
                if on(sampling.presence_penalty) {
                    (true, "presence_penalty")
                } else if on(sampling.frequency_penalty) {
                    (true, "frequency_penalty")
                } else {
                    let on = sampling.repetition_penalty.is_some_and(|penalty| penalty != 1.0);
                    (on, "repetition_penalty")
                }
            }
            Setting::LogitBias => (!sampling.logit_bias.is_empty(), "logit_bias"),
            Setting::Seed => (sampling.seed.is_some(), "seed"),
            Setting::Stop => (!request.stop.is_empty(), "stop"),
        };
        if set {
            return Err(untranslatable(name, target));
        }
    }
    Ok(())
}
