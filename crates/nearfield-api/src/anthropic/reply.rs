//! Reads a whole answer.

use serde_json::{Value, json};

use super::blocks::{REDACTED, SIGNATURE, opaque};
use super::usage;
use crate::answer::{Progress, malformed};
use crate::openai::decode_stream_error;
use crate::{Dialect, Error, ErrorKind, Event, FinishReason};

/// Takes a message that is the whole answer.
///
/// # Errors
/// The error that it tells, or [`ErrorKind::Upstream`] for one that is no complete answer.
pub(super) fn message(tree: &Value, progress: &mut Progress, events: &mut Vec<Event>) -> Result<(), Error> {
    if tree.get("type").and_then(Value::as_str) == Some("error") {
        return Err(decode_stream_error(tree));
    }
    let blocks =
        tree.get("content").and_then(Value::as_array).ok_or_else(|| malformed("it has no content"))?;
    let reason = tree
        .get("stop_reason")
        .and_then(Value::as_str)
        .ok_or_else(|| malformed("it does not say why it ended"))?;
    progress.start(tree.get("model").and_then(Value::as_str), events);
    for value in blocks {
        block(value, progress, events)?;
    }
    progress.usage = tree.get("usage").and_then(usage::decode);
    progress.end(0, stop_reason(reason)?, events)?;
    progress.complete(events)
}

fn block(block: &Value, progress: &mut Progress, events: &mut Vec<Event>) -> Result<(), Error> {
    let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let other = |value| Event::Other { choice: 0, dialect: Dialect::Anthropic, value };
    match text("type").as_str() {
        "text" => {
            progress.text(0, &text("text"), events)?;
            for citation in block.get("citations").and_then(Value::as_array).into_iter().flatten() {
                progress.event(other(json!({"type": "citations_delta", "citation": citation})), events)?;
            }
            Ok(())
        }
        "thinking" => {
            let opaque = Some(text("signature")).filter(|value| !value.is_empty());
            let opaque = opaque.map(opaque_signature);
            progress.event(Event::Reasoning { choice: 0, text: text("thinking"), opaque }, events)
        }
        REDACTED => {
            let opaque = Some(opaque(REDACTED, text("data")));
            progress.event(Event::Reasoning { choice: 0, text: String::new(), opaque }, events)
        }
        "tool_use" => {
            let arguments = block.get("input").map_or_else(|| "{}".to_owned(), Value::to_string);
            progress.call(&text("id"), &text("name"), arguments, events).map(drop)
        }
        _ => progress.event(other(block.clone()), events),
    }
}

fn opaque_signature(value: String) -> crate::Opaque {
    opaque(SIGNATURE, value)
}

/// Why a message ended.
///
/// # Errors
/// A reason that is not known: the answer may be incomplete.
pub(super) fn stop_reason(reason: &str) -> Result<FinishReason, Error> {
    match reason {
        "end_turn" | "stop_sequence" => Ok(FinishReason::Stop),
        "max_tokens" | "model_context_window_exceeded" => Ok(FinishReason::Length),
        "tool_use" => Ok(FinishReason::ToolCalls),
        "refusal" => Ok(FinishReason::Refusal),
        "pause_turn" | "compaction" => Ok(FinishReason::Paused),
        other => Err(Error::new(
            ErrorKind::Upstream,
            format!(
                "The backend ended the answer with the reason {:?}, which is none of the dialect's; the answer may be \
                 incomplete.",
                crate::json::shorten(other)
            ),
        )),
    }
}
