//! Reads a streamed answer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::reply;
use crate::answer::{Progress, malformed, tree};
use crate::openai::decode_stream_error;
use crate::sse::SseEvent;
use crate::{AnswerDecoder, Error, Event, Request};

/// Turns the events of one stream into ours.
#[derive(Debug)]
pub struct StreamDecoder {
    progress: Progress,
    /// Calls by the place of their item, with whether arguments have come.
    calls: BTreeMap<u64, (u32, bool)>,
    /// Items of which text has come piece by piece.
    shown: BTreeSet<u64>,
}

impl StreamDecoder {
    /// A decoder for the answer to `request`, which was sent for the backend's model `upstream_model`.
    pub fn new(request: &Request, upstream_model: &str) -> Self {
        Self {
            progress: Progress::new(request, upstream_model),
            calls: BTreeMap::new(),
            shown: BTreeSet::new(),
        }
    }

    fn added(&mut self, place: u64, item: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        if item.get("type").and_then(Value::as_str) != Some("function_call")
            || self.calls.contains_key(&place)
        {
            return Ok(());
        }
        let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
        let arguments = text("arguments").to_owned();
        let complete = !arguments.is_empty();
        let index = self.progress.call(text("call_id"), text("name"), arguments, events)?;
        self.calls.insert(place, (index, complete));
        Ok(())
    }

    /// An item is complete: what did not come in pieces comes now.
    fn done(&mut self, place: u64, item: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let seen = self.shown.contains(&place);
        match item.get("type").and_then(Value::as_str).unwrap_or_default() {
            "message" => {
                for part in item.get("content").and_then(Value::as_array).into_iter().flatten() {
                    if !seen {
                        let text = |name: &str| part.get(name).and_then(Value::as_str).unwrap_or_default();
                        self.progress.text(0, text("text"), events)?;
                        let refusal = text("refusal").to_owned();
                        if !refusal.is_empty() {
                            self.progress.event(Event::Refusal { choice: 0, text: refusal }, events)?;
                        }
                    }
                    reply::annotations(part, &mut self.progress, events)?;
                }
                Ok(())
            }
            "function_call" => {
                self.added(place, item, events)?;
                let arguments = item.get("arguments").and_then(Value::as_str).unwrap_or_default();
                self.arguments(place, arguments, true, events)
            }
            "reasoning" => {
                let text = if seen {
                    String::new()
                } else {
                    super::items::summary_text(item.get("summary"), item.get("content"))
                };
                let opaque = reply::opaque(item);
                self.progress.event(Event::Reasoning { choice: 0, text, opaque }, events)
            }
            _ => self.progress.event(reply::other(item.clone()), events),
        }
    }

    /// More arguments of a call, or all of them, which count only when no piece has come.
    fn arguments(
        &mut self,
        place: u64,
        text: &str,
        whole: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let (index, begun) =
            self.calls.get_mut(&place).ok_or_else(|| malformed("arguments belong to no tool call"))?;
        if text.is_empty() || (whole && *begun) {
            return Ok(());
        }
        *begun = true;
        let event = Event::ToolCall {
            choice: 0,
            index: *index,
            id: None,
            name: None,
            arguments: text.to_owned(),
            opaque: None,
        };
        self.progress.event(event, events)
    }

    fn take(&mut self, kind: &str, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let text = |name: &str| tree.get(name).and_then(Value::as_str).unwrap_or_default();
        let place = tree.get("output_index").and_then(Value::as_u64).unwrap_or(0);
        let nothing = Value::Null;
        let inner = |name: &str| tree.get(name).unwrap_or(&nothing);
        match kind {
            "response.created" | "response.in_progress" | "response.queued" => {
                self.progress.start(inner("response").get("model").and_then(Value::as_str), events);
                Ok(())
            }
            "response.output_item.added" => self.added(place, inner("item"), events),
            "response.output_item.done" => self.done(place, inner("item"), events),
            "response.output_text.delta" => {
                self.shown.insert(place);
                self.progress.text(0, text("delta"), events)
            }
            "response.refusal.delta" => {
                self.shown.insert(place);
                self.progress.event(Event::Refusal { choice: 0, text: text("delta").to_owned() }, events)
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.shown.insert(place);
                let event = Event::Reasoning { choice: 0, text: text("delta").to_owned(), opaque: None };
                self.progress.event(event, events)
            }
            "response.reasoning_summary_part.added"
                if tree.get("summary_index").and_then(Value::as_u64) > Some(0) =>
            {
                let event = Event::Reasoning { choice: 0, text: "\n\n".to_owned(), opaque: None };
                self.progress.event(event, events)
            }
            "response.function_call_arguments.delta" => self.arguments(place, text("delta"), false, events),
            "response.function_call_arguments.done" => self.arguments(place, text("arguments"), true, events),
            "response.completed" | "response.incomplete" => {
                reply::end(inner("response"), &mut self.progress, events)?;
                self.progress.complete(events)
            }
            "response.failed" => Err(decode_stream_error(inner("response"))),
            "error" => Err(decode_stream_error(tree)),
            // What repeats or announces other events, and events of later versions.
            _ => Ok(()),
        }
    }
}

impl AnswerDecoder for StreamDecoder {
    fn push(&mut self, frame: &SseEvent, events: &mut Vec<Event>) -> Result<(), Error> {
        let data = frame.data.trim();
        if self.progress.is_done() || data.is_empty() || data == "[DONE]" {
            return Ok(());
        }
        let tree: Value = serde_json::from_str(data).map_err(|_| malformed("an event is not JSON"))?;
        let kind = tree.get("type").and_then(Value::as_str).or(frame.event.as_deref()).unwrap_or_default();
        self.take(kind, &tree, events)
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        self.progress.complete(events)
    }

    fn whole(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        reply::response(&tree(body)?, &mut self.progress, events)
    }

    fn is_done(&self) -> bool {
        self.progress.is_done()
    }

    fn has_token(&self) -> bool {
        self.progress.has_token()
    }
}
