//! Reads a whole answer.

use serde_json::{Value, json};

use super::blocks::{REDACTED, SIGNATURE, opaque};
use super::usage;
use crate::answer::{Progress, malformed};
use crate::{Dialect, Error, ErrorKind, Event, FinishReason};

/// Takes a message that is the whole answer.
///
/// # Errors
/// [`ErrorKind::Upstream`] for one that is no complete answer.
pub(super) fn message(tree: &Value, progress: &mut Progress, events: &mut Vec<Event>) -> Result<(), Error> {
    let blocks = tree.pointer("/output/message/content").and_then(Value::as_array);
    let blocks = blocks.ok_or_else(|| malformed("it has no content"))?;
    let reason = tree.get("stopReason").and_then(Value::as_str);
    let reason = stop_reason(reason.ok_or_else(|| malformed("it does not say why it ended"))?)?;
    progress.start(None, events);
    for value in blocks {
        block(value, progress, events)?;
    }
    if let Some(trace) = tree.get("trace").filter(|trace| trace.is_object()) {
        let value = json!({"trace": trace});
        progress.event(Event::Other { choice: 0, dialect: Dialect::Bedrock, value }, events)?;
    }
    progress.usage = tree.get("usage").and_then(usage::decode);
    progress.end(0, reason, events)?;
    progress.complete(events)
}

fn block(block: &Value, progress: &mut Progress, events: &mut Vec<Event>) -> Result<(), Error> {
    let text = |path: &str| block.pointer(path).and_then(Value::as_str);
    if let Some(text) = text("/text") {
        return progress.text(0, text, events);
    }
    if let Some(call) = block.get("toolUse") {
        let arguments = call.get("input").map_or_else(|| "{}".to_owned(), Value::to_string);
        let named = |path: &str| text(path).unwrap_or_default();
        let (id, name) = (named("/toolUse/toolUseId"), named("/toolUse/name"));
        return progress.call(id, name, arguments, events).map(drop);
    }
    if let Some(words) = text("/reasoningContent/reasoningText/text") {
        let signature = text("/reasoningContent/reasoningText/signature");
        let opaque = signature.map(|value| opaque(SIGNATURE, value.to_owned()));
        return progress.event(Event::Reasoning { choice: 0, text: words.to_owned(), opaque }, events);
    }
    if let Some(data) = text("/reasoningContent/redactedContent") {
        let opaque = Some(opaque(REDACTED, data.to_owned()));
        return progress.event(Event::Reasoning { choice: 0, text: String::new(), opaque }, events);
    }
    progress.event(Event::Other { choice: 0, dialect: Dialect::Bedrock, value: block.clone() }, events)
}

/// Why an answer ended.
///
/// # Errors
/// A reason that says the answer is broken, or that is not known.
pub(super) fn stop_reason(reason: &str) -> Result<FinishReason, Error> {
    match reason {
        "end_turn" | "stop_sequence" => Ok(FinishReason::Stop),
        "max_tokens" | "model_context_window_exceeded" => Ok(FinishReason::Length),
        "tool_use" => Ok(FinishReason::ToolCalls),
        "guardrail_intervened" | "content_filtered" => Ok(FinishReason::ContentFilter),
        "refusal" => Ok(FinishReason::Refusal),
        other => Err(Error::new(
            ErrorKind::Upstream,
            format!(
                "The backend broke the answer off with the reason {:?}; it is incomplete. Ask again.",
                crate::json::shorten(other)
            ),
        )),
    }
}
