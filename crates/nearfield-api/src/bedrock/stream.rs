//! Reads a streamed answer.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::blocks::{REDACTED, SIGNATURE, opaque};
use super::{reply, usage};
use crate::answer::{Progress, malformed, tree};
use crate::openai::decode_error;
use crate::sse::SseEvent;
use crate::{AnswerDecoder, Dialect, Error, Event, Request};

/// Turns the messages of one stream into events.
#[derive(Debug)]
pub struct StreamDecoder {
    progress: Progress,
    /// Blocks that have begun and not ended, by index.
    blocks: BTreeMap<u64, Block>,
}

#[derive(Debug, Default)]
struct Block {
    /// The call that the block is, with whether its arguments are empty so far.
    call: Option<(u32, bool)>,
    signature: String,
}

impl StreamDecoder {
    /// A decoder for the answer to `request`, which was sent for the backend's model `upstream_model`.
    pub fn new(request: &Request, upstream_model: &str) -> Self {
        Self { progress: Progress::new(request, upstream_model), blocks: BTreeMap::new() }
    }

    fn begin(&mut self, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let mut block = Block::default();
        if let Some(call) = tree.pointer("/start/toolUse") {
            let text = |name: &str| call.get(name).and_then(Value::as_str).unwrap_or_default();
            let index = self.progress.call(text("toolUseId"), text("name"), String::new(), events)?;
            block.call = Some((index, true));
        } else if let Some(start) =
            tree.get("start").filter(|start| start.as_object().is_some_and(|map| !map.is_empty()))
        {
            self.other(json!({"start": start}), events)?;
        }
        self.blocks.insert(index(tree)?, block);
        Ok(())
    }

    fn delta(&mut self, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        // Blocks of text have no event for their beginning.
        let block = self.blocks.entry(index(tree)?).or_default();
        let delta = tree.get("delta").ok_or_else(|| malformed("a delta is empty"))?;
        let text = |path: &str| delta.pointer(path).and_then(Value::as_str);
        if let Some(text) = text("/text") {
            return self.progress.text(0, text, events);
        }
        if let Some(arguments) = text("/toolUse/input") {
            let (index, empty) =
                block.call.as_mut().ok_or_else(|| malformed("a delta belongs to no tool call"))?;
            if arguments.is_empty() {
                return Ok(());
            }
            *empty = false;
            let event = more_arguments(*index, arguments);
            return self.progress.event(event, events);
        }
        if let Some(words) = text("/reasoningContent/text") {
            let event = Event::Reasoning { choice: 0, text: words.to_owned(), opaque: None };
            return self.progress.event(event, events);
        }
        if let Some(signature) = text("/reasoningContent/signature") {
            block.signature.push_str(signature);
            return Ok(());
        }
        if let Some(data) = text("/reasoningContent/redactedContent") {
            let opaque = Some(opaque(REDACTED, data.to_owned()));
            return self.progress.event(Event::Reasoning { choice: 0, text: String::new(), opaque }, events);
        }
        self.other(json!({"delta": delta}), events)
    }

    fn end(&mut self, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let Some(block) = self.blocks.remove(&index(tree)?) else { return Ok(()) };
        if let Some((index, true)) = block.call {
            // No arguments are an empty object: elsewhere the text must be JSON.
            return self.progress.event(more_arguments(index, "{}"), events);
        }
        if block.signature.is_empty() {
            return Ok(());
        }
        let opaque = Some(opaque(SIGNATURE, block.signature));
        self.progress.event(Event::Reasoning { choice: 0, text: String::new(), opaque }, events)
    }

    fn other(&mut self, value: Value, events: &mut Vec<Event>) -> Result<(), Error> {
        self.progress.event(Event::Other { choice: 0, dialect: Dialect::Bedrock, value }, events)
    }
}

fn more_arguments(index: u32, arguments: &str) -> Event {
    Event::ToolCall { choice: 0, index, id: None, name: None, arguments: arguments.to_owned(), opaque: None }
}

impl AnswerDecoder for StreamDecoder {
    fn push(&mut self, frame: &SseEvent, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.progress.is_done() {
            return Ok(());
        }
        let name = frame.event.as_deref().unwrap_or_default();
        if let Some(exception) = name.strip_prefix("exception/") {
            return Err(exception_error(exception, &frame.data));
        }
        let tree: Value =
            serde_json::from_str(&frame.data).map_err(|_| malformed("a message is not JSON"))?;
        match name {
            "messageStart" => {
                self.progress.start(None, events);
                Ok(())
            }
            "contentBlockStart" => self.begin(&tree, events),
            "contentBlockDelta" => self.delta(&tree, events),
            "contentBlockStop" => self.end(&tree, events),
            "messageStop" => {
                let reason = tree.get("stopReason").and_then(Value::as_str).unwrap_or_default();
                self.progress.end(0, reply::stop_reason(reason)?, events)
            }
            "metadata" => {
                self.progress.usage = tree.get("usage").and_then(usage::decode);
                // The counts come last.
                if self.progress.is_finished(0) { self.progress.complete(events) } else { Ok(()) }
            }
            // Events of later versions.
            _ => Ok(()),
        }
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        self.progress.complete(events)
    }

    fn whole(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        reply::message(&tree(body)?, &mut self.progress, events)
    }

    fn is_done(&self) -> bool {
        self.progress.is_done()
    }

    fn has_token(&self) -> bool {
        self.progress.has_token()
    }
}

/// The error that an exception inside a stream tells: as the same exception before a stream does.
fn exception_error(exception: &str, data: &str) -> Error {
    let status = match exception {
        "throttlingException" => 429,
        "serviceUnavailableException" => 503,
        "validationException" => 400,
        "modelTimeoutException" => 408,
        _ => 500,
    };
    decode_error(status, data.as_bytes(), None)
}

fn index(tree: &Value) -> Result<u64, Error> {
    tree.get("contentBlockIndex").and_then(Value::as_u64).ok_or_else(|| malformed("a block has no index"))
}
