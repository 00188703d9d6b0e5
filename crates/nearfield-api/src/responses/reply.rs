//! Reads a whole answer.

use serde_json::{Map, Value, json};

use super::items::{ENCRYPTED, summary_text};
use super::usage;
use crate::answer::{Progress, malformed};
use crate::openai::decode_stream_error;
use crate::{Dialect, Error, ErrorKind, Event, FinishReason, Opaque};

/// Takes a response that is the whole answer.
///
/// # Errors
/// The error that it tells, or [`ErrorKind::Upstream`] for one that is no complete answer.
pub(super) fn response(tree: &Value, progress: &mut Progress, events: &mut Vec<Event>) -> Result<(), Error> {
    if tree.get("output").is_none_or(|output| !output.is_array()) {
        let said = tree.get("error").is_some_and(|error| !error.is_null());
        return Err(if said { decode_stream_error(tree) } else { malformed("it has no output") });
    }
    progress.start(tree.get("model").and_then(Value::as_str), events);
    for item in tree.get("output").and_then(Value::as_array).into_iter().flatten() {
        self::item(item, progress, events)?;
    }
    end(tree, progress, events)?;
    progress.complete(events)
}

fn item(item: &Value, progress: &mut Progress, events: &mut Vec<Event>) -> Result<(), Error> {
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "message" => {
            for part in item.get("content").and_then(Value::as_array).into_iter().flatten() {
                content(part, progress, events)?;
            }
            Ok(())
        }
        "function_call" => {
            let arguments = text("arguments").to_owned();
            progress.call(text("call_id"), text("name"), arguments, events).map(drop)
        }
        "reasoning" => {
            let text = summary_text(item.get("summary"), item.get("content"));
            progress.event(Event::Reasoning { choice: 0, text, opaque: opaque(item) }, events)
        }
        _ => progress.event(other(item.clone()), events),
    }
}

fn content(part: &Value, progress: &mut Progress, events: &mut Vec<Event>) -> Result<(), Error> {
    let text = |name: &str| part.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "output_text" => {
            progress.text(0, text("text"), events)?;
            annotations(part, progress, events)
        }
        "refusal" => progress.event(Event::Refusal { choice: 0, text: text("refusal").to_owned() }, events),
        _ => progress.event(other(part.clone()), events),
    }
}

/// Citations of a piece of text.
pub(super) fn annotations(
    part: &Value,
    progress: &mut Progress,
    events: &mut Vec<Event>,
) -> Result<(), Error> {
    match part.get("annotations") {
        Some(Value::Array(items)) if !items.is_empty() => {
            let value = Value::Object(Map::from_iter([("annotations".to_owned(), json!(items))]));
            progress.event(other(value), events)
        }
        _ => Ok(()),
    }
}

pub(super) fn other(value: Value) -> Event {
    Event::Other { choice: 0, dialect: Dialect::OpenAiResponses, value }
}

/// The value of a reasoning item that must come back.
pub(super) fn opaque(item: &Value) -> Option<Opaque> {
    let text = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
    let value = text(ENCRYPTED).filter(|value| !value.is_empty())?;
    Some(Opaque { dialect: Dialect::OpenAiResponses, kind: ENCRYPTED.to_owned(), value, id: text("id") })
}

/// Takes counts and end from the response object.
///
/// # Errors
/// The error of a response that failed, and one for a response that is not complete.
pub(super) fn end(response: &Value, progress: &mut Progress, events: &mut Vec<Event>) -> Result<(), Error> {
    progress.usage = response.get("usage").and_then(usage::decode);
    let status = response.get("status").and_then(Value::as_str).unwrap_or("completed");
    let why = response.pointer("/incomplete_details/reason").and_then(Value::as_str);
    let reason = match (status, why) {
        // The second spelling is that of a gateway.
        ("completed" | "complete", _) if progress.has_calls(0) => FinishReason::ToolCalls,
        ("completed" | "complete", _) => FinishReason::Stop,
        ("incomplete", Some("content_filter")) => FinishReason::ContentFilter,
        ("incomplete", _) => FinishReason::Length,
        ("failed", _) => return Err(decode_stream_error(response)),
        (other, _) => {
            return Err(Error::new(
                ErrorKind::Upstream,
                format!(
                    "The backend's answer is not complete: its state is {:?}. Answers in the background are not \
                     waited for; send the request without `background`.",
                    crate::json::shorten(other)
                ),
            ));
        }
    };
    progress.end(0, reason, events)
}
