//! Why an answer ended, in the words of the servers that speak this dialect.

use crate::{Error, ErrorKind, FinishReason};

/// Reads a `finish_reason`. `None` means that the choice goes on: servers write that as null or as an empty string.
///
/// # Errors
/// A reason that says the answer broke off, or that is not known: either way the text must not pass for a whole
/// answer.
pub(crate) fn decode(reason: &str) -> Result<Option<FinishReason>, Error> {
    match reason {
        "" => Ok(None),
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "stop_token" | "complete" | "STOP" => {
            Ok(Some(FinishReason::Stop))
        }
        "length" | "max_tokens" | "max_output_tokens" | "model_length" | "MAX_TOKENS" => {
            Ok(Some(FinishReason::Length))
        }
        "content_filter" | "content_filtered" | "safety" | "recitation" | "SAFETY" | "RECITATION" => {
            Ok(Some(FinishReason::ContentFilter))
        }
        "tool_calls" | "function_call" | "tool_use" => Ok(Some(FinishReason::ToolCalls)),
        "insufficient_system_resource" => Err(Error::new(
            ErrorKind::Overloaded,
            "The backend broke the answer off: it ran out of resources.",
        )),
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
